"""The rules of a running competition, without its pages: who may send when, and what it scores.

board = Board(store, judge, clock, quota)
receipt = board.submit(team, submission, arrived=board.clock.now())
board.ranking()
"""

import hashlib
import json
import secrets
import threading
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from tqdm import tqdm

from lookalike.competition.access import add_team, new_token, token_hash
from lookalike.competition.clock import Clock, show_time
from lookalike.competition.judge import Judge, Scores
from lookalike.competition.standings import Place, final_ranking, rank_teams
from lookalike.competition.store import (
    AuditEntry,
    NewSubmission,
    Quota,
    Store,
    Submission,
    Team,
)
from lookalike.core.errors import UserError
from lookalike.core.log import log
from lookalike.evaluation.submissions import Submission as Lists
from lookalike.leaderboard.rules import Groups

SOON, OPEN, CLOSED = "soon", "open", "closed"
UNKNOWN = 0  # number of a team that is not kept yet


class Receipt(NamedTuple):
    """What a team is told of a submission.

    Attributes:
        submission: As it is kept.
        is_new: Whether it counts; one that was sent before does not count again.
        rank: The team's rank; None where it is out of the ranking.
        best: Its best score as it was given.
        left: How many it may still send, {"hour": number, "day": number}.
    """

    submission: Submission
    is_new: bool
    rank: int | None
    best: float
    left: dict[str, int]


