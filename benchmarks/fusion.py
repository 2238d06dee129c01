r"""What do several backbones together find, by each fusion, beside each of them alone?

    python -m benchmarks.fusion runs/caricature runs/lfw62 --crop aligned --flip on \
        --backbones sface dlib efficientnet_lite0
    python -m benchmarks.fusion runs/grocery runs/emoji --pooling avg+gem \
        --backbones efficientnet_lite0 efficientnet_lite1 efficientnet_lite2 mobilenet_v2

For runs whose test has labels; of their settings only the data count. Each column is a run, each
row a backbone or a fusion, each value the score of the test, centered, with no other step.
The learned weights are from the run's labeled pictures, which no backbone here was trained on.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from lookalike.core.errors import UserError
from lookalike.core.runs import Run, open_run
from lookalike.core.settings import EmbedSettings
from lookalike.data.catalogue import bare_names, gallery_of, load_catalogue, queries_of, readable
from lookalike.evaluation.scoring import read_labels, score
from lookalike.evaluation.stage import labels_path
from lookalike.features.embedding import embed
from lookalike.features.extractor import Extractor, untrained_extractor
from lookalike.retrieval.embeddings import Embeddings, center
from lookalike.retrieval.fusion import concatenate, fuse_ranks, fuse_scores, learn_weights
from lookalike.retrieval.index import as_mapping, ranking_of
from lookalike.retrieval.labeled_tasks import load_tasks


class Test:
    """The test of a run: its pictures and their labels.

    Args:
        run: A run whose labels are known.
    """

    def __init__(self, run: Run) -> None:
        path, rows = labels_path(run), load_catalogue(run.path("test.csv"))
        if path is None:
            raise UserError(f"{run.folder}: no labels of its test are known")
        rows = rows[readable(rows)]
        rows = rows.assign(name=bare_names(rows.path).to_numpy()).sort_values("name")
        self.sides, self.labels = (queries_of(rows), gallery_of(rows)), read_labels(path)

    def embed(self, extractor: Extractor) -> list[np.ndarray]:
        """Return the embeddings of the queries, and those of the gallery."""
        return [embed(extractor, rows) for rows in self.sides]

    def score(self, scores: np.ndarray) -> float:
        """Return the score of (Q, G) scores."""
        queries, gallery = (list(rows.name) for rows in self.sides)
        ranking = as_mapping(ranking_of(scores, gallery, queries))
        return float(score(ranking, self.labels)["score"])


def centered(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return the cosines of two sides after each is centered."""
    none = np.zeros((0, queries.shape[1]), np.float32)
    task = center(Embeddings(queries, gallery, none, none))
    return np.asarray(task.queries @ task.gallery.T)


def labeled_cosines(
    run: Run, extractors: Iterable[Extractor]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the centered cosines of labeled pictures by each extractor, and who is the same."""
    tasks, parts = load_tasks(run, parts=1), []
    (task,) = tasks.tasks
    for extractor in extractors:
        tasks.embed(extractor)
        parts.append(centered(tasks.stack(task.query), tasks.stack(task.gallery)))
    names = [np.array(list(side.values()), str) for side in (task.query, task.gallery)]
    return parts, names[0][:, None] == names[1]


def column(run: Run, settings: EmbedSettings) -> dict[str, str]:
    """Return the scores of a run's test by each backbone and each fusion."""
    extractors = [untrained_extractor(run, member) for member in settings.members]
    test = Test(run)
    sides = [test.embed(extractor) for extractor in extractors]
    parts = [centered(*side) for side in sides]
    weights = learn_weights(*labeled_cosines(run, extractors))
    alone = dict(zip(settings.backbones, map(test.score, parts), strict=True))
    together = {
        "concatenated": test.score(centered(*map(concatenate, zip(*sides, strict=True)))),
        "mean of scores": test.score(fuse_scores(parts)),
        "ranks": test.score(fuse_ranks(parts)),
        "learned weights": test.score(fuse_scores(parts, tuple(weights))),
    }
    shown = {name: f"{value:.1f}" for name, value in (alone | together).items()}
    least = together["learned weights"] - max(alone.values())
    learned = " : ".join(f"{weight:.2f}" for weight in weights)
    return shown | {"learned over the best alone": f"{least:+.1f}", "weights": learned}


def main() -> None:
    """Print the table of the runs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--backbones", nargs="+", required=True)
    parser.add_argument("--crop", default="auto")
    parser.add_argument("--flip", default="auto")
    parser.add_argument("--pooling", default="auto")
    arguments = vars(parser.parse_args())
    folders: list[Path] = arguments.pop("runs")
    settings = EmbedSettings(backbone="+".join(arguments.pop("backbones")), **arguments)
    table = pd.DataFrame({folder.name: column(open_run(folder), settings) for folder in folders})
    rows = [[name, *row] for name, row in zip(table.index, table.to_numpy(), strict=True)]
    print(tabulate(rows, ["", *table.columns], tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
