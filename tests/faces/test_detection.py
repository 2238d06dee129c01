"""Faces are found wherever they are, the one that the picture is of is chosen, and crops fit."""

import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image, ImageDraw

from lookalike.core.errors import UserError
from lookalike.core.settings import EmbedSettings
from lookalike.data.demo import draw_picture, make_person
from lookalike.faces.detection import (
    AT_ONCE,
    MIN_CONFIDENCE,
    MISSED,
    RETRIES,
    UNSURE,
    Attempt,
    Detector,
    central_guess,
    find_face,
    find_faces,
    intersection_over_union,
    load_detector,
    prominence,
    search,
    suppress_overlaps,
)
from lookalike.faces.geometry import (
    TEMPLATE,
    Crop,
    Face,
    crop_face,
    crop_kind,
    pixels_needed,
    similarity,
)


def drawn(person: int, domain: str = "photo") -> Image.Image:
    """A face drawn by the demo, which the detector takes for one."""
    return draw_picture(make_person(8, person), domain, default_rng([8, person]))


def yunet() -> Detector:
    return load_detector("yunet", Path("cache"))


class RedDetector:
    """Finds the box of what is red, with five points in it, wherever `sees` says it can."""

    name = "red"

    def __init__(self, score: float = 0.9, least_side: int = 0) -> None:
        self.score, self.least_side = score, least_side

    def find(self, pixels: np.ndarray) -> np.ndarray:
        y, x = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 1] < 60))
        if not len(x) or min(pixels.shape[:2]) < self.least_side:
            return np.zeros((0, 15), np.float32)
        left, top, width, height = x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1
        points = [(left + i * width, top + j * height) for i, j in POINTS]
        row = [left, top, width, height, *np.ravel(points), self.score]
        return np.array([row], np.float32)


POINTS = ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))


def red_square(size: tuple[int, int] = (200, 160)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle([60, 40, 119, 99], fill="red")
    return image


# ---- finding ------------------------------------------------------------------------------------


def test_a_face_is_found_with_its_points_in_place() -> None:
    face = find_face(drawn(0), yunet())
    assert face.found == "at once" and face.score > 0.6
    eyes, nose, mouth = face.points[:2], face.points[2], face.points[3:]
    assert eyes[0, 0] < nose[0] < eyes[1, 0] and mouth[0, 0] < mouth[1, 0]
    assert eyes[:, 1].max() < nose[1] < mouth[:, 1].min()
    assert (face.points > face.box[:2]).all() and (face.points < face.box[:2] + face.box[2:]).all()


def test_places_hold_at_every_size_of_the_picture() -> None:
    image = drawn(1)
    sizes = [(640, 640), (1800, 1800), (5000, 5000)]
    small, *large = (find_face(image.resize(size), yunet()) for size in sizes)
    for face in large:
        assert np.allclose(small.box, face.box, atol=0.01)
        assert np.allclose(small.points, face.points, atol=0.01)


@pytest.mark.parametrize("attempt", [AT_ONCE, *RETRIES], ids=lambda a: f"{a.name} {a.angle:.0f}")
def test_what_an_attempt_finds_is_where_it_is_in_the_picture(attempt: Attempt) -> None:
    """Scaled, padded or turned: the square is where it was drawn."""
    (face,) = search(red_square(), RedDetector(), attempt)
    center = (face.box[:2] + face.box[2:] / 2) * (200, 160)
    assert np.allclose(center, (90, 70), atol=1.5)
    turned = attempt.angle in (30, -30)  # the box of a turned box is larger
    assert np.allclose(face.box[2:] * (200, 160), 60, atol=60 if turned else 2)
    back = np.deg2rad(attempt.angle)
    nose = (face.points[2] * (200, 160) - (90, 70)) @ (
        np.array([[np.cos(back), -np.sin(back)], [np.sin(back), np.cos(back)]])
    )
    assert nose[1] > 3 and abs(nose[0]) < 2  # below the middle, as the detector saw it


@pytest.mark.parametrize("turn", [Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180])
def test_a_turned_picture_is_turned_back(turn: Image.Transpose) -> None:
    upright, turned = find_face(drawn(2), yunet()), find_face(drawn(2).transpose(turn), yunet())
    assert turned.found == "rotated"
    crops = [
        crop_face(np.array(image), face, Crop("aligned"), 56).astype(float)
        for image, face in ((drawn(2), upright), (drawn(2).transpose(turn), turned))
    ]
    assert np.abs(crops[0] - crops[1]).mean() < 30  # aligned, both stand upright


def test_retries_come_in_their_order_and_say_which_one_found_it() -> None:
    assert find_face(red_square(), RedDetector()).found == "at once"
    assert find_face(red_square(), RedDetector(least_side=300)).found == "upscaled"
    assert find_face(red_square(), RedDetector(least_side=350)).found == "padded"
    assert find_face(red_square(), RedDetector(score=0.4)).found == UNSURE


def test_a_picture_without_a_face_gets_a_guess_in_the_centre() -> None:
    face = find_face(Image.new("RGB", (200, 100), "white"), yunet())
    assert face.found == MISSED and face.score == 0
    assert np.allclose(face.box * (200, 100, 200, 100), (62.5, 12.5, 75, 75))
    assert find_faces(Image.new("RGB", (200, 100), "white"), yunet()) == []


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (10, 10)])
def test_the_oddest_picture_has_a_crop(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "gray")
    face = find_face(image, yunet())
    for kind in ("face", "aligned"):
        assert crop_face(np.array(image), face, Crop(kind), 112).shape == (112, 112, 3)
    assert find_faces(image, yunet()) == []


