"""Rank a gallery for every query: one function for arrays.

    ranking = rank(queries, gallery, RetrieveSettings(center=True), k=10)
    as_mapping(ranking)     # {query: [gallery names, best first]}

The stages index and retrieve rank by the same steps what they have stored: see `galleries`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import get_args, get_type_hints

import numpy as np
from numpy.typing import ArrayLike

from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.numeric import unit
from lookalike.core.settings import RetrieveSettings
from lookalike.evaluation.metrics import TOP
from lookalike.retrieval.embeddings import Embeddings
from lookalike.retrieval.index import (
    Ranking,
    build_index,
    ranking_of,
    search,
)
from lookalike.retrieval.postprocess import (
    apply,
    learns_projection,
    needs_labeled,
    needs_scores,
    score_all,
)

UNIT_TOLERANCE = 1e-5  # rows whose lengths differ from 1 by less count as normalized


def rank(
    queries: ArrayLike,
    gallery: ArrayLike,
    settings: RetrieveSettings | None = None,
    k: int = TOP,
    query_names: Iterable[str] | None = None,
    gallery_names: Iterable[str] | None = None,
    labeled: np.ndarray | tuple[np.ndarray, np.ndarray] | None = None,
    identities: Sequence[str] | tuple[Sequence[str], Sequence[str]] | None = None,
) -> Ranking:
    """Rank the gallery for every query, by cosine and the chosen post-processing steps.

    Equal scores are ordered by gallery name, ascending.

    Args:
        queries: (Q, D) embeddings of the queries. Rows that are not of length 1 are normalized.
        gallery: (G, D) embeddings of the gallery.
        settings: The steps, such as `RetrieveSettings(center=True, rerank="reciprocal")`; by
            default none. What concerns files, the kind of index and ensembles is ignored.
        k: How many gallery pictures to return; a smaller gallery gives all it has.
        query_names: The Q names of the queries, without repeats; by default the row numbers.
        gallery_names: The G names of the gallery pictures, without repeats; by default the row
            numbers.
        labeled: (L, D) embeddings of labeled pictures, for the steps that learn from them:
            `whiten`, and with `no_transductive` also `center` and `hubs`. Where domains differ, a
            pair: labeled pictures of the queries' domain, and of the gallery's.
        identities: The identities of the labeled pictures, which `project_steps` learns from; a
            pair where `labeled` is one.

    Returns:
        The k best gallery pictures of each query, in the order of the queries.

    Raises:
        UserError: An array is empty, not of shape (N, D) or not finite, or has another D; names
            are repeated or not as many as rows; k is below 1; a setting is out of its bounds or not
            among its choices; or a step needs `labeled`.
        TypeError: `settings` is no `RetrieveSettings`.

    >>> from lookalike.retrieval.index import as_mapping
    >>> queries = np.array([[1.0, 0.1]])
    >>> gallery = np.array([[0.0, 2.0], [3.0, 0.0], [1.0, 1.0]])
    >>> ranking = rank(queries, gallery, k=2, query_names=["q.jpg"], gallery_names=["a", "b", "c"])
    >>> as_mapping(ranking)
    {'q.jpg': ['b', 'c']}
    >>> as_mapping(rank(queries, gallery))
    {'0': ['1', '2', '0']}
    """
    settings = RetrieveSettings() if settings is None else settings
    _check_steps(settings)
    if k < 1:
        raise UserError(f"k = {k}: must be at least 1")
    arrays = [_unit_rows(queries, "queries"), _unit_rows(gallery, "gallery")]
    names = [
        _unique_names(query_names, len(arrays[0]), "query_names"),
        _unique_names(gallery_names, len(arrays[1]), "gallery_names"),
    ]
    if labeled is not None:
        pair = labeled if isinstance(labeled, tuple) else (labeled,)
        rows = [_unit_rows(part, "labeled") for part in pair]
        arrays += [rows[0], rows[-1]]
    elif needs_labeled(settings):
        raise UserError(
            "whiten, and with no_transductive also center and hubs, learn from labeled pictures: "
            "pass their embeddings as labeled"
        )
    else:
        arrays += [arrays[0][:0]] * 2
    dims = sorted({rows.shape[1] for rows in arrays})
    if len(dims) > 1:
        raise UserError(f"all embeddings must have the same number of columns, not {dims}")
    known = _identities_of(arrays[2:], identities, settings)
    embeddings = Embeddings(arrays[0], arrays[1], arrays[2], arrays[3], known)
    return rank_embeddings(embeddings, settings, names[1], names[0], k)


def _identities_of(
    labeled: Sequence[np.ndarray],
    identities: Sequence[str] | tuple[Sequence[str], Sequence[str]] | None,
    settings: RetrieveSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the identities of both sides' labeled rows; UserError where they do not fit."""
    if identities is None:
        if learns_projection(settings):
            raise UserError("project_steps learns from identities: pass those of labeled")
        return np.zeros(0, str), np.zeros(0, str)
    pair = identities if isinstance(identities, tuple) else (identities, identities)
    first, second = (np.array(list(map(str, side)), str) for side in pair)
    if (len(first), len(second)) != tuple(map(len, labeled)):
        raise UserError("identities: as many as labeled has rows, in a pair where it is one")
    return (first, first) if labeled[0] is labeled[1] else (first, second)


