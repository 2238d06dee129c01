"""Detect faces in a picture, and choose the one that it is of.

    detector = load_detector("yunet", Path("cache"))
    faces = find_faces(image, detector)     # every face, most confident first
    face = find_face(image, detector)       # the one that the picture is of, or a central guess

Coordinates are normalized to [0, 1] by the picture's width and height.
"""

import functools
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from PIL import Image

from lookalike.core.carriers import YUNET, carried_file
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash
from lookalike.evaluation.average_precision import overlaps_of
from lookalike.faces.geometry import Face, points_in

# One thread per picture: there are many, and a sum is not divided as the load decides.
cv2.setNumThreads(1)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

CONFIDENT = 0.6  # confidence that ends the search
MIN_CONFIDENCE = 0.3  # of a face that is used where there is none of more confidence
MAX_OVERLAP = 0.4  # intersection over union; of two boxes with more, the less confident is dropped
SEARCH_SIDE = 320  # longest side in pixels at which faces are searched for first
FACTORS = (1, 2, 4, 8)  # on a detector's side, for faces of all sizes


class Detector(Protocol):
    """A face detector.

    Attributes:
        name: Its name and version, which are part of the cache's key.
        side: Longest side in pixels that a picture is reduced to when it is searched first.
        has_points: Whether it finds the five points; without them it does not matter which way up
            a face is.
    """

    name: str
    side: int
    has_points: bool

    def find(self, pixels: np.ndarray) -> np.ndarray:
        """Detect faces.

        Args:
            pixels: (H, W, 3) uint8 RGB.

        Returns:
            (n, 15) box, five points and confidence of at least MIN_CONFIDENCE, in the order of
            `Face`, in pixels of the array.
        """


class YuNet:
    """YuNet, by OpenCV.

    Wu et al., YuNet: A Tiny Millisecond-level Face Detector (2023).

    Args:
        weights: The ONNX file.
    """

    side, has_points = SEARCH_SIDE, True

    def __init__(self, weights: Path) -> None:
        self.name = f"yunet {YUNET.sha256[:12]} opencv {cv2.__version__}"
        self.weights = str(weights.resolve())
        self.local = threading.local()  # a network has buffers: one for each thread

    def find(self, pixels: np.ndarray) -> np.ndarray:
        """Detect faces, see `Detector.find`."""
        if not hasattr(self.local, "net"):
            size = (SEARCH_SIDE, SEARCH_SIDE)
            self.local.net = cv2.FaceDetectorYN.create(
                self.weights, "", size, MIN_CONFIDENCE, MAX_OVERLAP, 5000
            )
        height, width = pixels.shape[:2]
        self.local.net.setInputSize((width, height))
        _, found = self.local.net.detect(np.ascontiguousarray(pixels[:, :, ::-1]))
        return np.zeros((0, 15), np.float32) if found is None else found


SMALLEST_FACE = 12  # pixels, for MTCNN


class Mtcnn:
    """MTCNN, by facenet-pytorch.

    Zhang et al., Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks
    (2016).

    Raises:
        UserError: facenet-pytorch is not installed.
    """

    side, has_points = SEARCH_SIDE, True

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
        self.net = MTCNN(keep_all=True, min_face_size=SMALLEST_FACE)

    def find(self, pixels: np.ndarray) -> np.ndarray:
        """Detect faces, see `Detector.find`."""
        none = np.zeros((0, 15), np.float32)
        if min(pixels.shape[:2]) < SMALLEST_FACE:  # it fails where no face fits in
            return none
        boxes, scores, points = self.net.detect(Image.fromarray(pixels), landmarks=True)
        if boxes is None:
            return none
        boxes, points = np.asarray(boxes, np.float32), np.asarray(points, np.float32)
        boxes[:, 2:] -= boxes[:, :2]
        columns = [boxes, points.reshape(len(boxes), 10), np.asarray(scores, np.float32)[:, None]]
        rows = np.concatenate(columns, axis=1)
        return rows[rows[:, 14] >= MIN_CONFIDENCE]


