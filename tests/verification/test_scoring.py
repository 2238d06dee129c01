"""The similarity of two pictures is that of their embeddings; unreadable ones are errors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lookalike.core.errors import UserError
from lookalike.faces.geometry import Crop
from lookalike.features.extractor import FeatureExtractor, JointExtractor
from lookalike.models.embedder import load_embedder
from lookalike.verification.scoring import (
    embedding_similarity,
    feature_vectors,
    read_photos,
    similarities,
    single_view,
    without_face,
)
from tests.conftest import draw


@pytest.fixture
def extractor(tmp_path: Path) -> FeatureExtractor:
    for person, number in ((0, 0), (0, 1), (1, 0)):
        draw(tmp_path / f"{person}{number}.jpg", person, number)
    embedder = load_embedder("test_efficientnet", weights="none")
    return FeatureExtractor(embedder, tmp_path, tmp_path / "cache", "off", flip=True)


def test_pictures_of_one_person_are_more_alike(extractor: FeatureExtractor) -> None:
    for distance in ("cosine", "euclidean"):
        same, other = (
            embedding_similarity(
                extractor, read_photos([extractor.root / "00.jpg", extractor.root / name]), distance
            )
            for name in ("01.jpg", "10.jpg")
        )
        assert same > other


def test_euclidean_distance_is_of_the_unnormalized_features(extractor: FeatureExtractor) -> None:
    rows = read_photos([extractor.root / "00.jpg", extractor.root / "10.jpg"])
    features = feature_vectors(extractor, rows, "euclidean")
    assert not np.allclose(np.linalg.norm(features, axis=1), 1)
    assert np.allclose(np.linalg.norm(feature_vectors(extractor, rows, "cosine"), axis=1), 1)
    found = similarities(np.array([[0.0, 0.0], [3.0, 4.0]]), "euclidean", *np.array([[0], [1]]))
    assert found.tolist() == [-5.0]


def test_several_backbones_add_their_cosines_by_their_factors(extractor: FeatureExtractor) -> None:
    other = replace(extractor, embedder=load_embedder("test_resnet", weights="none"))
    both = JointExtractor((extractor, other), (1.0, 0.5))
    rows = read_photos([extractor.root / "00.jpg", extractor.root / "10.jpg"])
    one, two = (embedding_similarity(part, rows, "cosine") for part in both.members)
    assert np.isclose(embedding_similarity(both, rows, "cosine"), (one + 0.5 * two) / 1.5)
    with pytest.raises(UserError, match=r"test_efficientnet\+test_resnet: --distance euclidean"):
        embedding_similarity(both, rows, "euclidean")
    with pytest.raises(UserError, match="a trained network takes one backbone"):
        single_view(both)


def test_a_picture_that_cannot_be_read_is_named(extractor: FeatureExtractor) -> None:
    (extractor.root / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken\.jpg: unreadable: not a picture"):
        read_photos([extractor.root / "00.jpg", extractor.root / "broken.jpg"])
    with pytest.raises(UserError, match=r"nowhere\.jpg: unreadable: No such file"):
        read_photos([extractor.root / "nowhere.jpg", extractor.root / "00.jpg"])


class NoFace:
    """A detector that finds nothing."""

    name = "stand-in"
    side, has_points = 320, True

    def find(self, pixels: np.ndarray) -> np.ndarray:
        """Find no face."""
        return np.zeros((0, 15), np.float32)


def test_a_picture_without_a_face_is_reported(
    extractor: FeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = read_photos([extractor.root / "00.jpg", extractor.root / "10.jpg"])
    assert without_face(extractor, photos) == [], "whole pictures: no face is wanted"
    monkeypatch.setattr("lookalike.features.extractor.load_detector", lambda name, cache: NoFace())
    faces = load_embedder("test_efficientnet", weights="none", crop=Crop("face"))
    seeing = FeatureExtractor(faces, extractor.root, extractor.cache, "off")
    assert without_face(seeing, photos) == [
        str(extractor.root / name) for name in ("00.jpg", "10.jpg")
    ]
