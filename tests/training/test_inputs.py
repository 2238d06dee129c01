"""A trained part takes feature maps or pictures, by picture and view."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lookalike.core.errors import UserError
from lookalike.core.settings import TrainSettings
from lookalike.data.catalogue import outside_pictures
from lookalike.features.extractor import FeatureExtractor
from lookalike.features.loader import PLAIN, random_views
from lookalike.models.embedder import load_embedder
from lookalike.training.inputs import (
    FeatureMaps,
    Pixels,
    inputs_of,
    training_views,
    views_of_epoch,
)
from lookalike.training.trainable import divide_embedder
from tests.conftest import draw


@pytest.fixture
def extractor(tmp_path: Path) -> FeatureExtractor:
    """Of a small backbone, on a folder with three pictures."""
    for identity in range(3):
        draw(tmp_path / f"{identity}.jpg", identity, 0)
    embedder = load_embedder("test_efficientnet", "none")
    return FeatureExtractor(embedder, tmp_path, tmp_path / "cache", "off")


def test_both_kinds_of_inputs_lead_to_the_same_features(extractor: FeatureExtractor) -> None:
    rows = outside_pictures([extractor.root / f"{i}.jpg" for i in range(3)])
    views = [PLAIN, *random_views(2, 0, "weak")]
    indices, numbers = np.array([2, 0, 2, 1]), np.array([0, 1, 2, 0])
    features = []
    for unfreeze, kind in ((2, FeatureMaps), ("all", Pixels)):
        frozen, trainable = divide_embedder(extractor.embedder, unfreeze)  # type: ignore[arg-type]
        inputs = inputs_of(extractor, frozen, rows, views)
        assert isinstance(inputs, kind)
        with torch.inference_mode():
            features.append(trainable.eval().features(inputs.take(indices, numbers)))
    assert torch.allclose(features[0], features[1], atol=1e-4)
    assert not torch.allclose(features[0][0], features[0][2]), "the same picture in two views"


def test_pictures_come_in_the_size_that_is_asked_for(extractor: FeatureExtractor) -> None:
    rows, index = outside_pictures([extractor.root / "0.jpg"]), np.zeros(1, int)
    inputs = inputs_of(extractor, None, rows, [PLAIN], 24)
    assert inputs.take(index, index).shape == (1, 3, 24, 24)
    sface = FeatureExtractor(load_embedder("sface", "none"), extractor.root, extractor.cache, "off")
    with pytest.raises(UserError, match="takes only its own 112"):
        inputs_of(sface, None, rows, [PLAIN], 24)


def test_there_are_as_many_views_as_are_cached_or_as_epochs() -> None:
    settings = TrainSettings(train_views=4, epochs=9)
    assert training_views(TrainSettings(train_views=0), 0, decodes=True) == [PLAIN]
    assert len(training_views(settings, 0, decodes=False)) == 4
    assert len(training_views(settings, 0, decodes=True)) == 9
    assert training_views(settings, 0, False) == training_views(settings, 0, False)
    assert training_views(settings, 0, False) != training_views(settings, 1, False)


def test_an_epoch_shows_a_view_of_its_own_or_random_ones() -> None:
    rng = np.random.default_rng(0)
    assert views_of_epoch(3, 5, 4, True, rng).tolist() == [2] * 4
    assert views_of_epoch(6, 5, 4, True, rng).tolist() == [0] * 4
    assert set(views_of_epoch(1, 5, 200, False, rng).tolist()) == set(range(5))
