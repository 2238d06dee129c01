"""Metrics of every query, by their names, and a threshold.

    metric = parse_metric("600*recall@1 + 300*recall@5 + 100*recall@10")
    measure_queries(hits, relevant, metric)["score"]

For a query with N relevant gallery pictures and a submitted list of L names, let rel(i) be 1 where
the picture at rank i shows the query's identity, else 0, H(k) = sum(rel(1..k)), P(i) = H(i)/i:

    recall@k       1 if any of the first k is relevant, else 0 (hit rate, success@k): the measure of
                   metric learning (Oh Song et al., 2016)
    precision@k    H(k) / k
    mp@k           H(m) / m, m = min(N, k): Google Universal Image Embedding 2022 takes mp@5
    r-precision    H(N) / N
    map            1/N * sum(P(i) * rel(i) for i <= L): at most L/N (Manning, Raghavan and Schütze,
                   2008, section 8.4)
    map@k          1/min(N, k) * sum(P(i) * rel(i) for i <= k): at most 1; Google Landmark Retrieval
                   takes map@100
    map@k_all      1/N * the same sum, as trec_eval's map_cut
    map@k_hits     1/H(k) * the same sum: what torchmetrics and open-metric-learning compute and
                   what the baseline report gives as mAP; a single lucky hit at rank 1 counts as
                   perfect
    map@r          1/N * sum(P(i) * rel(i) for i <= N) (Musgrave et al., 2020)
    mrr, mrr@k     1/i of the first hit, among the first k; with one right answer a query, this is
                   the MAP@5 of Humpback Whale and Happywhale
    f1             2 * H(L) / (L + N): Shopee's Price Match Guarantee takes its mean

The metric of a competition is a weighted sum of these, and its value is the `score`.
`balanced-` before a name takes the mean over identities of the means over their queries.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lookalike.core.errors import UserError
from lookalike.core.settings import Settings

TOP = 10  # gallery names of a query that a leaderboard takes, where its metric looks at no more
OPEN_LENGTH = 100  # names of a query for metrics that look at as many as are relevant
BALANCED = "balanced-"
STANDARD = ("recall@1", "recall@5", "recall@10", "map", "map@10", "map@10_hits")


class Metric(NamedTuple):
    """The metric of a competition.

    Attributes:
        name: As it was written; `score` stands for the default.
        terms: (weight, name of the measure) of what it sums.
        length: How many names a query's list has.
    """

    name: str
    terms: tuple[tuple[float, str], ...]
    length: int = TOP

    @property
    def highest(self) -> float:
        """The highest value that it can have."""
        return sum(weight for weight, _ in self.terms)

    @property
    def is_balanced(self) -> bool:
        """Whether every identity counts alike."""
        return self.terms[0][1].startswith(BALANCED)

    def show(self, value: float) -> str:
        """Return a value in as many digits as its range needs.

        >>> SCORE.show(912.54), parse_metric("map@100").show(0.91254)
        ('912.5', '0.9125')
        """
        return f"{value:.1f}" if self.highest >= 100 else f"{value:.4f}"


class Hits(NamedTuple):
    """The hits of all queries, one entry each: only they count, and they are few."""

    query: np.ndarray
    rank: np.ndarray  # from 0
    precision: np.ndarray
    relevant: np.ndarray
    lengths: np.ndarray

    def sum_first(self, k: float | np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
        """Sum the values of each query's hits among its first k; without values, count them.

        Args:
            k: A length, or one for each query.
            values: One for each hit.
        """
        limits = k[self.query] if isinstance(k, np.ndarray) else k
        chosen = self.rank < limits
        weights = None if values is None else values[chosen]
        return np.bincount(self.query[chosen], weights, len(self.relevant))

    def first(self, k: float) -> np.ndarray:
        """Return 1 / the rank of each query's first hit among its first k, else 0."""
        values = np.zeros(len(self.relevant))
        chosen = self.rank < k
        np.maximum.at(values, self.query[chosen], 1 / (self.rank[chosen] + 1))
        return values


