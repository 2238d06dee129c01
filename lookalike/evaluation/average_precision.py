"""How well boxes are found: average precision at an intersection over union.

average_precision([Found(boxes, scores, truth)])   # 0 to 1
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Found(NamedTuple):
    """What was found in a picture, and what there is.

    Attributes:
        boxes: (n, 4) left, top, width and height of what was found.
        scores: (n,) confidence of each.
        truth: (m, 4) what there is.
    """

    boxes: np.ndarray
    scores: np.ndarray
    truth: np.ndarray


class Measures(NamedTuple):
    """How well boxes were found.

    Attributes:
        precision: Average precision at an intersection over union of 0.5, from 0 to 1.
        recall: Share of the true boxes that are found with enough confidence.
        right: Share of what is found with that confidence that is right.
        boxes: Number of the true boxes.
    """

    precision: float
    recall: float
    right: float
    boxes: int


def average_precision(pictures: Sequence[Found], overlap: float = 0.5) -> float:
    """Return the area under the precision-recall curve of boxes, with precision made monotonic.

    As PASCAL VOC counts since 2010: boxes are taken by confidence over all pictures; one is right
    if its intersection over union with a true box that none before has taken is at least
    `overlap`. Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge (2010).

    Args:
        pictures: What was found in each, and what there is.
        overlap: The least intersection over union.

    Returns:
        From 0 to 1; not-a-number if there is nothing to find.

    >>> one, other = np.array([[0.0, 0, 2, 2]]), np.array([[9.0, 9, 2, 2]])
    >>> both, scores = np.concatenate([one, other]), np.array([0.9, 0.8])
    >>> average_precision([Found(both, scores, other)])  # the surest one is wrong
    0.5
    """
    total = sum(len(picture.truth) for picture in pictures)
    if not total:
        return float("nan")
    scores = np.concatenate([picture.scores for picture in pictures])
    right = np.concatenate([matches(picture, overlap) for picture in pictures])
    right = right[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision[right].sum() / total)


def matches(picture: Found, overlap: float = 0.5) -> np.ndarray:
    """Return which boxes of a picture are right, see `average_precision`.

    Returns:
        (n,) bool, in the order of the boxes found.
    """
    right = np.zeros(len(picture.boxes), bool)
    overlaps = overlaps_of(picture.boxes, picture.truth)
    for i in np.argsort(-picture.scores, kind="stable"):
        if overlaps.shape[1] and overlaps[i].max() >= overlap:
            right[i] = True
            overlaps[:, overlaps[i].argmax()] = -1.0
    return right


def measure(found: Sequence[Found], confidence: float) -> Measures:
    """Return how well boxes were found.

    Args:
        found: What was found in each picture, and what there is; at least one box.
        confidence: From which on a box counts for `recall` and `right`.
    """
    right = np.concatenate([matches(one) for one in found])
    sure = np.concatenate([one.scores for one in found]) >= confidence
    total = sum(len(one.truth) for one in found)
    share = float(right[sure].mean()) if sure.any() else 0.0
    return Measures(average_precision(found), float(right[sure].sum() / total), share, total)


def overlaps_of(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes (n, 4) and (m, 4) as (n, m), from 0 to 1.

    >>> overlaps_of(np.array([[0.0, 0, 2, 1]]), np.array([[1.0, 0, 2, 1], [5, 5, 1, 1]])).round(3)
    array([[0.333, 0.   ]])
    """
    one, two = one.astype(np.float64), two.astype(np.float64)
    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum((one[:, :2] + one[:, 2:])[:, None], (two[:, :2] + two[:, 2:])[None])
    shared = np.maximum(high - low, 0).prod(-1)
    union = one[:, 2:].prod(-1)[:, None] + two[:, 2:].prod(-1)[None] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))