class Schedule(NamedTuple):
    """When a competition takes submissions, in seconds since the epoch; None: no limit.

    Attributes:
        opens: The beginning.
        closes: The end.
    """

    opens: float | None
    closes: float | None

    def check(self) -> None:
        """Check that it opens before it closes.

        Raises:
            UserError: It does not.
        """
        if self.opens is not None and self.closes is not None and self.opens >= self.closes:
            opens, closes = show_time(self.opens), show_time(self.closes)
            raise UserError(f"it would open at {opens}, which is not before it closes at {closes}")

    def phase(self, now: float) -> str:
        """Return `soon`, `open` or `closed`.

        >>> [Schedule(10, 20).phase(now) for now in (9.9, 10, 19.9, 20)]
        ['soon', 'open', 'open', 'closed']
        """
        if self.closes is not None and now >= self.closes:
            return CLOSED
        return SOON if self.opens is not None and now < self.opens else OPEN

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds until it opens or closes; None where nothing is to come."""
        to = {SOON: self.opens, OPEN: self.closes, CLOSED: None}[self.phase(now)]
        return None if to is None else to - now


def schedule_of(state: Mapping[str, str]) -> Schedule:
    """Return the schedule that the state of a competition holds."""
    times = (state.get(name) for name in Schedule._fields)
    return Schedule(*(None if text is None else float(text) for text in times))


def final_is_shown(state: Mapping[str, str], now: float) -> bool:
    """Return whether the state of a competition lets everybody see the private ranking."""
    return schedule_of(state).phase(now) == CLOSED and "held" not in state


class Closed(UserError):
    """The competition takes no submissions at this time."""


class Board:
    """A running competition."""

    def __init__(
        self, store: Store, judge: Judge, clock: Clock, quota: Quota, is_open: bool = False
    ) -> None:
        """Continue with what the store holds; score it anew where the solution has changed.

        Args:
            store: What is kept.
            judge: Scores submissions.
            clock: The time.
            quota: How many submissions of a team are taken.
            is_open: Whether anybody may send in any name, without a token.
        """
        self.store, self.judge, self.clock = store, judge, clock
        self.quota, self.is_open = quota, is_open
        self._naming = threading.Lock()  # two names that look alike, at once
        self.secret = store.first_state("secret", secrets.token_hex(16))
        self._score_anew()

    def _score_anew(self) -> None:
        by = self.judge.identity
        kept = self.store.submissions()
        if self.store.first_state("scored_by", by) == by:
            return
        log.info("the solution or the metric has changed: scoring %d submissions anew", len(kept))
        counted = tqdm(kept, "scoring", unit=" submissions")
        scores = [(*self._score_kept(one), one.id) for one in counted]
        self.store.set_scores(scores, by)
        self.note("organizer", f"scored {len(kept)} submissions anew")

    def _score_kept(self, submission: Submission) -> Scores:
        try:
            return self.judge.score(self.store.lists(submission.id), self.secret)
        except UserError as error:
            raise UserError(
                f"submission {submission.id} does not fit the solution, --metric or --k any more "
                f"({error}): hold a new competition, or put back what there was"
            ) from error

    # ---- time -----------------------------------------------------------------------------------

    @property
    def schedule(self) -> Schedule:
        """When it takes submissions."""
        return schedule_of(self.store.state())

    def is_final(self) -> bool:
        """Return whether the private ranking is shown: after the end, unless it is held back."""
        return final_is_shown(self.store.state(), self.clock.now())

    # ---- teams ----------------------------------------------------------------------------------

    def sign_up(self, name: str, who: str, address: str) -> tuple[Team, str]:
        """Add a team, see `access.add_team`; of two names that look alike, the first."""
        with self._naming:
            return add_team(self.store, name, self.clock.now(), who, address)

    def renew_token(self, team: Team, address: str = "") -> str:
        """Give a team another token, and return it; the old one is no longer valid."""
        token, now = new_token(), self.clock.now()
        entry = AuditEntry(now, address, "organizer", f"gave the team {team.name} a new token")
        self.store.set_token(team.id, token_hash(token), entry)
        return token

    def team_of_token(self, token: str) -> Team | None:
        """Return the team that has a token."""
        return self.store.team_by("token_hash", token_hash(token))

    def team_of_name(self, name: str) -> Team:
        """Return the team of a name in an open competition; one that is new is not kept yet.

        Raises:
            UserError: The name cannot be used, looks like another team's, or needs a token.
        """
        known = Groups(team.name for team in self.store.teams()).known(name)
        team = self.store.team_by("name", known)
        if team is None:
            return Team(UNKNOWN, known, None, self.clock.now(), 0)
        if team.token_hash is not None:
            raise UserError(f"the team {known!r} sends with its token")
        return team

    def _kept(self, team: Team) -> Team:
        """Return a team of an open competition as it is kept, which its first submission begins."""
        if team.id != UNKNOWN:
            return team
        with self._naming:
            known = self.team_of_name(team.name)
            entry = AuditEntry(known.created, "", "somebody", f"sent as the team {known.name}")
            return known if known.id else self.store.add_team(known.name, None, entry)

    # ---- submissions ----------------------------------------------------------------------------

    def submit(self, team: Team, lists: Lists, arrived: float) -> Receipt:
        """Score a submission and keep it.

        Args:
            team: Who sends it.
            lists: {query: [gallery names, best first]}.
            arrived: When its last byte came, in seconds since the epoch.

        Raises:
            Closed: The competition is not open.
            QuotaUsed: The team has sent too many.
            UserError: The submission is refused: the reasons.
            sqlite3.Error: It cannot be kept, and does not count.
        """
        body = json.dumps(lists, sort_keys=True).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(body).hexdigest()
        known, is_new = self.store.same_submission(team.id, digest), False
        if known is None:
            self._require_open(arrived)
            quota = self._quota_of(team)
            self.store.require_quota(team.id, arrived, quota)  # before the work of scoring
            scores = self.judge.score(lists, self.secret)
            team = self._kept(team)
            new = NewSubmission(team.id, arrived, digest, *scores, zlib.compress(body))
            known, is_new = self.store.add_submission(new, quota)
            shown = self.judge.metric.show(known.given)
            log.info("%s: %s (submission %d)", team.name, shown, known.id)
        return self._receipt(team, known, is_new)

    def _require_open(self, arrived: float) -> None:
        schedule = self.schedule
        phase = schedule.phase(arrived)
        if phase == SOON:
            raise Closed(f"the competition opens at {show_time(schedule.opens or 0)}")
        if phase == CLOSED:
            raise Closed(f"the competition closed at {show_time(schedule.closes or 0)}")

    def _receipt(self, team: Team, submission: Submission, is_new: bool) -> Receipt:
        own = [one for one in self.store.submissions(team.id) if not one.withdrawn]
        rank = next((place.rank for place in self.ranking() if place.team == team.name), None)
        best = max((one.given for one in own), default=submission.given)
        return Receipt(submission, is_new, rank, best, self.left(team))

    def left(self, team: Team) -> dict[str, int]:
        """Return how many submissions a team may still send, {"hour": number, "day": number}."""
        return self.store.left(team.id, self.clock.now(), self._quota_of(team))

    def _quota_of(self, team: Team) -> Quota:
        """Return a team's quota; in a name without a token, anybody could use it up."""
        return Quota() if team.token_hash is None else self.quota

    def ranking(self) -> list[Place]:
        """Return the ranking as everybody may see it: public, frozen or final."""
        state = self.store.state()
        if final_is_shown(state, self.clock.now()):
            return final_ranking(self.store)
        last = int(state["frozen"]) if "frozen" in state else None
        submissions = self.store.submissions()  # first: whoever has sent is among the teams
        return rank_teams(self.store.teams(), submissions, last=last)

    def note(self, who: str, what: str, address: str = "") -> None:
        """Add a line to the audit log."""
        self.store.note(AuditEntry(self.clock.now(), address, who, what))
