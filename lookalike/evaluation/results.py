"""The forms of metrics.json and forecast.json, which several commands read.

metrics = read_metrics(run.path("metrics.json"))
metrics["test"]["recall@1"]
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from lookalike.core.errors import UserError
from lookalike.core.readers import Count, Finite, read_json, saved_record
from lookalike.evaluation.metrics import DEFAULT_METRIC, Metric, parse_metric

Interval = tuple[Finite, Finite]
# In this notation because names with @ cannot be written as attributes of a class.
Measures = TypedDict(
    "Measures",
    {
        "score": Finite,
        "recall@1": Finite,
        "recall@5": Finite,
        "recall@10": Finite,
        "map": Finite,
        "map@10": Finite,
        "map@10_hits": Finite,
    },
)
Intervals = TypedDict(
    "Intervals",
    {
        "score": Interval,
        "recall@1": NotRequired[Interval],
        "recall@5": NotRequired[Interval],
        "recall@10": NotRequired[Interval],
        "map": NotRequired[Interval],
        "map@10": NotRequired[Interval],
        "map@10_hits": NotRequired[Interval],
    },
)


class Block(Measures):
    """The scores of the test or of the validation, see `scoring.summarize`."""

    ci95: Intervals
    metric: NotRequired[str]
    queries: NotRequired[Count]
    missing: NotRequired[Count]
    left_out: NotRequired[Count]


class Forecast(TypedDict):
    """The content of forecast.json, see `retrieval.forecast.forecast_test`."""

    score: Finite
    ci95: Intervals
    metric: NotRequired[str]
    people: NotRequired[list[Count]]
    labelled_people: NotRequired[Count]


class Metrics(TypedDict, total=False):
    """The content of metrics.json."""

    test: Block
    validation: Block
    forecast: Forecast


def metric_of_run(folder: Path) -> Metric:
    """Return the metric that a run folder's config.json names; the default where there is none.

    Raises:
        UserError: Its name is unknown.
    """
    saved = saved_record(folder / "config.json")
    k = saved.get("k")
    metric = str(saved.get("metric", DEFAULT_METRIC))
    return parse_metric(metric, k if isinstance(k, int) else None)


def metric_of_block(block: Mapping[str, Any]) -> Metric:
    """Return what the score of a block of metrics.json is; of one of before, the default.

    Raises:
        UserError: Its name is unknown.
    """
    return parse_metric(block.get("metric", DEFAULT_METRIC))


def read_metrics(path: Path) -> Metrics:
    """Return the scores of a run.

    Raises:
        UserError: The file is missing or damaged.
    """
    metrics: Metrics = read_json(path, "--stage evaluate", Metrics)
    blocks: dict[str, Any] = dict(metrics)
    for block in blocks.values():
        try:
            metric_of_block(block)
        except UserError as error:
            raise UserError(f"{path}: {error}; make it anew with --stage evaluate") from error
    return metrics
