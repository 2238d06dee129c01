"""TODO lookalike.retrieval.labelled_tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from lookalike.core.runs import Run
from lookalike.core.settings import RetrieveSettings
from lookalike.data.catalogue import load_catalogue, rows_of
from lookalike.data.splits import Pictures, group, retrieval_task, unseen_split
from lookalike.evaluation.metrics import measure
from lookalike.features.extractor import FeatureExtractor, embed, run_extractor
from lookalike.models.embedder import embedder_of
from lookalike.retrieval.index import ranking_of
from lookalike.retrieval.postprocess import Embeddings, apply, score_all, two_domains


class Judged(NamedTuple):
    """What a choice came to: each query's measures and its identity."""

    values: dict[str, np.ndarray]
    identities: list[str]

    def mean(self, name: str) -> float:
        """A measure's mean over the queries."""
        return float(self.values[name].mean())


class LabelledTask(NamedTuple):
    """A retrieval task of labelled pictures, each part {path: identity}.

    Attributes:
        query: The pictures that are searched for.
        gallery: The pictures that are ranked.
        seen: What may be learnt for the task is learnt from these, of identities of no query.
    """

    query: Pictures
    gallery: Pictures
    seen: Pictures


@dataclass
class People:
    """Labelled people to judge by: retrieval tasks, and their pictures' embeddings by path.

    catalogue: the rows of their pictures. query_domain: the domain that asks.
    """

    catalogue: pd.DataFrame
    query_domain: str
    tasks: list[LabelledTask]
    rows: dict[str, np.ndarray] = field(default_factory=dict)

    def embed(self, extractor: FeatureExtractor) -> None:
        """Embeds all their pictures."""
        paths = sorted({path for task in self.tasks for part in task for path in part})
        self.rows = dict(zip(paths, embed(extractor, rows_of(self.catalogue, paths)), strict=True))

    def stack(self, paths: Mapping[str, str]) -> np.ndarray:
        """(N, D) embeddings of these pictures."""
        dim = len(next(iter(self.rows.values())))
        return np.array([self.rows[path] for path in paths], np.float32).reshape(-1, dim)

    def embeddings(self, task: LabelledTask) -> Embeddings:
        """A task's embeddings; the seen ones divided by domain, where domains are known."""
        asks = np.array([path in self.asking for path in task.seen], bool)
        seen = two_domains(self.stack(task.seen), asks)
        return Embeddings(self.stack(task.query), self.stack(task.gallery), *seen)

    @cached_property
    def asking(self) -> set[str]:
        """The paths of the pictures in the query's domain."""
        return set(self.catalogue.path[self.catalogue.domain == self.query_domain])

    def judge(self, settings: RetrieveSettings) -> Judged:
        """Ranks every task by these steps."""
        parts = [judge_task(self.embeddings(task), task, settings) for task in self.tasks]
        names = parts[0].values
        values = {name: np.concatenate([part.values[name] for part in parts]) for name in names}
        return Judged(values, [identity for part in parts for identity in part.identities])


def judge_task(embeddings: Embeddings, task: LabelledTask, settings: RetrieveSettings) -> Judged:
    """The measures of each query that has its person in the gallery."""
    scores = score_all(apply(embeddings, settings), settings)
    ranking = ranking_of(scores, list(task.gallery), list(task.query))
    identities = np.array(list(task.query.values()))
    gallery, counts = np.unique(list(task.gallery.values()), return_counts=True)
    known = dict(zip(gallery.tolist(), counts.tolist(), strict=True))
    relevant = np.array([known.get(identity, 0) for identity in identities.tolist()])
    shown = np.array([[task.gallery[path] for path in row] for row in ranking.gallery])
    good = relevant > 0
    hits = (shown == identities[:, None])[good]
    return Judged(measure(hits, relevant[good]), identities[good].tolist())


def labelled_people(run: Run, parts: int) -> People:
    """The people to judge by, in so many parts that are tasks of their own.

    Where training changes the embedding, only the validation's people are unseen.
    """
    split, asks = unseen_split(run), run.settings.split.query_domain
    catalogue = load_catalogue(run.path("training.csv"))
    if run.settings.train.changes_embedding:
        trained, validation = {**split.train, **split.holdout}, split.validation
        tasks = [LabelledTask(*validation, trained)] if validation.query else []
        return People(catalogue, asks, tasks)
    pictures = split.labelled
    domains = dict(zip(catalogue.path, catalogue.domain, strict=True))
    names = sorted(set(pictures.values()))
    order = np.random.default_rng([run.seed, 5]).permutation(len(names))
    tasks = []
    for part in range(parts):
        chosen = {names[i] for i in order[part::parts]}
        inside = {path: name for path, name in pictures.items() if name in chosen}
        outside = {path: name for path, name in pictures.items() if name not in chosen}
        task = retrieval_task(group(inside), domains, asks, run.seed)
        if task.answerable:
            tasks.append(LabelledTask(*task, outside or inside))
    return People(catalogue, asks, tasks)


def untrained_job(run: Run) -> FeatureExtractor:
    """How the settings embed, before anything is trained."""
    return run_extractor(run, embedder_of(run.settings.embed, run.cache))
