"""Every further point after the embedding: small steps, embeddings in, embeddings or scores out.

    embeddings = apply(Embeddings(queries, gallery), settings)   # centring, whitening, neighbors
    scores = score_all(embeddings, settings)                     # hubs, clusters, re-ranking

Each step is an option of the retrieve stage, off by default; `--auto` tries them on the validation.
Steps that let a query profit from the other queries of the test say so, and `--no-transductive`
replaces them by the training's pictures, or leaves them out, where the rules forbid it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from sklearn.cluster import AgglomerativeClustering

from lookalike.core.numeric import unit
from lookalike.core.settings import RetrieveSettings
from lookalike.retrieval.rerank import k_reciprocal

QUERY_ALPHA, GALLERY_ALPHA = 1.0, 3.0  # a neighbor counts by its cosine to this power
SHARPNESS = 10.0  # of the inverted softmax: its inverse temperature
CSLS_NEIGHBOURS = 10
CHUNK = 1024  # rows of a similarity matrix at once


@dataclass(frozen=True)
class Embeddings:
    """What a ranking is made of, each (n, D) float32 rows of length 1.

    queries, gallery: those to rank. seen_queries, seen_gallery: the training's pictures of the
    query's domain and of the others (of all, where domains are unknown); they may be empty.
    """

    queries: np.ndarray
    gallery: np.ndarray
    seen_queries: np.ndarray
    seen_gallery: np.ndarray


def two_domains(rows: np.ndarray, asks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the query's domain, and the others; all of them twice where that is one and the same.

    rows: (N, D). asks: (N,) bool, whether a row is of the query's domain.
    """
    return (rows[asks], rows[~asks]) if asks.any() and not asks.all() else (rows, rows)


def apply(embeddings: Embeddings, settings: RetrieveSettings) -> Embeddings:
    """The steps that the settings ask for, in the order in which they stand here."""
    if settings.center:
        embeddings = center(embeddings, transductive=not settings.no_transductive)
    if settings.whiten:
        embeddings = whiten(embeddings, settings.whiten)
    if settings.gallery_neighbors is not None:
        rows = with_neighbors(embeddings.gallery, settings.gallery_neighbors, GALLERY_ALPHA)
        embeddings = replace(embeddings, gallery=rows)
    if settings.query_neighbors is not None and not (
        settings.no_transductive or _reranks(settings)
    ):
        rows = with_neighbors(embeddings.queries, settings.query_neighbors, QUERY_ALPHA)
        embeddings = replace(embeddings, queries=rows)
    if settings.expand is not None:
        embeddings = replace(
            embeddings, queries=expanded(embeddings.queries, embeddings.gallery, settings.expand)
        )
    return embeddings


def center(embeddings: Embeddings, transductive: bool = True) -> Embeddings:
    """Each side moved to a mean of zero, of length 1 again.

    Photographs have something in common that drawings lack; what all of a domain share tells nobody
    apart. The mean is that of the side itself, or, where that is forbidden, of the training's
    pictures of its domain; a side of fewer than two pictures stays as it is.
    """

    def moved(rows: np.ndarray, seen: np.ndarray) -> np.ndarray:
        known = rows if transductive else seen
        return unit(rows - known.mean(0, dtype=np.float64)) if len(known) > 1 else rows

    seen = (
        moved(embeddings.seen_queries, embeddings.seen_queries),
        moved(embeddings.seen_gallery, embeddings.seen_gallery),
    )
    queries, gallery = embeddings.queries, embeddings.gallery
    return Embeddings(
        moved(queries, embeddings.seen_queries), moved(gallery, embeddings.seen_gallery), *seen
    )


