"""Pictures to train a detector on: pieces with known boxes, pasted together at random places.

    pixels, boxes = paste(pictures, np.random.default_rng(0))    # (416, 416, 3), (n, 4)

A few hundred boxes make any number of pictures, with one to six things of all sizes. Pieces without
a box are pasted among them, so that the edge of a piece is no sign of a thing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from lookalike.data.images import read_known_picture
from lookalike.faces.boxes import Boxed
from lookalike.faces.grid import SIDE

MOST = 6  # things in a picture
EMPTY = 2  # pieces without a box in a picture, at most
SIZES = (24.0, 300.0)  # longer side of a thing in pixels
MARGIN = 1.5  # around a thing, as a share of its longer side, at most
TRIES = 20  # to place a piece


class Piece(NamedTuple):
    """A part of a picture.

    Attributes:
        image: RGB.
        boxes: (n, 4) left, top, width and height in its pixels.
    """

    image: Image.Image
    boxes: np.ndarray


def paste(
    pictures: Sequence[Boxed], rng: np.random.Generator, whole: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Paste pieces of pictures together.

    Args:
        pictures: Those to draw from; at least one has a box.
        rng: What is drawn from.
        whole: Probability that it is a single picture, as it is.

    Returns:
        (SIDE, SIDE, 3) uint8 RGB, and (n, 4) left, top, width and height in pixels.

    Raises:
        UserError: A picture is gone or has changed.
    """
    full = [picture for picture in pictures if len(picture.boxes)]
    if rng.random() < whole:
        picture = full[int(rng.integers(len(full)))]
        return _compose([_whole_piece(picture, rng)], _plain(rng), rng)
    pieces = [
        _piece_with_box(full[int(rng.integers(len(full)))], rng)
        for _ in range(rng.integers(1, MOST + 1))
    ]
    backgrounds = [
        _piece_without(pictures[int(rng.integers(len(pictures)))], rng)
        for _ in range(rng.integers(EMPTY + 1))
    ]
    empty = [piece for piece in backgrounds if piece is not None]
    canvas = _plain(rng)
    if empty and rng.random() < 0.5:
        canvas = empty.pop().image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return _compose([*pieces, *empty], canvas, rng)


def _compose(
    pieces: Sequence[Piece], canvas: Image.Image, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Paste pieces onto a canvas; one that would cover a thing wherever it is tried is left out."""
    placed: list[np.ndarray] = []
    for piece in pieces:
        size = np.array(piece.image.size)
        for _ in range(TRIES):
            corner = rng.integers(0, SIDE - size + 1)
            if not any(_meet((*corner, *size), box) for box in placed):
                canvas.paste(piece.image, tuple(corner.tolist()))
                placed += [np.concatenate([box[:2] + corner, box[2:]]) for box in piece.boxes]
                break
    return np.array(canvas), np.array(placed, np.float32).reshape(-1, 4)


def _meet(one: Any, two: Any) -> bool:
    """Return whether two boxes have an area in common."""
    return all(one[i] < two[i] + two[i + 2] and two[i] < one[i] + one[i + 2] for i in (0, 1))


def _plain(rng: np.random.Generator) -> Image.Image:
    """Return a canvas of one color."""
    return Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(0, 256, 3).tolist()))


def _whole_piece(picture: Boxed, rng: np.random.Generator) -> Piece:
    """Return a picture as it is, as large as it fits in."""
    image = read_known_picture(picture.path, picture.content, SIDE)
    window = np.array([0, 0, *image.size], float)
    return _cut(image, window, picture.boxes * np.tile(image.size, 2), SIDE / max(image.size), rng)


def _piece_with_box(picture: Boxed, rng: np.random.Generator) -> Piece:
    """Return a thing with a random margin, at a random size."""
    wanted = np.exp(rng.uniform(*np.log(SIZES)))
    which = rng.integers(len(picture.boxes))
    share = max(float(picture.boxes[which, 2:].max()), 1e-3)
    image = read_known_picture(picture.path, picture.content, round(wanted / share))
    boxes = picture.boxes * np.tile(image.size, 2)
    low, high = boxes[which, :2], boxes[which, :2] + boxes[which, 2:]
    side = boxes[which, 2:].max()
    low, high = low - rng.uniform(0, MARGIN, 2) * side, high + rng.uniform(0, MARGIN, 2) * side
    window = _uncut(np.concatenate([np.maximum(low, 0), np.minimum(high, image.size)]), boxes)
    return _cut(image, window, boxes, wanted / side, rng)


def _uncut(window: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return a window (left, top, right, bottom), widened until it cuts through no box."""
    for _ in boxes:
        for box in boxes:
            if _meet((*window[:2], *(window[2:] - window[:2])), box):
                window = np.concatenate(
                    [np.minimum(window[:2], box[:2]), np.maximum(window[2:], box[:2] + box[2:])]
                )
    return window


def _piece_without(picture: Boxed, rng: np.random.Generator) -> Piece | None:
    """Return a part of a picture that holds no box, None where none is found."""
    image = read_known_picture(picture.path, picture.content, SIDE)
    boxes = picture.boxes * np.tile(image.size, 2)
    for _ in range(TRIES):
        size = rng.uniform(0.2, 0.8, 2) * image.size
        corner = rng.uniform(0, 1, 2) * (image.size - size)
        if not any(_meet((*corner, *size), box) for box in boxes):
            window = np.concatenate([corner, corner + size])
            return _cut(image, window, boxes[:0], rng.uniform(50, 250) / size.max(), rng)
    return None


def _cut(
    image: Image.Image,
    window: np.ndarray,
    boxes: np.ndarray,
    scale: float,
    rng: np.random.Generator,
) -> Piece:
    """Cut a window out, scale it as far as it fits in, and mirror and recolor it at random."""
    low, high = np.floor(window[:2]), np.ceil(window[2:])
    high = np.minimum(np.maximum(high, low + 1), image.size)
    scale = min(scale, *(SIDE / (high - low)))
    size = np.maximum(1, np.floor((high - low) * scale)).astype(int)
    piece = image.resize(
        tuple(size.tolist()), Image.Resampling.BILINEAR, box=(*low, *high), reducing_gap=2
    )
    inside = [box for box in boxes if _meet((*low, *(high - low)), box)]
    scales = np.tile(size / (high - low), 2)
    moved = (np.array(inside).reshape(-1, 4) - np.array([*low, 0, 0])) * scales
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        moved[:, 0] = size[0] - moved[:, 0] - moved[:, 2]
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        piece = enhance(piece).enhance(rng.uniform(0.6, 1.4))
    return Piece(piece, moved)
