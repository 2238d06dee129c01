"""Boxes of pictures from a table, and from another detector."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.faces.boxes import boxes_by, find_boxes, read_boxes
from tests.faces.pictures import RedDetector, red_square

HEAD = "path,left,top,width,height\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of 200 × 160 pixels: a red square of 60 at (60, 40), and nothing."""
    red_square().save(tmp_path / "square.png")
    Image.new("RGB", (200, 160), "white").save(tmp_path / "empty.png")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "boxes.csv"
    path.write_text(HEAD + text)
    return path


@pytest.mark.parametrize("row", ["60,40,60,60", "0.3,0.25,0.3,0.375"])
def test_boxes_are_pixels_or_shares(folder: Path, row: str) -> None:
    table = write(folder, f"square.png,{row}\nempty.png,,,,\n")
    square, empty = read_boxes(table, folder)
    assert square.path == folder / "square.png" and len(square.content) == 32
    np.testing.assert_allclose(square.boxes, [[0.3, 0.25, 0.3, 0.375]])
    assert empty.boxes.shape == (0, 4)


def test_pixels_are_those_of_the_upright_picture(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    red_square().save(folder / "turned.jpg", exif=exif)
    (turned,) = read_boxes(write(folder, "turned.jpg,0,0,160,200\n"), folder)
    np.testing.assert_allclose(turned.boxes, [[0, 0, 1, 1]])


def test_a_picture_may_have_several_boxes_and_they_are_cut_at_its_edge(folder: Path) -> None:
    table = write(folder, "square.png,-20,0,40,16\nsquare.png,180,80,100,200\n")
    (square,) = read_boxes(table, folder)
    np.testing.assert_allclose(square.boxes, [[0, 0, 0.1, 0.1], [0.9, 0.5, 0.1, 0.5]])


def test_an_unreadable_picture_is_named_and_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    table = write(folder, "gone.png,1,1,9,9\nbroken.png,1,1,9,9\nsquare.png,60,40,60,60\n")
    with caplog.at_level("WARNING"):
        assert [one.path.name for one in read_boxes(table, folder)] == ["square.png"]
    assert "2 pictures cannot be read and are left out" in caplog.text
    assert "gone.png (No such file or directory)" in caplog.text


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("square.png,1,1,9,\n", r"row 1 \(square.png\) has no box"),
        ("empty.png,,,,\nsquare.png,1,1,nine,9\n", r"row 2 \(square.png\) has no box"),
        ("square.png,1,1,0,9\n", r"row 1 \(square.png\) has no box"),
        ("square.png,1,1,inf,9\n", r"row 1 \(square.png\) has no box"),
        ("empty.png,,,,\n", "holds no picture with a box"),
        ("square.png,500,500,9,9\n", "holds no picture with a box"),
    ],
)
def test_what_is_no_box_is_an_error(folder: Path, text: str, error: str) -> None:
    with pytest.raises(UserError, match=error):
        read_boxes(write(folder, text), folder)


def test_a_missing_column_is_named(folder: Path) -> None:
    path = folder / "boxes.csv"
    path.write_text("path,left,top\nsquare.png,1,1\n")
    with pytest.raises(UserError, match="has no column width, height"):
        read_boxes(path, folder)


def test_another_detector_finds_boxes_of_which_it_is_sure(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "Thumbs.db").write_bytes(b"no picture")
    with caplog.at_level("WARNING"):
        empty, square = boxes_by(RedDetector(), folder)
    assert "1 pictures cannot be read and are left out" in caplog.text
    assert len(empty.boxes) == 0
    np.testing.assert_allclose(square.boxes, [[0.3, 0.25, 0.3, 0.375]], atol=0.01)
    with pytest.raises(UserError, match="holds no picture with a box"):
        boxes_by(RedDetector(score=0.4), folder)


def test_what_a_detector_finds_stands_beside_the_truth(folder: Path) -> None:
    pictures = read_boxes(write(folder, "square.png,60,40,60,60\nempty.png,,,,\n"), folder)
    square, empty = find_boxes(RedDetector(), pictures)
    np.testing.assert_allclose(square.boxes, square.truth, atol=0.01)
    assert square.scores == pytest.approx([0.9]) and not len(empty.boxes)
