"""Forecast the score of the test from labeled pictures (the stage forecast).

    forecast_score(tasks, settings, count=120, sizes={"query": 600, "gallery": 900}, seed=0)

More identities are harder to tell apart. The score of random subsets of the labeled identities, of
several sizes, is interpolated or extrapolated to the number of identities that the test is likely
to show.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import linkage

from lookalike.core.files import write_json
from lookalike.core.runs import Run
from lookalike.core.settings import RetrieveSettings
from lookalike.data.catalogue import load_catalogue, readable
from lookalike.data.splits import Pictures
from lookalike.evaluation.metrics import HIGHEST_SCORE, clustered_interval
from lookalike.features.extractor import embed, trained_extractor
from lookalike.retrieval.labeled_tasks import (
    LabeledTask,
    LabeledTasks,
    TaskScores,
    load_tasks,
    score_task,
)
from lookalike.retrieval.postprocess import Embeddings, center

DRAWS = 8  # random subsets of each size
SUBSETS = (0.25, 0.5, 0.75, 1)  # their sizes, as shares of the labeled identities
FEWEST = 4  # labeled identities that a forecast needs
CLUSTERED = 4000  # pictures at most that identities are counted by


def run_forecast(run: Run) -> str:
    """Run the stage: write forecast.json, the score to expect of the test.

    Args:
        run: The run; its trained model, catalogue and split are read.

    Returns:
        A line with the forecast; why there is none, where labeled identities are too few.

    Raises:
        UserError: A file of the run is missing or damaged.
    """
    tasks = load_tasks(run, parts=1)
    run.path("forecast.json").unlink(missing_ok=True)
    if not tasks.tasks or len(_identities(tasks.tasks[0])) < FEWEST:
        return "too few labeled identities to forecast from"
    extractor = trained_extractor(run)
    tasks.embed(extractor)
    test = load_catalogue(run.path("test.csv"))
    test = test[readable(test)]
    queries = embed(extractor, test[test.part == "query"])
    gallery = int((test.part == "gallery").sum())
    forecast = forecast_test(tasks, run.settings.retrieve, queries, gallery, run.seed)
    write_json(run.path("forecast.json"), forecast)
    low, high = forecast["ci95"]["score"]
    few, many = forecast["people"]
    return f"{forecast['score']:.1f} ({low:.1f} to {high:.1f}), for {few} to {many} identities"


def _identities(task: LabeledTask) -> list[str]:
    """Return the identities of a task's queries, sorted."""
    return sorted(set(task.query.values()))


def forecast_test(
    tasks: LabeledTasks,
    settings: RetrieveSettings,
    queries: np.ndarray,
    gallery: int,
    seed: int,
) -> dict[str, Any]:
    """Forecast the score of a test whose number of identities is not known.

    That number is estimated twice: by clusters of the queries, and by as many gallery pictures per
    identity as the labeled ones have. The forecast is the mean of both, and its interval spans
    both.

    Args:
        tasks: A single task, embedded.
        settings: The steps of the ranking.
        queries: (Q, D) embeddings of the test's queries.
        gallery: The size of the test's gallery.
        seed: Of the random subsets.

    Returns:
        What forecast.json holds: `score`, `ci95`, `people` (both estimates of the number of
        identities) and `labelled_people` (the number of labeled ones).
    """
    (task,) = tasks.tasks
    per_identity = len(task.gallery) / len(set(task.gallery.values()))
    by_clusters = count_identities(tasks.stack(task.query), len(_identities(task)), queries)
    counts = by_clusters, round(gallery / per_identity)
    sizes = {"query": len(queries), "gallery": gallery}
    parts = [forecast_score(tasks, settings, max(1, count), sizes, seed) for count in counts]
    lows, highs = zip(*(interval for _, interval in parts), strict=True)
    return {
        "score": sum(expected for expected, _ in parts) / 2,
        "ci95": {"score": [min(lows), max(highs)]},
        "people": sorted(counts),
        "labelled_people": len(_identities(task)),
    }


# ---- the number of identities -------------------------------------------------------------------


def count_identities(labeled: np.ndarray, identities: int, unlabeled: np.ndarray) -> int:
    """Estimate how many identities unlabeled pictures show.

    They are clustered by average linkage, down to the distance at which the labeled pictures form
    as many clusters as they show identities.

    Args:
        labeled: (L, D) embeddings of labeled pictures.
        identities: How many identities those show.
        unlabeled: (N, D) embeddings.

    Returns:
        The number of clusters, at least 1.
    """
    heights = _merge_heights(labeled)
    merges = min(max(len(heights) + 1 - identities, 1), len(heights))
    level = heights[merges - 1]
    return max(1, len(unlabeled) - int((_merge_heights(unlabeled) <= level).sum()))


