"""Hands a submission in: checks it, sends it, keeps a history; and a leaderboard to rehearse with.

    lookalike submit send --run runs/b0 --url https://example.org/retrieval/ --group us
    lookalike submit send submission.json --labels labels.json --url ... --group us --dry-run
    lookalike submit history
    lookalike submit serve --labels labels.json

A file that the leaderboard would refuse is not sent. Every sending is in the history before it
begins, so that no file is sent twice without --again, whatever happened to the reply.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from lookalike.core.errors import UserError
from lookalike.core.files import read_json
from lookalike.core.log import exit_code, log, log_to
from lookalike.core.options import parse
from lookalike.core.runs import Run
from lookalike.core.settings import SubmitSettings
from lookalike.data.catalogue import bare_names, list_pictures, load_catalogue
from lookalike.evaluation.scoring import read_labels
from lookalike.evaluation.matching import match, refusals
from lookalike.evaluation.submissions import read_submission
from lookalike.leaderboard.client import (
    Outcome,
    Target,
    number,
    plain,
    post,
    required_target,
    send_to_kaggle,
)
from lookalike.leaderboard.history import (
    COUNTED,
    MAYBE,
    Parcel,
    begin,
    finish,
    read_history,
    show_history,
)
from lookalike.leaderboard.server import ServeSettings, serve


def pack(path: Path, run: Path | None, names: tuple[Sequence[str], Sequence[str]]) -> Parcel:
    """Reads a submission and checks it against the names of the test's queries and gallery.

    run: the run folder that it belongs to, if any.

    Raises:
        UserError: it cannot be read, or would be refused: all that is wrong, in one list.
    """
    ranked = read_submission(path)
    if wrong := refusals(match(ranked, *names)):
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
    program = parse(arguments, "lookalike submit", Program, what)
    log_to(None)
    return exit_code(program.work)
