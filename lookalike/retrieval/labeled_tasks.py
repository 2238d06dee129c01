"""Retrieval tasks of labeled pictures that nothing was trained on, to score choices by.

    tasks = load_tasks(run, parts=2)
    tasks.embed(extractor)
    tasks.score(RetrieveSettings(center=True)).mean("score")

With a frozen backbone all labeled pictures serve, in parts whose identities are disjoint; where
training changes the embedding, only the validation does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from lookalike.core.numeric import first_of_equal
from lookalike.core.runs import Run
from lookalike.core.settings import RetrieveSettings
from lookalike.data.catalogue import load_catalogue, rows_of
from lookalike.data.splits import Pictures, Split, group, retrieval_task, sessions_of, unseen_split
from lookalike.evaluation.metrics import SCORE, Metric, measure_queries, run_metric
from lookalike.features.embedding import embed
from lookalike.features.extractor import Extractor
from lookalike.retrieval.embeddings import Embeddings, split_domains
from lookalike.retrieval.index import ranking_of
from lookalike.retrieval.local_matching import PictureMatcher, matcher_of
from lookalike.retrieval.postprocess import add_all_neighbors, score_all, transform

FOLDS, PER_FOLD = 5, 10  # folds at most, and identities in each at least
TRANSFORMED = 8  # transformed embeddings that tasks keep in memory


class TaskScores(NamedTuple):
    """The measures of each query, and its identity.

    Attributes:
        values: {measure: (Q,) floats}, see `measure_queries`.
        identities: The Q identities of the queries.
    """

    values: dict[str, np.ndarray]
    identities: list[str]

    def mean(self, name: str) -> float:
        """Return a measure's mean over the queries."""
        return float(self.values[name].mean())


class LabeledTask(NamedTuple):
    """A retrieval task of labeled pictures, each part {path: identity}.

    Attributes:
        query: The pictures that are searched for.
        gallery: The pictures that are ranked.
        seen: The pictures that a step may learn from, of identities of no query.
    """

    query: Pictures
    gallery: Pictures
    seen: Pictures


