"""The command `lookalike submit`: check and send a submission, keep a history, run a server.

    lookalike submit send --run runs/b0 --url https://example.org/retrieval/ --group us
    lookalike submit send submission.json --labels labels.json --url ... --group us --dry-run
    lookalike submit history
    lookalike submit serve --labels labels.json

A file that the leaderboard would refuse is not sent. Every attempt is in the history before it
begins, so that no file is sent twice without --again, whatever happened to the reply.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lookalike.core.errors import UserError
from lookalike.core.log import exit_code, log, log_to
from lookalike.core.numeric import score_text
from lookalike.core.options import parse
from lookalike.core.readers import read_text_and_hash, saved_record
from lookalike.core.runs import Run
from lookalike.core.settings import SubmitSettings
from lookalike.evaluation.matching import match, refusals
from lookalike.evaluation.metrics import TOP, run_metric
from lookalike.evaluation.results import metric_of_run
from lookalike.evaluation.scoring import read_labels
from lookalike.evaluation.submissions import parse_submission
from lookalike.leaderboard.client import (
    Outcome,
    Target,
    finite_number,
    post,
    printable_line,
    required_target,
    send_to_kaggle,
)
from lookalike.leaderboard.history import (
    COUNTED,
    MAY_HAVE_COUNTED,
    HistoryRow,
    PreparedSubmission,
    history_table,
    read_history,
    record_outcome,
    record_start,
)
from lookalike.leaderboard.server import ServeSettings, serve

if TYPE_CHECKING:
    import pandas as pd

REMEDIES = {
    "refused": "it has not counted; correct that and send it again",
    "failed": "the server did not take it; the same command tries again",
    "not sent": "it has not counted; the same command tries again",
    "no reply": "it may have counted: look at the ranking; --again sends it once more",
    "unclear": "it may have counted: look at the ranking; --again sends it once more",
}


# ---- preparing ----------------------------------------------------------------------------------


def prepare(
    path: Path,
    run: Path | None,
    queries: Collection[str],
    gallery: Collection[str],
    k: int = TOP,
) -> PreparedSubmission:
    """Read a submission and check it by the rules of a leaderboard.

    Args:
        path: The submission's file, in any form that `read_submission` knows.
        run: The run folder that it belongs to, if any. The run's forecast counts only for a file
            that lies in the folder.
        queries: The names of the test's queries.
        gallery: The names of its gallery.
        k: How many of them each query must have; all of a smaller gallery.

    Raises:
        UserError: It cannot be read, or would be refused: all defects, in one list.
    """
    text, digest = read_text_and_hash(path)  # once: what is hashed is what is sent
    submission = parse_submission(text, str(path), path.suffix.lower() == ".csv")
    if defects := refusals(match(submission, queries, gallery, min(k, len(gallery)))):
        raise UserError("\n".join([f"{path} would be refused; nothing is sent:", *defects]))
    if run is None:
        return PreparedSubmission(path, digest, submission, "", "", None)
    lies_in_run = path.resolve().parent == run.resolve()
    forecast = read_forecast(run) if lies_in_run else None
    filled = run / "submission.csv" if lies_in_run and _fills_a_sample(run) else None
    return PreparedSubmission(
        path, digest, submission, str(run), settings_hash(run), forecast, filled
    )


def _fills_a_sample(run: Path) -> bool:
    """Return whether a run has filled the competition's sample submission."""
    named = saved_record(run / "config.json").get("sample_submission")
    return named is not None and (run / "submission.csv").is_file()


def names_of_run(run: Path) -> tuple[list[str], list[str]]:
    """Return the bare names of the queries and of the gallery in a run's catalogue.

    Raises:
        UserError: The run folder has no catalogue of its test.
    """
    from lookalike.data.catalogue import load_catalogue  # pandas: --help needs none

    return _bare_names_of(load_catalogue(run / "test.csv"))


def names_of_data(data: Path) -> tuple[list[str], list[str]]:
    """Return the bare names of the queries and of the gallery in a data set.

    Raises:
        UserError: There is no data set.
    """
    from lookalike.data.listing import list_pictures  # pandas: --help needs none

    return _bare_names_of(list_pictures(data))


def _bare_names_of(catalogue: "pd.DataFrame") -> tuple[list[str], list[str]]:
    from lookalike.data.catalogue import bare_names, gallery_of, queries_of

    query, gallery = (
        bare_names(rows.path).tolist() for rows in (queries_of(catalogue), gallery_of(catalogue))
    )
    return query, gallery


def settings_hash(run: Path) -> str:
    """Return the SHA-256 of a run's settings, wherever the run lies; empty where it has none."""
    if not (run / "config.json").is_file():
        return ""
    settings = saved_record(run / "config.json")
    hashed = {name: value for name, value in settings.items() if name not in ("run", "cache")}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def read_forecast(run: Path) -> float | None:
    """Return the leaderboard score that a run's metrics.json expects; None where it has none."""
    block = saved_record(run / "metrics.json").get("forecast")
    return finite_number(block.get("score")) if isinstance(block, dict) else None


# ---- sending ------------------------------------------------------------------------------------


