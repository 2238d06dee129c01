"""The scorer beside ranx, pytrec_eval and pytorch-metric-learning; rows of run.py.

10,000 queries with 100 results each, about half of the ten relevant pictures among them; all
programs are given the same two files, or what each has made of them. They make the same means:
Recall (hit rate, success) at 1, 5 and 10, mAP and mAP@10; ours makes a few more, and checks every
name, which the others do not.
"""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.rows import Given, Row, in_turns, seconds
from lookalike.evaluation.metrics import measure
from lookalike.evaluation.scoring import check_and_judge, means, read_labels
from lookalike.evaluation.submissions import read_submission

QUERIES, GALLERY, PEOPLE, LENGTH = 10_000, 10_000, 1_000, 100
RANX = ["hit_rate@1", "hit_rate@5", "hit_rate@10", "map", "map@10"]
TREC = {"success.1,5,10", "map", "map_cut.10"}


def write_test(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """A random submission and its labels."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(PEOPLE, size=GALLERY)
    settings = rng.integers(PEOPLE, size=QUERIES)
    names = [f"gallery_{i:06}.jpg" for i in range(GALLERY)]
    labels = {
        "query": {f"query_{i:06}.jpg": f"person_{p:04}" for i, p in enumerate(settings)},
        "gallery": {name: f"person_{p:04}" for name, p in zip(names, shown, strict=True)},
    }
    ranked = {}
    for query, person in zip(labels["query"], settings, strict=True):
        score = rng.random(GALLERY) + 0.5 * (shown == person)
        score[(shown == person) & (rng.random(GALLERY) < 0.5)] = 0
        near = np.argpartition(-score, LENGTH)[:LENGTH]
        ranked[query] = [names[i] for i in near[np.argsort(-score[near])]]
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "submission.json", folder / "labels.json"
    for path, value in zip(paths, (ranked, labels), strict=True):
        path.write_text(json.dumps(value))
    return paths


def as_trec(ranked: dict[str, list[str]], labels: dict[str, dict[str, str]]) -> tuple[Any, Any]:
    """What is relevant and what was ranked, with falling scores, as the other two take it."""
    of: dict[str, dict[str, int]] = {}
    for name, identity in labels["gallery"].items():
        of.setdefault(identity, {})[name] = 1
    relevant = {query: of[person] for query, person in labels["query"].items() if person in of}
    indices = [float(LENGTH - i) for i in range(LENGTH)]
    runs = {q: dict(zip(names, indices, strict=False)) for q, names in ranked.items()}
    return relevant, runs


def read_as_trec(submission: Path, labels: Path) -> tuple[Any, Any]:
    """The same from the files."""
    return as_trec(json.loads(submission.read_text()), json.loads(labels.read_text()))


def trec_means(relevant: Any, runs: Any) -> list[float]:
    """pytrec_eval's means."""
    import pytrec_eval

    return _means_of(pytrec_eval.RelevanceEvaluator(relevant, TREC).evaluate(runs))


def _means_of(judged: dict[str, dict[str, float]]) -> list[float]:
    names = ("success_1", "success_5", "success_10", "map", "map_cut_10")
    return [fmean(values[name] for values in judged.values()) for name in names]


def ranx_means(relevant: Any, runs: Any) -> list[float]:
    """ranx's means."""
    import ranx

    found = ranx.evaluate(ranx.Qrels(relevant), ranx.Run(runs), RANX)
    return [float(found[name]) for name in RANX]


def our_means(submission: Path, labels: Path) -> list[float]:
    """Ours, every name checked."""
    known = read_labels(labels)
    return _ours(means(check_and_judge(read_submission(submission), known, LENGTH)))


def _ours(found: dict[str, float]) -> list[float]:
    return [found[name] for name in ("recall@1", "recall@5", "recall@10", "map")]


def _agree(found: list[list[float]]) -> str:
    """Says how far the programs' Recall and mAP are apart (mAP@10 has another denominator)."""
    apart = max(float(np.ptp(column)) for column in zip(*(one[:4] for one in found), strict=True))
    return f"all agree to {apart:.0e}"


def from_the_file(arguments: Given) -> list[Row]:
    """Reading, parsing and scoring."""
    files = write_test(arguments.out / "scoring")
    programs: dict[str, Callable[[], list[float]]] = {
        "ours": lambda: our_means(*files),
        "ranx": lambda: ranx_means(*read_as_trec(*files)),
        "pytrec_eval": lambda: trec_means(*read_as_trec(*files)),
    }
    agreed = _agree([program() for program in programs.values()])
    figures = in_turns([seconds(program) for program in programs.values()], arguments.repeats)
    what = f"scoring {QUERIES:,} × {LENGTH} from the file"
    remark = (
        f"{agreed}; JSON read and brought into each program's form; warm; half of ours is JSON, "
        "a third looking up every name, which the others take as it comes"
    )
    return _beside("read_submission, check_and_judge, means", figures, what, 3, remark)


def parsed_already(arguments: Given) -> list[Row]:
    """Scoring alone, from the form that each program makes of the files."""
    import pytrec_eval
    import ranx

    submission, path = write_test(arguments.out / "scoring")
    labels, ranked = read_labels(path), read_submission(submission)
    relevant, runs = read_as_trec(submission, path)
    judged = check_and_judge(ranked, labels, LENGTH)
    qrels, run = ranx.Qrels(relevant), ranx.Run(runs)
    evaluator = pytrec_eval.RelevanceEvaluator(relevant, TREC)
    programs: dict[str, Callable[[], object]] = {
        "ours": lambda: means(judged),
        "ranx": lambda: ranx.evaluate(qrels, run, RANX),
        "pytrec_eval": lambda: _means_of(evaluator.evaluate(runs)),
    }
    figures = in_turns(
        [seconds(program) for program in programs.values()], arguments.repeats, warm=2
    )
    what = f"scoring {QUERIES:,} × {LENGTH}, parsed already"
    remark = "from `Judged`; from Qrels and Run; from a RelevanceEvaluator and a dict; warm"
    return _beside("means", figures, what, 20, remark)


def _beside(
    ours: str, figures: list[list[float]], what: str, wanted: int, remark: str
) -> list[Row]:
    names = f"ranx {version('ranx')}", f"pytrec_eval {version('pytrec_eval-terrier')}"
    return [
        Row(what, f"`{ours}`", name, "s", wanted, figures[0], others, remark)
        for name, others in zip(names, figures[1:], strict=True)
    ]


def full_ranking(arguments: Given) -> list[Row]:
    """Average precision of rankings of 10,000 for 1,000 queries, from the neighbors' numbers."""
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    rng = np.random.default_rng(0)
    shown, settings = rng.integers(100, size=10_000), rng.integers(100, size=1_000)
    closeness = rng.random((1_000, 10_000)) + 0.3 * (shown == settings[:, None])
    order = np.argsort(-closeness, axis=1)
    near, relevant = torch.from_numpy(order), np.bincount(shown, minlength=100)[settings]
    calculator = AccuracyCalculator(
        include=("mean_average_precision",),
        k=None,
        device=torch.device("cpu"),
        knn_func=lambda query, k, reference, same: (torch.zeros_like(near[:, :k]), near[:, :k]),
    )
    embeddings = torch.zeros(1_000, 1), torch.from_numpy(settings)
    reference = torch.zeros(10_000, 1), torch.from_numpy(shown)

    def ours() -> float:
        return float(measure(shown[order] == settings[:, None], relevant)["map"].mean())

    def theirs() -> float:
        found = calculator.get_accuracy(*embeddings, *reference, ref_includes_query=False)
        return float(found["mean_average_precision"])

    remark = f"from the same neighbors; equal to {abs(ours() - theirs()):.0e}; warm"
    figures = in_turns([seconds(ours), seconds(theirs)], arguments.repeats)
    name = f"pytorch-metric-learning {version('pytorch-metric-learning')}, AccuracyCalculator"
    what = "AP over a full ranking, 1,000 × 10,000"
    return [Row(what, "`measure`, every measure", name, "s", 5, figures[0], figures[1], remark)]
