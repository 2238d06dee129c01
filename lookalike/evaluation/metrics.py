"""Retrieval measures of every query, bootstrap intervals of their means, and a threshold.

For a query with N relevant gallery pictures and a submitted list of L names, let rel(i) be 1 where
the picture at rank i shows the query's identity, else 0, and P(i) = 1/i * sum(rel(1..i)):

    recall@k     1 if any of the first k is relevant, else 0 (hit rate, success@k)
    score        600 * recall@1 + 300 * recall@5 + 100 * recall@10, from 0 to 1000
    map          1/N * sum(P(i) * rel(i) for i <= L): at most L/N
    map@k        1/min(N, k) * sum(P(i) * rel(i) for i <= k): at most 1
    map@k_hits   the sum of map@k divided by the number of hits among the first k

Recall@k is the measure of metric learning (Oh Song et al., 2016), average precision that of
information retrieval (Manning, Raghavan and Schütze, 2008, section 8.4). `map@k_hits` is what
torchmetrics and open-metric-learning compute and what the baseline report gives as mAP; a single
lucky hit at rank 1 counts as perfect, so it stands here for comparison only.
"""

from collections.abc import Iterable, Sequence

import numpy as np

SCORE_WEIGHTS = {1: 600, 5: 300, 10: 100}
RESAMPLES = 1000  # bootstrap samples of an interval


def measure_queries(
    hits: np.ndarray, relevant: np.ndarray, ks: Iterable[int] = (10,)
) -> dict[str, np.ndarray]:
    """Return every measure of every query; the module's docstring defines them.

    Args:
        hits: (Q, L) bool: whether the picture at each rank is relevant, best rank first.
        relevant: (Q,) int: number of relevant pictures in the gallery, at least 1.
        ks: Lengths for `recall@k`, `map@k` and `map@k_hits`, besides recall at 1, 5 and 10 and
            average precision at 10.

    Returns:
        {name of the measure: (Q,) float64}, `score` first; `score` is from 0 to 1000, the others
        from 0 to 1.

    Example:
        >>> hits = np.array([[1, 0, 0, 0, 1]], bool)  # 2 hits in a list of 5, of 4 relevant
        >>> values = measure_queries(hits, np.array([4]), ks=(5,))
        >>> {name: round(float(value[0]), 3) for name, value in values.items() if "5" in name}
        {'recall@5': 1.0, 'map@5': 0.35, 'map@5_hits': 0.7}
        >>> float(values["score"][0]), round(float(values["map@10"][0]), 3)
        (1000.0, 0.35)
    """
    lengths = sorted({10, *ks})
    # Only the hits count, and they are few: all sums run over them.
    query, rank = np.divmod(np.flatnonzero(hits), hits.shape[1])
    hits_before = np.searchsorted(query, query)  # those of earlier queries
    precision = (np.arange(1, len(query) + 1) - hits_before) / (rank + 1)

    def sum_first(k: int, values: np.ndarray | None = None) -> np.ndarray:
        """Sum the values of each query's hits among its first k; without values, count them."""
        chosen = rank < k
        weights = None if values is None else values[chosen]
        return np.bincount(query[chosen], weights, len(hits))

    recalls = {f"recall@{k}": (sum_first(k) > 0) * 1.0 for k in sorted({1, 5, *lengths})}
    score = sum(weight * recalls[f"recall@{k}"] for k, weight in SCORE_WEIGHTS.items())
    average = sum_first(hits.shape[1], precision) / relevant
    values = {"score": np.asarray(score), **recalls, "map": average}
    for k in lengths:
        total = sum_first(k, precision)
        values[f"map@{k}"] = total / np.minimum(relevant, k)
        values[f"map@{k}_hits"] = total / np.maximum(sum_first(k), 1)
    return values


def bootstrap_interval(values: np.ndarray, identities: Sequence[str], seed: int = 0) -> np.ndarray:
    """Return 95 % intervals of the means of per-query values, by a bootstrap over identities.

    Queries of one identity are alike, so identities are resampled, not queries: the cluster
    bootstrap (Field and Welsh, 2007) with percentile ends (Efron and Tibshirani, 1993). A sample
    draws as many identities as there are, with replacement, and takes the mean of their queries.

    Args:
        values: (Q, M): M measures of Q queries.
        identities: The identity of each query, Q of them.
        seed: Seed of the resampling.

    Returns:
        (2, M) float64: the lower and the upper end of each measure's interval.

    Example:
        >>> values = np.array([[0.0], [0.0], [1.0], [1.0]])
        >>> bootstrap_interval(values, ["ada", "ada", "bo", "bo"]).tolist()
        [[0.0], [1.0]]
    """
    _, cluster = np.unique(np.asarray(identities), return_inverse=True)
    counts = np.bincount(cluster).astype(float)
    sums = np.stack([np.bincount(cluster, column) for column in values.T], axis=1)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES)
    means = (drawn @ sums) / (drawn @ counts)[:, None]
    return np.percentile(means, [2.5, 97.5], axis=0)


def threshold_at(impostor_scores: np.ndarray, false_accept_rate: float) -> float:
    """Return the lowest threshold that keeps the false-accept rate on impostors within a limit.

    A pair is accepted where its score reaches the threshold.

    Args:
        impostor_scores: (N,) scores of pairs of different identities, N at least 1.
        false_accept_rate: The share of them that may be accepted, from 0 to below 1.

    Returns:
        The threshold: just above the highest score that must be rejected.

    Example:
        >>> threshold = threshold_at(np.array([0.1, 0.2, 0.3, 0.4]), 0.25)
        >>> threshold <= 0.4, threshold > 0.3  # one of four is accepted
        (True, True)
    """
    ordered = np.sort(impostor_scores.astype(float))[::-1]
    allowed = int(false_accept_rate * len(ordered) + 1e-9)  # 0.29 * 100 is 28.999…
    return float(np.nextafter(ordered[allowed], np.inf))
