"""Hands a submission in: checks it, sends it, keeps a history; and a leaderboard to rehearse with.

    python submit.py send --run runs/b0 --url https://example.org/retrieval/ --group us
    python submit.py send submission.json --labels labels.json --url ... --group us --dry-run
    python submit.py history
    python submit.py serve --labels labels.json

A file that the leaderboard would refuse is not sent. Every sending is in the history before it
begins, so that no file is sent twice without --again, whatever happened to the reply.
"""

import csv
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from filelock import FileLock, Timeout
from tabulate import tabulate

from config import SubmitSettings, UserError, parse
from data import bare_names, list_pictures, load_catalogue
from evaluate import Ranked, read_labels, read_submission, refusals
from leaderboard import ServeSettings, serve
from runs import Run, exit_code, file_hash, log, log_to, read_json, whole_file
from send import Outcome, Target, number, plain, post, required_target, send_to_kaggle

# ---- check --------------------------------------------------------------------------------------


class Parcel(NamedTuple):
    """A submission that is ready to be sent, and what the history says about it.

    forecast: the score that its run expects; None: it expects none.
    """

    path: Path
    ranked: Ranked
    run: str
    settings: str
    forecast: float | None


def pack(path: Path, run: Path | None, names: tuple[Sequence[str], Sequence[str]]) -> Parcel:
    """Reads a submission and checks it against the names of the test's queries and gallery.

    run: the run folder that it belongs to, if any.

    Raises:
        UserError: it cannot be read, or would be refused: all that is wrong, in one list.
    """
    ranked = read_submission(path)
    if wrong := refusals(ranked, *names):
        raise UserError("\n".join([f"{path} would be refused; nothing is sent:", *wrong]))
    if run is None:
        return Parcel(path, ranked, "", "", None)
    of_run = path.resolve().parent == run.resolve()
    return Parcel(path, ranked, str(run), settings_hash(run), forecast(run) if of_run else None)


def names_of_run(run: Path) -> tuple[list[str], list[str]]:
    """The bare names of the queries and of the gallery in a run's catalogue."""
    test = load_catalogue(run / "test.csv")
    query, gallery = (bare_names(test.path[test.part == p]).tolist() for p in ("query", "gallery"))
    return query, gallery


