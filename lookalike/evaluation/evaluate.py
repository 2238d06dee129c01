"""The scorer: a submission and labels -> Recall@k, mAP, score, with 95 % intervals.

    python evaluate.py runs/demo/submission.json
    python evaluate.py submission.csv --labels labels.json --json

For a query q with N_q relevant gallery pictures and the ranked list that was handed in:

    recall@k     1 if any of the first k is relevant, else 0 (what others call hit rate, success@k)
    score        600 recall@1 + 300 recall@5 + 100 recall@10: 0 to 1000
    map          1/N_q * the sum of precision@i over the ranks i of the hits in the list
    map@k        the same over the first k, with min(N_q, k) for N_q
    map@k_hits   the same over the first k, with the number of hits among them for N_q: the report's
                 figures, and those of some libraries; it calls a lucky single hit perfect

and the mean over queries. A query without a relevant picture in the gallery is left out; a query
that the submission lacks counts as 0. Intervals come from a bootstrap over identities.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tabulate import tabulate

from lookalike.core.errors import UserError
from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse
from lookalike.evaluation.metrics import measure
from lookalike.evaluation.scoring import Judged, read_labels, score
from lookalike.evaluation.submissions import read_submission


@dataclass
class Program:
    """Settings of this file as a program."""

    submission: tyro.conf.Positional[Path]
    """Submission: JSON in any known form, or CSV."""
    labels: Path | None = None
    """Labels, {"query": {name: identity}, "gallery": {...}}. Default: labels.json beside it."""
    json: bool = False
    """Print one JSON object and nothing else on standard output."""
    k: int = 10
    """Names a query may have; mAP and Recall are taken at this length too."""
    per_query: bool = False
    """Show the worst and the best queries."""
    leave_one_out: bool = False
    """Query and gallery are one folder: a picture's own name is left out."""


def show(block: Mapping[str, Any]) -> str:
    """A block as a table of measures with their intervals."""
    form: Callable[[str], str] = lambda name: ".1f" if name == "score" else ".4f"  # noqa: E731
    rows = [
        (name, format(block[name], form(name)), *(format(end, form(name)) for end in ends))
        for name, ends in block["ci95"].items()
    ]
    counts = f"{block['queries']} queries, {block['missing']} missing, {block['left_out']} left out"
    heads = ["measure", "value", "95 % from", "to"]
    return tabulate(rows, heads, disable_numparse=True) + f"\n{counts}"


def show_queries(judged: Judged, count: int = 10) -> str:
    """The worst and best queries: by first hit, then by average precision."""
    precision = measure(judged.hits, judged.relevant)["map"]
    first = np.where(judged.hits.any(1), judged.hits.argmax(1) + 1, judged.hits.shape[1] + 1)
    order = np.lexsort((-precision, first))
    best = order[:count]
    worst = order[count:][::-1][:count]
    rows = [
        (
            title,
            judged.queries[i],
            judged.identities[i],
            int(first[i]) if judged.hits[i].any() else "none",
            f"{int(judged.hits[i].sum())} of {judged.relevant[i]}",
            f"{precision[i]:.4f}",
        )
        for title, chosen in (("worst", worst), ("best", best))
        for i in chosen
    ]
    heads = ["", "query", "identity", "first hit at", "hits", "average precision"]
    return tabulate(rows, heads, disable_numparse=True)


def main(arguments: Iterable[str]) -> int:
    """Scores one submission; returns the exit code."""
    program = parse(list(arguments), "evaluate.py", Program, "Scores a submission.")
    log_to(None)
    return exit_code(lambda: score_file(program))


def score_file(program: Program) -> None:
    """Scores what the program was given and prints it."""
    if program.k < 1:
        raise UserError(f"--k {program.k}: must be at least 1")
    labels = read_labels(program.labels or program.submission.with_name("labels.json"))
    ranked = read_submission(program.submission)
    block, judged = score(ranked, labels, program.k, program.leave_one_out)
    print(json.dumps(block) if program.json else show(block))
    if program.per_query and not program.json:
        print(f"\n{show_queries(judged)}")
