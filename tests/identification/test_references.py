"""Each method represents identities as documented, and matches name the nearest ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.core.settings import EmbedSettings
from lookalike.faces.geometry import Crop
from lookalike.features.extractor import FeatureExtractor
from lookalike.identification.references import (
    Match,
    face_extractor,
    make_references,
    match_rows,
)
from lookalike.identification.settings import METHODS, ReferenceSettings
from lookalike.models.embedder import load_embedder


def at(*degrees: float) -> np.ndarray:
    """Return unit rows in the plane, at these angles."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def by(method: Any, **options: Any) -> ReferenceSettings:
    return ReferenceSettings(Path("runs/none"), method=method, **options)


def match_names(
    rows: np.ndarray, own: dict[str, np.ndarray], settings: ReferenceSettings
) -> list[list[str]]:
    """Return the names of the matches of each row; `own` holds the rows of each identity."""
    identities = [name for name, rows_of_one in own.items() for _ in rows_of_one]
    references = make_references(np.concatenate(list(own.values())), identities, settings, seed=0)
    matches = match_rows(rows, references, settings)
    return [[match.identity for match in of_row] for of_row in matches]


# ---- methods ------------------------------------------------------------------------------------


def test_the_medoid_is_the_picture_in_the_middle() -> None:
    references = make_references(at(0, 10, 70, 90, 95), list("aaabb"), by("medoid"), 0)
    assert references.identities == ["a", "b"]
    np.testing.assert_allclose(references.rows, at(10, 90), atol=1e-6)


def test_the_centroid_is_the_mean_direction() -> None:
    references = make_references(at(0, 90, 40, 60), list("abba"), by("centroid"), 0)
    assert references.identities == ["a", "b"]
    np.testing.assert_allclose(references.rows, at(30, 65), atol=1e-6)


def test_k_means_finds_both_appearances_of_an_identity() -> None:
    """Halfway between both appearances of ada lies bob, for whom the centroid mistakes her."""
    own = {"ada": at(0, 2, 88, 90), "bob": at(30, 32)}
    queries = at(1, 89, 31)
    two_means = match_names(queries, own, by("kmeans", representatives=2))
    assert [names[0] for names in two_means] == ["ada", "ada", "bob"]
    one_mean = match_names(queries, own, by("centroid"))
    assert [names[0] for names in one_mean] == ["bob", "ada", "bob"]


def test_k_means_makes_fewer_clusters_of_fewer_distinct_pictures() -> None:
    rows = at(0, 0, 0, 50, 60)
    references = make_references(rows, list("aaabb"), by("kmeans", representatives=3), 0)
    assert references.identities == ["a", "b", "b"]


def test_the_neighbors_vote_by_their_similarity() -> None:
    own = {"ada": at(1), "bob": at(5, 6), "cleo": at(170, 175)}
    assert match_names(at(0), own, by("knn", neighbors=1)) == [["ada"]]
    assert match_names(at(0), own, by("knn", neighbors=3)) == [["bob", "ada"]]
    # Negative similarities have no vote, however many there are.
    assert match_names(at(0), own, by("knn", neighbors=9))[0][:2] == ["bob", "ada"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_nearest_and_the_second(method: Any) -> None:
    own = {"ada": at(0, 1, 2), "bob": at(20, 21, 22), "cleo": at(100, 101, 102)}
    near, far = match_names(at(3, 19), own, by(method))
    assert (near[0], far[0]) == ("ada", "bob")
    assert near[1:2] in (["bob"], []) and far[1:2] in (["ada"], [])
    assert match_names(at(50), {"ada": at(0, 1)}, by(method)) == [["ada"]], "there is one identity"
    assert match_names(np.zeros((0, 2), np.float32), own, by(method)) == []


def test_a_match_is_printed_and_stored_with_few_digits() -> None:
    match = Match("ada", 0.123456)
    assert str(match) == "ada 0.12" and match.as_json() == {"identity": "ada", "similarity": 0.1235}


# ---- the extractor ------------------------------------------------------------------------------


def test_an_embedder_of_whole_pictures_is_shown_faces_with_a_margin(
    caplog: pytest.LogCaptureFixture,
) -> None:
    embedder = load_embedder("test_efficientnet", weights="none")
    extractor = FeatureExtractor(embedder, Path(), Path("cache"), flip=False)
    settings = EmbedSettings("test_efficientnet", crop_margin=0.3)
    changed = face_extractor(extractor, settings)
    assert changed.crop == Crop("face", 0.3) and changed.flip
    assert "was made for whole pictures, not for faces" in caplog.text
    assert extractor.crop.kind == "none" and not extractor.flip, "the original is not modified"
    assert face_extractor(changed, settings) is changed
    assert not face_extractor(extractor, replace(settings, flip="off")).flip
