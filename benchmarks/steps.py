"""What does every step after the embedding give, alone and together, on validation and test?

    python -m benchmarks.steps --run runs/faces --labels ../shared/data/caricature/test_labels.json

Of a finished run: each line is a set of options of the retrieve stage, the score on the validation,
on the test, and on both with one query kept per person, where the other queries are no help (mean
of ten draws). Those that hurt stay in the table. Only the validation may be looked at to choose.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from lookalike.core.log import log
from lookalike.core.runs import Run, open_run
from lookalike.core.settings import RetrieveSettings
from lookalike.data.catalogue import load_catalogue, readable
from lookalike.data.splits import load_split
from lookalike.evaluation.scoring import Labels, read_labels, score
from lookalike.features.extractor import embed, trained_extractor
from lookalike.retrieval.index import as_mapping, ranking_of
from lookalike.retrieval.postprocess import Embeddings, apply, score_all
from lookalike.retrieval.ranking import seen_embeddings

CENTER: dict[str, Any] = {"center": True}
QUERIES: dict[str, Any] = {"query_neighbors": 0.35}
GALLERY: dict[str, Any] = {"gallery_neighbors": 0.35}
STEPS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "center": CENTER,
    "center, whiten": CENTER | {"whiten": 96},
    "center, expand": CENTER | {"expand": 0.45},
    "center, gallery neighbors": CENTER | GALLERY,
    "center, gallery clusters": CENTER | {"gallery_clusters": 0.4},
    "center, query neighbors": CENTER | QUERIES,
    "center, csls": CENTER | {"hubs": "csls"},
    "center, softmax": CENTER | {"hubs": "softmax"},
    "center, reciprocal": CENTER | {"rerank": "reciprocal"},
    "center, reciprocal, query neighbors": CENTER | QUERIES | {"rerank": "reciprocal"},
    "center, both neighbors": CENTER | GALLERY | QUERIES,
    "center, both neighbors, csls": CENTER | GALLERY | QUERIES | {"hubs": "csls"},
    "center, both neighbors, softmax": CENTER | GALLERY | QUERIES | {"hubs": "softmax"},
    "all of them": {
        **(CENTER | GALLERY | QUERIES),
        **{"whiten": 96, "expand": 0.45, "gallery_clusters": 0.4},
        **{"hubs": "softmax", "rerank": "reciprocal"},
    },
}


class Task:
    """A retrieval task of a run, embedded once: queries, gallery and what may be learnt from."""

    def __init__(self, run: Run, name: str, labels: Labels) -> None:
        self.labels, extractor = labels, trained_extractor(run)
        test = name == "gallery"
        rows = load_catalogue(run.path("test.csv" if test else "training.csv"))
        rows = rows[readable(rows)]
        keys = rows.path.str.rpartition("/")[2] if test else rows.path
        rows = rows.assign(key=keys.to_numpy()).sort_values("key")
        self.sides = []
        for side, known in zip(("query", "gallery"), labels, strict=True):
            chosen = rows[rows.key.isin(known) & ((rows.part == side) | (not test))]
            self.sides.append((list(chosen.key), embed(extractor, chosen)))
        every = replace(run.settings, retrieve=RetrieveSettings(whiten=1))
        self.seen = seen_embeddings(replace(run, settings=every), extractor, name)

    def score(self, settings: RetrieveSettings, keep: np.ndarray | None = None) -> float:
        """The score with these steps; keep: which of the queries there are."""
        (queries, rows), (gallery, stored) = self.sides
        keep = np.ones(len(queries), bool) if keep is None else keep
        arguments = apply(Embeddings(rows[keep], stored, *self.seen), settings)
        names = [name for name, kept in zip(queries, keep, strict=True) if kept]
        ranking = ranking_of(score_all(arguments, settings), gallery, names)
        labels = Labels({name: self.labels.query[name] for name in names}, self.labels.gallery)
        return float(score(as_mapping(ranking), labels)["score"])

    def one_each(self, seed: int) -> np.ndarray:
        """Which queries to keep: one a person, drawn by the seed."""
        names = np.array([self.labels.query[name] for name in self.sides[0][0]])
        order = np.random.default_rng(seed).permutation(len(names))
        _, first = np.unique(names[order], return_index=True)
        return np.isin(np.arange(len(names)), order[first])


def lines(tasks: dict[str, Task], forbidden: bool) -> Iterator[list[Any]]:
    """A line of the table for each set of steps."""
    for name, steps in tqdm(STEPS.items(), "steps"):
        settings = RetrieveSettings(**steps, no_transductive=forbidden)
        line: list[Any] = [name]
        for task in tasks.values():
            one = [task.score(settings, task.one_each(seed)) for seed in range(10)]
            line += [task.score(settings), float(np.mean(one))]
        yield line


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="labels of the test")
    arguments = parser.parse_args()
    run = open_run(arguments.run)
    log.setLevel("ERROR")
    tasks = {
        "validation": Task(
            run, "validation_gallery", Labels(*load_split(run.path("split.json")).validation)
        )
    }
    if arguments.labels:
        tasks["test"] = Task(run, "gallery", read_labels(arguments.labels))
    heads = [head for name in tasks for head in (name, f"{name}, one query each")]
    for forbidden, title in ((False, "with"), (True, "without")):
        print(f"\n{title} learning from the test's other queries")
        print(tabulate(lines(tasks, forbidden), ["", *heads], floatfmt=".1f"))


if __name__ == "__main__":
    main()
