"""The program evaluate.py, `lookalike evaluate`: score a submission and print its measures.

python evaluate.py runs/demo/submission.json
python evaluate.py submission.csv --labels labels.json --json
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tabulate import tabulate

from lookalike.core.checks import check_bounds
from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse
from lookalike.core.readers import TABLES
from lookalike.core.settings import Positive
from lookalike.evaluation.matching import bare_name
from lookalike.evaluation.metrics import Metric, measures_at, parse_metric
from lookalike.evaluation.results import metric_of_run
from lookalike.evaluation.scoring import (
    QueryHits,
    find_hits,
    hits_of_queries,
    measures_of,
    read_labels,
    summarize,
    warn_incomplete,
)
from lookalike.evaluation.submissions import read_submission


@dataclass
class EvaluateCommand:
    """Options of evaluate.py, which is also `lookalike evaluate`."""

    submission: tyro.conf.Positional[Path]
    """Submission: JSON in any known form, or CSV."""
    labels: Path | None = None
    """Labels, {"query": {name: identity}, "gallery": {...}}. Default: labels.json beside it."""
    json: bool = False
    """Print one JSON object and nothing else on standard output."""
    metric: tuple[str, ...] = ()
    """Metrics, such as map@100, or weighted sums of them; the first is the score. Default: that of
    the run the submission lies in, else 600*recall@1+300*recall@5+100*recall@10."""
    k: Positive | None = None
    """Names a query may have; mAP and Recall are taken at this length too. Default: as many as the
    metrics look at, at least ten."""
    per_query: bool = False
    """Show the worst and the best queries."""
    leave_one_out: bool = False
    """Query and gallery are one folder: a picture's own name is left out."""


def measures_table(block: Mapping[str, Any], metric: Metric) -> str:
    """Return a block of measures as a table with their intervals and the counts below.

    Args:
        block: What `score` returns.
        metric: What its score is.
    """
    rows = []
    for name, ends in block["ci95"].items():
        shown = metric.show if name == "score" else "{:.4f}".format
        rows.append((name, *map(shown, (block[name], *ends))))
    counts = f"{block['queries']} queries, {block['missing']} missing, {block['left_out']} left out"
    headers = ["measure", "value", "95 % from", "to"]
    for usage, its_block in block.get("usage", {}).items():
        ends = its_block["ci95"]["score"]
        rows.append((f"score, {usage}", *map(metric.show, (its_block["score"], *ends))))
    table = tabulate(rows, headers, disable_numparse=True)
    return f"{table}\nscore: {metric.name}\n{counts}"


def queries_table(found: QueryHits, count: int = 10) -> str:
    """Return the worst and the best queries as a table, by first hit, then by average precision.

    Args:
        found: The queries.
        count: How many of the worst, and of the best.
    """
    precision = measures_of(found)["map"]
    first = np.where(found.hits.any(1), found.hits.argmax(1) + 1, found.hits.shape[1] + 1)
    order = np.lexsort((-precision, first))
    best = order[:count]
    worst = order[count:][::-1][:count]
    rows = [
        (
            title,
            found.queries[i],
            found.identities[i],
            int(first[i]) if found.hits[i].any() else "none",
            f"{int(found.hits[i].sum())} of {found.relevant[i]}",
            f"{precision[i]:.4f}",
        )
        for title, chosen in (("worst", worst), ("best", best))
        for i in chosen
    ]
    headers = ["", "query", "identity", "first hit at", "hits", "average precision"]
    return tabulate(rows, headers, disable_numparse=True)


def _metrics(command: EvaluateCommand) -> list[Metric]:
    """Return the metrics that are named, all with the longest of their lists, or the run's."""
    if not command.metric:
        metric = metric_of_run(command.submission.parent)
        return [metric._replace(length=command.k or metric.length)]
    parsed = [parse_metric(name, command.k) for name in command.metric]
    length = max(metric.length for metric in parsed)
    return [metric._replace(length=length) for metric in parsed]


def _scores_by_usage(path: Path, found: QueryHits, metric: Metric) -> dict[str, Any]:
    """Return {"usage": {Public: its block, ...}} where a table of labels tells these apart."""
    if path.suffix.lower() not in TABLES:
        return {}
    from lookalike.data.tables import read_usage  # pandas: --help needs none

    queries: dict[str, set[str]] = {}
    for query, usage in read_usage(path).items():
        queries.setdefault(usage, set()).add(bare_name(query))
    parts = {usage: hits_of_queries(found, queries[usage]) for usage in sorted(queries)}
    blocks = {usage: summarize(part, metric) for usage, part in parts.items() if part.queries}
    return {"usage": blocks} if blocks else {}


def print_score(command: EvaluateCommand) -> None:
    """Score a submission and print its measures.

    Raises:
        UserError: An option or a file cannot be used, or the submission has defects.
    """
    check_bounds(command)
    submission = read_submission(command.submission)
    path = command.labels or command.submission.with_name("labels.json")
    labels = read_labels(path)
    labels = labels._replace(leave_one_out=labels.leave_one_out or command.leave_one_out)
    metric, *others = _metrics(command)
    found = find_hits(submission, labels, metric.length)
    warn_incomplete(found, metric.length)
    block = summarize(found, metric, measures_at(command.k))
    for other in others:
        its_block = summarize(found, other)
        block[other.name] = its_block["score"]
        block["ci95"][other.name] = its_block["ci95"]["score"]
    block |= _scores_by_usage(path, found, metric)
    print(json.dumps(block) if command.json else measures_table(block, metric))
    if command.per_query and not command.json:
        print(f"\n{queries_table(found)}")


def main(arguments: Sequence[str]) -> int:
    """Score the submission that a command line names; return the exit code."""
    command = parse(arguments, "evaluate.py", EvaluateCommand, "Score a submission.")
    log_to(None)
    return exit_code(lambda: print_score(command))
