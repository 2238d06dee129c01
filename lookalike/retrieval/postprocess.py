"""Post-process embeddings and scores: centering, whitening, neighbors, hubness, clusters.

    embeddings = apply(embeddings, settings)      # steps from embeddings to embeddings
    scores = score_all(embeddings, settings)      # steps from embeddings to scores of all pairs

Each step is an option of the retrieve stage, off by default; the stage auto tries them on
labeled pictures. A step is transductive when a query profits from the other queries of the test;
where the rules forbid that, `--no-transductive` has such a step learn from labeled pictures
instead, or leaves it out.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from sklearn.cluster import AgglomerativeClustering

from lookalike.core.errors import UserError
from lookalike.core.numeric import first_of_equal, unit
from lookalike.core.settings import RetrieveSettings
from lookalike.retrieval.embeddings import Embeddings, center
from lookalike.retrieval.fusion import fuse_scores
from lookalike.retrieval.projection import project
from lookalike.retrieval.rerank import k_reciprocal

QUERY_ALPHA, GALLERY_ALPHA = 1.0, 3.0  # a neighbor's weight is its cosine to this power
INVERSE_TEMPERATURE = 10.0  # of the inverted softmax
CSLS_NEIGHBORS = 10
CHUNK = 1024  # rows of a similarity matrix at once


def needs_labeled(settings: RetrieveSettings) -> bool:
    """Return whether a step learns from labeled pictures.

    >>> needs_labeled(RetrieveSettings(whiten=96)), needs_labeled(RetrieveSettings(center=True))
    (True, False)
    >>> needs_labeled(RetrieveSettings(center=True, no_transductive=True))
    True
    """
    inductive = settings.no_transductive and (settings.center or settings.hubs != "none")
    return bool(settings.whiten) or learns_projection(settings) or inductive


def learns_projection(settings: RetrieveSettings) -> bool:
    """Return whether a projection is learned from the identities of labeled pictures."""
    return settings.project_steps is not None


# ---- embeddings to embeddings -------------------------------------------------------------------


def apply(embeddings: Embeddings, settings: RetrieveSettings) -> Embeddings:
    """Apply the chosen steps from embeddings to embeddings: `transform`, then `add_all_neighbors`.

    Args:
        embeddings: Of a retrieval task.
        settings: The steps; those that are off change nothing.

    Returns:
        Embeddings of the same numbers of rows; `project_steps` and `whiten` change D. Equal rows
        stay equal.
    """
    return add_all_neighbors(transform(embeddings, settings), settings)


def transform(embeddings: Embeddings, settings: RetrieveSettings) -> Embeddings:
    """Map every picture by itself: `center`, `project_steps`, `whiten`, in this order.

    Args:
        embeddings: Of a retrieval task.
        settings: The steps; of those that are off, and of all others, nothing counts.
    """
    transductive = not settings.no_transductive
    before = embeddings
    if settings.center:
        embeddings = center(embeddings, transductive)
    if settings.project_steps is not None:
        steps, dim = settings.project_steps, settings.project_dim
        embeddings = project(embeddings, steps, dim, transductive)
    if settings.whiten:
        embeddings = whiten(embeddings, settings.whiten)
    return _with_equal_copies(embeddings, before)


def add_all_neighbors(embeddings: Embeddings, settings: RetrieveSettings) -> Embeddings:
    """Sum rows with their neighbors: in the gallery, among the queries, queries in the gallery.

    In this order: `gallery_neighbors` (database-side augmentation), `query_neighbors`, `expand`
    (α-query expansion). Where `rerank` is chosen, `query_neighbors` acts on its scores instead, see
    `score_all`.

    Args:
        embeddings: Of a retrieval task, after `transform`.
        settings: The steps.
    """
    before = embeddings
    if settings.gallery_neighbors is not None:
        rows = add_neighbors(embeddings.gallery, settings.gallery_neighbors, GALLERY_ALPHA)
        embeddings = replace(embeddings, gallery=rows)
    if settings.query_neighbors is not None and not (
        settings.no_transductive or _reranks(settings)
    ):
        rows = add_neighbors(embeddings.queries, settings.query_neighbors, QUERY_ALPHA)
        embeddings = replace(embeddings, queries=rows)
    if settings.expand is not None:
        rows = expand_queries(embeddings.queries, embeddings.gallery, settings.expand)
        embeddings = replace(embeddings, queries=rows)
    return _with_equal_copies(embeddings, before)


def _with_equal_copies(embeddings: Embeddings, before: Embeddings) -> Embeddings:
    """Return embeddings in which copies of a picture, which were equal before, are equal.

    A product of matrices rounds a row by its place: copies of a picture would differ a little.
    """
    if embeddings is before:
        return embeddings
    return replace(
        embeddings,
        queries=embeddings.queries[first_of_equal(before.queries)],
        gallery=embeddings.gallery[first_of_equal(before.gallery)],
    )


def whiten(embeddings: Embeddings, dim: int) -> Embeddings:
    """Project onto the first principal directions of the labeled pictures, each with deviation 1.

    Jégou and Chum, Negative evidences and co-occurrences in image retrieval: the benefit of PCA and
    whitening (2012).

    Args:
        embeddings: Of a retrieval task; with no more labeled rows than `dim`, nothing changes.
        dim: How many directions to use.

    Returns:
        Embeddings of `dim` columns.
    """
    labeled = np.concatenate([embeddings.labeled_queries, embeddings.labeled_gallery])
    # Without domains both sides are all labeled pictures: each would count twice.
    alone = np.array_equal(embeddings.labeled_queries, embeddings.labeled_gallery)
    if len(labeled) <= (2 * dim if alone else dim):
        return embeddings
    labeled = labeled.astype(np.float64)
    mean = labeled.mean(0)
    variances, vectors = np.linalg.eigh(np.cov(labeled - mean, rowvar=False))
    directions = vectors[:, ::-1][:, :dim] / np.sqrt(np.maximum(variances[::-1][:dim], 1e-12))
    return embeddings.with_arrays(unit((rows - mean) @ directions) for rows in embeddings.arrays)


def add_neighbors(rows: np.ndarray, least: float, alpha: float) -> np.ndarray:
    """Sum each row with its neighbors among the rows, weighted by cosine^alpha.

    The neighbors are all rows with a cosine of at least `least`: their number follows the data, so
    that a picture without neighbors stays as it is. On the query side it averages the photographs
    of one identity; on the gallery side it is database-side augmentation: Turcot and Lowe, Better
    matching with fewer features (2009); Arandjelović and Zisserman, Three things everyone should
    know to improve object retrieval (2012).

    Args:
        rows: (N, D) rows of length 1.
        least: The lowest cosine of a neighbor.
        alpha: The power of the weights; the row itself has weight 1.

    Returns:
        (N, D) rows of length 1.
    """
    out = np.empty_like(rows)
    for block, weights in _neighborhoods(rows, least, alpha):
        out[block] = unit(weights @ rows)
    return out


def _neighborhoods(
    rows: np.ndarray, least: float, alpha: float
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield a slice of rows at a time with the weights of all rows for each; 1 for itself."""
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        weights = _weights(part @ rows.T, least, alpha)
        weights[np.arange(len(part)), start + np.arange(len(part))] = 1.0
        yield slice(start, start + len(part)), weights


