"""Annotated pictures: which files are read, where labels and results go, what is drawn."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.core.files import write_json
from lookalike.core.log import log_to
from lookalike.faces.geometry import Face
from lookalike.identification.annotate import (
    CELL,
    GAP,
    MIN_SIDE,
    annotate,
    draw_panel,
    find_photos,
    label_box,
    list_files,
    output_path,
    read_photo,
    readable_photos,
    refuse_broken,
    shared_area,
    write_annotated,
)
from tests.conftest import draw


def face_at(left: float, top: float, width: float, height: float) -> Face:
    return Face(np.array([left, top, width, height]), np.zeros((5, 2)), 0.9, "at once")


def is_red(image: Image.Image) -> np.ndarray:
    """Return (H, W) bool: the pixels of boxes and of the background of labels."""
    pixels = np.asarray(image, int)
    return (pixels[:, :, 0] > 150) & (pixels[:, :, 1] < 80)


# ---- photographs --------------------------------------------------------------------------------


def test_pictures_of_folders_are_found_once_and_in_order() -> None:
    for path in ("x/b.jpg", "x/sub/a.png", "x/notes.txt", "c.jpg"):
        draw(Path(path), 0, 0) if not path.endswith("txt") else Path(path).write_text("no picture")
    found = find_photos([Path("c.jpg"), Path("x"), Path("x/b.jpg")])
    assert found == [Path("c.jpg"), Path("x/b.jpg"), Path("x/sub/a.png")]
    assert find_photos([Path("x/notes.txt")]) == [Path("x/notes.txt")], "a named file is taken"
    with pytest.raises(UserError, match="gone: no such picture or folder"):
        find_photos([Path("gone")])
    with pytest.raises(UserError, match="no pictures there"):
        find_photos([])


def test_unreadable_pictures_are_listed_with_the_reason() -> None:
    draw(Path("good.jpg"), 0, 0)
    Path("broken.jpg").write_text("no picture")
    rows, broken = readable_photos([Path("broken.jpg"), Path("good.jpg")])
    assert rows.photo.tolist() == ["good.jpg"]
    assert len(broken) == 1 and broken[0].startswith("broken.jpg (unreadable")
    with pytest.raises(UserError, match=r"1 pictures could not be read, first broken\.jpg"):
        refuse_broken(broken)
    refuse_broken([])


def test_every_file_of_a_folder_that_is_not_used_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_to(None)
    draw(Path("x/good.jpg"), 0, 0)
    draw(Path("x", os.fsdecode(b"\xff.jpg")), 0, 0)
    os.mkfifo("x/pipe.jpg")
    for name in ("phone.dng", ".DS_Store"):
        Path("x", name).write_bytes(b"what Pillow does not know")
    rows, broken = readable_photos([Path("x")])
    assert rows.photo.tolist() == ["x/good.jpg"]
    assert broken == [
        "x/pipe.jpg (unreadable: not a regular file)",
        os.fsdecode(b"x/\xff.jpg") + " (its name is not UTF-8: rename it)",
    ]
    said = capsys.readouterr().err
    assert "1 files are not named as pictures of a known format: left out: x/phone.dng" in said
    assert "1 files of the system or an editor in x: left out: .DS_Store" in said
    assert "2 pictures cannot be read and are left out: " in said


def test_the_size_of_a_photo_is_that_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save("rotated.jpg", exif=exif)
    photo = read_photo(Path("rotated.jpg"))
    assert photo.size == photo.image.size == (40, 60)


# ---- boxes and labels ---------------------------------------------------------------------------


def test_a_box_and_a_label_are_drawn_for_each_face() -> None:
    image = Image.new("RGB", (400, 400), "grey")
    faces = [face_at(0.1, 0.4, 0.2, 0.2), face_at(0.6, 0.4, 0.2, 0.2)]
    annotated = annotate(image, faces, ["Ada", "unknown"])
    red = is_red(annotated)
    assert annotated.size == image.size and image.getpixel((40, 200)) == (128, 128, 128)
    assert red[165:235, 40].all() and red[165:235, 240].all(), "left edges of both boxes"
    assert not red[170:230, 130:230].any(), "nothing between them"
    assert red[:160].any(), "labels lie above"


def test_a_small_picture_is_enlarged_until_labels_are_readable() -> None:
    assert max(annotate(Image.new("RGB", (10, 5)), [], []).size) == MIN_SIDE
    assert annotate(Image.new("RGB", (1, 900)), [], []).size == (1, 900)


def test_a_label_avoids_other_boxes_and_stays_inside() -> None:
    box, extent, size = np.array([40, 40, 60, 60]), np.array([30, 10]), (100, 100)
    assert label_box(box, extent, size, []).tolist() == [40, 30, 70, 40]
    above = np.array([0, 0, 100, 39])
    assert label_box(box, extent, size, [above]).tolist() == [40, 60, 70, 70]
    at_the_edge = label_box(np.array([90, 40, 99, 60]), extent, size, [])
    assert at_the_edge.tolist() == [70, 30, 100, 40]
    too_large = label_box(np.array([0, 0, 5, 5]), np.array([30, 10]), (20, 8), [])
    assert too_large[:2].tolist() == [0, 0]


def test_the_shared_area_of_boxes() -> None:
    assert shared_area(np.array([0, 0, 2, 2]), np.array([1, 1, 5, 5])) == 1
    assert shared_area(np.array([0, 0, 2, 2]), np.array([2, 0, 3, 3])) == 0


def test_a_panel_has_one_cell_for_each_reference() -> None:
    references = [(Image.new("RGB", (30, 60), "blue"), "Ada 0.91")] * 2
    sheet = draw_panel(Image.new("RGB", (50, 50)), None, "Ada 0.91", iter(references))
    assert sheet.size == (MIN_SIDE + 2 * (CELL + GAP), MIN_SIDE)
    assert is_red(sheet)[:, :MIN_SIDE].any(), "without a face the box is the whole picture"


# ---- results ------------------------------------------------------------------------------------


def test_results_never_overwrite_files_of_other_origin(tmp_path: Path) -> None:
    photo = Path("party.png")
    assert output_path(photo, tmp_path) == tmp_path / "party.jpg"
    (tmp_path / "party.jpg").write_bytes(b"the user's own")
    assert output_path(photo, tmp_path) == tmp_path / "party-2.jpg"
    record = write_annotated(
        tmp_path, {"photo": "party.png", "faces": []}, Image.new("RGB", (9, 9))
    )
    assert record["marked"] == str(tmp_path / "party-2.jpg")
    assert output_path(photo, tmp_path) == tmp_path / "party-2.jpg", "the same photograph again"
    write_json(tmp_path / "party-2.json", {"photo": "other.png"})
    assert output_path(photo, tmp_path) == tmp_path / "party-3.jpg"
    assert (tmp_path / "party.jpg").read_bytes() == b"the user's own"


def test_written_files_are_listed() -> None:
    assert list_files([]) == ""
    text = list_files([{"marked": "out/a.jpg"}, {"marked": "out/b.jpg"}])
    assert text.splitlines()[1:] == ["out/a.jpg", "out/b.jpg"]
