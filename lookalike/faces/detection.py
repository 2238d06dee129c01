"""Faces: find them in a picture, choose one, and crop it as a face backbone wants it.

    faces = find_all(image, yunet)             # every face, surest first
    face = find_face(image, yunet)             # the one that the picture is of, or a central guess
    pixels = crop_face(image, face, Crop("aligned"), side=112)

Places are shares of a picture's width and height, so that they hold at whatever size it is decoded.
"""

import threading
from collections.abc import Sequence
from functools import cache as keep
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.core.weights import YUNET, carried_file
from lookalike.faces.geometry import TEMPLATE, TEMPLATE_SIDE, Face

# One thread a picture: pictures are many, and a sum is not split as the load decides.
cv2.setNumThreads(1)


cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


SURE = 0.6  # confidence that ends the search
LEAST = 0.3  # confidence of a face that is taken where nothing surer is found
OVERLAP = 0.4  # of two boxes with a higher intersection over union, the less sure is dropped
LOOK = 320  # longest side in pixels at which pictures are searched first
LOOKS = (LOOK, 2 * LOOK, 4 * LOOK, 8 * LOOK)  # and where faces of all sizes are wanted


class Detector(Protocol):
    """What finds faces. name: what its findings are cached under, with its version."""

    name: str

    def find(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (n, 15): box, five points, confidence of at least LEAST; in pixels
        of this array, in the order of Face."""


class YuNet:
    """YuNet, by OpenCV: Wu et al., YuNet: A Tiny Millisecond-level Face Detector (2023)."""

    def __init__(self, weights: Path) -> None:
        self.name = f"yunet {YUNET.sha256[:12]} opencv {cv2.__version__}"
        self.weights = str(weights.resolve())
        self.own = threading.local()  # a detector keeps buffers of its own: one a thread

    def find(self, pixels: np.ndarray) -> np.ndarray:
        """See Detector."""
        if not hasattr(self.own, "net"):
            self.own.net = cv2.FaceDetectorYN.create(
                self.weights, "", (LOOK, LOOK), LEAST, OVERLAP, 5000
            )
        height, width = pixels.shape[:2]
        self.own.net.setInputSize((width, height))
        _, found = self.own.net.detect(np.ascontiguousarray(pixels[:, :, ::-1]))
        return np.zeros((0, 15), np.float32) if found is None else found


class Mtcnn:
    """MTCNN, by facenet-pytorch: Zhang et al., Joint Face Detection and Alignment (2016)."""

    def __init__(self) -> None:
        try:
            from facenet_pytorch import MTCNN

            release = version("facenet-pytorch")
        except (ImportError, PackageNotFoundError) as error:
            raise UserError(
                "--detector mtcnn needs facenet-pytorch. Its pins are old; install it without "
                f"them: pip install --no-deps facenet-pytorch ({error})"
            ) from error
        self.name = f"mtcnn {release}"
        self.net = MTCNN(keep_all=True, min_face_size=12)

    def find(self, pixels: np.ndarray) -> np.ndarray:
        """See Detector."""
        boxes, scores, points = self.net.detect(Image.fromarray(pixels), landmarks=True)
        if boxes is None:
            return np.zeros((0, 15), np.float32)
        boxes, points = np.asarray(boxes, np.float32), np.asarray(points, np.float32)
        boxes[:, 2:] -= boxes[:, :2]
        columns = [boxes, points.reshape(len(boxes), 10), np.asarray(scores, np.float32)[:, None]]
        rows = np.concatenate(columns, axis=1)
        return rows[rows[:, 14] >= LEAST]


@keep
def load_detector(name: str, cache: Path) -> Detector:
    """The detector that --detector names; its weights come with a package.

    Raises:
        UserError: it needs a package that is not installed, or its weights cannot be had.
    """
    return Mtcnn() if name == "mtcnn" else YuNet(carried_file(YUNET, cache))


class Attempt(NamedTuple):
    """A way to look at a picture: scaled, with a grey border (a share of its side), turned."""

    name: str
    scale: float = 1.0
    border: float = 0.0
    angle: float = 0.0  # degrees, against the clock


AT_ONCE = Attempt("at once")

RETRIES = (
    Attempt("upscaled", scale=2.0),
    Attempt("padded", border=0.5),
    *(Attempt("rotated", border=0.2, angle=angle) for angle in (30, -30, 90, -90, 180)),
)

TURNS = (AT_ONCE, *(retry for retry in RETRIES if retry.angle in (90, -90, 180)))
UNSURE, MISSED = "low confidence", "not found"
FOUND = ("at once", "upscaled", "padded", "rotated", UNSURE, MISSED)


def look(image: Image.Image, detector: Detector, attempt: Attempt, side: int = LOOK) -> list[Face]:
    """The faces that one attempt finds in an RGB picture of which the longest side is made `side`
    pixels, where it has more, times the attempt's scale."""
    scale = attempt.scale * min(1.0, side / max(image.size))
    width, height = (max(1, round(length * scale)) for length in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    border = round(attempt.border * max(width, height))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), attempt.angle, 1.0)
    matrix[:, 2] += border
    if border or attempt.angle:
        canvas = (width + 2 * border, height + 2 * border)
        pixels = cv2.warpAffine(pixels, matrix, canvas, borderValue=(127, 127, 127))
    back = cv2.invertAffineTransform(matrix)
    size = np.array([width, height])
    return [_as_face(row, back, size, attempt.name) for row in detector.find(pixels)]