def load_detector(name: str, cache: Path) -> Detector:
    """Load a detector; the weights of those with a name come with a package.

    Args:
        name: `yunet`, `mtcnn`, or the file of a detector of one's own, see `faces.grid`.
        cache: Folder that the weights are copied to.

    Raises:
        UserError: A package that it needs is not installed, or the file is missing or damaged.
    """
    return _load_detector(name, cache, file_hash(Path(name)))


@functools.cache
def _load_detector(name: str, cache: Path, content: str | None) -> Detector:
    """Load a detector, once for each content of its file."""
    if name == "yunet":
        return YuNet(carried_file(YUNET, cache))
    if name == "mtcnn":
        return Mtcnn()
    from lookalike.faces.grid import GridDetector  # it imports torch, which YuNet does not need

    return GridDetector(Path(name))


class Attempt(NamedTuple):
    """A way to search a picture.

    Attributes:
        name: What a face that it finds has in `Face.found`.
        scale: Factor on the picture's size.
        border: Width of a gray border, as a share of the longest side.
        angle: By which the picture is turned, in degrees counterclockwise.
    """

    name: str
    scale: float = 1.0
    border: float = 0.0
    angle: float = 0.0


AT_ONCE = Attempt("at once")

ENLARGED = Attempt("upscaled", scale=2.0)
RETRIES = (
    ENLARGED,
    Attempt("padded", border=0.5),
    *(Attempt("rotated", border=0.2, angle=angle) for angle in (30, -30, 90, -90, 180)),
)

TURNS = (AT_ONCE, *(retry for retry in RETRIES if retry.angle in (90, -90, 180)))
UNSURE, MISSED = "low confidence", "not found"
FOUND = ("at once", "upscaled", "padded", "rotated", UNSURE, MISSED)


def search_picture(
    image: Image.Image, detector: Detector, attempt: Attempt, factor: int = 1
) -> list[Face]:
    """Return the faces that one attempt finds.

    Args:
        image: RGB picture.
        detector: The detector.
        attempt: How the picture is changed before.
        factor: Its longest side is reduced to so many times the detector's, before the attempt's
            scale.
    """
    scale = attempt.scale * min(1.0, factor * detector.side / max(image.size))
    width, height = (max(1, round(length * scale)) for length in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    border = round(attempt.border * max(width, height))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), attempt.angle, 1.0)
    matrix[:, 2] += border
    if border or attempt.angle:
        canvas = (width + 2 * border, height + 2 * border)
        pixels = cv2.warpAffine(pixels, matrix, canvas, borderValue=(127, 127, 127))
    inverse = cv2.invertAffineTransform(matrix)
    size = np.array([width, height])
    return [_as_face(row, inverse, size, attempt.name) for row in detector.find(pixels)]


def _as_face(row: np.ndarray, inverse: np.ndarray, size: np.ndarray, name: str) -> Face:
    """Return a detector's row, mapped back to the upright picture of this size."""
    left, top, width, height = row[:4]
    corners = [(left + i * width, top + j * height) for i in (0, 1) for j in (0, 1)]
    points = np.concatenate([corners, row[4:14].reshape(5, 2)])
    points = ((points @ inverse[:, :2].T + inverse[:, 2]) / size).astype(np.float32)
    low, high = points[:4].min(0), points[:4].max(0)
    return Face(np.concatenate([low, high - low]), points[4:], float(row[14]), name)


def prominence(face: Face, size: tuple[int, int]) -> float:
    """Return how large and central a face is.

    It is the side of the face's box, as a share of the picture's shorter side, times 1 in the
    picture's center, falling to 0 in its corners.

    Args:
        face: The face.
        size: Width and height of the picture.
    """
    width, height = size
    side = np.sqrt(face.box[2] * width * face.box[3] * height) / min(size)
    off = (face.box[:2] + face.box[2:] / 2 - 0.5) * (width, height)
    return float(side * (1 - min(1.0, np.hypot(*off) / (np.hypot(width, height) / 2))))


