"""Pictures with known boxes, to train a detector on and to score one: from a table, or by another.

    pictures = read_boxes(Path("boxes.csv"), Path("zebras"))
    pictures = boxes_by(load_detector("yunet", cache), Path("faces"))

A table has the columns path, left, top, width and height: a row for each box, in pixels of the
upright picture or as shares of its size; a picture that holds nothing has a row with an empty box.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.core.files import files_below
from lookalike.core.log import report_each
from lookalike.core.readers import read_bytes, read_outside_table
from lookalike.data.images import (
    UNREADABLE,
    check_picture,
    map_images,
    read_known_picture,
    upright_size,
)
from lookalike.data.layout import named_as_picture, without_clutter
from lookalike.evaluation.average_precision import Found
from lookalike.faces.detection import CONFIDENT, Detector, find_faces
from lookalike.faces.geometry import BOX, stack_boxes

WHOLE = 1 << 30  # more pixels than a picture has: it is decoded at its own size


class Boxed(NamedTuple):
    """A picture with known boxes.

    Attributes:
        path: Of the file.
        content: Its content hash.
        boxes: (n, 4) left, top, width and height as shares of the picture's size, inside of it.
    """

    path: Path
    content: str
    boxes: np.ndarray


def read_boxes(table: Path, root: Path) -> list[Boxed]:
    """Read pictures with their boxes from a table; what cannot be used is reported and left out.

    Args:
        table: CSV, TSV, Parquet or JSON lines.
        root: Folder of the pictures, that paths in the table start from.

    Returns:
        A picture for each different path, in the order of the table.

    Raises:
        UserError: The table is damaged, lacks a column, has a box that is none, or names no picture
            that can be read.
    """
    rows = read_outside_table(table)
    missing = [name for name in ("path", *BOX) if name not in rows]
    if missing:
        raise UserError(f"{table}: has no column {', '.join(missing)}; see docs/faces.md")
    boxes = _numbers(rows, table)
    in_shares = bool(np.nanmax(boxes.to_numpy(), initial=0) <= 1)
    groups = list(boxes.groupby(rows.path, sort=False))
    paths = [root / str(path) for path, _ in groups]
    found = list(map_images(_size, paths, "reading pictures"))
    _report(paths, found)
    pictures = []
    for path, seen, (_, group) in zip(paths, found, groups, strict=True):
        if not isinstance(seen, str):
            content, size = seen
            shares = group.dropna().to_numpy() / (1 if in_shares else np.tile(size, 2))
            pictures.append(Boxed(path, content, inside(shares)))
    return _required(pictures, str(table))


def boxes_by(detector: Detector, root: Path) -> list[Boxed]:
    """Find the boxes of pictures by another detector, those of which it is sure.

    Args:
        detector: The detector.
        root: Folder of the pictures.

    Raises:
        UserError: There is no picture in it that can be read, or nothing was found.
    """

    def find(path: Path) -> Boxed | str:
        seen = _look(path)
        if isinstance(seen, str):
            return seen
        content, image = seen
        faces = find_faces(image, detector, CONFIDENT)
        return Boxed(path, content, inside(stack_boxes(faces)))

    paths = [path for path in without_clutter(root, files_below(root)) if named_as_picture(path)]
    found = list(map_images(find, paths, f"finding boxes by {detector.name.split()[0]}"))
    _report(paths, found)
    return _required([seen for seen in found if isinstance(seen, Boxed)], str(root))


def find_boxes(detector: Detector, pictures: Sequence[Boxed]) -> list[Found]:
    """Let a detector find everything in pictures whose boxes are known, in shares of their size.

    Raises:
        UserError: A picture is gone or has changed.
    """

    def find(picture: Boxed) -> Found:
        faces = find_faces(read_known_picture(picture.path, picture.content, WHOLE), detector)
        boxes = _clipped(stack_boxes(faces))
        return Found(boxes, np.array([face.score for face in faces]), picture.boxes)

    return list(map_images(find, pictures, "finding boxes"))


def inside(boxes: np.ndarray) -> np.ndarray:
    """Return the parts of boxes (n, 4) that lie in the picture; those outside of it are left out.

    >>> inside(np.array([[-0.5, 0.5, 1.0, 1.0], [2.0, 0.0, 1.0, 1.0]]))
    array([[0. , 0.5, 0.5, 0.5]])
    """
    clipped = _clipped(boxes)
    return clipped[(clipped[:, 2:] > 0).all(1)]


def _clipped(boxes: np.ndarray) -> np.ndarray:
    """Return boxes (n, 4) without what of them lies outside of the picture."""
    low, high = np.clip(boxes[:, :2], 0, 1), np.clip(boxes[:, :2] + boxes[:, 2:], 0, 1)
    return np.concatenate([low, high - low], axis=1)


def _numbers(rows: pd.DataFrame, table: Path) -> pd.DataFrame:
    """Return the boxes as numbers, an empty one as not-a-number."""
    boxes = rows[list(BOX)].replace("", np.nan).apply(pd.to_numeric, errors="coerce")
    empty = (rows[list(BOX)] == "").all(axis=1)
    is_box = np.isfinite(boxes).all(axis=1) & (boxes.width > 0) & (boxes.height > 0)
    wrong = ~empty & ~is_box
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{table}: row {first + 1} ({rows.path[first]}) has no box: left, top, width and "
            "height are numbers, the last two above 0; all are empty where the picture holds none"
        )
    return boxes


def _look(path: Path) -> tuple[str, Image.Image] | str:
    """Return the content hash of a picture and its pixels, or why it cannot be read."""
    content, problem = _checked(path)
    return problem or (content, read_known_picture(path, content, WHOLE))


def _size(path: Path) -> tuple[str, tuple[int, int]] | str:
    """Return the content hash of a picture and its size, or why it cannot be read."""
    content, problem = _checked(path)
    return problem or (content, upright_size(read_bytes(path)))


def _checked(path: Path) -> tuple[str, str]:
    """Return the content hash of a picture, and why it cannot be read; empty where it can."""
    checked = check_picture(path)
    unreadable = checked.problem.startswith(UNREADABLE)
    return checked.content, checked.problem.removeprefix(UNREADABLE) if unreadable else ""


def _report(paths: Iterable[Path], found: Iterable[object]) -> None:
    """Say which pictures could not be read, and why."""
    unread = [f"{p} ({why})" for p, why in zip(paths, found, strict=True) if isinstance(why, str)]
    report_each("pictures cannot be read and are left out", unread)


def _required(pictures: list[Boxed], source: str) -> list[Boxed]:
    """Return the pictures, at least one of which has a box."""
    if not any(len(picture.boxes) for picture in pictures):
        raise UserError(f"{source}: holds no picture with a box, so that there is nothing to learn")
    return pictures
