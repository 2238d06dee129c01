"""Similarity of two pictures: by an embedder as it is, or by a trained network.

    vectors = feature_vectors(extractor, rows, "cosine")
    scores = similarities(vectors, "cosine", first, second)      # of pairs of row indices
    score = embedding_similarity(extractor, read_photos([Path("A.jpg"), Path("B.jpg")]), "cosine")

A higher score means more alike, whatever the verifier.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lookalike.core.errors import UserError
from lookalike.data.catalogue import outside_pictures, readable
from lookalike.faces.detection import MISSED
from lookalike.features.embedding import embed, embed_features
from lookalike.features.extractor import Extractor, FeatureExtractor, JointExtractor
from lookalike.verification.metrics import log_odds
from lookalike.verification.settings import SiameseSettings
from lookalike.verification.siamese import load_network, make_inputs, score_pairs
from lookalike.verification.training import read_fold


def feature_vectors(extractor: Extractor, rows: pd.DataFrame, distance: str) -> np.ndarray:
    """Compute the vectors whose similarity by `distance` is the score of a pair.

    Args:
        extractor: Makes the embeddings.
        rows: Catalogue rows of N readable pictures.
        distance: cosine or euclidean.

    Returns:
        (N, D): unit rows for `cosine`, the sums of the features of all views for `euclidean`.

    Raises:
        UserError: Several backbones, whose features have lengths of their own, by `euclidean`.
    """
    if distance == "cosine":
        return embed(extractor, rows)
    extractor = single_backbone(extractor, "--distance euclidean")
    first, *others = extractor.views
    features = embed_features(extractor, rows, first)
    for view in others:
        features = features + embed_features(extractor, rows, view)
    return features


def similarities(
    vectors: np.ndarray, distance: str, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Score pairs of vectors, higher for more alike.

    Args:
        vectors: (N, D), from `feature_vectors`.
        distance: cosine or euclidean.
        first: (n,) row indices of the first vector of each pair.
        second: (n,) row indices of the second.

    Returns:
        (n,) cosines, or negated Euclidean distances.

    >>> vectors = np.array([[0.0, 0.0], [3.0, 4.0]])
    >>> similarities(vectors, "euclidean", np.array([0]), np.array([1])).tolist()
    [-5.0]
    """
    a, b = vectors[first].astype(float), vectors[second].astype(float)
    return (a * b).sum(1) if distance == "cosine" else -np.linalg.norm(a - b, axis=1)


def embedding_similarity(extractor: Extractor, photos: pd.DataFrame, distance: str) -> float:
    """Return the similarity of two pictures by an embedder as it is."""
    vectors = feature_vectors(extractor, photos, distance)
    return float(similarities(vectors, distance, np.array([0]), np.array([1]))[0])


def single_backbone(extractor: Extractor, what: str) -> FeatureExtractor:
    """Return the extractor where it is of one backbone.

    Raises:
        UserError: It is of several; `what` takes one.
    """
    if isinstance(extractor, JointExtractor):
        names = "+".join(member.embedder.name for member in extractor.members)
        raise UserError(f"--backbone {names}: {what} takes one backbone")
    return extractor


def single_view(extractor: Extractor) -> FeatureExtractor:
    """Return the extractor restricted to the one view of each picture that a network sees.

    Raises:
        UserError: It is of several backbones.
    """
    return replace(single_backbone(extractor, "a trained network"), flip=False)


def network_similarity(
    extractor: Extractor, photos: pd.DataFrame, folder: Path, settings: SiameseSettings
) -> float:
    """Return the log-odds, by a trained network, that two pictures show the same person.

    Args:
        extractor: Has the embedder from which the network was trained.
        photos: Catalogue rows of the two pictures.
        folder: Files of one fold of a training run.
        settings: With which the network was trained.

    Raises:
        UserError: The folder holds no network, or one with other settings.
    """
    calibration = read_fold(folder / "fold.json")["calibration"]
    one = single_view(extractor)
    network = load_network(folder / "model.safetensors", one.embedder, settings)
    inputs = make_inputs(one, photos, replace(settings, augment=False), seed=0)
    raw = score_pairs(network, inputs, np.array([0]), np.array([1]))
    return float(log_odds(calibration, raw)[0])


# ---- pictures from outside ----------------------------------------------------------------------


def read_photos(paths: Sequence[Path]) -> pd.DataFrame:
    """Return catalogue rows of pictures from outside, with `photo`, the path as it was given.

    Raises:
        UserError: One cannot be read.
    """
    photos = outside_pictures(paths).assign(photo=list(map(str, paths)))
    for photo in photos[~readable(photos)].itertuples():
        raise UserError(f"{photo.photo}: {photo.problem}")
    return photos


def without_face(extractor: Extractor, photos: pd.DataFrame) -> list[str]:
    """Return the photos in which no face was found; none where the embedder needs no faces."""
    faces = extractor.members[0].faces(photos)
    pairs = zip(photos.photo, photos.content, strict=True)
    return [name for name, content in pairs if faces and faces[content].found == MISSED]
