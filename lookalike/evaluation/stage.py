"""The stage `evaluate`: score the test, where its labels are known, and the validation."""

from pathlib import Path
from typing import Any

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, write_json
from lookalike.core.log import log
from lookalike.core.readers import read_json
from lookalike.core.runs import Run
from lookalike.data.listing import labels_of
from lookalike.evaluation.metrics import Metric, run_metric
from lookalike.evaluation.results import Forecast
from lookalike.evaluation.scoring import Labels, read_labels, score


def labels_path(run: Run) -> Path | None:
    """Return the labels of the run's test: --labels, else labels.json in the data set, else None.

    Raises:
        UserError: There is neither a data set nor --labels.
    """
    if run.settings.evaluate.labels is not None:
        return run.settings.evaluate.labels
    if not run.data.is_dir():
        raise UserError(f"{run.data}: no data set there, and no --labels: nothing to score against")
    labels = labels_of(run.data)
    return labels if labels.is_file() else None


def labels_state(run: Run) -> str:
    """Return a text that changes when the labels of the run's test do."""
    path = labels_path(run)
    return f"{path} {file_hash(path)}" if path else ""


def evaluate_state(run: Run) -> str:
    """Return a text that changes with the labels, and when the forecast gets out of date."""
    return f"{labels_state(run)} {run.is_current('forecast')}"


def run_evaluate(run: Run) -> str:
    """Write metrics.json from submission.json, validation.json and their labels.

    Args:
        run: The run whose stages before this one are done.

    Returns:
        One line with the scores.

    Raises:
        UserError: A file is missing or broken, or the submission has defects.
    """
    metrics: dict[str, Any] = {}
    path, metric = labels_path(run), run_metric(run.settings)
    if path is not None:
        labels = _labels_of_test(run, path)
        metrics["test"] = score(
            run.path("submission.json"), labels, metric.length, metric=metric.name
        )
        write_json(run.path("labels.json"), labels.as_json())
    else:
        run.path("labels.json").unlink(missing_ok=True)
        log.info("the test's labels are not known (--labels): only the validation is scored")
    validation = _score_validation(run, metric)
    if validation is not None:
        metrics["validation"] = validation
    scores = [f"{name} {metric.show(block['score'])}" for name, block in metrics.items()]
    if run.is_current("forecast") and run.path("forecast.json").is_file():
        metrics["forecast"] = read_json(run.path("forecast.json"), "--stage forecast", Forecast)
    elif run.path("forecast.json").is_file():
        log.warning(
            "warning: the forecast is not of this ranking, or of other files: left out; "
            "--stage forecast evaluate makes it anew"
        )
    write_json(run.path("metrics.json"), metrics)
    return "score: " + (", ".join(scores) or "nothing to score against")


def _labels_of_test(run: Run, path: Path) -> Labels:
    """Read the labels; a query's own picture is not searched for where the test is one folder."""
    from lookalike.data.catalogue import load_catalogue, searches_itself  # pandas

    labels, test = read_labels(path), load_catalogue(run.path("test.csv"))
    return labels._replace(leave_one_out=labels.leave_one_out or searches_itself(test))


def _score_validation(run: Run, metric: Metric) -> dict[str, Any] | None:
    """Score validation.json; None where the run has no validation to score."""
    from lookalike.data.splits import unseen_split  # pandas: --help does without it

    if run.settings.train.all_seen:
        log.info("the validation was trained on (--refit): its score is in history.csv")
    task = unseen_split(run).validation
    if task.answerable:
        log.info("validation:")
        path = run.path("validation.json")
        return score(path, task, metric.length, metric=metric.name)
    if task.query:
        log.warning("warning: no validation query has its identity in the gallery: not scored")
    return None
