"""Photographs in, marked pictures out: a box and a name for each face, and panels of likenesses.

rows, broken = readable_photos([Path("party.jpg")])
photo = read_photo(Path("party.jpg"))
marked = mark(photo.image, faces, ["Ada Lovelace 0.71"])
record = write_results(Path("out"), {"photo": "party.jpg"}, marked)   # and JSON beside it
"""

import io
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageOps

from lookalike.core.errors import UserError
from lookalike.core.files import files_below, kept_record, whole_file, write_json
from lookalike.core.log import report_each
from lookalike.data.catalogue import outside_pictures, readable
from lookalike.data.images import FORMATS, read_picture
from lookalike.data.layout import named_as_picture
from lookalike.faces.detection import LOOKS
from lookalike.faces.geometry import Face
from lookalike.viz.drawing import fitting_font

RED = "#d40000"
CELL, GAP = 192, 12  # of a panel
LEAST_SHOWN = 320  # pixels of the longer side of a marked picture: names must be readable
ALL_OF_IT = Face(np.array([0.0, 0.0, 1.0, 1.0]), np.zeros((0, 2)), 1.0, "")


class Photo(NamedTuple):
    """An upright RGB picture, and its full size (width, height): a huge JPEG is decoded smaller."""

    image: Image.Image
    size: tuple[int, int]


def read_photo(path: Path) -> Photo:
    """Any picture that `data.read_picture` reads, as large as faces are looked for in.

    Raises: see read_picture.
    """
    raw = path.read_bytes()
    image = read_picture(raw, LOOKS[-1])
    stored = Image.open(io.BytesIO(raw), formats=FORMATS).size  # perhaps not upright
    width, height = sorted(stored, reverse=image.width > image.height)
    return Photo(image, (width, height))


def find_photos(paths: Iterable[Path]) -> list[Path]:
    """The pictures among files and folders, in order, each one once.

    Raises:
        UserError: one of the paths is not there, or no picture is.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such picture or folder")
        inside = files_below(path) if path.is_dir() else [path]
        found += [file for file in inside if not path.is_dir() or named_as_picture(file)]
    if not found:
        raise UserError("no pictures there: name at least one, or a folder that holds some")
    return list(dict.fromkeys(found))


def readable_photos(paths: Iterable[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Rows (see `outside_pictures`) of the pictures among files and folders, with `photo`, the path
    as it was given; and the names of those that cannot be read, with the reason.

    Raises: see find_photos.
    """
    photos = find_photos(paths)
    rows = outside_pictures(photos).assign(photo=list(map(str, photos)))
    good = readable(rows)
    broken = rows.photo[~good] + " (" + rows.problem[~good] + ")"
    report_each("pictures cannot be read and are left out", broken)
    return rows[good], broken.tolist()


def refuse_broken(broken: Sequence[str]) -> None:
    """Raises UserError at the end of a command that had to leave pictures out."""
    if broken:
        raise UserError(f"{len(broken)} pictures could not be read, first {broken[0]}")