Measure = Callable[[Hits, float], np.ndarray]

# By the form of their names; k is infinite where the name has none.
MEASURES: dict[str, Measure] = {
    "recall@k": lambda h, k: (h.sum_first(k) > 0) * 1.0,
    "precision@k": lambda h, k: h.sum_first(k) / k,
    "mp@k": lambda h, k: h.sum_first(np.minimum(h.relevant, k)) / np.minimum(h.relevant, k),
    "r-precision": lambda h, _: h.sum_first(h.relevant) / h.relevant,
    "map": lambda h, k: h.sum_first(k, h.precision) / h.relevant,
    "map@k": lambda h, k: h.sum_first(k, h.precision) / np.minimum(h.relevant, k),
    "map@k_all": lambda h, k: h.sum_first(k, h.precision) / h.relevant,
    "map@k_hits": lambda h, k: h.sum_first(k, h.precision) / np.maximum(h.sum_first(k), 1),
    "map@r": lambda h, _: h.sum_first(h.relevant, h.precision) / h.relevant,
    "mrr": lambda h, k: h.first(k),
    "mrr@k": lambda h, k: h.first(k),
    "f1": lambda h, k: 2 * h.sum_first(k) / (h.lengths + h.relevant),
}
TO_THE_RELEVANT = ("r-precision", "map@r")
_LENGTH = re.compile(r"@([1-9][0-9]{0,5})")


def parse_metric(text: str, k: int | None = None) -> Metric:
    """Return the metric with a name, or the weighted sum of several.

    Args:
        text: Such as `map@100`, `600*recall@1+300*recall@5+100*recall@10`, or `score` for that.
        k: How many names a query's list has. Default: as many as the metric looks at, at least ten.

    Raises:
        UserError: A name is unknown, or a weight is not a positive number.

    Example:
        >>> parse_metric("map@100").length, parse_metric("0.5*map@5 + 0.5*mrr").terms
        (100, ((0.5, 'map@5'), (0.5, 'mrr')))
    """
    written = DEFAULT_METRIC if text == "score" else text
    terms = tuple(_parse_term(term.strip(), text) for term in written.split("+"))
    if len({name.startswith(BALANCED) for _, name in terms}) > 1:
        raise UserError(f"metric {text!r}: all parts of a sum are {BALANCED} or none is")
    lengths = [TOP, *(int(k) for _, name in terms for k in _LENGTH.findall(name))]
    if any(name.removeprefix(BALANCED) in TO_THE_RELEVANT for _, name in terms):
        lengths.append(OPEN_LENGTH)
    return Metric(written, terms, k or max(lengths))


def _parse_term(term: str, text: str) -> tuple[float, str]:
    """Return the weight and the name of a part of a sum."""
    weight, star, name = (part.strip() for part in term.rpartition("*"))
    try:
        factor = float(weight) if star else 1.0
    except ValueError:
        factor = 0.0
    if not 0 < factor < 1e6:
        raise UserError(f"metric {text!r}: {weight!r} is no weight above 0, such as 600")
    if _form(name) not in MEASURES:
        known = ", ".join(MEASURES)
        raise UserError(
            f"metric {text!r}: {name!r} is unknown; known are {known}, with a number for k, each "
            f"also with {BALANCED} in front, and sums such as 600*recall@1+400*map@10"
        )
    return factor, name


def _form(name: str) -> str:
    """Return the form of a measure's name.

    >>> _form("balanced-map@10_hits")
    'map@k_hits'
    """
    return "" if "@k" in name else _LENGTH.sub("@k", name.removeprefix(BALANCED))


DEFAULT_METRIC = Settings().general.metric
SCORE = parse_metric(DEFAULT_METRIC)