def test_the_large_and_central_face_is_chosen() -> None:
    image = Image.new("RGB", (300, 300), "white")
    image.paste(drawn(3).resize((70, 70)), (0, 0))
    image.paste(drawn(4).resize((160, 160)), (80, 90))
    face = find_face(image, yunet())
    assert np.allclose(face.box[:2] + face.box[2:] / 2, 0.53, atol=0.12)
    low, high = Face(np.array([0, 0, 0.2, 0.2]), face.points, 1, ""), face
    assert prominence(low, image.size) < prominence(high, image.size) <= 1


def test_all_faces_of_a_group_are_found_once_each() -> None:
    group = Image.new("RGB", (900, 700), "white")
    indices = [(0, 0), (320, 10), (640, 0), (0, 400), (350, 420), (700, 500)]
    for person, place in enumerate(indices):
        side = 150 + 30 * (person % 3)
        group.paste(drawn(person).resize((side, side)), place)
    for image in (group, group.resize((2700, 2100))):
        faces = find_faces(image, yunet(), confidence=0.6)
        assert len(faces) == len(indices)
        assert [face.score for face in faces] == sorted((f.score for f in faces), reverse=True)


def test_of_overlapping_faces_the_surest_stays() -> None:
    def at(left: float, score: float) -> Face:
        return Face(np.array([left, 0, 1, 1]), np.zeros((5, 2)), score, "")

    faces = [at(0.0, 0.7), at(0.3, 0.9), at(0.9, 0.5)]
    assert [face.score for face in suppress_overlaps(faces, 0.4)] == [0.9, 0.5]
    assert [face.score for face in suppress_overlaps(faces, 0.6)] == [0.9, 0.7, 0.5]


def test_mtcnn_finds_the_same_face() -> None:
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")
    image = drawn(0).resize((300, 300))
    mtcnn = find_face(image, load_detector("mtcnn", Path("cache")))
    ours = find_face(image, yunet())
    assert mtcnn.found == "at once"
    assert intersection_over_union(mtcnn.box, ours.box) > 0.5
    assert np.allclose(mtcnn.points.mean(0), ours.points.mean(0), atol=0.08)


def test_mtcnn_that_is_not_installed_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    load_detector.cache_clear()
    with pytest.raises(UserError, match="pip install --no-deps facenet-pytorch"):
        load_detector("mtcnn", Path("cache"))


# ---- cropping -----------------------------------------------------------------------------------


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
    indices = TEMPLATE @ turn[:, :2].T + turn[:, 2]
    image = Image.new("RGB", (700, 600), "white")
    for x, y in indices:
        ImageDraw.Draw(image).ellipse([x - 9, y - 9, x + 9, y + 9], fill="black")
    face = Face(np.array([0, 0, 1, 1.0]), indices / image.size, 1, "")
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
    made = crop_face(pixels, face, large, 112).astype(float)
    assert np.abs(made - inner).mean() < 6
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


def test_only_what_changes_the_pixels_makes_another_crop() -> None:
    assert repr(Crop("aligned", 0.1)) == repr(Crop("aligned", 0.3))
    assert repr(Crop("face", 0.1)) != repr(Crop("face", 0.3))
