"""The ranking of a competition: public while it runs, private at its end.

A team is ranked by its best submission. While the competition runs, that is the best public score
as it was given; at the end, the private score of the submission with the best exact public score.
Ties go to the submission that came first.
"""

from collections.abc import Iterable
from typing import NamedTuple

from lookalike.competition.store import Store, Submission, Team


class Place(NamedTuple):
    """A line of the ranking.

    Attributes:
        rank: From 1.
        team: The team's name.
        score: Of its best submission, see above.
        public: Its exact public score, which only the organizer sees.
        submission: The number of that submission.
        submissions: How many it has sent.
        last: When it sent the last one, in seconds since the epoch.
    """

    rank: int
    team: str
    score: float
    public: float
    submission: int
    submissions: int
    last: float


def final_ranking(store: Store) -> list[Place]:
    """Return the private ranking, which the organizer alone sees before the end."""
    submissions = store.submissions()  # first: whoever has sent is among the teams
    return rank_teams(store.teams(), submissions, final=True)


def rank_teams(
    teams: Iterable[Team],
    submissions: Iterable[Submission],
    final: bool = False,
    last: int | None = None,
) -> list[Place]:
    """Return all teams that have sent something, best first.

    Args:
        teams: The teams.
        submissions: Their submissions.
        final: Whether the private scores count, and not the public ones.
        last: Number of the last submission that counts, where the ranking is frozen.
    """
    sent: dict[int, list[Submission]] = {}
    for one in submissions:
        if not one.withdrawn and (last is None or one.id <= last):
            sent.setdefault(one.team, []).append(one)
    chosen = []
    for team in teams:
        if team.withdrawn or team.id not in sent:
            continue
        own = sent[team.id]
        best = min(own, key=lambda one: (-(one.public if final else one.given), one.time, one.id))
        score = best.private if final else best.given
        chosen.append((-score, best.time, best.id, best, team.name, own))
    return [
        Place(rank, name, -lost, best.public, best.id, len(own), max(one.time for one in own))
        for rank, (lost, _, _, best, name, own) in enumerate(sorted(chosen), 1)
    ]