def _merge_heights(rows: np.ndarray) -> np.ndarray:
    """Return the sorted cosine distances at which average linkage merges clusters."""
    sample = np.random.default_rng(0).permutation(len(rows))[:CLUSTERED]
    if len(sample) < 2:
        return np.zeros(0)
    none = np.zeros((0, rows.shape[1]), np.float32)
    centered = center(Embeddings(rows[sample], none, none, none)).queries
    return np.sort(linkage(centered, "average", "cosine")[:, 2])


# ---- the score of so many identities ------------------------------------------------------------


def forecast_score(
    tasks: LabeledTasks,
    settings: RetrieveSettings,
    count: int,
    sizes: Mapping[str, int],
    seed: int,
) -> tuple[float, tuple[float, float]]:
    """Forecast the score of a test with `count` identities.

    Args:
        tasks: A single task, embedded.
        settings: The steps of the ranking.
        count: The number of identities.
        sizes: The number of their `query` and `gallery` pictures in all.
        seed: Of the random subsets.

    Returns:
        The expected score, and the ends of its 95 % interval; all from 0 to 1000.
    """
    per_identity = {side: size / count for side, size in sizes.items()}
    levels, means = subset_scores(tasks, settings, per_identity, seed)
    expected = extrapolate(levels, means, count)
    spread = half_width(tasks.score(settings), len(_identities(tasks.tasks[0])), count)
    low, high = np.clip([expected - spread, expected + spread], 0, HIGHEST_SCORE)
    return expected, (float(low), float(high))


def subset_scores(
    tasks: LabeledTasks, settings: RetrieveSettings, per_identity: Mapping[str, float], seed: int
) -> tuple[list[int], list[float]]:
    """Score random subsets of the labeled identities.

    Args:
        tasks: A single task, embedded.
        settings: The steps of the ranking.
        per_identity: The `query` and `gallery` pictures per identity at most.
        seed: Of the subsets.

    Returns:
        Numbers of identities, ascending, and the mean score of subsets of each.
    """
    (task,) = tasks.tasks
    identities = _identities(task)
    rng = np.random.default_rng([seed, 6])
    levels = sorted({max(2, round(len(identities) * share)) for share in SUBSETS})
    means = []
    for level in levels:
        scores = []
        for _ in range(DRAWS):
            chosen = set(rng.permutation(identities)[:level].tolist())
            part = draw_subset(task, chosen, per_identity, rng)
            scores.append(score_task(tasks.embeddings(part), part, settings).mean("score"))
        means.append(float(np.mean(scores)))
    return levels, means


def draw_subset(
    task: LabeledTask,
    chosen: set[str],
    per_identity: Mapping[str, float],
    rng: np.random.Generator,
) -> LabeledTask:
    """Draw the task of the chosen identities, with at most so many pictures per identity.

    Args:
        task: To draw from.
        chosen: The identities.
        per_identity: The mean number of `query` and `gallery` pictures per identity.
        rng: Draws the pictures.
    """
    parts: dict[str, Pictures] = {}
    for side, wanted in per_identity.items():
        pictures: Pictures = getattr(task, side)
        paths = [path for path, identity in pictures.items() if identity in chosen]
        available = len(paths) / len(chosen)
        size = max(1, round(len(paths) * min(1.0, wanted / max(available, 1e-9))))
        drawn = sorted(rng.permutation(paths)[:size].tolist())
        parts[side] = {path: pictures[path] for path in drawn}
    return task._replace(**parts)


def extrapolate(levels: Sequence[int], means: Sequence[float], count: int) -> float:
    """Return the score to expect of `count` identities.

    It is interpolated on the scale of log(identities); beyond the largest subset it follows the
    line fitted to all of them.

    Args:
        levels: Numbers of identities, ascending.
        means: The mean score of each.
        count: The number of identities asked for.

    Returns:
        A score from 0 to 1000.

    >>> round(extrapolate([10, 100], [900.0, 700.0], 1000), 6)
    500.0
    """
    expected = float(np.interp(np.log(count), np.log(levels), means))
    if count > levels[-1]:
        slope = np.polyfit(np.log(levels), means, 1)[0] if len(levels) > 1 else 0.0
        expected += float(slope * np.log(count / levels[-1]))
    return float(np.clip(expected, 0, HIGHEST_SCORE))


def half_width(scores: TaskScores, labeled: int, count: int) -> float:
    """Return half the width of the 95 % interval of a forecast.

    It adds two variances: that of a mean over the labeled identities, and that of a mean over as
    many other identities as the test has.

    Args:
        scores: Of all labeled identities.
        labeled: How many those are.
        count: The number of identities of the test.
    """
    values = scores.values["score"][:, None]
    low, high = clustered_interval(values, scores.identities, HIGHEST_SCORE)[:, 0]
    return float((high - low) / 2 * np.sqrt(1 + labeled / count))