def expand_queries(queries: np.ndarray, gallery: np.ndarray, least: float) -> np.ndarray:
    """Sum each query with its gallery neighbors, weighted by cosine³ (α-query expansion).

    Radenović, Tolias and Chum, Fine-tuning CNN image retrieval with no human annotation (2018).

    Args:
        queries: (Q, D) rows of length 1.
        gallery: (G, D) rows of length 1.
        least: The lowest cosine of a neighbor.

    Returns:
        (Q, D) rows of length 1.
    """
    parts = [queries[i : i + CHUNK] for i in range(0, len(queries), CHUNK)]
    sums = [part + _weights(part @ gallery.T, least, GALLERY_ALPHA) @ gallery for part in parts]
    return unit(np.concatenate(sums)) if parts else queries


def _weights(cosines: np.ndarray, least: float, alpha: float) -> np.ndarray:
    """Return cosine^alpha where the cosine is at least `least` and positive, else 0."""
    weights: np.ndarray = np.where(cosines >= least, np.maximum(cosines, 0), 0) ** alpha
    return weights


# ---- embeddings to scores -----------------------------------------------------------------------


def needs_scores(settings: RetrieveSettings) -> bool:
    """Return whether a step needs the scores of all pairs; without one, an index searches."""
    return (
        settings.hubs != "none"
        or settings.rerank != "none"
        or settings.gallery_clusters is not None
        or settings.local_weight > 0
    )


