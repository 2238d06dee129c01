"""Local features: points of a picture that look alike wherever they are, described by RootSIFT.

    points = local_points(pictures, root, cache)
    points.descriptors      # (M, 128) float32 rows of length 1
    points.owners           # (M,) the number of the picture that each is of

An embedding sums a picture up; points tell two coats of stripes, or two packages, apart by what is
the same on them. They are found once for each picture and cached by its content.

Lowe, Distinctive image features from scale-invariant keypoints (2004); Arandjelović and Zisserman,
Three things everyone should know to improve object retrieval (2012).
"""

from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from lookalike.core.cache import FeatureCache, keys_of
from lookalike.core.numeric import unit
from lookalike.data.pictures import add_rows, open_source

SIDE = 384  # pixels of the longer side of a picture in which points are searched for
CONTRAST = 0.02  # of a point, half of what OpenCV asks for: coats and skins have little
MOST = 2000  # points of a picture, the largest ones: grass and gravel have many small ones
WIDTH = 128  # numbers of a descriptor, each a byte
PLACE = 4  # numbers of a place, see `LocalPoints`
ROW = WIDTH + 4 * PLACE  # bytes of a point


class LocalPoints(NamedTuple):
    """The points of N pictures, one picture after the other.

    Attributes:
        descriptors: (M, 128) float32 rows of length 1.
        places: (M, 4) float32: x and y as shares of the picture's longer side, the logarithm to
            base 2 of the point's size, and its direction in degrees.
        owners: (M,) the number of the picture that each point is of, ascending.
        pictures: N.
    """

    descriptors: np.ndarray
    places: np.ndarray
    owners: np.ndarray
    pictures: int


def local_points(pictures: pd.DataFrame, root: Path, cache: Path) -> LocalPoints:
    """Return the points of pictures; a picture is searched only once, and cached.

    Args:
        pictures: Readable catalogue rows; their `path` (below `root`) and `content` are used.
        root: Folder of the data set.
        cache: Folder of the cache.

    Raises:
        UserError: A picture is gone or has changed since the catalogue was made.
    """
    store = _open_store(cache)
    rows = store.fetch(
        keys_of(pictures.content), lambda missing: _search(pictures.iloc[missing], root, store)
    )
    return _unpack(rows.reshape(len(pictures), MOST, ROW))


def search_points(pictures: pd.DataFrame, root: Path, cache: Path) -> None:
    """Search pictures for points into the cache, as `local_points` does, and return none of them.

    The points of all pictures may be more than the memory holds.
    """
    new = unsearched(pictures, cache)
    if len(new):
        _search(new, root, _open_store(cache))


def unsearched(pictures: pd.DataFrame, cache: Path) -> pd.DataFrame:
    """Return the pictures that have not been searched for points yet, one of equal ones."""
    return pictures.iloc[_open_store(cache).missing(keys_of(pictures.content))]


def find_points(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the points of a picture, the largest ones where there are more than `MOST`.

    Args:
        pixels: (H, W, 3) uint8 RGB.

    Returns:
        (n, 128) uint8 SIFT descriptors and (n, 4) float32 places, see `LocalPoints`; n ≤ `MOST`.
    """
    gray, side = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), max(pixels.shape[:2])
    if side > SIDE:
        shape = [max(1, round(length * SIDE / side)) for length in gray.shape[::-1]]
        gray = cv2.resize(gray, shape, interpolation=cv2.INTER_AREA)
    finder = cv2.SIFT.create(contrastThreshold=CONTRAST)
    found, descriptors = finder.detectAndCompute(gray, None)
    largest = np.argsort([-point.size for point in found], kind="stable")[:MOST]
    length = max(gray.shape)
    places = [
        (point.pt[0] / length, point.pt[1] / length, np.log2(point.size), point.angle)
        for point in found
    ]
    rows = np.zeros((0, WIDTH)) if descriptors is None else descriptors
    as_array = np.array(places, np.float32).reshape(-1, PLACE)
    return rows[largest].astype(np.uint8), as_array[largest]


def _open_store(cache: Path) -> FeatureCache:
    libraries = {name: version(name) for name in ("opencv-python-headless", "pillow")}
    about = {"side": SIDE, "contrast": CONTRAST, "most": MOST, "libraries": libraries}
    return FeatureCache(cache, "points", about, MOST * ROW, np.uint8)


def _search(pictures: pd.DataFrame, root: Path, store: FeatureCache) -> None:
    """Add the points of pictures to the cache; those before an error stay in it."""

    def search(source: Path | np.ndarray, content: str) -> np.ndarray:
        return _pack(*find_points(np.array(open_source(source, content, SIDE))))

    add_rows(store, pictures, root, search, "finding points")


def _pack(descriptors: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return a picture's points as a row of the cache: bytes, filled up with zeros."""
    row = np.zeros((MOST, ROW), np.uint8)
    row[: len(descriptors), :WIDTH] = descriptors
    row[: len(places), WIDTH:] = np.ascontiguousarray(places, "<f4").view(np.uint8)
    return row.ravel()


def _unpack(rows: np.ndarray) -> LocalPoints:
    """Return the points in (N, MOST, ROW) bytes; a descriptor of zeros is none."""
    owners, numbers = np.nonzero(rows[:, :, :WIDTH].any(axis=2))
    points = rows[owners, numbers]
    places = np.ascontiguousarray(points[:, WIDTH:]).view("<f4")
    return LocalPoints(root_sift(points[:, :WIDTH]), places, owners, len(rows))


def root_sift(descriptors: np.ndarray) -> np.ndarray:
    """Return the square roots of descriptors' shares, float32 rows of length 1.

    >>> root_sift(np.array([[9, 16]], np.uint8)).round(4).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    return unit(np.sqrt(descriptors.astype(np.float32)))
