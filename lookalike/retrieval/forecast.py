"""Forecast the score of the test from labeled pictures (the stage forecast).

    sizes = TaskSizes(identities=40, queries=120, gallery=600, relevant=600)
    forecast_score([Part(tasks, settings, queries)], sizes, seed=0)

A forecast simulates tests: it draws as many labeled identities as the test is likely to show,
takes their pictures as queries and gallery, fills the gallery up with pictures of other identities,
and ranks it by steps that learn from the rest. Where the labeled pictures are too few for a test of
that size, smaller ones are simulated and their scores extrapolated.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from lookalike.core.config import from_table
from lookalike.core.files import write_json
from lookalike.core.runs import Run
from lookalike.core.settings import RetrieveSettings, Settings
from lookalike.data.catalogue import gallery_of, load_catalogue, queries_of, readable
from lookalike.evaluation.intervals import clopper_pearson, effective_numbers
from lookalike.evaluation.metrics import SCORE, Metric, over_identities, run_metric
from lookalike.features.embedding import embed
from lookalike.features.extractor import trained_extractor, untrained_extractor
from lookalike.retrieval.embeddings import Embeddings, center
from lookalike.retrieval.labeled_tasks import (
    LabeledTask,
    LabeledTasks,
    TaskScores,
    load_tasks,
    score_task,
)
from lookalike.retrieval.postprocess import learns_projection, needs_labeled
from lookalike.retrieval.unseen import read_halves

DRAWS = 16  # simulated tests of each size
SMALLER = (0.25, 0.5, 0.75)  # sizes of further simulated tests, where the score is extrapolated
FEWEST = 4  # labeled identities that a forecast needs
ALIKE = 1e-5  # numbers of embeddings that differ by less are the same
CLUSTERED = 4000  # pictures at most that identities are counted by


class TaskSizes(NamedTuple):
    """The size of a test.

    Attributes:
        identities: How many its queries show.
        queries: Its queries.
        gallery: The pictures of its gallery.
        relevant: Those that show an identity of the queries.
    """

    identities: int
    queries: int
    gallery: int
    relevant: int


class Part(NamedTuple):
    """Labeled pictures that tests are simulated from.

    Attributes:
        tasks: A single task, embedded.
        settings: The steps of the ranking; where they were chosen on labeled identities, on others
            than the task's.
        queries: (Q, D) embeddings of the test's queries.
    """

    tasks: LabeledTasks
    settings: RetrieveSettings
    queries: np.ndarray

    @property
    def task(self) -> LabeledTask:
        """The task."""
        (task,) = self.tasks.tasks
        return task


def run_forecast(run: Run) -> str:
    """Run the stage: write forecast.json, the score to expect of the test.

    Args:
        run: The run; its trained model, catalogue and split are read.

    Returns:
        A line with the forecast; why there is none, where labeled identities are too few.

    Raises:
        UserError: A file of the run is missing or damaged.
    """
    run.path("forecast.json").unlink(missing_ok=True)
    test = load_catalogue(run.path("test.csv"))
    test = test[readable(test)]
    parts = load_parts(run, queries_of(test))
    if sum(len(_identities(part.task)) for part in parts) < FEWEST:
        return "too few labeled identities to forecast from"
    metric = run_metric(run.settings)
    forecast = forecast_test(parts, len(gallery_of(test)), run.seed)
    write_json(run.path("forecast.json"), forecast)
    low, high = forecast["ci95"]["score"]
    few, many = forecast["people"]
    shown, low, high = map(metric.show, (forecast["score"], low, high))
    line = f"{shown} ({low} to {high}), for {few} to {many} identities"
    return f"{line}, from identities not chosen on" if read_halves(run) else line


def load_parts(run: Run, queries: pd.DataFrame) -> list[Part]:
    """Load what tests are simulated from: all labeled pictures, or two halves of them.

    They are halves where the recipe was chosen, each with what was chosen on the other half; and
    where a projection is learned, which takes labeled pictures of other identities.

    Args:
        run: Its files are read.
        queries: The catalogue rows of the test's queries.
    """
    halves, retrieve = read_halves(run), run.settings.retrieve
    in_halves = bool(halves) or learns_projection(retrieve)
    everything = load_tasks(run, parts=2 if in_halves else 1)
    parts = []
    for number, task in enumerate(everything.tasks):
        tasks = everything.with_tasks([task])
        extractor, settings = trained_extractor(run), retrieve
        if halves:
            chosen = from_table(Settings, run.settings.flat() | halves[number]["settings"])
            settings, extractor = chosen.retrieve, untrained_extractor(run, chosen.embed)
        tasks.embed(extractor)
        parts.append(Part(tasks, settings, embed(extractor, queries)))
    return parts


def _identities(task: LabeledTask) -> list[str]:
    """Return the identities of a task's queries, sorted."""
    return sorted(set(task.query.values()))


