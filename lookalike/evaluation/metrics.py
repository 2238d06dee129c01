"""TODO lookalike.evaluation.metrics."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

SCORE_WEIGHTS = {1: 600, 5: 300, 10: 100}
RESAMPLES = 1000


def measure(hits: np.ndarray, relevant: np.ndarray, ks: Iterable[int] = (10,)) -> dict[str, Any]:
    """Every measure of every query, {name: (Q,) floats}; see the top of this file.

    hits: (Q, L) bool, in the order of the ranking. relevant: (Q,) int, N_q, at least 1.
    ks: lengths at which mAP@k is taken beside 10, and Recall@k beside 1, 5 and 10.

    >>> hits = np.array([[1, 0, 0, 0, 1]], bool)  # 2 hits among 5, of 4 relevant
    >>> values = measure(hits, np.array([4]), ks=(5,))
    >>> [round(float(values[name][0]), 3) for name in ("map", "map@5", "map@5_hits", "recall@1")]
    [0.35, 0.35, 0.7, 1.0]
    """
    lengths = sorted({10, *ks})
    # Only the hits count, and there are few: all sums are taken over them.
    query, place = np.divmod(np.flatnonzero(hits), hits.shape[1])
    before = np.searchsorted(query, query)  # hits of the queries above
    precision = (np.arange(1, len(query) + 1) - before) / (place + 1)

    def first(k: int, values: np.ndarray | None = None) -> np.ndarray:
        """Each query's number of hits among its first k, or the sum of their values."""
        chosen = place < k
        weights = None if values is None else values[chosen]
        return np.bincount(query[chosen], weights, len(hits))

    values = {f"recall@{k}": (first(k) > 0) * 1.0 for k in sorted({1, 5, *lengths})}
    score = sum(weight * values[f"recall@{k}"] for k, weight in SCORE_WEIGHTS.items())
    gained = first(hits.shape[1], precision)
    values = {"score": np.asarray(score), **values, "map": gained / relevant}
    for k in lengths:
        gained = first(k, precision)
        values[f"map@{k}"] = gained / np.minimum(relevant, k)
        values[f"map@{k}_hits"] = gained / np.maximum(first(k), 1)
    return values


def interval(values: np.ndarray, identities: Sequence[str], seed: int = 0) -> np.ndarray:
    """95 % intervals of means, (2, M), from (Q, M) values by a bootstrap over identities.

    Queries of one person are alike, so persons are drawn, not queries (a cluster bootstrap).
    """
    _, cluster = np.unique(np.asarray(identities), return_inverse=True)
    counts = np.bincount(cluster).astype(float)
    sums = np.stack([np.bincount(cluster, column) for column in values.T], axis=1)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES)
    means = (drawn @ sums) / (drawn @ counts)[:, None]
    return np.percentile(means, [2.5, 97.5], axis=0)


def threshold_at(strangers: np.ndarray, false_accept: float) -> float:
    """The least similarity that at most this share of strangers reaches.

    >>> threshold_at(np.array([0.1, 0.2, 0.3, 0.4]), 0.25)  # 0.4 is named, 0.3 just not
    0.30000000000000004
    """
    ordered = np.sort(strangers.astype(float))[::-1]
    allowed = int(false_accept * len(ordered) + 1e-9)  # 0.29 * 100 is 28.999…
    return float(np.nextafter(ordered[allowed], np.inf))