def _as_face(row: np.ndarray, back: np.ndarray, size: np.ndarray, name: str) -> Face:
    """A detector's row, moved back by an affine matrix to the picture of this size."""
    left, top, width, height = row[:4]
    corners = [(left + i * width, top + j * height) for i in (0, 1) for j in (0, 1)]
    indices = np.concatenate([corners, row[4:14].reshape(5, 2)]) @ back[:, :2].T + back[:, 2]
    indices = (indices / size).astype(np.float32)
    low, high = indices[:4].min(0), indices[:4].max(0)
    return Face(np.concatenate([low, high - low]), indices[4:], float(row[14]), name)


def prominence(face: Face, size: tuple[int, int]) -> float:
    """How large and central a face is: the side of its box, as a share of the picture's shorter
    side, times 1 in the picture's centre falling to 0 in its corners."""
    width, height = size
    side = np.sqrt(face.box[2] * width * face.box[3] * height) / min(size)
    off = (face.box[:2] + face.box[2:] / 2 - 0.5) * (width, height)
    return float(side * (1 - min(1.0, np.hypot(*off) / (np.hypot(width, height) / 2))))


def find_face(image: Image.Image, detector: Detector) -> Face:
    """The face that a picture is of: the most prominent that the first look is sure of.

    Where it is sure of none, the surest of all retries, if its confidence reaches LEAST; `found` is
    then the retry, or UNSURE. Else a guess in the centre, whose `found` is MISSED.
    """
    faces = look(image, detector, AT_ONCE)
    sure = [face for face in faces if face.score >= SURE]
    if sure:
        return max(sure, key=lambda face: prominence(face, image.size))
    faces += [face for attempt in RETRIES for face in look(image, detector, attempt)]
    if not faces:
        return central_guess(image.size)
    best = max(faces, key=lambda face: face.score)
    return best if best.score >= SURE else best._replace(found=UNSURE)


def central_guess(size: tuple[int, int]) -> Face:
    """Where a face would be, had the picture been cropped to it: a central square of three quarters
    of the shorter side, its points those of the template."""
    side = 0.75 * min(size) / np.array(size)
    corner = 0.5 - side / 2
    points = corner + side * (TEMPLATE / TEMPLATE_SIDE)
    box = np.concatenate([corner, side])
    return Face(box.astype(np.float32), points.astype(np.float32), 0.0, MISSED)


def find_all(
    image: Image.Image, detector: Detector, confidence: float = LEAST, overlap: float = OVERLAP
) -> list[Face]:
    """Every face in an RGB picture, surest first: small ones and large, turned pictures too.

    confidence: the least of a face, from LEAST to 1. overlap: highest intersection over union of
        two faces.
    """
    sides = [side for side in LOOKS if side < 2 * max(image.size)] or [LOOK]
    up = max(TURNS, key=lambda turn: sure_sum(look(image, detector, turn, 2 * LOOK)))
    faces = [face for side in sides for face in look(image, detector, up, side)]
    if not any(face.score >= SURE for face in faces):
        faces += [face for attempt in RETRIES for face in look(image, detector, attempt)]
    return apart([face for face in faces if face.score >= confidence], overlap)


def sure_sum(faces: Sequence[Face]) -> float:
    """Summed confidence of the faces that are sure: highest when a picture stands upright. Faces
    that lie on their side are found as well, but less surely, and their five points are wrong."""
    return sum(face.score for face in faces if face.score >= SURE)


def apart(faces: Sequence[Face], overlap: float) -> list[Face]:
    """Non-maximum suppression: the surest first, none that overlaps a surer one by more."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(intersection_over_union(face.box, other.box) <= overlap for other in kept):
            kept.append(face)
    return kept


def intersection_over_union(one: np.ndarray, two: np.ndarray) -> float:
    """Of two boxes (left, top, width, height), from 0 to 1.

    >>> intersection_over_union(np.array([0, 0, 2, 1]), np.array([1, 0, 2, 1]))
    0.3333333333333333
    """
    low, high = np.maximum(one[:2], two[:2]), np.minimum(one[:2] + one[2:], two[:2] + two[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    union = float(np.prod(one[2:]) + np.prod(two[2:])) - shared
    return shared / union if union > 0 else 0.0
