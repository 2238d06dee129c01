"""The history of what was sent: a CSV file, shared by all runs, that holds every attempt.

    row, earlier = record_start(path, submission, target, again=False)   # before it is sent
    record_outcome(path, row, outcome)                                   # after
    print(history_table(read_history(path)))

The row stands in the file before a submission is sent, so that a process that dies leaves a trace.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from tabulate import tabulate

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.numeric import score_digits, score_text
from lookalike.core.readers import read_text
from lookalike.evaluation.submissions import Submission
from lookalike.leaderboard.client import Outcome, Target, finite_number, printable_line

COLUMNS = (
    "time",
    "run",
    "settings_hash",
    "file_hash",
    "leaderboard",
    "group",
    "forecast",
    "score",
    "status",
    "answer",
)
COUNTED = {"scored": "it was scored", "accepted": "it was accepted"}
MAY_HAVE_COUNTED = {
    "unclear": "the answer was no score",
    "no reply": "no reply came: it may have counted",
}
HistoryRow = dict[str, str]


class PreparedSubmission(NamedTuple):
    """A checked submission and what the history records of it.

    Attributes:
        path: Its file.
        file_hash: SHA-256 of the file as it was read.
        submission: What the file holds, {query: [gallery names, best first]}.
        run: The run folder that it belongs to; empty where there is none.
        settings_hash: SHA-256 of that run's settings; empty where there is none.
        forecast: The score that its run expects; None where it expects none.
        filled: The competition's sample submission, filled with it; None where there is none.
    """

    path: Path
    file_hash: str
    submission: Submission
    run: str
    settings_hash: str
    forecast: float | None
    filled: Path | None = None


@contextmanager
def locked_history(path: Path) -> Iterator[list[HistoryRow]]:
    """Yield the rows of a history, to be read and changed, and write them back at the end.

    No other process reads or writes the history meanwhile.

    Raises:
        UserError: The file is not a history, or another process holds it for too long.
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


def read_history(path: Path) -> list[HistoryRow]:
    """Read the rows of a history, oldest first; none where there is no file.

    Raises:
        UserError: The file is not a history.
    """
    if not path.exists():
        return []
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
        rows = list(reader)
        if tuple(reader.fieldnames or COLUMNS) != COLUMNS:
            raise ValueError("it has other columns")
        if any(row.keys() != set(COLUMNS) for row in rows):
            raise ValueError("a row has too many fields")
    except (UserError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: is no history of submissions ({error}); move it away") from error
    return rows


def record_start(
    path: Path, prepared: PreparedSubmission, target: Target, again: bool
) -> tuple[HistoryRow, HistoryRow | None]:
    """Record that a submission is about to be sent, unless the same file has been sent before.

    Args:
        path: The history.
        prepared: The submission.
        target: Where it is sent.
        again: Whether to send it even if the same group has sent the same file there.

    Returns:
        The new row, and the row of the earlier sending; where there is one, nothing is recorded.

    Raises:
        UserError: The history cannot be used.
    """
    row = dict.fromkeys(COLUMNS, "") | {
        "time": datetime.now().astimezone().isoformat(timespec="microseconds"),
        "run": prepared.run,
        "settings_hash": prepared.settings_hash,
        "file_hash": prepared.file_hash,
        "leaderboard": target.name,
        "group": target.group,
        "forecast": "" if prepared.forecast is None else f"{prepared.forecast:.4f}",
        # What the row says if this process dies before it knows the outcome.
        "status": "no reply",
        "answer": "stopped while it was being sent",
    }
    with locked_history(path) as rows:
        earlier = None if again else _earlier_sending(rows, row)
        if earlier is None:
            rows.append(row)
    return row, earlier


def _earlier_sending(rows: Sequence[HistoryRow], row: HistoryRow) -> HistoryRow | None:
    """Return the last row that may have counted and that has the same file, target and group."""
    same = ("file_hash", "leaderboard", "group")
    for earlier in reversed(rows):
        counts = earlier["status"] in COUNTED | MAY_HAVE_COUNTED
        if counts and all(earlier[name] == row[name] for name in same):
            return earlier
    return None


def record_outcome(path: Path, row: HistoryRow, outcome: Outcome) -> None:
    """Record the outcome of a sending.

    Args:
        path: The history.
        row: What `record_start` returned.
        outcome: What came of it.

    Raises:
        UserError: The history cannot be used.
    """
    score = "" if outcome.score is None else f"{outcome.score:.4f}"
    done = row | {"score": score, "status": outcome.status, "answer": outcome.answer}
    with locked_history(path) as rows:
        rows[:] = [done if other == row else other for other in rows]


def forecast_error(row: HistoryRow) -> float | None:
    """Return the forecast less the score; None where either is unknown."""
    forecast, score = finite_number(row["forecast"]), finite_number(row["score"])
    return None if forecast is None or score is None else forecast - score


def history_table(rows: Sequence[HistoryRow]) -> str:
    """Return the history as a table, with the forecast's error; * marks each leaderboard's best.

    Args:
        rows: The rows, oldest first.
    """
    best: dict[str, float] = {}
    for row in rows:
        score = finite_number(row["score"])
        if score is not None:
            best[row["leaderboard"]] = max(score, best.get(row["leaderboard"], score))
    headers = ["", "time", "run", "leaderboard", "group", "settings", "file"]
    headers += ["forecast", "score", "error", "status"]
    lines = [_table_line(row, best.get(row["leaderboard"])) for row in rows]
    table = tabulate(lines, headers, disable_numparse=True)
    errors = [abs(error) for row in rows if (error := forecast_error(row)) is not None]
    if not errors:
        return table
    mean, digits = sum(errors) / len(errors), score_digits(best.values())
    return f"{table}\nmean absolute error of the forecast: {mean:.{digits}f} (n = {len(errors)})"


def _table_line(row: HistoryRow, best: float | None) -> list[str]:
    score, error = finite_number(row["score"]), forecast_error(row)
    return [
        "*" if score is not None and score == best else "",
        row["time"][:19].replace("T", " "),
        *(printable_line(row[name], 40) for name in ("run", "leaderboard", "group")),
        *(row[name][:8] for name in ("settings_hash", "file_hash")),
        *("" if v is None else score_text(v) for v in (finite_number(row["forecast"]), score)),
        "" if error is None else f"{error:+.{score_digits([score or 0.0])}f}",
        row["status"] + (f" ({printable_line(row['answer'], 60)})" if row["answer"] else ""),
    ]
