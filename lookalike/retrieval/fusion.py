"""TODO lookalike.retrieval.fusion."""

from collections.abc import Sequence

import numpy as np

RANK_OFFSET = 60  # of reciprocal rank fusion, as its authors chose it


def shares(weights: Sequence[float], count: int) -> np.ndarray:
    """(count,) float64 that sum to 1: the weights, or equal ones where none were given.

    >>> shares((3, 1), 2).tolist(), shares((), 2).tolist()
    ([0.75, 0.25], [0.5, 0.5])
    """
    embeddings = np.array(weights or [1.0] * count)
    return np.asarray(embeddings / embeddings.sum())


def joined(parts: Sequence[np.ndarray], weights: Sequence[float] = ()) -> np.ndarray:
    """Weighted concatenation: (N, D1), (N, D2), … unit rows -> (N, D1 + D2 + …) float32 rows, of
    length 1 again.

    Each part is multiplied by the square root of its share, so that the inner product of two rows
    is the weighted mean of the members' cosines.
    """
    scaled = [np.sqrt(s) * part for s, part in zip(shares(weights, len(parts)), parts, strict=True)]
    return np.concatenate(scaled, axis=1).astype(np.float32)


def fuse_scores(parts: Sequence[np.ndarray], weights: Sequence[float] = ()) -> np.ndarray:
    """Weighted mean of (Q, G) scores, each query's brought to mean 0 and deviation 1 first: members
    may measure on scales of their own (Z-score normalisation: Jain et al., 2005).

    >>> fuse_scores([np.array([[1.0, 3.0]]), np.array([[700.0, 100.0]])], (3, 1)).tolist()
    [[-0.5, 0.5]]
    """

    def normalized(scores: np.ndarray) -> np.ndarray:
        scores = scores - scores.mean(1, keepdims=True, dtype=np.float64)
        return np.asarray(scores / np.maximum(scores.std(1, keepdims=True), 1e-12))

    return _weighted_sum([normalized(scores) for scores in parts], weights)


def fuse_ranks(parts: Sequence[np.ndarray], weights: Sequence[float] = ()) -> np.ndarray:
    """Reciprocal rank fusion of (Q, G) scores: the weighted mean of 1 / (60 + rank).

    Ranks count from 1; equal scores of a member are in the order of the gallery. Cormack, Clarke
    and Büttcher, Reciprocal rank fusion outperforms Condorcet and individual rank learning methods
    (2009).
    """

    def reciprocal(scores: np.ndarray) -> np.ndarray:
        order = np.argsort(-scores, axis=1, kind="stable")
        ranks = np.empty(scores.shape)
        np.put_along_axis(ranks, order, np.arange(1.0, scores.shape[1] + 1)[None], axis=1)
        return np.asarray(1 / (RANK_OFFSET + ranks))

    return _weighted_sum([reciprocal(scores) for scores in parts], weights)


def _weighted_sum(parts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Rounded, so that what is equal in one order of the members is equal in every other."""
    total = np.zeros(parts[0].shape)
    for share, part in zip(shares(weights, len(parts)), parts, strict=True):
        total += share * part
    return total.round(12)
