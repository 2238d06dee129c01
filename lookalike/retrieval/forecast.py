"""TODO lookalike.retrieval.forecast."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import linkage

from lookalike.core.files import write_json
from lookalike.core.runs import Run
from lookalike.core.settings import RetrieveSettings
from lookalike.data.catalogue import load_catalogue, readable
from lookalike.data.splits import Pictures
from lookalike.evaluation.metrics import interval
from lookalike.features.extractor import embed, load_extractor
from lookalike.retrieval.labelled_tasks import (
    Judged,
    LabelledTask,
    People,
    judge_task,
    labelled_people,
)
from lookalike.retrieval.postprocess import Embeddings, center

DRAWS = 8


def run_forecast(run: Run) -> str:
    """The stage: forecast.json, the score that the labelled people let expect of the test."""
    people = labelled_people(run, parts=1)
    run.path("forecast.json").unlink(missing_ok=True)
    if not people.tasks or len(set(people.tasks[0].query.values())) < 4:
        return "too few labelled people to forecast from"
    extractor = load_extractor(run)
    people.embed(extractor)
    test = load_catalogue(run.path("test.csv"))
    test = test[readable(test)]
    queries = embed(extractor, test[test.part == "query"])
    task, gallery = people.tasks[0], int((test.part == "gallery").sum())
    each = len(task.gallery) / len(set(task.gallery.values()))
    # How many people the test shows is not known; the interval spans two estimates.
    counts = (count_people(people.stack(task.query), task, queries), round(gallery / each))
    sizes = {"query": len(queries), "gallery": gallery}
    settings = run.settings.retrieve
    whole = people.judge(settings)
    parts = [extrapolate(people, settings, whole, max(1, n), sizes, run.seed) for n in counts]
    forecast: dict[str, Any] = {
        "score": sum(expected for expected, _ in parts) / 2,
        "ci95": {
            "score": [min(ends[0] for _, ends in parts), max(ends[1] for _, ends in parts)],
        },
        "people": sorted(counts),
        "labelled_people": len(set(task.query.values())),
    }
    write_json(run.path("forecast.json"), forecast)
    low, high = forecast["ci95"]["score"]
    few, many = forecast["people"]
    return f"{forecast['score']:.1f} ({low:.1f} to {high:.1f}), for {few} to {many} people"


def count_people(known: np.ndarray, task: LabelledTask, unknown: np.ndarray) -> int:
    """About how many people the unlabelled queries show: clusters of average linkage, down to the
    distance at which the labelled ones form as many clusters as they show people."""

    def heights(rows: np.ndarray) -> np.ndarray:
        some = np.random.default_rng(0).permutation(len(rows))[:4000]
        none = np.zeros((0, rows.shape[1]), np.float32)
        moved = center(Embeddings(rows[some], none, none, none)).queries
        return np.sort(linkage(moved, "average", "cosine")[:, 2]) if len(some) > 1 else np.zeros(0)

    labelled, people = heights(known), len(set(task.query.values()))
    merges = min(max(len(labelled) + 1 - people, 1), len(labelled))
    level = labelled[merges - 1]
    return max(1, len(unknown) - int((heights(unknown) <= level).sum()))


def extrapolate(
    people: People,
    settings: RetrieveSettings,
    whole: Judged,
    count: int,
    sizes: dict[str, int],
    seed: int,
) -> tuple[float, tuple[float, float]]:
    """The expected score of `count` people with `sizes` query and gallery pictures in all, and the
    ends of its 95 % interval.

    Random subsets of the labelled people, of several sizes and with as many pictures a person as
    the test has, are scored; the expectation lies between them on the scale of log(people), beyond
    them on a line. The interval adds what the labelled people leave open and what another set of
    people would.

    whole: what all of the labelled people come to.
    """
    task, names = people.tasks[0], sorted(set(people.tasks[0].query.values()))
    rng = np.random.default_rng([seed, 6])
    levels = sorted({max(2, round(len(names) * share)) for share in (0.25, 0.5, 0.75, 1)})
    means = []
    for level in levels:
        scores = []
        for _ in range(DRAWS):
            chosen = set(rng.permutation(names)[:level].tolist())
            part = subset(task, chosen, {k: n / count for k, n in sizes.items()}, rng)
            scores.append(judge_task(people.embeddings(part), part, settings).mean("score"))
        means.append(float(np.mean(scores)))
    expected = float(np.interp(np.log(count), np.log(levels), means))
    if count > levels[-1]:
        slope = np.polyfit(np.log(levels), means, 1)[0] if len(levels) > 1 else 0.0
        expected += float(slope * np.log(count / levels[-1]))
    expected = float(np.clip(expected, 0, 1000))
    low, high = interval(whole.values["score"][:, None], whole.identities)[:, 0]
    spread = (high - low) / 2 * np.sqrt(1 + len(names) / count)
    low, high = np.clip([expected - spread, expected + spread], 0, 1000)
    return expected, (float(low), float(high))


def subset(
    task: LabelledTask,
    chosen: set[str],
    each: Mapping[str, float],
    rng: np.random.Generator,
) -> LabelledTask:
    """The task of the chosen people, with about `each` query and gallery pictures a person."""
    parts: dict[str, Pictures] = {}
    for side, wanted in each.items():
        inside = [path for path, name in getattr(task, side).items() if name in chosen]
        have = len(inside) / len(chosen)
        kept = max(1, round(len(inside) * min(1.0, wanted / max(have, 1e-9))))
        keep = sorted(rng.permutation(inside)[:kept].tolist())
        parts[side] = {path: getattr(task, side)[path] for path in keep}
    return task._replace(**parts)
