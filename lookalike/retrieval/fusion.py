"""Fuse what several models find: their embeddings, their scores or their ranks.

rows = concatenate([rows_a, rows_b], weights=(2, 1))
scores = fuse_ranks([scores_a, scores_b])
weights = learn_weights([scores_a, scores_b], same)
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

RANK_OFFSET = 60  # of reciprocal rank fusion, as its authors chose it
SHRINKAGE = 0.03  # of learned weights towards equal ones


def normalize_weights(weights: Sequence[float], count: int) -> np.ndarray:
    """Return (count,) float64 weights that sum to 1; equal ones where none are given.

    >>> normalize_weights((3, 1), 2).tolist(), normalize_weights((), 2).tolist()
    ([0.75, 0.25], [0.5, 0.5])
    """
    chosen = np.array(weights or [1.0] * count)
    return np.asarray(chosen / chosen.sum())


def concatenate(parts: Sequence[np.ndarray], weights: Sequence[float] = ()) -> np.ndarray:
    """Concatenate the embeddings of several models, weighted.

    Each part is multiplied by the square root of its normalized weight, so that the inner product
    of two rows is the weighted mean of the models' cosines.

    Args:
        parts: (N, D1), (N, D2), … rows of length 1.
        weights: How much each part counts; by default all the same.

    Returns:
        (N, D1 + D2 + …) float32 rows of length 1.

    >>> row = concatenate([np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])], (9, 16))
    >>> row.round(6).tolist()
    [[0.6000000238418579, 0.0, 0.0, 0.800000011920929]]
    """
    shares = normalize_weights(weights, len(parts))
    scaled = [np.sqrt(share) * part for share, part in zip(shares, parts, strict=True)]
    return np.concatenate(scaled, axis=1).astype(np.float32)


def joined_widths(widths: Sequence[tuple[int, ...]], dims: Sequence[int]) -> tuple[int, ...]:
    """Return the widths of the parts of concatenated embeddings, see `Embeddings`.

    >>> joined_widths([(), (2, 3)], [4, 5]), joined_widths([(), ()], [4, 5])
    ((4, 2, 3), ())
    """
    if not any(widths):
        return ()
    return tuple(w for own, dim in zip(widths, dims, strict=True) for w in own or (dim,))


def fuse_scores(parts: Sequence[np.ndarray], weights: Sequence[float] = ()) -> np.ndarray:
    """Average the scores of several models, each query's brought to mean 0 and deviation 1 first.

    The models may score on scales of their own. Z-score normalization: Jain, Nandakumar and Ross,
    Score normalization in multimodal biometric systems (2005).

    Args:
        parts: (Q, G) scores of each model.
        weights: How much each counts; by default all the same.

    Returns:
        (Q, G) float64.

    >>> fuse_scores([np.array([[1.0, 3.0]]), np.array([[700.0, 100.0]])], (3, 1)).tolist()
    [[-0.5, 0.5]]
    """
    return _weighted_sum([_standardized(scores) for scores in parts], weights)


def _standardized(scores: np.ndarray) -> np.ndarray:
    """Return (Q, G) scores, each query's with mean 0 and deviation 1, float64."""
    scores = scores - scores.mean(1, keepdims=True, dtype=np.float64)
    return np.asarray(scores / np.maximum(scores.std(1, keepdims=True), 1e-12))


def learn_weights(parts: Sequence[np.ndarray], same: np.ndarray) -> np.ndarray:
    """Learn how much each model counts in `fuse_scores`, from queries whose answer is known.

    The weights are those by which the relevant pictures are likeliest, where the softmax of the
    fused scores over the gallery is the probability of a picture: a conditional logit (McFadden,
    1974), as ListNet's (Cao et al., Learning to rank: from pairwise approach to listwise approach,
    2007). None is below 0, and they are shrunk towards equal ones: models of one kind differ by
    chance, and only one that knows little is left out.

    Args:
        parts: (Q, G) scores of each of M models.
        same: (Q, G) bool, whether a picture shows the query's identity; queries without any do not
            count.

    Returns:
        (M,) weights that sum to 1, rounded to three digits; equal ones where no query counts.

    >>> same = np.eye(3, dtype=bool)
    >>> learn_weights([same * 1.0, same * 5.0], same).tolist()
    [0.5, 0.5]
    """
    count, counts = len(parts), same.any(axis=1) & ~same.all(axis=1)
    if not counts.any():
        return normalize_weights((), count)
    scores = np.stack([_standardized(part)[counts] for part in parts], axis=2)
    outside = np.where(same[counts], 0.0, -np.inf)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        fused = scores @ weights
        relevant = softmax(fused + outside, axis=1) - softmax(fused, axis=1)
        likelihood = (logsumexp(fused + outside, axis=1) - logsumexp(fused, axis=1)).mean()
        slope = np.einsum("qg,qgm->m", relevant, scores) / len(scores)
        mean = weights.mean() + 1e-12
        share = weights / mean
        spread, pull = ((share - 1) ** 2).mean(), share - 1 - (share * (share - 1)).mean()
        gradient = SHRINKAGE * 2 / count * pull / mean - slope
        return float(SHRINKAGE * spread - likelihood), gradient

    found = minimize(loss, np.ones(count), jac=True, bounds=[(0, None)] * count, method="L-BFGS-B")
    return normalize_weights(found.x.tolist(), count).round(3)


def fuse_ranks(parts: Sequence[np.ndarray], weights: Sequence[float] = ()) -> np.ndarray:
    """Fuse rankings by reciprocal rank fusion: the weighted mean of 1 / (60 + rank).

    Ranks count from 1; equal scores of a model are in the order of the gallery. Cormack, Clarke and
    Büttcher, Reciprocal rank fusion outperforms Condorcet and individual rank learning methods
    (2009).

    Args:
        parts: (Q, G) scores of each model.
        weights: How much each counts; by default all the same.

    Returns:
        (Q, G) float64.

    >>> fused = fuse_ranks([np.array([[0.9, 0.1]]), np.array([[0.8, 0.2]])])
    >>> fused.tolist() == [[round(1 / 61, 12), round(1 / 62, 12)]]
    True
    """

    def reciprocal(scores: np.ndarray) -> np.ndarray:
        order = np.argsort(-scores, axis=1, kind="stable")
        ranks = np.empty(scores.shape)
        np.put_along_axis(ranks, order, np.arange(1.0, scores.shape[1] + 1)[None], axis=1)
        return np.asarray(1 / (RANK_OFFSET + ranks))

    return _weighted_sum([reciprocal(scores) for scores in parts], weights)


def _weighted_sum(parts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Sum the parts by their weights, rounded so that the order of the parts changes no tie."""
    total = np.zeros(parts[0].shape)
    for share, part in zip(normalize_weights(weights, len(parts)), parts, strict=True):
        total += share * part
    return total.round(12)
