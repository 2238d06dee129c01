"""TODO lookalike.leaderboard.history."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from tabulate import tabulate

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, whole_file
from lookalike.evaluation.submissions import Submission
from lookalike.leaderboard.client import Outcome, Target, number, plain


class Parcel(NamedTuple):
    """A submission that is ready to be sent, and what the history says about it.

    forecast: the score that its run expects; None: it expects none.
    """

    path: Path
    ranked: Submission
    run: str
    settings: str
    forecast: float | None


COLUMNS = (
    *("time", "run", "settings_hash", "file_hash", "leaderboard", "group"),
    *("forecast", "score", "status", "answer"),
)
COUNTED = {"scored": "it was scored", "accepted": "it was accepted"}
MAYBE = {"unclear": "the answer was no score", "no reply": "no reply came: it may have counted"}
Row = dict[str, str]


@contextmanager
def open_history(path: Path) -> Iterator[list[Row]]:
    """The rows of a history, to be read and changed; written back, whole, at the end.

    No other process reads or writes it meanwhile.

    Raises:
        UserError: the file is something else, or another process holds it for too long.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=60):
            rows = read_history(path)
            yield rows
            with whole_file(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
    except Timeout as error:
        raise UserError(f"another process has held {path} for a minute: stop it") from error


def read_history(path: Path) -> list[Row]:
    """The rows of a history, oldest first; none where there is no file.

    Raises:
        UserError: the file is something else.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, restval="")
            rows = [{name: row.get(name, "") for name in COLUMNS} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a history ({error})") from error
    if tuple(reader.fieldnames or COLUMNS) != COLUMNS:
        raise UserError(f"{path}: has not the columns of a history; move it away")
    return rows


def begin(path: Path, parcel: Parcel, where: Target, again: bool) -> tuple[Row, Row | None]:
    """Notes that a file is about to be sent: (its row, None), or (its row, the earlier one).

    With an earlier row, the file has been sent there already, and nothing is noted.
    """
    row = dict.fromkeys(COLUMNS, "") | {
        "time": datetime.now().astimezone().isoformat(timespec="microseconds"),
        "run": parcel.run,
        "settings_hash": parcel.settings,
        "file_hash": str(file_hash(parcel.path)),
        "leaderboard": where.name,
        "group": where.group,
        "forecast": "" if parcel.forecast is None else f"{parcel.forecast:.4f}",
        # What stands there if this process dies before it knows better.
        "status": "no reply",
        "answer": "stopped while it was being sent",
    }
    same = ("file_hash", "leaderboard", "group")
    with open_history(path) as rows:
        for earlier in reversed(rows):
            known = earlier["status"] in COUNTED | MAYBE
            if known and not again and all(earlier[name] == row[name] for name in same):
                return row, earlier
        rows.append(row)
    return row, None


def finish(path: Path, begun: Row, outcome: Outcome) -> None:
    """Notes what came of a sending."""
    score = "" if outcome.score is None else f"{outcome.score:.4f}"
    done = begun | {"score": score, "status": outcome.status, "answer": outcome.answer}
    with open_history(path) as rows:
        rows[:] = [done if row == begun else row for row in rows]


def forecast_error(row: Row) -> float | None:
    """The forecast less the score; None where either is unknown."""
    expected, score = number(row["forecast"]), number(row["score"])
    return None if expected is None or score is None else expected - score


def show_history(rows: Sequence[Row]) -> str:
    """The history as a table, with the forecast's error; * marks each leaderboard's best."""
    best: dict[str, float] = {}
    for row in rows:
        score = number(row["score"])
        if score is not None:
            best[row["leaderboard"]] = max(score, best.get(row["leaderboard"], score))
    heads = ["", "time", "run", "leaderboard", "group", "settings", "file"]
    heads += ["forecast", "score", "error", "status"]
    lines = [_line_of_table(row, best.get(row["leaderboard"])) for row in rows]
    table = tabulate(lines, heads, disable_numparse=True)
    errors = [abs(error) for row in rows if (error := forecast_error(row)) is not None]
    if not errors:
        return table
    mean = sum(errors) / len(errors)
    return f"{table}\nmean absolute error of the forecast: {mean:.1f} (n = {len(errors)})"


def _line_of_table(row: Row, best: float | None) -> list[str]:
    score, error = number(row["score"]), forecast_error(row)
    return [
        "*" if score is not None and score == best else "",
        row["time"][:19].replace("T", " "),
        *(plain(row[name], 40) for name in ("run", "leaderboard", "group")),
        *(row[name][:8] for name in ("settings_hash", "file_hash")),
        *("" if v is None else f"{v:.1f}" for v in (number(row["forecast"]), score)),
        "" if error is None else f"{error:+.1f}",
        row["status"] + (f" ({plain(row['answer'], 60)})" if row["answer"] else ""),
    ]