def find_face(image: Image.Image, detector: Detector) -> Face:
    """Return the face that a picture is of: the most prominent confident one.

    Where the first search finds none with the confidence CONFIDENT, the picture is searched again
    enlarged, padded and turned, and the most confident face of all is returned.

    Args:
        image: RGB picture.
        detector: The detector.

    Returns:
        The face. Its `found` is the attempt that found it, UNSURE for a confidence below CONFIDENT,
        or MISSED for a guess in the picture's center, where there is no face at all.
    """
    faces = search_picture(image, detector, AT_ONCE)
    confident = [face for face in faces if face.score >= CONFIDENT]
    if confident:
        return max(confident, key=lambda face: prominence(face, image.size))
    faces += [face for attempt in RETRIES for face in search_picture(image, detector, attempt)]
    if not faces:
        return central_guess(image.size)
    best = max(faces, key=lambda face: face.score)
    return best if best.score >= CONFIDENT else best._replace(found=UNSURE)


def central_guess(size: tuple[int, int]) -> Face:
    """Return where a face would be, had the picture been cropped to it.

    It is a central square of three quarters of the shorter side, its points those of the template.

    Args:
        size: Width and height of the picture.
    """
    side = 0.75 * min(size) / np.array(size)
    box = np.concatenate([0.5 - side / 2, side])
    return Face(box.astype(np.float32), points_in(box).astype(np.float32), 0.0, MISSED)


def find_faces(
    image: Image.Image,
    detector: Detector,
    confidence: float = MIN_CONFIDENCE,
    overlap: float = MAX_OVERLAP,
) -> list[Face]:
    """Return every face in a picture: small ones and large, in turned pictures too.

    Args:
        image: RGB picture.
        detector: The detector.
        confidence: The least of a face, from MIN_CONFIDENCE to 1.
        overlap: The highest intersection over union of two faces.

    Returns:
        The faces, most confident first.
    """
    factors = [n for n in FACTORS if n * detector.side < 2 * max(image.size)] or FACTORS[:1]
    turns = TURNS if detector.has_points else TURNS[:1]
    upright = max(turns, key=lambda turn: _uprightness(image, detector, turn))
    faces = [face for n in factors for face in search_picture(image, detector, upright, n)]
    if not detector.has_points and len(factors) == 1:  # its cells are coarse for a small picture
        faces += search_picture(image, detector, ENLARGED)
    if not any(face.score >= CONFIDENT for face in faces):
        faces += [face for attempt in RETRIES for face in search_picture(image, detector, attempt)]
    return suppress_overlaps([face for face in faces if face.score >= confidence], overlap)


def _uprightness(image: Image.Image, detector: Detector, turn: Attempt) -> float:
    """Return the summed confidence of the confident faces: highest if a turn makes them upright.

    Faces that lie on their side are found too, with less confidence, but their points are wrong.
    """
    faces = search_picture(image, detector, turn, factor=2)
    return sum(face.score for face in faces if face.score >= CONFIDENT)


def suppress_overlaps(faces: Sequence[Face], overlap: float) -> list[Face]:
    """Return the faces without those that overlap a more confident one (non-maximum suppression).

    Args:
        faces: In any order.
        overlap: The highest intersection over union of two faces.

    Returns:
        The remaining faces, most confident first.
    """
    remaining: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(intersection_over_union(face.box, other.box) <= overlap for other in remaining):
            remaining.append(face)
    return remaining


def intersection_over_union(one: np.ndarray, two: np.ndarray) -> float:
    """Return the overlap of two boxes (left, top, width, height), from 0 to 1.

    >>> intersection_over_union(np.array([0, 0, 2, 1]), np.array([1, 0, 2, 1]))
    0.3333333333333333
    """
    return float(overlaps_of(one[None], two[None])[0, 0])
