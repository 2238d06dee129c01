"""A face is aligned and cropped to the pixel, whatever its picture's size."""

from typing import Literal

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image, ImageDraw

from lookalike.core.settings import EmbedSettings
from lookalike.faces.detection import MIN_CONFIDENCE, central_guess, find_face
from lookalike.faces.geometry import (
    TEMPLATE,
    Crop,
    Face,
    crop_face,
    crop_kind,
    pixels_needed,
    similarity,
)
from tests.faces.pictures import RedDetector, drawn, red_square, yunet


def test_the_similarity_is_the_least_squares_one() -> None:
    """Against the same four unknowns as a linear system."""
    rng = default_rng(0)
    points, onto = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    (x, y), one, zero = points.T, np.ones(5), np.zeros(5)
    system = np.concatenate([np.c_[x, -y, one, zero], np.c_[y, x, zero, one]])
    a, b, right, down = np.linalg.lstsq(system, onto.T.ravel(), rcond=None)[0]
    assert np.allclose(similarity(points, onto), [[a, -b, right], [b, a, down]])


@pytest.mark.parametrize("side", [112, 224])
def test_alignment_brings_the_points_onto_the_template(side: int) -> None:
    turn = similarity(TEMPLATE, TEMPLATE @ np.array([[0.9, 0.5], [-0.5, 0.9]]) * 3 + (250, 60))
    points = TEMPLATE @ turn[:, :2].T + turn[:, 2]
    image = Image.new("RGB", (700, 600), "white")
    for x, y in points:
        ImageDraw.Draw(image).ellipse([x - 9, y - 9, x + 9, y + 9], fill="black")
    face = Face(np.array([0, 0, 1, 1.0]), points / image.size, 1, "")
    dark = crop_face(np.array(image), face, Crop("aligned"), side).mean(axis=2) < 128
    for x, y in TEMPLATE * side / 112:
        rows, columns = np.nonzero(dark[int(y) - 5 : int(y) + 7, int(x) - 5 : int(x) + 7])
        assert abs(columns.mean() - 5 + int(x) - x) < 1 and abs(rows.mean() - 5 + int(y) - y) < 1


@pytest.mark.parametrize(("margin", "share"), [(0.0, 1.0), (0.5, 0.5)])
def test_the_margin_of_a_face_is_a_share_of_its_side(margin: float, share: float) -> None:
    face = find_face(red_square(), RedDetector())
    red = crop_face(np.array(red_square()), face, Crop("face", margin), 100)[..., 1] < 128
    assert np.sqrt(red.mean()) == pytest.approx(share, abs=0.03)
    assert np.allclose(np.argwhere(red).mean(0), 49.5, atol=1)


@pytest.mark.parametrize("kind", ["face", "aligned"])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_scale_shows_the_same_crop_larger_or_smaller(
    kind: Literal["face", "aligned"], scale: float
) -> None:
    """Against the plain crop, itself enlarged or made smaller about its middle."""
    image = drawn(0)
    face = find_face(image, yunet())
    small, large = (Crop(kind).scaled(s) for s in sorted((1.0, scale)))
    pixels = np.array(image)
    inner = crop_face(pixels, face, small, 224)[56:168, 56:168]
    outer = crop_face(pixels, face, large, 112).astype(float)
    assert np.abs(outer - inner).mean() < 6
    assert Crop(kind).scaled(1.0) == Crop(kind)


def test_outside_of_the_picture_it_is_black() -> None:
    face = Face(np.array([-0.5, -0.5, 1, 1]), np.zeros((5, 2)), 1, "")
    crop = crop_face(np.full((80, 80, 3), 255, np.uint8), face, Crop("face", 0), 40)
    assert crop[:18, :18].max() == 0 and crop[22:, 22:].min() == 255


def test_a_large_face_is_averaged_not_sampled() -> None:
    """Every second column white: a crop that took single pixels would be all white or all black."""
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = crop_face(stripes, central_guess((1200, 1200)), Crop("face", 0), 50)
    assert crop.min() > 100 and crop.max() < 155


def test_a_small_face_is_decoded_large_enough() -> None:
    face = Face(np.array([0.4, 0.4, 0.1, 0.2]), np.zeros((5, 2)), MIN_CONFIDENCE, "")
    assert pixels_needed(face, 112) == 1120


def test_each_backbone_sees_what_it_was_trained_on() -> None:
    names = ["efficientnet_lite0", "sface", "inception_resnet_v1", "onnx:arcface.onnx"]
    kinds = [crop_kind(EmbedSettings(name)) for name in names]
    assert kinds == ["none", "aligned", "face", "aligned"]
    assert crop_kind(EmbedSettings("sface", crop="none")) == "none"


def test_a_detector_of_boxes_shows_what_is_in_them() -> None:
    for name in ("sface", "efficientnet_lite0"):
        assert crop_kind(EmbedSettings(name, detector="zebra.safetensors")) == "face"
    assert crop_kind(EmbedSettings(crop="none", detector="zebra.safetensors")) == "none"


def test_only_what_changes_the_pixels_makes_another_crop() -> None:
    assert repr(Crop("aligned", 0.1)) == repr(Crop("aligned", 0.3))
    assert repr(Crop("face", 0.1)) != repr(Crop("face", 0.3))
