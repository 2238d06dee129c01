"""How alike are two pictures? By an embedder as it is, or by a trained network.

vectors = vectors_of(job, rows, "cosine")
scores = similarities(vectors, "cosine", first, second)      # of pairs of row numbers
score = plain_score(job, read_two([Path("A.jpg"), Path("B.jpg")]), "cosine")
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lookalike.core.errors import UserError
from lookalike.core.files import read_json
from lookalike.core.weights import load_into, load_state
from lookalike.data.catalogue import outside_pictures, readable
from lookalike.faces.detection import MISSED
from lookalike.features.extractor import FeatureExtractor, embed, embed_features
from lookalike.verification.metrics import log_odds
from lookalike.verification.siamese import SiameseSettings, make_inputs, make_network, score_pairs

MADE_BY = "lookalike verify score or train"


def vectors_of(extractor: FeatureExtractor, rows: pd.DataFrame, distance: str) -> np.ndarray:
    """(N, D) of N catalogue rows that can be read: unit rows, or for `euclidean` the features of
    all views, summed."""
    if distance == "cosine":
        return embed(extractor, rows)
    first, *others = extractor.views
    features = embed_features(extractor, rows, first)
    for view in others:
        features = features + embed_features(extractor, rows, view)
    return features


def similarities(
    vectors: np.ndarray, distance: str, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """(N,) scores of pairs of row numbers: cosines of unit rows, or distances below zero."""
    a, b = vectors[first].astype(float), vectors[second].astype(float)
    if distance == "cosine":
        cosines: np.ndarray = (a * b).sum(1)
        return cosines
    distances: np.ndarray = np.linalg.norm(a - b, axis=1)
    return -distances


def plain_score(extractor: FeatureExtractor, photos: pd.DataFrame, distance: str) -> float:
    """The similarity of two pictures by an embedder as it is."""
    vectors = vectors_of(extractor, photos, distance)
    return float(similarities(vectors, distance, np.array([0]), np.array([1]))[0])


def one_view(extractor: FeatureExtractor) -> FeatureExtractor:
    """The job with one view of each picture, as a network is trained with."""
    return replace(extractor, flip=False)


def trained_score(
    extractor: FeatureExtractor, photos: pd.DataFrame, folder: Path, settings: SiameseSettings
) -> float:
    """The log-odds that two pictures show the same person, by the network of one fold of a run.

    Raises:
        UserError: the folder holds no network, or not the one that the settings describe.
    """
    kept = read_json(folder / "fold.json", MADE_BY)
    extractor = one_view(extractor)
    network = make_network(extractor.embedder, settings)
    state = load_state(folder / "model.safetensors")
    own = {name.removeprefix("network."): tensor for name, tensor in state.items()}
    load_into(network, own, str(folder / "model.safetensors"))
    inputs = make_inputs(extractor, photos, replace(settings, augment=False), seed=0)
    raw = score_pairs(network, inputs, np.array([0]), np.array([1]))
    return float(log_odds(kept["calibration"], raw)[0])


# ---- pictures from outside ----------------------------------------------------------------------


def read_two(paths: Sequence[Path]) -> pd.DataFrame:
    """Rows (see `outside_pictures`) of pictures, with `photo`, the path as it was given.

    Raises:
        UserError: one cannot be read.
    """
    photos = outside_pictures(paths).assign(photo=list(map(str, paths)))
    for photo in photos[~readable(photos)].itertuples():
        raise UserError(f"{photo.photo}: {photo.problem}")
    return photos


def without_face(extractor: FeatureExtractor, photos: pd.DataFrame) -> list[str]:
    """The photos in which a face was wanted, and none found."""
    found = extractor.faces(photos)
    shown = zip(photos.photo, photos.content, strict=True)
    return [name for name, content in shown if found and found[content].found == MISSED]