def whiten(embeddings: Embeddings, dim: int) -> Embeddings:
    """The first `dim` principal directions of the training's pictures, each with deviation 1.

    Jegou and Chum, Negative evidences and co-occurrences in image retrieval: the benefit of PCA and
    whitening (2012). Without training pictures nothing changes.
    """
    seen = np.concatenate([embeddings.seen_queries, embeddings.seen_gallery]).astype(np.float64)
    if len(seen) <= dim:
        return embeddings
    mean = seen.mean(0)
    values, vectors = np.linalg.eigh(np.cov(seen - mean, rowvar=False))
    directions = vectors[:, ::-1][:, :dim] / np.sqrt(np.maximum(values[::-1][:dim], 1e-12))
    return Embeddings(*(unit((rows - mean) @ directions) for rows in sides(embeddings)))


def sides(embeddings: Embeddings) -> tuple[np.ndarray, ...]:
    """The four arrays, in their order."""
    return embeddings.queries, embeddings.gallery, embeddings.seen_queries, embeddings.seen_gallery


def with_neighbors(rows: np.ndarray, least: float, alpha: float) -> np.ndarray:
    """Each row summed with its neighbors among the rows, weighted by cosine^alpha.

    The neighbors are all rows with a cosine of at least `least`: their number follows the data, so
    that a picture without a like stays as it is. On the query side the other photographs of the
    same person help most; on the gallery side it is database-side augmentation (Turcot and Lowe,
    2009; Arandjelovic and Zisserman, 2012).
    """
    out = np.empty_like(rows)
    for place, weights in _neighborhoods(rows, least, alpha):
        out[place] = unit(weights @ rows)
    return out


def _neighborhoods(
    rows: np.ndarray, least: float, alpha: float
) -> Iterator[tuple[slice, np.ndarray]]:
    """A slice of the rows at a time, with what every row weighs for each of them; 1 for itself."""
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        weights = _weights(part @ rows.T, least, alpha)
        weights[np.arange(len(part)), start + np.arange(len(part))] = 1.0
        yield slice(start, start + len(part)), weights


def expanded(queries: np.ndarray, gallery: np.ndarray, least: float) -> np.ndarray:
    """α-query expansion: each query summed with the gallery pictures of at least this cosine.

    Radenovic, Tolias and Chum, Fine-tuning CNN image retrieval with no human annotation (2018).
    """
    parts = [queries[i : i + CHUNK] for i in range(0, len(queries), CHUNK)]
    near = [part + _weights(part @ gallery.T, least, GALLERY_ALPHA) @ gallery for part in parts]
    return unit(np.concatenate(near)) if parts else queries


def _weights(cosines: np.ndarray, least: float, alpha: float) -> np.ndarray:
    weights: np.ndarray = np.where(cosines >= least, np.maximum(cosines, 0), 0) ** alpha
    return weights


def scores_wanted(settings: RetrieveSettings) -> bool:
    """Whether a step needs the scores of all pairs; without one, an index searches."""
    return (
        settings.hubs != "none"
        or settings.rerank != "none"
        or settings.gallery_clusters is not None
    )


def score_all(embeddings: Embeddings, settings: RetrieveSettings) -> np.ndarray:
    """(Q, G) float32: how alike each query and each gallery picture are; only the order of a row
    means something."""
    if _reranks(settings):
        scores = k_reciprocal(embeddings.queries, embeddings.gallery)
        # Who has no like among the queries shares neighbors with strangers only.
        alone = ~have_likes(embeddings.queries)
        scores[alone] = embeddings.queries[alone] @ embeddings.gallery.T
        if settings.query_neighbors is not None:
            scores = scores_of_neighbors(scores, embeddings.queries, settings.query_neighbors)
    else:
        scores = embeddings.queries @ embeddings.gallery.T
    if settings.hubs != "none":
        bank = embeddings.seen_queries if settings.no_transductive else embeddings.queries
        correct = {"csls": csls, "softmax": inverted_softmax}[settings.hubs]
        if len(bank):
            scores = correct(
                scores, bank @ embeddings.gallery.T, _rarity(bank, settings.query_neighbors)
            )
    if settings.gallery_clusters is not None:
        scores = by_cluster(scores, embeddings.gallery, settings.gallery_clusters)
    return scores


