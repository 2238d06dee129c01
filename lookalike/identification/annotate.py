"""Annotated pictures: a box and a name for each face, and panels of the most similar pictures.

    rows, broken = readable_photos([Path("party.jpg")])
    photo = read_photo(Path("party.jpg"))
    annotated = annotate(photo.image, faces, ["Ada Lovelace 0.71"])
    record = write_annotated(Path("out"), {"photo": "party.jpg"}, annotated)   # and JSON beside it

Coordinates of faces are shares of a picture's width and height; those of labels are pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageOps

from lookalike.core.errors import UserError
from lookalike.core.files import files_below, whole_file, write_json
from lookalike.core.log import report_each
from lookalike.core.readers import read_bytes, saved_record
from lookalike.data.catalogue import outside_pictures, readable
from lookalike.data.images import read_picture, upright_size
from lookalike.data.layout import has_usable_name, named_as_picture, without_clutter
from lookalike.faces.detection import FACTORS, SEARCH_SIDE
from lookalike.faces.geometry import Face
from lookalike.viz.drawing import fitting_font

RED = "#d40000"
LARGEST = FACTORS[-1] * SEARCH_SIDE  # pixels of the longer side that faces are searched in
CELL, GAP = 192, 12  # pixels of a reference picture in a panel, and between two
MIN_SIDE = 320  # pixels of the longer side of an annotated picture: names must be readable
WHOLE_PICTURE = Face(np.array([0.0, 0.0, 1.0, 1.0]), np.zeros((0, 2)), 1.0, "")

# ---- photographs --------------------------------------------------------------------------------


class Photo(NamedTuple):
    """A photograph.

    Attributes:
        image: Upright RGB picture; a huge JPEG is decoded at a smaller size.
        size: Full width and height of the upright picture.
    """

    image: Image.Image
    size: tuple[int, int]


def read_photo(path: Path) -> Photo:
    """Read a picture as large as faces are searched in.

    Raises:
        ReadError: It cannot be read.
    """
    raw = read_bytes(path)
    return Photo(read_picture(raw, LARGEST), upright_size(raw))


def find_photos(paths: Iterable[Path]) -> list[Path]:
    """Return the pictures among files and folders, in order, without repeats.

    Files of a folder that are not named as pictures are reported; one that is named itself is taken
    as it is.

    Raises:
        UserError: One of the paths does not exist, or there is no picture.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such picture or folder")
        if path.is_dir():
            inside = without_clutter(path, files_below(path, hidden=True))
            found += filter(named_as_picture, inside)
            others = [str(file) for file in inside if not named_as_picture(file)]
            report_each("files are not named as pictures of a known format: left out", others)
        else:
            found.append(path)
    if not found:
        raise UserError("no pictures there: name at least one, or a folder that holds some")
    return list(dict.fromkeys(found))