def _relevant(task: LabeledTask) -> list[str]:
    """Return the identity of each gallery picture that some query looks for."""
    searched = set(task.query.values())
    return [name for name in task.gallery.values() if name in searched]


def forecast_test(parts: Sequence[Part], gallery: int, seed: int) -> dict[str, Any]:
    """Forecast the score of a test whose number of identities is not known.

    That number is estimated twice: by clusters of the queries, and by as many gallery pictures per
    identity as those have that labeled queries show; identities without a query would make it too
    low. The forecast is the mean of both, and its interval spans both.

    Args:
        parts: What tests are simulated from, of disjoint identities.
        gallery: The size of the test's gallery.
        seed: Of the simulated tests.

    Returns:
        What forecast.json holds: `score`, `ci95`, `people` (both estimates of the number of
        identities) and `labelled_people` (the number of labeled ones).
    """
    labeled = sum(len(_identities(part.task)) for part in parts)
    found = [name for part in parts for name in _relevant(part.task)]
    per_identity = len(found) / len(set(found))
    queries = len(parts[0].queries)
    clusters = [
        count_identities(
            part.tasks.stack(part.task.query), len(_identities(part.task)), part.queries
        )
        for part in parts
    ]
    counts = (
        round(sum(clusters) / len(clusters)),
        min(queries, max(1, round(gallery / per_identity))),
    )
    forecasts = []
    for count in counts:
        relevant = max(1, min(gallery, round(count * per_identity)))
        sizes = TaskSizes(count, queries, gallery, relevant)
        forecasts.append(forecast_score(parts, sizes, seed))
    lows, highs = zip(*(interval for _, interval in forecasts), strict=True)
    return {
        "score": sum(expected for expected, _ in forecasts) / 2,
        "ci95": {"score": [min(lows), max(highs)]},
        "metric": parts[0].tasks.metric.name,
        "people": sorted(counts),
        "labelled_people": labeled,
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
    if np.ptp(rows[sample], axis=0).max() < ALIKE:  # centered, they would be noise
        return np.zeros(len(sample) - 1)
    none = np.zeros((0, rows.shape[1]), np.float32)
    centered = center(Embeddings(rows[sample], none, none, none)).queries
    distances = np.clip(1 - centered @ centered.T, 0, None)
    return np.sort(linkage(squareform(distances, checks=False), "average")[:, 2])


# ---- the score of a test of this size -----------------------------------------------------------


def forecast_score(
    parts: Sequence[Part], sizes: TaskSizes, seed: int
) -> tuple[float, tuple[float, float]]:
    """Forecast the score of a test.

    The interval is that of a mean in as many independent results as the labeled identities and
    those of the test are worth together: 1/n = 1/labeled + 1/test. Where the score is extrapolated,
    it spans the 95 % of the fitted line, too.

    Args:
        parts: What tests are simulated from, of disjoint identities.
        sizes: The size of the test.
        seed: Of the simulated tests.

    Returns:
        The expected score, and the ends of its 95 % interval.
    """
    metric = parts[0].tasks.metric
    rng = np.random.default_rng([seed, 6])
    share = min(largest_share(part.task, part.settings, sizes) for part in parts)
    shares = [share] if share == 1 else [share, *(share * smaller for smaller in SMALLER)]
    draws = DRAWS // len(parts)
    ready = [learned_once(part) for part in parts]
    simulated = [
        [scores for part in ready for scores in simulate(part, scaled(sizes, s), draws, rng)]
        for s in shares
    ]
    means = [np.array([scores.mean("score") for scores in level]) for level in simulated]
    expected, least, most = extrapolate(shares, [m / metric.highest for m in means])
    labeled = sum(len(_identities(part.task)) for part in parts)
    number = number_of_identity(simulated[0], metric) / (1 / labeled + 1 / sizes.identities)
    low, _ = clopper_pearson(np.array([least]), np.array([number]))[:, 0]
    _, high = clopper_pearson(np.array([most]), np.array([number]))[:, 0]
    ends = metric.highest * float(low), metric.highest * float(high)
    return metric.highest * expected, ends


def scaled(sizes: TaskSizes, share: float) -> TaskSizes:
    """Return the sizes of a test that is smaller by a factor.

    >>> scaled(TaskSizes(10, 40, 60, 50), 0.5)
    TaskSizes(identities=5, queries=20, gallery=30, relevant=25)
    """
    least = (2, 2, 2, 2)
    return TaskSizes(*(max(low, round(share * n)) for low, n in zip(least, sizes, strict=True)))


def largest_share(task: LabeledTask, settings: RetrieveSettings, sizes: TaskSizes) -> float:
    """Return how much of a test's size the labeled pictures suffice to simulate, at most 1.

    Where steps learn from labeled pictures, half of the identities are left to learn from.
    """
    available = 0.5 if _learns_from_its_own(task, settings) else 1.0
    identities = available * len(_identities(task))
    gallery = available * len(task.gallery)
    return min(1.0, identities / sizes.identities, gallery / sizes.gallery)


def _learns_from_its_own(task: LabeledTask, settings: RetrieveSettings) -> bool:
    """Return whether steps learn from the pictures of identities that are also searched for."""
    return needs_labeled(settings) and bool({*task.seen.values()} & {*task.query.values()})


def learned_once(part: Part) -> Part:
    """Return a part whose rows are transformed, where its steps learn from other identities only.

    A projection is then learned once and not for every simulated test.
    """
    task, steps = part.task, part.settings
    if not needs_labeled(steps) or _learns_from_its_own(task, steps):
        return part
    (embeddings,) = part.tasks.transformed(steps)
    rows = dict(zip(task.query, embeddings.queries, strict=True))
    rows |= dict(zip(task.gallery, embeddings.gallery, strict=True))
    first, second = embeddings.labeled_queries, embeddings.labeled_gallery
    if first is not second and len(first) + len(second) == len(task.seen):
        in_first = part.tasks.in_query_domain(task)
        paths = np.array(list(task.seen))
        rows |= dict(zip(paths[in_first], first, strict=True))
        rows |= dict(zip(paths[~in_first], second, strict=True))
    else:
        rows |= dict(zip(task.seen, first, strict=True))
    tasks = replace(part.tasks, rows=rows, widths=(), _transformed={})
    return Part(tasks, replace(steps, project_steps=None, whiten=None), part.queries)


def simulate(
    part: Part, sizes: TaskSizes, draws: int, rng: np.random.Generator
) -> list[TaskScores]:
    """Return the scores of simulated tests."""
    drawn = (draw_test(part.task, part.settings, sizes, rng) for _ in range(draws))
    tasks, steps = part.tasks, part.settings
    return [score_task(tasks.embeddings(task), task, steps, tasks.metric) for task in drawn]


def draw_test(
    task: LabeledTask, settings: RetrieveSettings, sizes: TaskSizes, rng: np.random.Generator
) -> LabeledTask:
    """Draw a test of a size; what is left of `seen` is of identities that it does not show.

    Args:
        task: To draw from.
        settings: The steps of the ranking.
        sizes: The size of the test; it is smaller where the pictures do not suffice.
        rng: Draws identities and pictures.
    """
    order = rng.permutation(_identities(task)).tolist()
    chosen = set(order[: sizes.identities])
    kept = chosen
    if _learns_from_its_own(task, settings):
        kept = chosen | set(order[: len(order) // 2])
    query = _draw([p for p, n in task.query.items() if n in chosen], sizes.queries, rng)
    relevant = _draw([p for p, n in task.gallery.items() if n in chosen], sizes.relevant, rng)
    searched = {task.query[path] for path in query}
    if searched.isdisjoint(task.gallery[path] for path in relevant):  # no query could be scored
        relevant = _draw([p for p, n in task.gallery.items() if n in searched], len(relevant), rng)
    others = [
        path
        for path, name in task.gallery.items()
        if name not in chosen and (kept is chosen or name in kept)
    ]
    gallery = relevant | _draw(others, sizes.gallery - len(relevant), rng)
    shown = {task.gallery[path] for path in gallery} | chosen
    return LabeledTask(
        {path: task.query[path] for path in sorted(query)},
        {path: task.gallery[path] for path in sorted(gallery)},
        {path: name for path, name in task.seen.items() if name not in shown},
    )


def _draw(paths: Sequence[str], count: int, rng: np.random.Generator) -> set[str]:
    """Draw at most so many of the paths."""
    return set(rng.permutation(sorted(paths))[: max(count, 0)].tolist())


def number_of_identity(draws: Sequence[TaskScores], metric: Metric = SCORE) -> float:
    """Return how many independent results an identity's queries are worth on average.

    Args:
        draws: The scores of simulated tests, see `effective_numbers`.
        metric: What the score is.
    """
    identities = [name for draw in draws for name in draw.identities]
    values = np.concatenate([draw.values["score"] for draw in draws]) / metric.highest
    if metric.is_balanced:
        values, identities = over_identities(values, identities)
    _, (number,) = effective_numbers(values[:, None], identities)
    return float(number) / len(set(identities))


def extrapolate(shares: Sequence[float], means: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Return the mean score to expect of the whole test, and the ends of what the fit allows.

    The scores of simulated tests lie on a line on the scales of log(size) and logit(score), which
    no extrapolation leaves.

    Args:
        shares: The sizes of the simulated tests as shares of the whole; a single one is 1.
        means: The scores of those of each size, from 0 to 1.

    Returns:
        The expected mean, and its lower and upper end.
    """
    if len(shares) == 1:
        mean = float(means[0].mean())
        return mean, mean, mean
    logits = [_logit(level.mean()) for level in means]
    x = np.log(shares)
    slope, intercept = np.polyfit(x, logits, 1)
    spread = _slope_error(x, np.array(logits) - slope * x - intercept)
    # Through the largest simulated tests, which are nearest to the whole one.
    at_whole = logits[0] - slope * x[0]
    ends = at_whole + 1.96 * spread * x[0] * np.array([0, 1, -1])
    expected, low, high = 1 / (1 + np.exp(-ends))
    return float(expected), float(low), float(high)


def _logit(mean: float) -> float:
    """Return log(p / (1 - p)) of a score, away from the ends where it is infinite."""
    mean = float(np.clip(mean, 0.002, 0.998))
    return float(np.log(mean / (1 - mean)))


def _slope_error(x: np.ndarray, residuals: np.ndarray) -> float:
    """Return the standard error of a fitted slope."""
    deviation = x - x.mean()
    return float(np.sqrt((residuals**2).sum() / (len(x) - 2) / (deviation**2).sum()))