def submit(prepared: PreparedSubmission, target: Target, settings: SubmitSettings) -> str:
    """Send a checked submission, unless the same file has been sent, and keep the history.

    Args:
        prepared: The submission.
        target: Where to send it.
        settings: Whether to send at all, and again; the timeout; the file of the history.

    Returns:
        One line that says what came of it.

    Raises:
        UserError: It was not scored: what the leaderboard said, and whether it may have counted.
    """
    if settings.dry_run:
        log.info(describe(prepared, target))
        return "dry run: nothing is sent"
    row, earlier = record_start(settings.submissions, prepared, target, settings.again)
    if earlier is not None:
        if earlier["status"] in MAY_HAVE_COUNTED:
            raise UserError(_sent_before(earlier, target))
        return _sent_before(earlier, target)
    try:
        outcome = _send(prepared, target, settings.timeout)
    except UserError as error:
        not_sent = Outcome("not sent", printable_line(str(error)))
        record_outcome(settings.submissions, row, not_sent)
        raise
    except BaseException as error:  # Ctrl-C too: what was on its way may have counted
        stopped = Outcome("no reply", f"stopped while it was being sent ({type(error).__name__})")
        record_outcome(settings.submissions, row, stopped)
        raise
    record_outcome(settings.submissions, row, outcome)
    if outcome.status not in COUNTED:
        remedy = f"{REMEDIES[outcome.status]}; {prepared.path} is as it was"
        raise UserError(f"{target.name}: {outcome.status}: {outcome.answer}\n{remedy}")
    expected = "" if prepared.forecast is None else f" (forecast {score_text(prepared.forecast)})"
    score = "" if outcome.score is None else f"{score_text(outcome.score)}{expected}"
    return f"{target.name} says: {'; '.join(filter(None, (score, outcome.answer)))}"


def describe(prepared: PreparedSubmission, target: Target) -> str:
    """Return what would be sent, cut to its first query."""
    first = dict(list(prepared.submission.items())[:1])
    body = json.dumps({"groupname": target.group, "images": first}, ensure_ascii=False)
    more = len(prepared.submission) - 1
    return (
        f"{prepared.path} is valid, and would go to {target.name}:\n{body} and {more} more queries"
    )


def _send(prepared: PreparedSubmission, target: Target, timeout: float) -> Outcome:
    if target.kaggle:
        return send_to_kaggle(target, prepared.path, prepared.submission, prepared.filled)
    return post(target, prepared.submission, timeout)


def _sent_before(earlier: HistoryRow, target: Target) -> str:
    meaning = (COUNTED | MAY_HAVE_COUNTED)[earlier["status"]]
    score = f", {earlier['score']}" if earlier["score"] else ""
    return (
        f"not sent: the same file went to {target.name} at {earlier['time'][:19]}, and "
        f"{meaning}{score}; --again sends it once more"
    )


def run_submit(run: Run) -> str:
    """Send the run's submission.json to the leaderboard: the stage `submit`.

    Raises:
        UserError: No leaderboard is named, the submission would be refused, or there is no score.
    """
    target = required_target(run.settings.submit)
    names, k = names_of_run(run.folder), run_metric(run.settings).length
    prepared = prepare(run.path("submission.json"), run.folder, *names, k)
    return submit(prepared, target, run.settings.submit)


# ---- the command --------------------------------------------------------------------------------


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

    def execute(self) -> None:
        """Check the submission and send it.

        Raises:
            UserError: Something is not named, the submission would be refused, or is not scored.
        """
        target = required_target(self.to)
        if self.submission is None and self.run is None:
            raise UserError("name a submission, or the run that made one with --run")
        path = self.submission or Path(self.run or "") / "submission.json"
        run = self.run or (path.parent if (path.parent / "test.csv").is_file() else None)
        k = TOP if run is None else metric_of_run(run).length
        prepared = prepare(path, run, *self._names(run), k)
        log.info(submit(prepared, target, self.to))

    def _names(self, run: Path | None) -> tuple[Collection[str], Collection[str]]:
        """Return the names of the test's queries and gallery from what the options name."""
        if self.labels is not None:
            labels = read_labels(self.labels)
            return labels.query, labels.gallery
        if self.data is not None:
            return names_of_data(self.data)
        if run is None:
            raise UserError("nothing to check the names against: add --run, --data or --labels")
        return names_of_run(run)


@dataclass
class History:
    """Print what was sent, the forecast less the score (error), and each leaderboard's best (*)."""

    submissions: Path = SubmitSettings.submissions
    """The history."""

    def execute(self) -> None:
        """Print the history.

        Raises:
            UserError: The file is not a history.
        """
        rows = read_history(self.submissions)
        print(history_table(rows) if rows else f"nothing was sent yet ({self.submissions})")


@dataclass
class Serve(ServeSettings):
    """Run a leaderboard, to rehearse with or to hold a competition."""

    def execute(self) -> None:
        """Run the server until Ctrl-C.

        Raises:
            UserError: A setting or a file cannot be used.
        """
        serve(self)


Command = (
    Annotated[Send, tyro.conf.subcommand("send")]
    | Annotated[History, tyro.conf.subcommand("history")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
)


def main(arguments: Sequence[str]) -> int:
    """Send a submission, show the history or run a leaderboard; return the exit code."""
    description = "Send submissions to a leaderboard, or run one."
    command = parse(arguments, "lookalike submit", Command, description)
    log_to(None)
    return exit_code(command.execute)