def measures_at(k: int | None) -> list[str]:
    """Return the names of Recall and of both mAP at a length; none where there is none.

    >>> measures_at(20)
    ['recall@20', 'map@20', 'map@20_hits']
    """
    return [] if k is None else [f"recall@{k}", f"map@{k}", f"map@{k}_hits"]


def run_metric(settings: Settings) -> Metric:
    """Return the metric of a run, with the length of its lists.

    Raises:
        UserError: Its name is unknown.
    """
    return parse_metric(settings.general.metric, settings.general.k)


def measure_queries(
    hits: np.ndarray,
    relevant: np.ndarray,
    metric: Metric = SCORE,
    also: Iterable[str] = (),
    identities: Sequence[str] | None = None,
    lengths: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return measures of every query; the module's docstring defines them.

    Args:
        hits: (Q, L) bool: whether the picture at each rank is relevant, best rank first.
        relevant: (Q,) int: number of relevant pictures in the gallery, at least 1.
        metric: What the score is.
        also: Names of further measures, besides those of the metric and of `STANDARD`.
        identities: The Q identities of the queries, which `balanced-` weighs by.
        lengths: (Q,) int: the number of names in each list, which f1 counts. Default: L.

    Returns:
        {name of the measure: (Q,) float64}, `score` first; all others from 0 to 1. Those that are
        balanced are multiplied so that their mean over the queries is that over the identities.

    Example:
        >>> hits = np.array([[1, 0, 0, 0, 1]], bool)  # 2 hits in a list of 5, of 4 relevant
        >>> values = measure_queries(hits, np.array([4]), also=["map@5", "map@5_hits"])
        >>> {name: round(float(value[0]), 3) for name, value in values.items() if "5" in name}
        {'recall@5': 1.0, 'map@5': 0.35, 'map@5_hits': 0.7}
        >>> float(values["score"][0]), round(float(values["map@10"][0]), 3)
        (1000.0, 0.35)
    """
    query, rank = np.divmod(np.flatnonzero(hits), hits.shape[1])
    before = np.searchsorted(query, query)  # the hits of earlier queries
    precision = (np.arange(1, len(query) + 1) - before) / (rank + 1)
    if lengths is None:
        lengths = np.full(len(hits), hits.shape[1])
    found = Hits(query, rank, precision, relevant, lengths)
    terms = [name for _, name in metric.terms]
    # A single measure is the score itself: it stands there once.
    named = terms if metric.terms != ((1.0, terms[0]),) else []
    values = {
        name: _measure(found, name, identities)
        for name in dict.fromkeys([*terms, *STANDARD, *also])
    }
    score = sum(weight * values[name] for weight, name in metric.terms)
    shown = dict.fromkeys([*STANDARD, *named, *also])
    return {"score": np.asarray(score), **{name: values[name] for name in shown}}


def _measure(hits: Hits, name: str, identities: Sequence[str] | None) -> np.ndarray:
    """Return a measure of every query, weighted where it is balanced."""
    if _form(name) not in MEASURES:
        parse_metric(name)
    found = _LENGTH.search(name)
    values = MEASURES[_form(name)](hits, int(found.group(1)) if found else np.inf)
    if not name.startswith(BALANCED):
        return values
    if identities is None:
        raise UserError(f"metric {name!r}: needs the identities of the queries")
    _, cluster, counts = np.unique(np.asarray(identities), return_inverse=True, return_counts=True)
    return values * (len(values) / len(counts) / counts[cluster])


def over_identities(values: np.ndarray, identities: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return the means over each identity's queries of a balanced measure, and the identities.

    Args:
        values: (Q,) of the queries, multiplied as `measure_queries` does.
        identities: The Q identities.

    >>> over_identities(np.array([0.5, 0.5, 0.0]), ["ada", "ada", "bo"])
    (array([0.66666667, 0.        ]), ['ada', 'bo'])
    """
    names, cluster = np.unique(np.asarray(identities), return_inverse=True)
    return np.bincount(cluster, values) * len(names) / len(values), names.tolist()


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