def score_all(embeddings: Embeddings, settings: RetrieveSettings) -> np.ndarray:
    """Score every pair of a query and a gallery picture, by the chosen steps.

    In this order: `rerank` (k-reciprocal re-ranking, and `query_neighbors` on its scores), `hubs`
    (CSLS or an inverted softmax), `gallery_clusters`, `local_weight`. With none of them, scores are
    cosines.

    Args:
        embeddings: Of a retrieval task, after `apply`.
        settings: The steps.

    Returns:
        (Q, G) float32, the higher the more alike; only the order within a row means something.
        Copies of a picture, equal rows, have equal scores.
    """
    scores = _base_scores(embeddings, settings)
    if settings.hubs != "none":
        bank = embeddings.labeled_queries if settings.no_transductive else embeddings.queries
        correct = {"csls": csls, "softmax": inverted_softmax}[settings.hubs]
        if len(bank):
            weights = _rarity(bank, settings.query_neighbors)
            scores = correct(scores, bank @ embeddings.gallery.T, weights)
    if settings.gallery_clusters is not None:
        scores = average_with_cluster(scores, embeddings.gallery, settings.gallery_clusters)
    if settings.local_weight:
        if embeddings.local is None:
            raise UserError("local_weight: needs pictures, and here are embeddings alone")
        scores = fuse_scores([scores, embeddings.local()], (1.0, settings.local_weight))
    rows, columns = first_of_equal(embeddings.queries), first_of_equal(embeddings.gallery)
    return np.asarray(np.take(scores[rows], columns, axis=1))


def _base_scores(embeddings: Embeddings, settings: RetrieveSettings) -> np.ndarray:
    """Return cosines, or re-ranked scores where re-ranking is chosen."""
    if not _reranks(settings):
        return np.asarray(embeddings.queries @ embeddings.gallery.T)
    scores = k_reciprocal(embeddings.queries, embeddings.gallery)
    # A query without neighbors among the queries shares neighbors with strangers only.
    alone = ~have_neighbors(embeddings.queries)
    scores[alone] = embeddings.queries[alone] @ embeddings.gallery.T
    if settings.query_neighbors is not None:
        scores = average_with_neighbors(scores, embeddings.queries, settings.query_neighbors)
    return scores


def _reranks(settings: RetrieveSettings) -> bool:
    """Return whether re-ranking is chosen and allowed: its neighbors are other queries."""
    return settings.rerank == "reciprocal" and not settings.no_transductive


def have_neighbors(queries: np.ndarray, deviations: float = 3.5) -> np.ndarray:
    """Return which queries have another query that is more alike than strangers are.

    Args:
        queries: (Q, D) rows of length 1.
        deviations: How many standard deviations above the median cosine of all pairs a neighbor's
            cosine lies. Both are estimated robustly, so that a few true pairs do not move them.

    Returns:
        (Q,) bool.
    """
    if len(queries) < 3:
        return np.zeros(len(queries), bool)
    threshold = above_strangers(queries, deviations)
    return _count_neighbors(queries, threshold) > 1  # a query counts itself


def above_strangers(queries: np.ndarray, deviations: float = 3.5) -> float:
    """Return a cosine that strangers hardly reach: so far above the median of all pairs.

    Args:
        queries: (Q, D) rows of length 1, at least three.
        deviations: How many standard deviations, estimated robustly from all pairs.
    """
    sample = queries[np.random.default_rng(0).permutation(len(queries))[:2000]]
    cosines = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    middle = np.median(cosines)
    # 1.4826: the standard deviation of a normal distribution over its median absolute deviation.
    return float(middle + deviations * 1.4826 * np.median(np.abs(cosines - middle)))