def readable_photos(paths: Iterable[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Check the pictures among files and folders.

    Returns:
        Rows of `outside_pictures` for those that can be read, with `photo`, the path as it was
        given; and the names of the others, with the reason.

    Raises:
        UserError: One of the paths does not exist, or there is no picture.
    """
    found = find_photos(paths)
    photos = [path for path in found if has_usable_name(path)]
    rows = outside_pictures(photos).assign(photo=list(map(str, photos)))
    good = readable(rows)
    broken = (rows.photo[~good] + " (" + rows.problem[~good] + ")").tolist()
    broken += [f"{p} (its name is not UTF-8: rename it)" for p in found if not has_usable_name(p)]
    report_each("pictures cannot be read and are left out", broken)
    return rows[good], broken


def refuse_broken(broken: Sequence[str]) -> None:
    """Raise UserError at the end of a command that had to leave pictures out."""
    if broken:
        raise UserError(f"{len(broken)} pictures could not be read, first {broken[0]}")


# ---- boxes and labels ---------------------------------------------------------------------------


def annotate(image: Image.Image, faces: Sequence[Face], labels: Sequence[str]) -> Image.Image:
    """Return a copy of an RGB picture with a red box and a label for each face.

    A picture smaller than MIN_SIDE is enlarged.
    """
    scale = max(1.0, MIN_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    annotated = image.resize(size)
    pen = ImageDraw.Draw(annotated)
    boxes = [np.concatenate([f.box[:2], f.box[:2] + f.box[2:]]) * (size * 2) for f in faces]
    for box in boxes:
        pen.rectangle(box.tolist(), outline=RED, width=max(2, round(min(size) / 250)))
    occupied = list(boxes)
    for box, label in zip(boxes, labels, strict=True):
        occupied.append(draw_label(pen, box, label, size, occupied))
    return annotated


def draw_label(
    pen: ImageDraw.ImageDraw,
    box: np.ndarray,
    label: str,
    size: tuple[int, int],
    occupied: Sequence[np.ndarray],
) -> np.ndarray:
    """Draw a label in white on red near a face's box.

    Args:
        pen: Draws on the picture.
        box: (left, top, right, bottom) of the face, in pixels.
        label: The text.
        size: Width and height of the picture.
        occupied: Boxes that the label should not cover.

    Returns:
        The box that the label covers.
    """
    width = max(1.5 * (box[2] - box[0]), min(size) / 8)
    font = fitting_font(label, min(width, size[0]), max(14, min(size) / 35))
    left, top, right, bottom = pen.textbbox((0, 0), label, font=font)
    edge = (bottom - top) / 4
    extent = np.array([right - left, bottom - top]) + 2 * edge
    x, y, *_ = area = label_box(box, extent, size, occupied)
    pen.rectangle(area.tolist(), fill=RED)
    pen.text((x + edge - left, y + edge - top), label, fill="white", font=font)
    return area


def label_box(
    box: np.ndarray, extent: np.ndarray, size: tuple[int, int], occupied: Sequence[np.ndarray]
) -> np.ndarray:
    """Choose the position of a label that covers least of other boxes.

    Candidates lie above the face, below it, or one line further off, within the picture.

    Args:
        box: (left, top, right, bottom) of the face, in pixels.
        extent: Width and height of the label.
        size: Width and height of the picture.
        occupied: Boxes that the label should not cover.

    Returns:
        (left, top, right, bottom) of the label.

    >>> label_box(np.array([10, 0, 20, 10]), np.array([30, 5]), (35, 50), [])  # no space above
    array([ 5, 10, 35, 15])
    """
    height = extent[1]
    tops = (box[1] - height, box[3], box[1] - 2 * height, box[3] + height)
    limit = np.maximum(0, size - extent)
    corners = [np.array([box[0], top]).clip(0, limit) for top in tops if 0 <= top <= limit[1]]
    candidates = [np.concatenate([xy, xy + extent]) for xy in corners or [limit * (0, 1)]]
    return min(candidates, key=lambda area: sum(shared_area(area, other) for other in occupied))


def shared_area(one: np.ndarray, two: np.ndarray) -> float:
    """Return the area of the intersection of two boxes (left, top, right, bottom)."""
    sides = np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2])
    return float(np.prod(sides.clip(0)))


def draw_panel(
    image: Image.Image,
    face: Face | None,
    label: str,
    references: Iterable[tuple[Image.Image, str]],
) -> Image.Image:
    """Draw a labeled picture, and to its right reference pictures with their captions.

    Args:
        image: The picture.
        face: What of it the label is about; None is all of it.
        label: Of the picture.
        references: Pictures with captions; they are consumed one by one.
    """
    query = ImageOps.contain(image, (MIN_SIDE, MIN_SIDE))
    query = annotate(query, [face or WHOLE_PICTURE], [label])
    cells = [(ImageOps.pad(view, (CELL, CELL), color="white"), name) for view, name in references]
    width = MIN_SIDE + len(cells) * (CELL + GAP)
    sheet = Image.new("RGB", (width, MIN_SIDE), "white")
    sheet.paste(query, ((MIN_SIDE - query.width) // 2, (MIN_SIDE - query.height) // 2))
    pen, top = ImageDraw.Draw(sheet), (MIN_SIDE - CELL) // 2
    for i, (cell, caption) in enumerate(cells):
        left = MIN_SIDE + GAP + i * (CELL + GAP)
        sheet.paste(cell, (left, top))
        font = fitting_font(caption, CELL, 16)
        pen.text((left, top + CELL + 4), caption, fill="black", font=font)
    return sheet


# ---- results ------------------------------------------------------------------------------------


def box_in_pixels(face: Face, size: tuple[int, int]) -> list[int]:
    """Return [left, top, width, height] of the part of a face's box inside a picture of this size.

    >>> box_in_pixels(Face(np.array([-0.1, 0.5, 0.3, 0.2]), np.zeros((5, 2)), 0.9, ""), (100, 200))
    [0, 100, 20, 40]
    """
    corners = np.array([face.box[:2], face.box[:2] + face.box[2:]]).clip(0, 1) * size
    low, high = corners.round().astype(int).tolist()
    return [*low, high[0] - low[0], high[1] - low[1]]


def output_path(photo: Path, folder: Path) -> Path:
    """Return the path of a photograph's annotated picture; its JSON lies beside it.

    It has the photograph's name, with a number where that is taken by another photograph or by a
    file of other origin.
    """
    for number in count(1):
        name = photo.stem if number == 1 else f"{photo.stem}-{number}"
        path, record = folder / f"{name}.jpg", folder / f"{name}.json"
        own = saved_record(record).get("photo") == str(photo)
        if own or not (path.exists() or record.exists()):
            return path
    raise AssertionError("unreachable")


def write_annotated(folder: Path, record: dict[str, Any], picture: Image.Image) -> dict[str, Any]:
    """Write a photograph's annotated picture and its JSON.

    The JSON comes first: it says that the path is this photograph's.

    Returns:
        The record with the path of the picture, `marked`.
    """
    path = output_path(Path(record["photo"]), folder)
    record = record | {"marked": str(path)}
    write_json(path.with_suffix(".json"), record)
    with whole_file(path) as beside:
        picture.save(beside, "JPEG", quality=92)
    return record


def list_files(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the list of the written pictures, for the screen; empty where there are none."""
    paths = [record["marked"] for record in records]
    return "\n".join(["written, each with its .json beside it:", *paths]) if paths else ""


def two_digits(number: float | None) -> str:
    """Format a number for a table.

    >>> two_digits(0.7123), two_digits(None)
    ('0.71', '')
    """
    return "" if number is None else f"{number:.2f}"
