"""Reference embeddings: what represents each known identity, and the nearest identities of a face.

    references = make_references(rows, identities, settings, seed)
    matches = match_rows(queries, references, settings)         # the likeliest identities per row

The references come from labeled pictures: the run's, or those of a folder of class folders. An
identity is represented in one of four ways: by its `medoid` (the picture nearest to all its
others), its `centroid` (their mean), by `kmeans` (a few means), or by all pictures (`knn`: the
nearest ones vote).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lookalike.core.errors import UserError
from lookalike.core.log import log, report_each
from lookalike.core.numeric import unit
from lookalike.core.runs import Run
from lookalike.core.settings import EmbedSettings
from lookalike.data.catalogue import load_catalogue, outside_pictures, readable
from lookalike.data.layout import class_folders
from lookalike.faces.geometry import Crop
from lookalike.features.extractor import FeatureExtractor
from lookalike.identification.settings import ReferenceSettings
from lookalike.retrieval.index import build_index, search

READS = ("model.safetensors", "training.csv", "split.json")  # files of a run that it is known by


class References(NamedTuple):
    """The embeddings that represent the known identities.

    Attributes:
        rows: (R, D) float32 unit rows.
        identities: The identity that each row represents.
    """

    rows: np.ndarray
    identities: list[str]


class Match(NamedTuple):
    """An identity, and how similar a picture is to it.

    Attributes:
        identity: Its name.
        similarity: Cosine, from -1 to 1, to the nearest of its references.
    """

    identity: str
    similarity: float

    def __str__(self) -> str:
        return f"{self.identity} {self.similarity:.2f}"

    def as_json(self) -> dict[str, Any]:
        """Return the match as JSON holds it, rounded to four digits."""
        return {"identity": self.identity, "similarity": round(self.similarity, 4)}


# ---- references ---------------------------------------------------------------------------------


def make_references(
    rows: np.ndarray, identities: Sequence[str], settings: ReferenceSettings, seed: int
) -> References:
    """Compute what represents each identity by `settings.method`.

    Args:
        rows: (N, D) float32 unit embeddings of pictures, N at least 1.
        identities: The identity of each picture.
        settings: The method and its parameters.
        seed: Seed of the clustering.
    """
    representatives: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "medoid": medoid,
        "centroid": centroid,
        "kmeans": lambda own: cluster_means(own, settings.representatives, seed),
        "knn": lambda own: own,
    }
    parts, names = [], []
    for name, own in group_rows(rows, identities):
        parts.append(representatives[settings.method](own))
        names += [name] * len(parts[-1])
    return References(np.concatenate(parts), names)


def group_rows(rows: np.ndarray, identities: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each identity with its rows, ordered by name."""
    names, counts = np.unique(np.array(identities, dtype=str), return_counts=True)
    order = np.argsort(np.array(identities, dtype=str), kind="stable")
    yield from zip(names.tolist(), np.split(rows[order], counts.cumsum()[:-1]), strict=True)


def medoid(own: np.ndarray) -> np.ndarray:
    """Return the row with the least summed cosine distance to all (N, D) unit rows, as (1, D).

    >>> medoid(np.array([[1, 0], [0.8, 0.6], [0, 1]]))
    array([[0.8, 0.6]])
    """
    return own[[int((own @ own.sum(axis=0)).argmax())]]


def centroid(own: np.ndarray) -> np.ndarray:
    """Return the mean of (N, D) unit rows, normalized to length 1, as (1, D).

    >>> centroid(np.eye(2)).round(3)
    array([[0.707, 0.707]], dtype=float32)
    """
    return unit(own.mean(axis=0, keepdims=True))


def cluster_means(own: np.ndarray, representatives: int, seed: int) -> np.ndarray:
    """Return the normalized means of k-means clusters (scikit-learn's KMeans).

    Args:
        own: (N, D) unit rows of one identity.
        representatives: Maximum number of clusters.
        seed: Seed of the initialization.

    Returns:
        (K, D); K is `representatives`, or the number of distinct rows where that is less.
    """
    from sklearn.cluster import KMeans  # slow to import, and used by one method only

    clusters = min(representatives, len(np.unique(own, axis=0)))
    return unit(KMeans(clusters, n_init=4, random_state=seed).fit(own).cluster_centers_)


