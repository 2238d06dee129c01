"""A competition's tables to take along: ranking, teams, submissions and the audit log, as CSV."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence

from lookalike.competition.clock import show_time
from lookalike.competition.standings import final_ranking
from lookalike.competition.store import Store

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run


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

    >>> as_csv(["team"], [["=1+1"]])
    "team\r\n'=1+1\r\n"
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(heads)
    for row in rows:
        writer.writerow(
            [f"'{v}" if isinstance(v, str) and v.startswith(FORMULA) else v for v in row]
        )
    return text.getvalue()


def ranking_rows(store: Store) -> Iterator[list[object]]:
    """Yield a row for each place of the private ranking, with the public score beside it."""
    public = {one.id: one.public for one in store.submissions()}
    for place in final_ranking(store):
        chosen, last = public[place.submission], show_time(place.last)
        best = [place.score, chosen, place.submission]
        yield [place.rank, place.team, *best, place.submissions, last]


def submission_rows(store: Store) -> Iterator[list[object]]:
    """Yield a row for each submission."""
    names = {team.id: team.name for team in store.teams()}
    for one in store.submissions():
        when = show_time(one.time)
        yield [one.id, names[one.team], when, one.public, one.private, one.given, one.withdrawn]


def team_rows(store: Store) -> Iterator[list[object]]:
    """Yield a row for each team."""
    for team in store.teams():
        yield [team.id, team.name, show_time(team.created), team.withdrawn]


def audit_rows(store: Store) -> Iterator[list[object]]:
    """Yield a row for each line of the audit log."""
    for entry in store.audit():
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