def _reranks(settings: RetrieveSettings) -> bool:
    return settings.rerank == "reciprocal" and not settings.no_transductive


def have_likes(queries: np.ndarray, deviations: float = 3.5) -> np.ndarray:
    """(Q,) whether each query has another one that is more alike than strangers are: a cosine this
    many deviations above the middle of all (by the median, which a few likes do not move)."""
    if len(queries) < 3:
        return np.zeros(len(queries), bool)
    some = queries[np.random.default_rng(0).permutation(len(queries))[:2000]]
    cosines = (some @ some.T)[np.triu_indices(len(some), 1)]
    middle = np.median(cosines)
    level = middle + deviations * 1.4826 * np.median(np.abs(cosines - middle))
    return _count_likes(queries, level) > 1  # oneself is one


def _count_likes(rows: np.ndarray, least: float) -> np.ndarray:
    """(N,) how many rows, oneself among them, are at least so alike."""
    parts = [rows[i : i + CHUNK] @ rows.T >= least for i in range(0, len(rows), CHUNK)]
    return np.concatenate([part.sum(1) for part in parts])


def scores_of_neighbors(scores: np.ndarray, queries: np.ndarray, least: float) -> np.ndarray:
    """Each query's scores summed with those of its neighbors, as `with_neighbors` sums queries:
    for cosines that would rank alike, but re-ranked scores are no cosines."""
    out = np.empty_like(scores)
    for place, weights in _neighborhoods(queries, least, QUERY_ALPHA):
        out[place] = weights @ scores / weights.sum(1, keepdims=True)
    return out


def _rarity(bank: np.ndarray, least: float | None) -> np.ndarray:
    """1 / the number of a row's likes: a person with many photographs weighs no more than one with
    few. All 1 where it is not known what is alike."""
    if least is None:
        return np.ones(len(bank))
    return 1 / np.maximum(_count_likes(bank, least), 1)


def inverted_softmax(scores: np.ndarray, known: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scores less what a gallery picture is to everybody: the log of an inverted softmax.

    scores: (Q, G). known: (B, G) scores of a bank of queries, with (B,) weights; the bank may be
    the queries themselves (Smith et al., Offline bilingual word vectors, orthogonal transformations
    and the inverted softmax, 2017) or the training's (Bogolin et al., Cross modal retrieval with
    querybank normalisation, 2022).
    """
    top = known.max(0)
    total = (weights[:, None] * np.exp(SHARPNESS * (known - top))).sum(0)
    return np.asarray(scores - top - np.log(total) / SHARPNESS, np.float32)


def csls(scores: np.ndarray, known: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Cross-domain similarity local scaling: twice the score less how near the gallery picture is
    to its ten nearest of the bank, each counting by its weight (see inverted_softmax).

    Conneau et al., Word translation without parallel data (2018); their term of the query is left
    out, since it is the same for the whole row.
    """
    count = min(CSLS_NEIGHBOURS, len(known))
    near = np.argpartition(-known, count - 1, axis=0)[:count]
    weight = weights[near]
    hubness = (weight * np.take_along_axis(known, near, 0)).sum(0) / weight.sum(0)
    return np.asarray(2 * scores - hubness, np.float32)


def by_cluster(scores: np.ndarray, gallery: np.ndarray, least: float) -> np.ndarray:
    """Each score averaged with the best of the gallery picture's cluster: average linkage, down to
    a cosine of `least`, so that pictures of one person come up together."""
    if len(gallery) < 2:
        return scores
    cluster = AgglomerativeClustering(
        None, metric="cosine", linkage="average", distance_threshold=1 - least
    ).fit_predict(gallery)
    order = np.argsort(cluster, kind="stable")
    starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
    best = np.maximum.reduceat(scores[:, order], starts, axis=1)
    return np.asarray((scores + best[:, cluster]) / 2, np.float32)
