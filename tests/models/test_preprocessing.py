"""Pictures are cropped, resized and normalized as the backbone was trained with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike.faces.geometry import Crop, Face
from lookalike.models.embedder import load_embedder
from lookalike.models.preprocessing import NORMALIZATIONS, Preprocessing

TINY = "test_efficientnet"
NOISE = np.random.default_rng(0).integers(256, size=(90, 60, 3)).astype(np.uint8)


def test_the_whole_picture_is_seen() -> None:
    """The published transforms cut an eighth off: a frame there would go unseen."""
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[:8] = 255
    preprocessing = Preprocessing(112, "bicubic", (0.5,) * 3, (0.5,) * 3)
    inputs = preprocessing.normalize(torch.from_numpy(preprocessing.resize(pixels))[None])
    assert float(inputs.max()) == pytest.approx(1.0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_is_pillows_to_two_of_255(interpolation: str) -> None:
    preprocessing = Preprocessing(32, interpolation, (), ())
    resized = preprocessing.resize(NOISE)
    how = Image.Resampling[interpolation.upper()]
    expected = np.array(Image.fromarray(NOISE).resize((32, 32), how))
    assert resized.shape == (32, 32, 3) and resized.dtype == np.uint8
    assert np.abs(resized.astype(int) - expected).max() <= 2
    assert np.array_equal(preprocessing.resize(resized[:, ::-1]), resized[:, ::-1])


def test_a_scale_shows_the_middle_larger_and_a_face_alone() -> None:
    preprocessing = Preprocessing(16, "bilinear", (), (), crop=Crop("face", margin=0.5))
    assert preprocessing.take(NOISE) is NOISE
    assert np.array_equal(preprocessing.take(NOISE, scale=1.5), NOISE[15:-15, 10:-10])
    face = Face(np.array([0.25, 0.25, 0.5, 0.25]), np.full((5, 2), 0.5), 0.9, "at once")
    box_alone = replace(preprocessing, crop=Crop("face", margin=0.0))
    assert np.array_equal(preprocessing.take(NOISE, face, scale=2.0), box_alone.take(NOISE, face))


def test_the_key_is_that_of_the_first_release() -> None:
    """Another one would lose every cached feature, and every trained model."""
    preprocessing = Preprocessing(112, "bilinear", (0.5,), (0.25,), Crop("face", 0.1), True)
    assert preprocessing.key == (
        "Preprocessing(side=112, interpolation='bilinear', mean=(0.5,), std=(0.25,), "
        "crop=face 0.1 on black, whitening=True)"
    )


def test_a_subclass_has_its_own_key() -> None:
    """It computes other inputs: it must not find the features of its parent in the cache."""

    class Other(Preprocessing):
        pass

    keys = [kind(8, "bilinear", (), ()).key for kind in (Preprocessing, Other)]
    assert keys[0] != keys[1]


def test_every_normalization_has_a_name() -> None:
    preprocessing = Preprocessing(8, "bilinear", (), ())
    for name, (mean, std) in NORMALIZATIONS.items():
        chosen = preprocessing.normalized_by(name)
        assert (chosen.mean, chosen.std) == (mean, std)
        assert chosen.standardized == (name == "whitening")


@pytest.mark.parametrize("value", [None, 77])
def test_whitening_is_each_pictures_own_standardization(value: int | None) -> None:
    """Against the formula in numpy; in a flat picture 1/√n stands for the deviation."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    if value is not None:
        pixels[1] = value
    preprocessing = Preprocessing(16, "bilinear", (), ()).normalized_by("whitening")
    inputs = preprocessing.normalize(torch.from_numpy(pixels)).permute(0, 2, 3, 1).numpy()
    for x, standardized in zip(pixels.astype(float), inputs, strict=True):
        expected = (x - x.mean()) / max(x.std(), 1 / np.sqrt(x.size))
        assert np.allclose(standardized, expected, atol=2e-3 if value else 1e-4)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("none", 0, 1), ("fixed", -127.5 / 128, 127.5 / 128)]
)
def test_a_normalization_can_be_chosen_by_name(name: str, low: float, high: float) -> None:
    embedder = load_embedder(TINY, "none", normalization=name)
    inputs = embedder.transform(Image.fromarray(np.array([[[0] * 3, [255] * 3]], np.uint8)))
    assert float(inputs.min()) == pytest.approx(low) and float(inputs.max()) == pytest.approx(high)
    assert load_embedder(TINY, "none").preprocessing != embedder.preprocessing
