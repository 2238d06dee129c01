"""A face in a picture, and the crop of it that a face backbone sees.

    pixels = crop_face(picture, face, Crop("aligned"), side=112)    # (112, 112, 3) uint8

Coordinates are normalized to [0, 1] by the picture's width and height, so that they hold at
whatever size it is decoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image

from lookalike.core.settings import ONNX, EmbedSettings

CropKind = Literal["none", "face", "aligned"]
Points = tuple[tuple[float, float], ...]


class Face(NamedTuple):
    """A face in a picture, in coordinates normalized to [0, 1].

    Attributes:
        box: (4,) left, top, width and height.
        points: (5, 2) x and y of the eyes, the tip of the nose and the corners of the mouth, that
            on the picture's left first.
        score: Confidence of the detector, from 0 to 1.
        found: The attempt that found it, one of `detection.FOUND`.
    """

    box: np.ndarray
    points: np.ndarray
    score: float
    found: str


BOX = ("left", "top", "width", "height")  # what the values of a box are called in tables


def stack_boxes(faces: Sequence[Face]) -> np.ndarray:
    """Return the boxes of faces, (n, 4) float64."""
    return np.array([face.box for face in faces], np.float64).reshape(-1, 4)


# Where the five points lie in the 112×112 faces that ArcFace, SFace and most others are trained on.
TEMPLATE_SIDE = 112
TEMPLATE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)


@dataclass(frozen=True)
class Crop:
    """The part of a picture that a backbone sees.

    Attributes:
        kind: `none` is the whole picture, `face` a square around the face, `aligned` the face
            moved, turned and scaled so that its five points lie on the template's.
        margin: Of a `face`, on each side, as a share of the longer side of its box.
        template: Of an `aligned` one, (x, y) of the five points as shares of the crop's side.
    """

    kind: CropKind = "none"
    margin: float = 0.1
    template: Points = tuple(map(tuple, TEMPLATE / TEMPLATE_SIDE))

    def scaled(self, scale: float) -> "Crop":
        """Return the crop that shows a face `scale` times as large, about the same center.

        >>> Crop("face", margin=0.5).scaled(2)  # half of the square: the face's box
        face 0.0 on black
        """
        if scale == 1:
            return self
        template = tuple(tuple((np.array(point) - 0.5) * scale + 0.5) for point in self.template)
        return Crop(self.kind, ((1 + 2 * self.margin) / scale - 1) / 2, template)

    def __repr__(self) -> str:
        """Return only what makes a difference to the pixels: embeddings are cached by it."""
        details = {"none": "", "face": f" {self.margin}", "aligned": f" {self.template}"}
        return f"{self.kind}{details[self.kind]}{'' if self.kind == 'none' else ' on black'}"


WHOLE = Crop("none")


def points_in(box: np.ndarray) -> np.ndarray:
    """Return where an upright face that fills a box has its five points: those of the template.

    Args:
        box: (4,) left, top, width and height.

    Returns:
        (5, 2).
    """
    return np.asarray(box[:2] + box[2:] * (TEMPLATE / TEMPLATE_SIDE))


def crop_kind(settings: EmbedSettings) -> CropKind:
    """Return the kind of crop that --crop chooses; `auto` is what the backbone was trained on.

    Of several backbones, it is the crop of the first that sees a crop. A detector of one's own
    finds boxes alone: its crop is `face`.
    """
    if settings.crop != "auto":
        return settings.crop
    if settings.detector_file is not None:
        return "face"
    for name in settings.backbones:
        if name in ("facenet", "inception_resnet_v1"):
            return "face"
        if name in ("sface", "dlib", "arcface") or name.startswith(ONNX):
            return "aligned"
    return "none"


def crop_middle(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Return the central part of (height, width, 3) pixels, 1 / scale of each side.

    >>> crop_middle(np.zeros((40, 32, 3)), 2).shape
    (20, 16, 3)
    """
    top, left = (round(length * (1 - 1 / scale) / 2) for length in pixels.shape[:2])
    return pixels[top : len(pixels) - top, left : pixels.shape[1] - left]


def crop_face(pixels: np.ndarray, face: Face, crop: Crop, side: int) -> np.ndarray:
    """Return the crop of a face.

    What lies outside of the picture is black, as in the training of face backbones; repeating the
    color of its edge instead costs 20 points of score.

    Args:
        pixels: (height, width, 3) uint8 of the picture.
        face: The face, in normalized coordinates.
        crop: `face` or `aligned`.
        side: Height and width of the crop in pixels.

    Returns:
        (side, side, 3) uint8.
    """
    size = np.array([pixels.shape[1], pixels.shape[0]])
    if crop.kind == "aligned":
        matrix = similarity(face.points * size, np.array(crop.template) * side)
    else:
        center = (face.box[:2] + face.box[2:] / 2) * size
        scale = side / max(1.0, float((face.box[2:] * size).max()) * (1 + 2 * crop.margin))
        matrix = np.array([[scale, 0, 0], [0, scale, 0]])
        matrix[:, 2] = side / 2 - scale * center
    return warp(pixels, matrix, side)


def similarity(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Return the similarity transform that brings points nearest to others.

    Least squares without reflection: Umeyama, Least-squares estimation of transformation parameters
    between two point patterns (1991).

    Args:
        points: (n, 2).
        onto: (n, 2) where they should lie.

    Returns:
        (2, 3) matrix that turns, scales and moves.

    >>> similarity(np.array([(0, 0), (2, 0)]), np.array([(1, 1), (1, 5)])).round(6)
    array([[ 0., -2.,  1.],
           [ 2.,  0.,  1.]])
    """
    # As complex numbers the map is z -> a z + b, and a is a plain regression.
    z, w = points @ (1, 1j), onto @ (1, 1j)
    spread = z - z.mean()
    a = (np.conj(spread) @ (w - w.mean())) / max(float((np.abs(spread) ** 2).sum()), 1e-12)
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def warp(pixels: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """Map a picture onto a square by a similarity transform.

    A picture that would lose more than half of its size is first averaged down, so that every pixel
    counts.

    Args:
        pixels: (height, width, 3) uint8.
        matrix: (2, 3), from the picture's pixels to the square's.
        side: Of the square, in pixels.

    Returns:
        (side, side, 3) uint8, black where the picture does not reach.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    shrink = min(int(1 / max(scale, 1e-6)), *pixels.shape[:2])
    if shrink > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(shrink))
        matrix = matrix @ np.diag([shrink, shrink, 1.0])
    return cv2.warpAffine(pixels, matrix, (side, side))


def pixels_needed(face: Face, side: float) -> int:
    """Return the side that a picture must be decoded at for its face to have `side` pixels."""
    return int(np.ceil(side / max(float(face.box[2:].min()), 1e-3)))
