"""Re-rank by k-reciprocal neighbors: two pictures are alike if they share their neighbors.

scores = k_reciprocal(queries, gallery)
"""

import faiss
import numpy as np
from scipy.sparse import csr_array, diags_array

PAIRS_AT_ONCE = 65536  # whose cosines are computed together


def k_reciprocal(
    queries: np.ndarray, gallery: np.ndarray, k1: int = 20, k2: int = 6, share: float = 0.5
) -> np.ndarray:
    """Score all pairs by k-reciprocal re-ranking.

    The score mixes the Jaccard similarity of two pictures' neighborhoods with their cosine. Zhong
    et al., Re-ranking person re-identification with k-reciprocal encoding (2017), with their k1 and
    k2; the cosine counts half, not 0.3, since drawings share few neighbors with photographs.
    Neighborhoods are sparse, so that memory grows with the number of pictures and not with its
    square, except for the result.

    Args:
        queries: (Q, D) float32 rows of length 1.
        gallery: (G, D) float32 rows of length 1.
        k1: Nearest neighbors that a reciprocal neighborhood is made from.
        k2: Nearest neighbors that each neighborhood is averaged over.
        share: How much the cosine counts, from 0 to 1.

    Returns:
        (Q, G) float32 similarities, the higher the more alike.
    """
    rows = np.ascontiguousarray(np.concatenate([queries, gallery]), np.float32)
    k1 = min(k1, len(rows) - 1)
    near = _nearest(rows, k1 + 1)
    encoded = _encode(rows, near, k1)
    nearest = _adjacency(near[:, : min(k2, k1 + 1)])
    encoded = csr_array(diags_array(1 / nearest.sum(1)) @ nearest @ encoded)
    shared = _shared_mass(encoded[: len(queries)], encoded[len(queries) :])
    similarity = shared / (2 - shared)  # Jaccard: each neighborhood has a mass of 1
    similarity *= 1 - share
    similarity += share * (queries @ gallery.T)
    return similarity


def _nearest(rows: np.ndarray, k: int) -> np.ndarray:
    """Return (N, k) numbers of each row's nearest rows, itself first."""
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    near: np.ndarray = index.search(rows, k)[1]
    return near


def _adjacency(near: np.ndarray) -> csr_array:
    """Return an (N, N) matrix with 1 where a row has another among its (N, k) nearest."""
    count, k = near.shape
    ones = np.ones(count * k, np.float32)
    return csr_array((ones, near.ravel(), np.arange(0, count * k + 1, k)), shape=(count, count))


def _mutual(near: np.ndarray) -> csr_array:
    """Return an (N, N) matrix with 1 where each of two rows has the other among its nearest."""
    adjacency = _adjacency(near)
    return csr_array(adjacency.multiply(adjacency.T))


def _encode(rows: np.ndarray, near: np.ndarray, k1: int) -> csr_array:
    """Return (N, N) weights of each row's expanded k-reciprocal neighbors, each row summing to 1.

    A neighbor's own reciprocal neighbors join where more than two thirds of them are in the
    neighborhood already.
    """
    wide, narrow = _mutual(near), _mutual(near[:, : k1 // 2 + 1])
    agreed = csr_array((wide @ narrow.T).multiply(wide))
    needed = 2 / 3 * narrow.sum(1)
    agreed.data = (agreed.data > needed[agreed.indices]).astype(np.float32)
    members = csr_array(wide + agreed @ narrow)
    members.eliminate_zeros()
    members.sum_duplicates()
    pairs = members.tocoo()
    cosines = _cosines(rows, pairs.row, pairs.col)
    weights = csr_array((np.exp(2 * cosines - 2), (pairs.row, pairs.col)), shape=members.shape)
    return csr_array(diags_array(1 / weights.sum(1)) @ weights)


def _cosines(rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosines of pairs of rows, given by their numbers."""
    blocks = [slice(i, i + PAIRS_AT_ONCE) for i in range(0, len(first), PAIRS_AT_ONCE)]
    parts = [np.einsum("ij,ij->i", rows[first[block]], rows[second[block]]) for block in blocks]
    return np.concatenate(parts)


def _shared_mass(queries: csr_array, gallery: csr_array) -> np.ndarray:
    """Return (Q, G) sums over columns of the smaller of two weights, a query at a time."""
    columns = gallery.tocsc()
    shared = np.zeros((queries.shape[0], gallery.shape[0]), np.float32)
    for i, out in enumerate(shared):
        own = slice(queries.indptr[i], queries.indptr[i + 1])
        neighbors, weights = queries.indices[own], queries.data[own]
        starts, ends = columns.indptr[neighbors], columns.indptr[neighbors + 1]
        lengths = ends - starts
        # arange(start, end) of every neighbor's column, concatenated: `arange` over all lengths,
        # shifted in each stretch by the column's start less the lengths before it.
        offsets = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        entries = offsets + np.arange(lengths.sum())
        smaller = np.minimum(columns.data[entries], np.repeat(weights, lengths))
        out[:] = np.bincount(columns.indices[entries], smaller, len(out))
    return shared