# ---- matching -----------------------------------------------------------------------------------


def match_rows(
    rows: np.ndarray, references: References, settings: ReferenceSettings
) -> list[list[Match]]:
    """Find the likeliest identities of each row.

    Args:
        rows: (N, D) float32 unit embeddings.
        references: What represents the known identities.
        settings: The method by which the references were made, and its parameters.

    Returns:
        N lists, the best match first. Each has at least one, and a second where more than one
        identity is among the nearest references.
    """
    # Wide enough that a second identity is among the results.
    width = {"knn": settings.neighbors, "kmeans": settings.representatives + 1}
    names = [str(i) for i in range(len(rows))]
    index = build_index(references.rows)
    nearest = search(index, references.identities, rows, names, width.get(settings.method, 2))
    return [
        rank_identities(names.tolist(), scores.tolist(), settings.method == "knn")
        for names, scores in zip(nearest.gallery, nearest.scores, strict=True)
    ]


def rank_identities(
    names: Sequence[str], scores: Sequence[float], vote: bool = False
) -> list[Match]:
    """Turn the nearest references of a row into its identities, the best first.

    Args:
        names: The identities of the references, nearest first.
        scores: Their similarities.
        vote: Rank by the sum of the positive similarities of each identity's references, instead
            of by the nearest one.

    >>> [match.identity for match in rank_identities(["ada", "bob", "bob"], [0.9, 0.8, 0.7], True)]
    ['bob', 'ada']
    """
    nearest: dict[str, float] = {}
    votes: Counter[str] = Counter()
    for name, score in zip(names, scores, strict=True):
        nearest.setdefault(name, score)
        votes[name] += max(0.0, score) if vote else 0.0  # type: ignore[assignment]
    return [Match(name, nearest[name]) for name in sorted(nearest, key=lambda n: -votes[n])]


# ---- where references come from -----------------------------------------------------------------


def labeled_pictures(run: Run) -> pd.DataFrame:
    """Return catalogue rows of all readable labeled pictures of a run, of whatever part."""
    rows = load_catalogue(run.path("training.csv"))
    return rows[readable(rows)].reset_index(drop=True)


def reference_pictures(run: Run, folder: Path | None) -> pd.DataFrame:
    """Return catalogue rows of the pictures that become references.

    Args:
        run: The run whose labeled pictures are used.
        folder: Folder of class folders to use instead.

    Raises:
        UserError: The run has no labeled pictures, or the folder no readable ones.
    """
    if folder is None:
        rows = labeled_pictures(run)
        if rows.empty:
            raise UserError(
                f"{run.folder} has no training pictures: name a folder of class folders by --folder"
            )
        return rows
    classes = class_folders(folder)
    files = {folder / name / path: name for name, paths in classes.items() for path in paths}
    rows = outside_pictures(list(files))
    rows["identity"] = list(files.values())
    good = readable(rows)
    report_each("pictures of --folder cannot be read and are left out", rows.path[~good])
    if not good.any():
        raise UserError(f"--folder {folder}: none of its pictures can be read")
    return rows[good].reset_index(drop=True)


def face_extractor(extractor: FeatureExtractor, settings: EmbedSettings) -> FeatureExtractor:
    """Return an extractor that embeds faces.

    One that was made for whole pictures is changed to see the face with a margin, with a warning.

    Args:
        extractor: A run's extractor; it is not modified.
        settings: The run's settings of embedding.
    """
    if extractor.crop.kind != "none":
        return extractor
    log.warning(
        "warning: the run's embedder (%s) was made for whole pictures, not for faces: it sees the "
        "face with a margin, and its results are less certain than those of a face backbone",
        settings.backbone,
    )
    embedder = copy(extractor.embedder)  # stages share the extractor: theirs must not change
    preprocessing = embedder.preprocessing
    embedder.preprocessing = replace(preprocessing, crop=Crop("face", settings.crop_margin))
    return replace(extractor, embedder=embedder, flip=settings.flip != "off")