@dataclass
class LabeledTasks:
    """Retrieval tasks and the embeddings of their pictures.

    Attributes:
        catalogue: The rows of their pictures.
        query_domain: The domain of the queries.
        tasks: The tasks.
        rows: {path: (D,) embedding}; empty before `embed`.
        metric: What they are scored by.
        widths: See `Embeddings`.
        matcher: Scores pictures by local features, where a step asks for them.
    """

    catalogue: pd.DataFrame
    query_domain: str
    tasks: list[LabeledTask]
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    metric: Metric = SCORE
    widths: tuple[int, ...] = ()
    matcher: PictureMatcher | None = None
    _transformed: dict[str, list[Embeddings]] = field(default_factory=dict, repr=False)

    def embed(self, extractor: Extractor) -> None:
        """Embed all pictures of the tasks."""
        paths = sorted({path for task in self.tasks for part in task for path in part})
        rows = embed(extractor, rows_of(self.catalogue, paths))
        self.rows, self.widths = embedded_rows(paths, rows, extractor.widths)
        self._transformed.clear()

    def with_tasks(self, tasks: list[LabeledTask]) -> "LabeledTasks":
        """Return other tasks of the same pictures, not embedded."""
        return replace(self, tasks=tasks, rows={}, widths=(), _transformed={})

    @property
    def pictures(self) -> Pictures:
        """{path: identity} of all pictures of the tasks."""
        return {k: v for task in self.tasks for part in task for k, v in part.items()}

    def divided(
        self, parts: int | None, seed: int, pictures: Pictures | None = None
    ) -> "LabeledTasks":
        """Return tasks of disjoint identities, which may learn from each other's pictures.

        Args:
            parts: How many; None for as many folds as there are enough identities for.
            seed: Of the division.
            pictures: {path: identity} of those to divide. Default: all.
        """
        chosen = self.pictures if pictures is None else pictures
        if parts is None:
            parts = min(max(len(set(chosen.values())) // PER_FOLD, 2), FOLDS)
        tasks = divide_by_identity(self.catalogue, chosen, self.query_domain, parts, seed)
        return self.with_tasks(tasks)

    @property
    def dim(self) -> int:
        """The number of columns of the embeddings."""
        return len(next(iter(self.rows.values())))

    def stack(self, paths: Iterable[str]) -> np.ndarray:
        """Return (N, D) embeddings of the pictures with these paths."""
        return EmbeddedRows(self.rows).stack(paths)

    def embeddings(self, task: LabeledTask) -> Embeddings:
        """Return a task's embeddings, those of `seen` divided by domain where it is known."""
        in_query_domain = self.in_query_domain(task)
        labeled = split_domains(self.stack(task.seen), in_query_domain)
        identities = split_domains(np.array(list(task.seen.values()), str), in_query_domain)
        sides = self.stack(task.query), self.stack(task.gallery)
        local = None if self.matcher is None else partial(self._local_scores, self.matcher, task)
        return Embeddings(*sides, *labeled, identities, self.widths, local)

    def _local_scores(self, matcher: PictureMatcher, task: LabeledTask) -> np.ndarray:
        """Return (Q, G) scores of local features.

        Of a task that is a part of one of the `tasks`, they are those that its pairs have there:
        tests that a forecast simulates need no search of their own.
        """
        parts = task.query, task.gallery
        sides = next(
            other[:2]
            for other in self.tasks
            if all(part.keys() <= side.keys() for part, side in zip(parts, other, strict=False))
        )
        scores = matcher.scores(*(rows_of(self.catalogue, side) for side in sides))
        numbers = [{path: number for number, path in enumerate(side)} for side in sides]
        chosen = [[of[path] for path in part] for of, part in zip(numbers, parts, strict=True)]
        return scores[np.ix_(*chosen)]

    def in_query_domain(self, task: LabeledTask) -> np.ndarray:
        """Return which pictures of `seen` are of the query domain, (N,) bool."""
        return np.array([path in self._query_domain_paths for path in task.seen], bool)

    @cached_property
    def _query_domain_paths(self) -> set[str]:
        return set(self.catalogue.path[self.catalogue.domain == self.query_domain])

    def score(self, settings: RetrieveSettings) -> TaskScores:
        """Rank every task by these steps; return the measures of all their queries."""
        transformed = self.transformed(settings)
        return join_scores(
            [
                _score_transformed(embeddings, task, settings, self.metric)
                for embeddings, task in zip(transformed, self.tasks, strict=True)
            ]
        )

    def transformed(self, settings: RetrieveSettings) -> list[Embeddings]:
        """Return the transformed embeddings of every task; a projection is learned only once."""
        names = ("center", "project_steps", "project_dim", "whiten", "no_transductive")
        key = str([getattr(settings, name) for name in names])
        if key not in self._transformed:
            if len(self._transformed) >= TRANSFORMED:
                self._transformed.pop(next(iter(self._transformed)))
            parts = [transform(self.embeddings(task), settings) for task in self.tasks]
            self._transformed[key] = parts
        return self._transformed[key]


def join_scores(parts: Sequence[TaskScores]) -> TaskScores:
    """Return the scores of all queries of several tasks."""
    names = parts[0].values
    values = {name: np.concatenate([part.values[name] for part in parts]) for name in names}
    return TaskScores(values, [identity for part in parts for identity in part.identities])


def score_task(
    embeddings: Embeddings,
    task: LabeledTask,
    settings: RetrieveSettings,
    metric: Metric = SCORE,
) -> TaskScores:
    """Rank a task and return the measures of each query that has its identity in the gallery.

    Args:
        embeddings: Of the task, rows in the order of its pictures.
        task: The task.
        settings: The steps of the ranking.
        metric: What the score is.
    """
    return _score_transformed(transform(embeddings, settings), task, settings, metric)


def _score_transformed(
    embeddings: Embeddings, task: LabeledTask, settings: RetrieveSettings, metric: Metric
) -> TaskScores:
    """Rank a task whose embeddings are transformed."""
    scores = score_all(add_all_neighbors(embeddings, settings), settings)
    ranking = ranking_of(scores, list(task.gallery), list(task.query), metric.length)
    identities = np.array(list(task.query.values()))
    names, counts = np.unique(list(task.gallery.values()), return_counts=True)
    count_of = dict(zip(names.tolist(), counts.tolist(), strict=True))
    relevant = np.array([count_of.get(identity, 0) for identity in identities.tolist()])
    ranked = np.array([[task.gallery[path] for path in row] for row in ranking.gallery])
    answerable = relevant > 0
    hits = (ranked == identities[:, None])[answerable]
    shown = identities[answerable].tolist()
    values = measure_queries(hits, relevant[answerable], metric, identities=shown)
    return TaskScores(values, shown)


class EmbeddedRows(NamedTuple):
    """The embeddings of pictures.

    Attributes:
        rows: {path: (D,) embedding}.
        widths: See `Embeddings`.
    """

    rows: dict[str, np.ndarray]
    widths: tuple[int, ...] = ()

    def stack(self, paths: Iterable[str]) -> np.ndarray:
        """Return (N, D) embeddings of the pictures with these paths."""
        dim = len(next(iter(self.rows.values())))
        return np.array([self.rows[path] for path in paths], np.float32).reshape(-1, dim)


def embedded_rows(
    paths: Iterable[str], rows: np.ndarray, widths: tuple[int, ...] = ()
) -> EmbeddedRows:
    """Return the embeddings of pictures in no more columns than they need, see `compact`.

    Args:
        paths: Of the N pictures.
        rows: (N, D) embeddings.
        widths: The columns of each backbone, where they count differently.
    """
    parts = np.split(rows, np.cumsum(widths)[:-1], axis=1) if widths else [rows]
    parts = [compact(part) for part in parts]
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    found = tuple(part.shape[1] for part in parts) if widths else ()
    return EmbeddedRows(dict(zip(paths, rows, strict=True)), found)


def compact(rows: np.ndarray) -> np.ndarray:
    """Return rows with the same inner products in no more columns than there are rows.

    Several backbones together have more columns than a data set has pictures, and all that tasks
    are scored by are inner products.

    Args:
        rows: (N, D).

    Returns:
        (N, d) float32, d = D or at most N.
    """
    if rows.shape[1] <= len(rows):
        return rows
    squares, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
    kept = squares > squares[-1] * 1e-9
    coordinates = (vectors[:, kept] * np.sqrt(squares[kept])).astype(np.float32)
    return np.asarray(coordinates[first_of_equal(rows)])


def load_tasks(run: Run, parts: int) -> LabeledTasks:
    """Read a run's labeled pictures and make tasks of those that nothing was trained on.

    Args:
        run: The run; its catalogue and its split are read.
        parts: How many tasks a frozen backbone's pictures are divided into, by identity.

    Returns:
        The tasks; none where no labeled picture is unseen.

    Raises:
        UserError: A file of the run is missing or damaged.
    """
    split = unseen_split(run)
    query_domain = split.query_domain
    catalogue, metric = load_catalogue(run.path("training.csv")), run_metric(run.settings)
    if run.settings.train.changes_embedding:
        tasks = validation_tasks(split)
    else:
        tasks = divide_by_identity(catalogue, split.labeled, query_domain, parts, run.seed)
    return LabeledTasks(catalogue, query_domain, tasks, metric=metric, matcher=matcher_of(run))


def validation_tasks(split: Split) -> list[LabeledTask]:
    """Return the validation as the only task, whose steps may learn from the training."""
    if not split.validation.answerable:
        return []
    return [LabeledTask(*split.validation, split.train | split.holdout)]


def divide_by_identity(
    catalogue: pd.DataFrame, pictures: Pictures, query_domain: str, parts: int, seed: int
) -> list[LabeledTask]:
    """Make tasks of disjoint identities; the steps of each may learn from the others' pictures.

    Args:
        catalogue: The rows of the pictures.
        pictures: {path: identity} of all labeled pictures.
        query_domain: The domain of the queries.
        parts: How many tasks to make.
        seed: Of the division.

    Returns:
        At most `parts` tasks: those with a query whose identity is in the gallery. A single part
        learns from its own pictures, since there are no others.
    """
    domains = dict(zip(catalogue.path, catalogue.domain, strict=True))
    sessions = sessions_of(catalogue)
    identities = sorted(set(pictures.values()))
    order = np.random.default_rng([seed, 5]).permutation(len(identities))
    tasks = []
    for part in range(parts):
        chosen = {identities[i] for i in order[part::parts]}
        inside = {path: name for path, name in pictures.items() if name in chosen}
        outside = {path: name for path, name in pictures.items() if name not in chosen}
        task = retrieval_task(group(inside), domains, query_domain, seed, sessions)
        if task.answerable:
            tasks.append(LabeledTask(*task, outside or inside))
    return tasks
