"""The scorer beside ranx, pytrec_eval and pytorch-metric-learning; rows of run.py.

10,000 queries with 100 results each, about half of the ten relevant pictures among them. All
programs get the same two files, or what each has parsed from them, and compute the same means:
Recall (hit rate, success) at 1, 5 and 10, mAP and mAP@10. Ours computes a few more, and checks
every name, which the others do not.
"""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.rows import BenchmarkSettings, Row, in_turns, seconds
from lookalike.evaluation.metrics import measure_queries
from lookalike.evaluation.scoring import find_hits, mean_measures, read_labels
from lookalike.evaluation.submissions import read_submission

QUERIES, GALLERY, IDENTITIES, LENGTH = 10_000, 10_000, 1_000, 100
RANX = ["hit_rate@1", "hit_rate@5", "hit_rate@10", "map", "map@10"]
TREC = {"success.1,5,10", "map", "map_cut.10"}


def write_test(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write a random submission and its labels; return their paths."""
    rng = np.random.default_rng(seed)
    gallery = rng.integers(IDENTITIES, size=GALLERY)
    queries = rng.integers(IDENTITIES, size=QUERIES)
    names = [f"gallery_{i:06}.jpg" for i in range(GALLERY)]
    labels = {
        "query": {f"query_{i:06}.jpg": f"person_{p:04}" for i, p in enumerate(queries)},
        "gallery": {name: f"person_{p:04}" for name, p in zip(names, gallery, strict=True)},
    }
    submission = {}
    for query, identity in zip(labels["query"], queries, strict=True):
        score = rng.random(GALLERY) + 0.5 * (gallery == identity)
        score[(gallery == identity) & (rng.random(GALLERY) < 0.5)] = 0
        nearest = np.argpartition(-score, LENGTH)[:LENGTH]
        submission[query] = [names[i] for i in nearest[np.argsort(-score[nearest])]]
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "submission.json", folder / "labels.json"
    for path, value in zip(paths, (submission, labels), strict=True):
        path.write_text(json.dumps(value))
    return paths


def as_trec(submission: dict[str, list[str]], labels: dict[str, dict[str, str]]) -> tuple[Any, Any]:
    """Return what is relevant and what was ranked as ranx and pytrec_eval take them.

    The scores of a ranking fall strictly: equal ones are ordered by each program's own rule.
    """
    pictures: dict[str, dict[str, int]] = {}
    for name, identity in labels["gallery"].items():
        pictures.setdefault(identity, {})[name] = 1
    relevant = {q: pictures[i] for q, i in labels["query"].items() if i in pictures}
    scores = [float(LENGTH - i) for i in range(LENGTH)]
    runs = {q: dict(zip(names, scores, strict=False)) for q, names in submission.items()}
    return relevant, runs


def read_as_trec(submission: Path, labels: Path) -> tuple[Any, Any]:
    """Read the files of a submission and of its labels as ranx and pytrec_eval take them."""
    return as_trec(json.loads(submission.read_text()), json.loads(labels.read_text()))


def trec_means(relevant: Any, runs: Any) -> list[float]:
    """Return the means of pytrec_eval."""
    import pytrec_eval

    return _means_of_trec(pytrec_eval.RelevanceEvaluator(relevant, TREC).evaluate(runs))


def _means_of_trec(measures: dict[str, dict[str, float]]) -> list[float]:
    names = ("success_1", "success_5", "success_10", "map", "map_cut_10")
    return [fmean(values[name] for values in measures.values()) for name in names]


def ranx_means(relevant: Any, runs: Any) -> list[float]:
    """Return the means of ranx."""
    import ranx

    measures = ranx.evaluate(ranx.Qrels(relevant), ranx.Run(runs), RANX)
    return [float(measures[name]) for name in RANX]


def our_means(submission: Path, labels: Path) -> list[float]:
    """Return our means; every name is checked."""
    hits = find_hits(read_submission(submission), read_labels(labels), LENGTH)
    measures = mean_measures(hits)
    return [measures[name] for name in ("recall@1", "recall@5", "recall@10", "map")]


def _agreement(means: list[list[float]]) -> str:
    """Say how far the programs' Recall and mAP are apart (mAP@10 has another denominator)."""
    apart = max(float(np.ptp(column)) for column in zip(*(one[:4] for one in means), strict=True))
    return f"all agree to {apart:.0e}"


def from_the_file(arguments: BenchmarkSettings) -> list[Row]:
    """Compare reading, parsing and scoring."""
    files = write_test(arguments.out / "scoring")
    programs: dict[str, Callable[[], list[float]]] = {
        "ours": lambda: our_means(*files),
        "ranx": lambda: ranx_means(*read_as_trec(*files)),
        "pytrec_eval": lambda: trec_means(*read_as_trec(*files)),
    }
    agreement = _agreement([program() for program in programs.values()])
    figures = in_turns([seconds(program) for program in programs.values()], arguments.repeats)
    what = f"scoring {QUERIES:,} × {LENGTH} from the file"
    remark = (
        f"{agreement}; JSON read and brought into each program's form; warm; a third of ours is "
        "looking up every name, which the others take as it comes, a quarter JSON"
    )
    return _rows("read_submission, find_hits, mean_measures", figures, what, 3, remark)


def parsed_already(arguments: BenchmarkSettings) -> list[Row]:
    """Compare scoring alone, from the form that each program parses the files into."""
    import pytrec_eval
    import ranx

    submission, labels = write_test(arguments.out / "scoring")
    relevant, runs = read_as_trec(submission, labels)
    hits = find_hits(read_submission(submission), read_labels(labels), LENGTH)
    qrels, run = ranx.Qrels(relevant), ranx.Run(runs)
    evaluator = pytrec_eval.RelevanceEvaluator(relevant, TREC)
    programs: dict[str, Callable[[], object]] = {
        "ours": lambda: mean_measures(hits),
        "ranx": lambda: ranx.evaluate(qrels, run, RANX),
        "pytrec_eval": lambda: _means_of_trec(evaluator.evaluate(runs)),
    }
    figures = in_turns(
        [seconds(program) for program in programs.values()], arguments.repeats, warm=2
    )
    what = f"scoring {QUERIES:,} × {LENGTH}, parsed already"
    remark = "from `QueryHits`; from Qrels and Run; from a RelevanceEvaluator and a dict; warm"
    return _rows("mean_measures", figures, what, 20, remark)


def _rows(ours: str, figures: list[list[float]], what: str, wanted: int, remark: str) -> list[Row]:
    names = f"ranx {version('ranx')}", f"pytrec_eval {version('pytrec_eval-terrier')}"
    return [
        Row(what, f"`{ours}`", name, "s", wanted, figures[0], others, remark)
        for name, others in zip(names, figures[1:], strict=True)
    ]


def full_ranking(arguments: BenchmarkSettings) -> list[Row]:
    """Compare average precision of rankings of 10,000 for 1,000 queries, from neighbor indices."""
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    rng = np.random.default_rng(0)
    gallery, queries = rng.integers(100, size=10_000), rng.integers(100, size=1_000)
    similarity = rng.random((1_000, 10_000)) + 0.3 * (gallery == queries[:, None])
    order = np.argsort(-similarity, axis=1)
    nearest, relevant = torch.from_numpy(order), np.bincount(gallery, minlength=100)[queries]
    calculator = AccuracyCalculator(
        include=("mean_average_precision",),
        k=None,
        device=torch.device("cpu"),
        knn_func=lambda query, k, reference, same: (
            torch.zeros_like(nearest[:, :k]),
            nearest[:, :k],
        ),
    )
    query = torch.zeros(1_000, 1), torch.from_numpy(queries)
    reference = torch.zeros(10_000, 1), torch.from_numpy(gallery)

    def ours() -> float:
        hits = gallery[order] == queries[:, None]
        return float(measure_queries(hits, relevant)["map"].mean())

    def theirs() -> float:
        measures = calculator.get_accuracy(*query, *reference, ref_includes_query=False)
        return float(measures["mean_average_precision"])

    remark = f"from the same neighbors; equal to {abs(ours() - theirs()):.0e}; warm"
    figures = in_turns([seconds(ours), seconds(theirs)], arguments.repeats)
    name = f"pytorch-metric-learning {version('pytorch-metric-learning')}, AccuracyCalculator"
    what = "AP over a full ranking, 1,000 × 10,000"
    ours_is = "`measure_queries`, every measure"
    return [Row(what, ours_is, name, "s", 5, figures[0], figures[1], remark)]