def _check_steps(settings: RetrieveSettings) -> None:
    """Raise an error where a step has an impossible value, which a command line would refuse."""
    if not isinstance(settings, RetrieveSettings):
        raise TypeError(f"settings must be RetrieveSettings, not {type(settings).__name__}")
    check_bounds(settings)
    for name in ("hubs", "rerank"):
        value, choices = getattr(settings, name), get_args(get_type_hints(RetrieveSettings)[name])
        if value not in choices:
            raise UserError(f"{name} {value!r}: must be one of {', '.join(choices)}")


def _unit_rows(rows: ArrayLike, name: str) -> np.ndarray:
    """Return float32 rows of length 1; those that are of length 1 already stay the same bits."""
    rows = np.ascontiguousarray(rows, np.float32)
    if rows.ndim != 2 or not rows.size:
        raise UserError(f"{name}: must be a non-empty array of shape (N, D), not {rows.shape}")
    if not np.isfinite(rows).all():
        raise UserError(f"{name}: holds values that are not finite")
    lengths = np.linalg.norm(rows, axis=1)
    return rows if np.allclose(lengths, 1, rtol=0, atol=UNIT_TOLERANCE) else unit(rows)


def _unique_names(names: Iterable[str] | None, count: int, option: str) -> list[str]:
    """Return the names, by default row numbers; raise UserError where they do not fit the rows."""
    chosen = [str(number) for number in range(count)] if names is None else list(map(str, names))
    if len(chosen) != count:
        raise UserError(f"{option}: {len(chosen)} names for {count} rows")
    if len(set(chosen)) < count:
        repeated = next(name for name, number in Counter(chosen).items() if number > 1)
        raise UserError(f"{option}: {repeated!r} is there more than once")
    return chosen


def rank_embeddings(
    embeddings: Embeddings,
    settings: RetrieveSettings,
    gallery_names: Sequence[str],
    query_names: Sequence[str],
    k: int = TOP,
) -> Ranking:
    """Rank the gallery of a retrieval task by the chosen steps, with exact search.

    Args:
        embeddings: Of the task. Steps that learn from labeled pictures change nothing where there
            are none.
        settings: The steps.
        gallery_names: The name of each gallery row.
        query_names: The name of each query row.
        k: How many to return.
    """
    embeddings = apply(embeddings, settings)
    if needs_scores(settings):
        return ranking_of(score_all(embeddings, settings), gallery_names, query_names, k)
    return search(
        build_index(embeddings.gallery), gallery_names, embeddings.queries, query_names, k
    )
