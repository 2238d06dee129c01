"""95 % intervals of means over queries, for other identities like these."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

NORMAL = 1.959964  # the 97.5 % quantile of the normal distribution
TINY = 1e-9


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
