"""A competition of two hours, with everything that can go wrong; and that the check notices it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import competition_day
from benchmarks.competition_day import Machine, Team, compare, hold
from lookalike.competition.serve import store_of
from tests.competition.conftest import NOW, Serve, submission


@pytest.mark.slow
def test_nothing_is_lost_or_counted_twice_whatever_happens(tmp_path: Path) -> None:
    day = hold(teams=10, submissions=8, minutes=0.75, folder=tmp_path / "day")
    assert (day.lost, day.twice, day.wrong, day.ranking_right) == (0, 0, 0, True)
    assert day.taken + day.late == day.sent == 80 and day.taken > 40
    assert day.kills >= 6 and day.unavailable and day.tries > day.sent


def test_the_comparison_notices_what_is_lost_and_what_counts_twice(
    serve: Serve,
    token: Callable[[str], str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(competition_day, "BEGIN", NOW)
    teams = [Team(name, token(name), [(0, submission(60)), (1, submission(30))]) for name in "ab"]
    served = serve()
    for team in teams:
        for number, (_, lists) in enumerate(team.work):
            team.scores[number] = served.send(team.token, lists).json()["accuracy"]
    served.act("close-now")
    port = int(served.url.rstrip("/").rpartition(":")[2])
    machine = Machine(folder, 1.0, port=port)
    good = compare(machine, teams, 1.0)
    assert (good.lost, good.twice, good.wrong, good.ranking_right) == (0, 0, 0, True)
    teams[0].work[1] = (1, submission(31))  # it was answered, and another is there
    bad = compare(machine, teams, 1.0)
    assert (bad.lost, bad.twice) == (1, 1)
    teams[0].scores[0] -= 300
    assert compare(machine, teams, 1.0).wrong == 1
    store_of(folder).withdraw("submissions", 1, True)
    assert not compare(machine, teams, 1.0).ranking_right