def settings_hash(run: Path) -> str:
    """SHA-256 of the run's settings, wherever it lies; empty where it has none."""
    if not (run / "config.json").is_file():
        return ""
    settings = read_json(run / "config.json", "main.py")
    kept = {name: value for name, value in settings.items() if name not in ("run", "cache")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def forecast(run: Path) -> float | None:
    """The leaderboard score that the run's metrics.json expects, if it says one."""
    if not (run / "metrics.json").is_file():
        return None
    block = read_json(run / "metrics.json", "--stage evaluate").get("forecast")
    return number(block.get("score")) if isinstance(block, dict) else None


# ---- history ------------------------------------------------------------------------------------

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


# ---- the way of a submission --------------------------------------------------------------------


def hand_in(parcel: Parcel, where: Target, settings: SubmitSettings) -> str:
    """Sends a checked submission and keeps the history; one line that says what came of it.

    Raises:
        UserError: it was not scored: what the leaderboard said, and whether it may have counted.
    """
    if settings.dry_run:
        log.info(describe(parcel, where))
        return "dry run: nothing is sent"
    row, earlier = begin(settings.submissions, parcel, where, settings.again)
    if earlier is not None:
        meaning = (COUNTED | MAYBE)[earlier["status"]]
        score = f", {earlier['score']}" if earlier["score"] else ""
        return (
            f"not sent: the same file went to {where.name} at {earlier['time'][:19]}, and "
            f"{meaning}{score}; --again sends it once more"
        )
    try:
        if where.kaggle:
            outcome = send_to_kaggle(where, parcel.path, parcel.ranked)
        else:
            outcome = post(where, parcel.ranked, settings.timeout)
    except UserError as error:
        finish(settings.submissions, row, Outcome("not sent", plain(str(error))))
        raise
    finish(settings.submissions, row, outcome)
    if outcome.status not in COUNTED:
        raise UserError(complaint(parcel, where, outcome))
    guess = "" if parcel.forecast is None else f" (forecast {parcel.forecast:.1f})"
    said = outcome.answer if outcome.score is None else f"{outcome.score:.1f}{guess}"
    return f"{where.name} says: {said}"


def complaint(parcel: Parcel, where: Target, outcome: Outcome) -> str:
    """What went wrong, whether it counted, and what to do."""
    remedy = {
        "refused": "it has not counted; mend that and send it anew",
        "failed": "the trouble is the server's; the same command tries it anew",
        "not sent": "it has not counted; the same command tries it anew",
        "no reply": "it may have counted: look at the ranking; --again sends it once more",
        "unclear": "it may have counted: look at the ranking; --again sends it once more",
    }[outcome.status]
    return f"{where.name}: {outcome.status}: {outcome.answer}\n{remedy}; {parcel.path} is as it was"


def describe(parcel: Parcel, where: Target) -> str:
    """What would be sent, cut to its first query."""
    first = dict(list(parcel.ranked.items())[:1])
    body = json.dumps({"groupname": where.group, "images": first}, ensure_ascii=False)
    more = len(parcel.ranked) - 1
    return f"{parcel.path} is good, and would go to {where.name}:\n{body} and {more} more queries"


def run_submit(run: Run) -> str:
    """The stage: sends the run's submission.json to the leaderboard.

    Raises:
        UserError: no leaderboard is named, or there is no score.
    """
    where = required_target(run.settings.submit)
    parcel = pack(run.path("submission.json"), run.folder, names_of_run(run.folder))
    return hand_in(parcel, where, run.settings.submit)


# ---- the program --------------------------------------------------------------------------------


@dataclass
class Send:
    """Check a submission and send it to a leaderboard."""

    submission: tyro.conf.Positional[Path | None] = None
    """Submission, in any form that evaluate.py reads. Default: submission.json of --run."""
    run: Path | None = None
    """Run folder that it belongs to. Default: the folder it lies in, if that is one."""
    data: Path | None = None
    """Data set to check the names against, where there is no run."""
    labels: Path | None = None
    """Labels to check the names against, where there is neither run nor data set."""
    to: SubmitSettings = field(default_factory=SubmitSettings)

    def work(self) -> None:
        """Does it; see hand_in."""
        where = required_target(self.to)
        if self.submission is None and self.run is None:
            raise UserError("name a submission, or the run that made one with --run")
        path = self.submission or Path(self.run or "") / "submission.json"
        run = self.run or (path.parent if (path.parent / "test.csv").is_file() else None)
        log.info(hand_in(pack(path, run, self.names(run)), where, self.to))

    def names(self, run: Path | None) -> tuple[Sequence[str], Sequence[str]]:
        """The names of the test's queries and gallery, from what was given."""
        if self.labels is not None:
            labels = read_labels(self.labels)
            return list(labels.query), list(labels.gallery)
        if self.data is not None:
            test = list_pictures(self.data)
            query, gallery = (bare_names(test.path[test.part == p]) for p in ("query", "gallery"))
            return query.tolist(), gallery.tolist()
        if run is None:
            raise UserError("nothing to check the names against: add --run, --data or --labels")
        return names_of_run(run)


@dataclass
class History:
    """Print what was sent, the forecast less the score (error), and each leaderboard's best (*)."""

    submissions: Path = SubmitSettings.submissions
    """The history."""

    def work(self) -> None:
        """Does it."""
        rows = read_history(self.submissions)
        print(show_history(rows) if rows else f"nothing was sent yet ({self.submissions})")


@dataclass
class Serve(ServeSettings):
    """Run a leaderboard, to rehearse with or to hold a competition."""

    def work(self) -> None:
        """Does it; see leaderboard.py."""
        serve(self)


Program = (
    Annotated[Send, tyro.conf.subcommand("send")]
    | Annotated[History, tyro.conf.subcommand("history")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
)


def main(arguments: Sequence[str]) -> int:
    """Sends, shows the history or serves; returns the exit code."""
    what = "Hands submissions in to a leaderboard, or runs one."
    program = parse(arguments, "submit.py", Program, what)
    log_to(None)
    return exit_code(program.work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
