"""What does each post-processing step gain, alone and together, on validation and test?

    python -m benchmarks.steps --run runs/faces --labels $DATA/caricature/test_labels.json

For a finished run. Each line is a set of options of the retrieve stage with the score on the
validation, on the test, and on both with a single query per identity, where the other queries are
no help (mean of ten draws). Steps that hurt stay in the table. Choose by the validation only.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from lookalike.core.log import log
from lookalike.core.runs import Run, open_run
from lookalike.core.settings import RetrieveSettings
from lookalike.data.catalogue import bare_names, load_catalogue, readable, rows_of
from lookalike.data.splits import load_split, unseen_split
from lookalike.evaluation.scoring import Labels, read_labels, score
from lookalike.features.embedding import embed
from lookalike.features.extractor import trained_extractor
from lookalike.retrieval.embeddings import Embeddings
from lookalike.retrieval.galleries import embed_by_domain
from lookalike.retrieval.index import as_mapping, ranking_of
from lookalike.retrieval.postprocess import apply, score_all

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
    """A retrieval task of a run, embedded once: queries, gallery, and labeled pictures.

    Args:
        run: A finished run.
        is_test: Whether it is the test; else the validation, whose pictures no step learns from.
        labels: The identities of its pictures.
    """

    def __init__(self, run: Run, is_test: bool, labels: Labels) -> None:
        self.labels, extractor = labels, trained_extractor(run)
        training = load_catalogue(run.path("training.csv"))
        rows = load_catalogue(run.path("test.csv")) if is_test else training
        rows = rows[readable(rows)]
        names = bare_names(rows.path) if is_test else rows.path
        rows = rows.assign(name=names.to_numpy()).sort_values("name")
        self.sides = []
        for side, identities in zip(("query", "gallery"), labels[:2], strict=True):
            chosen = rows[rows.name.isin(identities) & ((rows.part == side) | (not is_test))]
            self.sides.append((list(chosen.name), embed(extractor, chosen)))
        split = unseen_split(run)
        paths = split.labeled if is_test else split.train | split.holdout
        labeled = rows_of(training, sorted(paths))
        self.labeled = embed_by_domain(extractor, labeled, split.query_domain)

    def score(self, settings: RetrieveSettings, used: np.ndarray | None = None) -> float:
        """Return the score with these steps, of all queries or of those in the mask `used`."""
        (queries, rows), (gallery, stored) = self.sides
        used = np.ones(len(queries), bool) if used is None else used
        embeddings = apply(Embeddings(rows[used], stored, *self.labeled), settings)
        names = [name for name, is_used in zip(queries, used, strict=True) if is_used]
        ranking = ranking_of(score_all(embeddings, settings), gallery, names)
        labels = Labels({name: self.labels.query[name] for name in names}, self.labels.gallery)
        return float(score(as_mapping(ranking), labels)["score"])

    def one_each(self, seed: int) -> np.ndarray:
        """Return a mask with one query per identity, drawn by the seed."""
        identities = np.array([self.labels.query[name] for name in self.sides[0][0]])
        order = np.random.default_rng(seed).permutation(len(identities))
        _, first = np.unique(identities[order], return_index=True)
        return np.isin(np.arange(len(identities)), order[first])


def lines(tasks: dict[str, Task], no_transductive: bool) -> Iterator[list[Any]]:
    """Yield a line of the table for each set of steps."""
    for name, steps in tqdm(STEPS.items(), "steps"):
        settings = RetrieveSettings(**steps, no_transductive=no_transductive)
        line: list[Any] = [name]
        for task in tasks.values():
            singles = [task.score(settings, task.one_each(seed)) for seed in range(10)]
            line += [task.score(settings), float(np.mean(singles))]
        yield line


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="labels of the test")
    arguments = parser.parse_args()
    run = open_run(arguments.run)
    log.setLevel("ERROR")
    validation = Labels(*load_split(run.path("split.json")).validation)
    tasks = {"validation": Task(run, False, validation)}
    if arguments.labels:
        tasks["test"] = Task(run, True, read_labels(arguments.labels))
    heads = [head for name in tasks for head in (name, f"{name}, one query each")]
    for no_transductive, title in ((False, "with"), (True, "without")):
        print(f"\n{title} learning from the test's other queries")
        print(tabulate(lines(tasks, no_transductive), ["", *heads], floatfmt=".1f"))


if __name__ == "__main__":
    main()
