"""Faces are found wherever they are, and the one that the picture is of is chosen."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.faces import detection
from lookalike.faces.detection import (
    AT_ONCE,
    MISSED,
    RETRIES,
    UNSURE,
    Attempt,
    find_face,
    find_faces,
    intersection_over_union,
    load_detector,
    prominence,
    search_picture,
    suppress_overlaps,
)
from lookalike.faces.geometry import Crop, Face, crop_face
from tests.faces.pictures import RedDetector, drawn, red_square, yunet


def test_a_face_is_found_with_its_points_in_place() -> None:
    face = find_face(drawn(0), yunet())
    assert face.found == "at once" and face.score > 0.6
    eyes, nose, mouth = face.points[:2], face.points[2], face.points[3:]
    assert eyes[0, 0] < nose[0] < eyes[1, 0] and mouth[0, 0] < mouth[1, 0]
    assert eyes[:, 1].max() < nose[1] < mouth[:, 1].min()
    assert (face.points > face.box[:2]).all() and (face.points < face.box[:2] + face.box[2:]).all()


def test_coordinates_hold_at_every_size_of_the_picture() -> None:
    image = drawn(1)
    sizes = [(640, 640), (1800, 1800), (5000, 5000)]
    small, *large = (find_face(image.resize(size), yunet()) for size in sizes)
    for face in large:
        assert np.allclose(small.box, face.box, atol=0.01)
        assert np.allclose(small.points, face.points, atol=0.01)


@pytest.mark.parametrize("attempt", [AT_ONCE, *RETRIES], ids=lambda a: f"{a.name} {a.angle:.0f}")
def test_what_an_attempt_finds_is_where_it_is_in_the_picture(attempt: Attempt) -> None:
    """Scaled, padded or turned: the square is where it was drawn."""
    (face,) = search_picture(red_square(), RedDetector(), attempt)
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


def test_a_picture_without_a_face_gets_a_guess_in_the_center() -> None:
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


@pytest.mark.parametrize("factor", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_all_faces_of_a_group_are_found_once_each(factor: int) -> None:
    group = Image.new("RGB", (900, 700), "white")
    corners = [(0, 0), (320, 10), (640, 0), (0, 400), (350, 420), (700, 500)]
    for person, corner in enumerate(corners):
        side = 150 + 30 * (person % 3)
        group.paste(drawn(person).resize((side, side)), corner)
    faces = find_faces(group.resize((900 * factor, 700 * factor)), yunet(), confidence=0.6)
    assert len(faces) == len(corners)
    assert [face.score for face in faces] == sorted((f.score for f in faces), reverse=True)


def test_of_overlapping_faces_the_most_confident_stays() -> None:
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
    detection._load_detector.cache_clear()
    with pytest.raises(UserError, match="pip install --no-deps facenet-pytorch"):
        load_detector("mtcnn", Path("cache"))


@pytest.mark.parametrize("name", ["yunet", "mtcnn"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (11, 11), (11, 200), (12, 12)])
def test_pictures_too_small_for_a_face_have_none(name: str, size: tuple[int, int]) -> None:
    if name == "mtcnn":
        pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")
    image = Image.new("RGB", size, "white")
    assert find_face(image, load_detector(name, Path("cache"))).found == MISSED
