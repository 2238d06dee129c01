"""The forms of metrics.json and forecast.json, which several commands read.

metrics = read_metrics(run.path("metrics.json"))
metrics["test"]["recall@1"]
"""

from pathlib import Path
from typing import NotRequired, TypedDict

from lookalike.core.readers import Count, Finite, read_json

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
    queries: NotRequired[Count]
    missing: NotRequired[Count]
    left_out: NotRequired[Count]


class Forecast(TypedDict):
    """The content of forecast.json, see `retrieval.forecast.forecast_test`."""

    score: Finite
    ci95: Intervals
    people: NotRequired[list[Count]]
    labelled_people: NotRequired[Count]


class Metrics(TypedDict, total=False):
    """The content of metrics.json."""

    test: Block
    validation: Block
    forecast: Forecast


def read_metrics(path: Path) -> Metrics:
    """Return the scores of a run.

    Raises:
        UserError: The file is missing or damaged.
    """
    metrics: Metrics = read_json(path, "--stage evaluate", Metrics)
    return metrics
