"""Faces: find them in a picture, choose one, and crop it as a face backbone wants it.

    faces = find_all(image, yunet)             # every face, surest first
    face = find_face(image, yunet)             # the one that the picture is of, or a central guess
    pixels = crop_face(image, face, Crop("aligned"), side=112)

Places are shares of a picture's width and height, so that they hold at whatever size it is decoded.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache as keep
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import cv2
import numpy as np
from PIL import Image

from config import EmbedSettings, UserError
from weights import YUNET, carried_file

# One thread a picture: pictures are many, and a sum is not split as the load decides.
cv2.setNumThreads(1)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

SURE = 0.6  # confidence that ends the search
LEAST = 0.3  # confidence of a face that is taken where nothing surer is found
OVERLAP = 0.4  # of two boxes with a higher intersection over union, the less sure is dropped
LOOK = 320  # longest side in pixels at which pictures are searched first
LOOKS = (LOOK, 2 * LOOK, 4 * LOOK, 8 * LOOK)  # and where faces of all sizes are wanted


class Face(NamedTuple):
    """A face in a picture, in shares of the picture's width and height.

    box: (4,) left, top, width, height. points: (5, 2) x and y of the eyes, the tip of the nose and
    the corners of the mouth, that on the picture's left first. score: confidence from 0 to 1.
    found: which of FOUND found it.
    """

    box: np.ndarray
    points: np.ndarray
    score: float
    found: str


class Detector(Protocol):
    """What finds faces. name: what its findings are cached under, with its version."""

    name: str

    def find(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (n, 15): box, five points, confidence of at least LEAST; in pixels
        of this array, in the order of Face."""


# ---- detectors ----------------------------------------------------------------------------------


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


# ---- finding ------------------------------------------------------------------------------------


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
    places = np.concatenate([corners, row[4:14].reshape(5, 2)]) @ back[:, :2].T + back[:, 2]
    places = (places / size).astype(np.float32)
    low, high = places[:4].min(0), places[:4].max(0)
    return Face(np.concatenate([low, high - low]), places[4:], float(row[14]), name)


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


# ---- cropping -----------------------------------------------------------------------------------

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
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Crop:
    """What of a picture a backbone sees.

    kind: `none` is all of it, `face` a square around the face, `aligned` the face moved, turned and
        scaled so that its five points come to lie on the template's.
    margin: on each side of a `face`, as a share of the face's longer side.
    template: for `aligned`, (x, y) of the five points in shares of the crop's side.
    """

    kind: Literal["none", "face", "aligned"] = "none"
    margin: float = 0.1
    template: Points = tuple(map(tuple, TEMPLATE / TEMPLATE_SIDE))

    def scaled(self, scale: float) -> "Crop":
        """The crop that shows a face `scale` times as large, about the same centre.

        >>> Crop("face", margin=0.5).scaled(2)  # half of the square: the face's box
        face 0.0 on black
        """
        if scale == 1:
            return self
        template = tuple(tuple((np.array(point) - 0.5) * scale + 0.5) for point in self.template)
        return Crop(self.kind, ((1 + 2 * self.margin) / scale - 1) / 2, template)

    def __repr__(self) -> str:
        """Only what makes a difference to the pixels; embeddings are cached by it."""
        kept = {"none": "", "face": f" {self.margin}", "aligned": f" {self.template}"}
        return f"{self.kind}{kept[self.kind]}{'' if self.kind == 'none' else ' on black'}"


WHOLE = Crop("none")


def crop_kind(settings: EmbedSettings) -> Literal["none", "face", "aligned"]:
    """What --crop asks for; `auto` is what the backbone was trained on."""
    if settings.crop != "auto":
        return settings.crop
    if settings.backbone == "inception_resnet_v1":
        return "face"
    aligned = settings.backbone == "sface" or settings.backbone.startswith("onnx:")
    return "aligned" if aligned else "none"


def crop_middle(pixels: np.ndarray, scale: float) -> np.ndarray:
    """The central part of (height, width, 3) pixels, 1 / scale of each side.

    >>> crop_middle(np.zeros((40, 32, 3)), 2).shape
    (20, 16, 3)
    """
    top, left = (round(length * (1 - 1 / scale) / 2) for length in pixels.shape[:2])
    return pixels[top : len(pixels) - top, left : pixels.shape[1] - left]


def crop_face(pixels: np.ndarray, face: Face, crop: Crop, side: int) -> np.ndarray:
    """(height, width, 3) uint8 pixels of a picture -> the crop of one of its faces, (side, side,
    3); what lies outside is black, as in the training of face backbones (the edge's colour instead
    costs 20 points)."""
    size = np.array([pixels.shape[1], pixels.shape[0]])
    if crop.kind == "aligned":
        matrix = similarity(face.points * size, np.array(crop.template) * side)
    else:
        centre = (face.box[:2] + face.box[2:] / 2) * size
        scale = side / max(1.0, float((face.box[2:] * size).max()) * (1 + 2 * crop.margin))
        matrix = np.array([[scale, 0, 0], [0, scale, 0]])
        matrix[:, 2] = side / 2 - scale * centre
    return warp(pixels, matrix, side)


def similarity(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """The (2, 3) matrix that turns, scales and moves (n, 2) points nearest to others.

    Least squares without reflection: Umeyama, Least-squares estimation of transformation parameters
    between two point patterns (1991).

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
    """Moves a picture by a similarity onto a square; first made smaller where it would lose more
    than half of its size, so that every pixel counts."""
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    shrink = min(int(1 / max(scale, 1e-6)), *pixels.shape[:2])
    if shrink > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(shrink))
        matrix = matrix @ np.diag([shrink, shrink, 1.0])
    return cv2.warpAffine(pixels, matrix, (side, side))


def pixels_needed(face: Face, side: float) -> int:
    """The side that a picture must be decoded at for its face to be `side` pixels."""
    return int(np.ceil(side / max(float(face.box[2:].min()), 1e-3)))
