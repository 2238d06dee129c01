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

from config import UserError
from data import readable
from embed import Embedding, embed, embed_features
from faces import MISSED
from naming import outside_pictures
from runs import read_json
from siamese import SiameseSettings, make_inputs, make_network, score_pairs
from verification import log_odds
from weights import load_into, load_state

MADE_BY = "verify.py score or train"


def vectors_of(job: Embedding, rows: pd.DataFrame, distance: str) -> np.ndarray:
    """(N, D) of N catalogue rows that can be read: unit rows, or for `euclidean` the features of
    all views, summed."""
    if distance == "cosine":
        return embed(job, rows)
    first, *others = job.views
    features = embed_features(job, rows, first)
    for view in others:
        features = features + embed_features(job, rows, view)
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


def plain_score(job: Embedding, photos: pd.DataFrame, distance: str) -> float:
    """The similarity of two pictures by an embedder as it is."""
    vectors = vectors_of(job, photos, distance)
    return float(similarities(vectors, distance, np.array([0]), np.array([1]))[0])


def one_view(job: Embedding) -> Embedding:
    """The job with one view of each picture, as a network is trained with."""
    return replace(job, flip=False)


def trained_score(
    job: Embedding, photos: pd.DataFrame, folder: Path, asked: SiameseSettings
) -> float:
    """The log-odds that two pictures show the same person, by the network of one fold of a run.

    Raises:
        UserError: the folder holds no network, or not the one that the settings describe.
    """
    kept = read_json(folder / "fold.json", MADE_BY)
    job = one_view(job)
    network = make_network(job.embedder, asked)
    state = load_state(folder / "model.safetensors")
    own = {name.removeprefix("network."): tensor for name, tensor in state.items()}
    load_into(network, own, str(folder / "model.safetensors"))
    inputs = make_inputs(job, photos, replace(asked, augment=False), seed=0)
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


def without_face(job: Embedding, photos: pd.DataFrame) -> list[str]:
    """The photos in which a face was wanted, and none found."""
    found = job.faces(photos)
    shown = zip(photos.photo, photos.content, strict=True)
    return [name for name, content in shown if found and found[content].found == MISSED]
