"""Retrieval measures of every query, intervals of their means, and a threshold.

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
from numpy.typing import ArrayLike

SCORE_WEIGHTS = {1: 600, 5: 300, 10: 100}
HIGHEST_SCORE = 1000.0
NORMAL = 1.959964  # the 97.5 % quantile of the normal distribution
TINY = 1e-9


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


def clustered_interval(
    values: np.ndarray, identities: Sequence[str], highest: ArrayLike = 1.0
) -> np.ndarray:
    """Return 95 % intervals of the means of per-query values, for other identities like these.

    Queries of one identity are alike: the information in a mean is that of an effective number of
    independent yes-or-no results, m (1 - m) / variance, where the variance is that between
    identities. The interval is Clopper's and Pearson's for that number, reduced for the few degrees
    of freedom (Korn and Graubard, 1998, Survey Methodology 24, 193-201); it holds for values
    between 0 and 1, too, whose variance is at most m (1 - m).

    Near 0 and 1 the variance is estimated from few identities with another result, or from none. It
    is drawn towards the largest one that is possible, that of identities that are all right or all
    wrong, by the weight of two identities. So the interval is never of zero width.

    Args:
        values: (Q, M): M measures of Q queries, from 0 to `highest`.
        identities: The identity of each query, Q of them.
        highest: The highest value of each measure.

    Returns:
        (2, M) float64: the lower and the upper end of each measure's interval.

    Example:
        >>> values = np.array([[1.0], [1.0], [1.0], [0.0]])
        >>> clustered_interval(values, ["ada", "bo", "cy", "di"]).round(2).tolist()
        [[0.02], [1.0]]
    """
    means, numbers = effective_numbers(values / highest, identities)
    return clopper_pearson(means, numbers) * highest


def effective_numbers(
    values: np.ndarray, identities: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of per-query values, and how many independent results they are worth.

    Args:
        values: (Q, M): M measures of Q queries, from 0 to 1.
        identities: The identity of each query, Q of them.

    Returns:
        The (M,) means, and (M,) numbers as `clustered_interval` describes them; 0 for a single
        identity, which says nothing about others.
    """
    from scipy.special import stdtrit

    _, cluster = np.unique(np.asarray(identities), return_inverse=True)
    counts = np.bincount(cluster).astype(float)
    means = np.clip(values.mean(axis=0), 0, 1)
    if len(counts) < 2:
        return means, np.zeros(len(means))
    shares = counts / counts.sum()
    sums = np.stack([np.bincount(cluster, column) for column in values.T], axis=1)
    residuals = (sums / counts[:, None] - means) * shares[:, None]
    variance = (residuals**2).sum(axis=0) * len(counts) / (len(counts) - 1)
    largest = means * (1 - means) * (shares**2).sum()
    informative = 4 * len(counts) * means * (1 - means)
    variance = (informative * variance + 2 * largest) / (informative + 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        numbers = np.where(largest > 0, means * (1 - means) / variance, 1 / (shares**2).sum())
    few_degrees = (NORMAL / stdtrit(len(counts) - 1, 0.975)) ** 2
    return means, np.minimum(numbers, len(values)) * few_degrees


def clopper_pearson(means: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return 95 % intervals of shares that were observed in so many independent results.

    Args:
        means: (M,) observed shares, from 0 to 1.
        numbers: (M,) numbers of results; they need not be whole.

    Returns:
        (2, M): the lower and the upper ends (Clopper and Pearson, 1934).
    """
    from scipy.special import betaincinv

    right, wrong = numbers * means, numbers * (1 - means)
    low = np.where(right > 0, betaincinv(np.maximum(right, TINY), wrong + 1, 0.025), 0)
    high = np.where(wrong > 0, betaincinv(right + 1, np.maximum(wrong, TINY), 0.975), 1)
    return np.stack([low, high])


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