def mark(image: Image.Image, faces: Sequence[Face], labels: Sequence[str]) -> Image.Image:
    """A copy of an RGB picture with a red box and a name for each face; a tiny one is enlarged."""
    scale = max(1.0, LEAST_SHOWN / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    marked = image.resize(size)
    pen = ImageDraw.Draw(marked)
    corners = [np.concatenate([f.box[:2], f.box[:2] + f.box[2:]]) * (size * 2) for f in faces]
    for box in corners:
        pen.rectangle(box.tolist(), outline=RED, width=max(2, round(min(size) / 250)))
    taken = list(corners)
    for box, label in zip(corners, labels, strict=True):
        taken.append(write_label(pen, box, label, size, taken))
    return marked


def write_label(
    pen: ImageDraw.ImageDraw,
    box: np.ndarray,
    label: str,
    size: tuple[int, int],
    taken: Sequence[np.ndarray],
) -> np.ndarray:
    """Writes a name in white on red by a face's box, and returns the place that it takes.

    box, taken: left, top, right, bottom; of the face, and of what the name should not hide.
    size: of the picture. All in pixels.
    """
    width = max(1.5 * (box[2] - box[0]), min(size) / 8)
    font = fitting_font(label, min(width, size[0]), max(14, min(size) / 35))
    left, top, right, bottom = pen.textbbox((0, 0), label, font=font)
    edge = (bottom - top) / 4
    extent = np.array([right - left, bottom - top]) + 2 * edge
    x, y, *_ = place = label_place(box, extent, size, taken)
    pen.rectangle(place.tolist(), fill=RED)
    pen.text((x + edge - left, y + edge - top), label, fill="white", font=font)
    return place


def label_place(
    box: np.ndarray, extent: np.ndarray, size: tuple[int, int], taken: Sequence[np.ndarray]
) -> np.ndarray:
    """Where a label of this width and height hides least: above the face, below it, or a line
    further off; inside of the picture.

    >>> label_place(np.array([10, 0, 20, 10]), np.array([30, 5]), (35, 50), [])  # no room above
    array([ 5, 10, 35, 15])
    """
    high = extent[1]
    tops = (box[1] - high, box[3], box[1] - 2 * high, box[3] + high)
    room = np.maximum(0, size - extent)
    inside = [np.array([box[0], top]).clip(0, room) for top in tops if 0 <= top <= room[1]]
    indices = [np.concatenate([corner, corner + extent]) for corner in inside or [room * (0, 1)]]
    return min(indices, key=lambda place: sum(shared_area(place, other) for other in taken))


def shared_area(one: np.ndarray, two: np.ndarray) -> float:
    """Of two boxes (left, top, right, bottom)."""
    sides = np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2])
    return float(np.prod(sides.clip(0)))


def panel(
    image: Image.Image, face: Face | None, label: str, known: Iterable[tuple[Image.Image, str]]
) -> Image.Image:
    """A picture marked with its label, at the left, and known pictures with their captions.

    face: what of the picture the label is about; None is all of it. known: read one by one.
    """
    query = ImageOps.contain(image, (LEAST_SHOWN, LEAST_SHOWN))
    query = mark(query, [face or ALL_OF_IT], [label])
    cells = [(ImageOps.pad(shown, (CELL, CELL), color="white"), name) for shown, name in known]
    wide = LEAST_SHOWN + len(cells) * (CELL + GAP)
    sheet = Image.new("RGB", (wide, LEAST_SHOWN), "white")
    sheet.paste(query, ((LEAST_SHOWN - query.width) // 2, (LEAST_SHOWN - query.height) // 2))
    pen, top = ImageDraw.Draw(sheet), (LEAST_SHOWN - CELL) // 2
    for i, (cell, caption) in enumerate(cells):
        left = LEAST_SHOWN + GAP + i * (CELL + GAP)
        sheet.paste(cell, (left, top))
        font = fitting_font(caption, CELL, 16)
        pen.text((left, top + CELL + 4), caption, fill="black", font=font)
    return sheet


def box_in_pixels(face: Face, size: tuple[int, int]) -> list[int]:
    """[left, top, width, height] of a face's box, as far as it lies in a picture of this size."""
    corners = np.array([face.box[:2], face.box[:2] + face.box[2:]]).clip(0, 1) * size
    low, high = corners.round().astype(int).tolist()
    return [*low, high[0] - low[0], high[1] - low[1]]


def place_for(photo: Path, folder: Path) -> Path:
    """Where the marked picture of a photo goes, its JSON beside it: under the photo's name, with a
    number where that is taken by another photo, or by a file that is not ours."""
    for number in count(1):
        name = photo.stem if number == 1 else f"{photo.stem}-{number}"
        place, record = folder / f"{name}.jpg", folder / f"{name}.json"
        ours = kept_record(record).get("photo") == str(photo)
        if ours or not (place.exists() or record.exists()):
            return place
    raise AssertionError("numbers do not end")


def write_results(folder: Path, record: dict[str, Any], picture: Image.Image) -> dict[str, Any]:
    """Writes a photo's picture and JSON, and returns the record with the place of the picture.

    The JSON comes first: it says that the place is this photo's.
    """
    place = place_for(Path(record["photo"]), folder)
    record = record | {"marked": str(place)}
    write_json(place.with_suffix(".json"), record)
    with whole_file(place) as beside:
        picture.save(beside, "JPEG", quality=92)
    return record
