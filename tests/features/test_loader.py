"""Pictures become batches of one shape, in order, in every view."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.data.images import content_hash
from lookalike.faces.geometry import Crop, Face, crop_face
from lookalike.features.loader import PLAIN, View, load_batches, load_pixels, random_views
from lookalike.models.preprocessing import Preprocessing

PLAIN_8 = Preprocessing(8, "bilinear", (0.5,) * 3, (0.5,) * 3)


def write(path: Path, pixels: np.ndarray) -> tuple[Path, str]:
    """Write a picture; return it as `load_batches` takes it."""
    Image.fromarray(pixels).save(path)
    return path, content_hash(path.read_bytes())


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(40, 30, 3)).astype(np.uint8)


def test_batches_have_one_shape_and_the_files_order(tmp_path: Path) -> None:
    values = range(10, 120, 10)
    files = [write(tmp_path / f"{v}.png", np.full((9, 5, 3), v, np.uint8)) for v in values]
    loaded = list(load_batches(files, {}, PLAIN_8, PLAIN, size=4))
    assert [batch.shape for batch in loaded] == [(4, 8, 8, 3)] * 3
    assert np.concatenate(loaded)[:, 0, 0, 0].tolist() == [*values, 0]
    assert not list(load_batches([], {}, PLAIN_8, PLAIN, size=4))


def test_an_array_loads_as_the_file_with_its_pixels(tmp_path: Path, pixels: np.ndarray) -> None:
    path, content = write(tmp_path / "one.png", pixels)
    for view in (PLAIN, View(mirrored=True), View(scale=1.5), View(3, 1, "weak")):
        from_file = load_pixels(path, content, None, PLAIN_8, view)
        assert np.array_equal(load_pixels(pixels, content, None, PLAIN_8, view), from_file)


def test_a_mirrored_view_is_the_mirror_image(pixels: np.ndarray) -> None:
    own_size = Preprocessing(40, "bilinear", (), ())
    square = pixels[:30]
    plain, mirrored = (
        load_pixels(np.pad(square, ((0, 10), (0, 10), (0, 0))), "0", None, own_size, view)
        for view in (PLAIN, View(mirrored=True))
    )
    assert np.array_equal(plain[:, ::-1], mirrored)


def test_a_face_is_cropped(pixels: np.ndarray) -> None:
    points = np.full((5, 2), 0.5, np.float32)
    face = Face(np.array([0.2, 0.3, 0.4, 0.3], np.float32), points, 0.9, "at once")
    preprocessing = Preprocessing(8, "bilinear", (), (), crop=Crop("face"))
    crop = crop_face(pixels, face, Crop("face"), 8)
    assert np.array_equal(load_pixels(pixels, "0", face, preprocessing, PLAIN), crop)


def test_a_file_that_changed_or_went_is_an_error(tmp_path: Path, pixels: np.ndarray) -> None:
    path, content = write(tmp_path / "one.png", pixels)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"one\.png has changed"):
        load_pixels(path, content, None, PLAIN_8, PLAIN)
    path.unlink()
    with pytest.raises(UserError, match=r"one\.png has gone"):
        list(load_batches([(path, content)], {}, PLAIN_8, PLAIN, size=4))


def test_a_random_view_is_drawn_from_seed_number_and_content(pixels: np.ndarray) -> None:
    views = random_views(2, 7, "weak")
    assert views == [View(0, 7, "weak"), View(1, 7, "weak")]
    drawn = [(0, 7, "a"), (1, 7, "a"), (0, 8, "a"), (0, 7, "b")]
    shown = [load_pixels(pixels, c, None, PLAIN_8, View(n, s, "weak")) for n, s, c in drawn]
    assert len({one.tobytes() for one in shown}) == 4
    again = load_pixels(pixels, "a", None, PLAIN_8, views[0])
    assert np.array_equal(again, shown[0])


def test_the_text_of_a_view_is_that_of_the_first_release() -> None:
    """It is part of the cache's keys: another one would lose all that is cached."""
    texts = {
        "plain": PLAIN,
        "mirrored": View(mirrored=True),
        "plain, scale 0.9": View(scale=0.9),
        "mirrored, scale 1.5": View(mirrored=True, scale=1.5),
        "strong 2, seed 5": View(2, 5, "strong"),
    }
    assert {str(view): view for view in texts.values()} == texts


@pytest.mark.parametrize("shape", [(1, 1, 3), (50, 1, 3), (1, 50, 3)])
@pytest.mark.parametrize("mirrored", [True, False])
def test_pictures_of_a_single_row_or_column_are_shown(
    shape: tuple[int, int, int], mirrored: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    preprocessing = Preprocessing(16, "bilinear", (0.5,) * 3, (0.5,) * 3)
    shown = load_pixels(pixels, "00", None, preprocessing, View(mirrored=mirrored))
    plain = load_pixels(pixels, "00", None, preprocessing, View())
    assert shown.shape == (16, 16, 3)
    assert np.array_equal(shown, plain[:, ::-1] if mirrored else plain)