def _count_neighbors(rows: np.ndarray, least: float) -> np.ndarray:
    """Return (N,) how many rows, itself among them, have at least this cosine with each row."""
    parts = [rows[i : i + CHUNK] @ rows.T >= least for i in range(0, len(rows), CHUNK)]
    return np.concatenate([part.sum(1) for part in parts])


def average_with_neighbors(scores: np.ndarray, queries: np.ndarray, least: float) -> np.ndarray:
    """Average each query's scores with those of its neighbors, weighted by their cosines.

    What `add_neighbors` does to embeddings, for scores that are no cosines. (Of cosines both rank
    alike.)

    Args:
        scores: (Q, G).
        queries: (Q, D) rows of length 1.
        least: The lowest cosine of a neighbor.

    Returns:
        (Q, G).
    """
    out = np.empty_like(scores)
    for block, weights in _neighborhoods(queries, least, QUERY_ALPHA):
        out[block] = weights @ scores / weights.sum(1, keepdims=True)
    return out


def _rarity(bank: np.ndarray, least: float | None) -> np.ndarray:
    """Return (N,) weights, 1 / the number of a row's neighbors.

    An identity with many photographs then weighs no more than one with few. All are 1 where no
    threshold says what a neighbor is.
    """
    if least is None:
        return np.ones(len(bank))
    return 1 / np.maximum(_count_neighbors(bank, least), 1)


def inverted_softmax(
    scores: np.ndarray, bank_scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Reduce the scores of hubs, gallery pictures that are near to everything, by a softmax.

    The logarithm of an inverted softmax: normalized over a bank of queries, not over the gallery.
    The bank may be the queries themselves (Smith et al., Offline bilingual word vectors, orthogonal
    transformations and the inverted softmax, 2017) or labeled pictures (Bogolin et al., Cross modal
    retrieval with querybank normalisation, 2022).

    Args:
        scores: (Q, G).
        bank_scores: (B, G), the scores of the bank.
        weights: (B,), how much each of the bank counts.

    Returns:
        (Q, G) float32.
    """
    top = bank_scores.max(0)
    total = (weights[:, None] * np.exp(INVERSE_TEMPERATURE * (bank_scores - top))).sum(0)
    return np.asarray(scores - top - np.log(total) / INVERSE_TEMPERATURE, np.float32)


def csls(scores: np.ndarray, bank_scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Reduce the scores of hubs by cross-domain similarity local scaling.

    Twice the score less the gallery picture's mean score with its ten nearest of the bank. Conneau
    et al., Word translation without parallel data (2018); their term of the query is left out,
    since it is the same for the whole row.

    Args:
        scores: (Q, G).
        bank_scores: (B, G), the scores of a bank of queries.
        weights: (B,), how much each of the bank counts in the mean.

    Returns:
        (Q, G) float32.
    """
    count = min(CSLS_NEIGHBORS, len(bank_scores))
    nearest = np.argpartition(-bank_scores, count - 1, axis=0)[:count]
    weight = weights[nearest]
    hubness = (weight * np.take_along_axis(bank_scores, nearest, 0)).sum(0) / weight.sum(0)
    return np.asarray(2 * scores - hubness, np.float32)


def average_with_cluster(scores: np.ndarray, gallery: np.ndarray, least: float) -> np.ndarray:
    """Average each score with the best one in the gallery picture's cluster.

    Pictures of one identity then rise together. The clusters are those of average linkage.

    Args:
        scores: (Q, G).
        gallery: (G, D) rows of length 1.
        least: The lowest mean cosine at which two clusters are merged.

    Returns:
        (Q, G) float32.
    """
    if len(gallery) < 2:
        return scores
    cluster = AgglomerativeClustering(
        None, metric="cosine", linkage="average", distance_threshold=1 - least
    ).fit_predict(gallery)
    order = np.argsort(cluster, kind="stable")
    starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
    best = np.maximum.reduceat(scores[:, order], starts, axis=1)
    return np.asarray((scores + best[:, cluster]) / 2, np.float32)
