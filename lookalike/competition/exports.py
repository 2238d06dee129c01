"""A competition's tables to take along: ranking, teams, submissions and the audit log, as CSV."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from lookalike.competition.clock import show_time
from lookalike.competition.standings import final_ranking
from lookalike.competition.store import Store

# What a spreadsheet would run, at the beginning of what it takes for a cell.
FORMULA = re.compile(r"(^|[;,\t\r\n])(?=\s*[=+\-@])")


def table_as_csv(name: str, store: Store) -> str:
    """Return one of the tables as CSV.

    Args:
        name: One of `TABLES`.
        store: What the competition keeps.
    """
    heads, rows = TABLES[name]
    return as_csv(heads, rows(store))


def as_csv(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""Return a table as CSV that no spreadsheet runs: a name such as `=1+1` is text.

    >>> as_csv(["team"], [["=1+1"], ["us; =1"]])
    "team\r\n'=1+1\r\nus;' =1\r\n"
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(heads)
    for row in rows:
        writer.writerow([FORMULA.sub(r"\1'", v) if isinstance(v, str) else v for v in row])
    return text.getvalue()


def ranking_rows(store: Store) -> Iterator[list[object]]:
    """Yield a row for each place of the private ranking, with the public score beside it."""
    for place in final_ranking(store):
        best = [place.score, place.public, place.submission]
        yield [place.rank, place.team, *best, place.submissions, show_time(place.last)]


def submission_rows(store: Store) -> Iterator[list[object]]:
    """Yield a row for each submission."""
    submissions = store.submissions()  # first: whoever has sent is among the teams
    names = {team.id: team.name for team in store.teams()}
    for one in submissions:
        when = show_time(one.time)
        yield [one.id, names[one.team], when, one.public, one.private, one.given, one.withdrawn]


def team_rows(store: Store) -> Iterator[list[object]]:
    """Yield a row for each team."""
    for team in store.teams():
        yield [team.id, team.name, show_time(team.created), team.withdrawn]


def audit_rows(store: Store) -> Iterator[list[object]]:
    """Yield a row for each line of the audit log."""
    for entry in reversed(store.audit()):
        yield [show_time(entry.time), entry.address, entry.who, entry.what]


Rows = Callable[[Store], Iterator[list[object]]]
TABLES: dict[str, tuple[list[str], Rows]] = {
    "ranking": (
        ["rank", "team", "private", "public", "submission", "submissions", "last"],
        ranking_rows,
    ),
    "submissions": (
        ["submission", "team", "time", "public", "private", "given", "withdrawn"],
        submission_rows,
    ),
    "teams": (["number", "team", "created", "withdrawn"], team_rows),
    "audit": (["time", "address", "who", "what"], audit_rows),
}
