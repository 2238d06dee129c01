"""TODO lookalike.retrieval.rerank."""

import faiss
import numpy as np
from scipy.sparse import csr_array, diags_array


def k_reciprocal(
    queries: np.ndarray, gallery: np.ndarray, k1: int = 20, k2: int = 6, share: float = 0.5
) -> np.ndarray:
    """k-reciprocal re-ranking, (Q, G) similarities: the share of neighbors that two pictures have
    in common, and `share` of their own cosine.

    Zhong et al., Re-ranking person re-identification with k-reciprocal encoding (2017), with their
    k1 and k2; half of the cosine, not 0.3, since drawings share few neighbors with photographs.
    Neighbourhoods are sparse, so memory grows with the pictures and not with their square, but for
    the result.
    """
    rows = np.ascontiguousarray(np.concatenate([queries, gallery]), np.float32)
    k1 = min(k1, len(rows) - 1)
    near = _nearest(rows, k1 + 1)
    encoded = _encode(rows, near, k1)
    nearest = _adjacency(near[:, : min(k2, k1 + 1)])
    encoded = csr_array(diags_array(1 / nearest.sum(1)) @ nearest @ encoded)
    shared = _shared_mass(encoded[: len(queries)], encoded[len(queries) :])
    jaccard = shared / (2 - shared)
    jaccard *= 1 - share
    jaccard += share * (queries @ gallery.T)
    return jaccard


def _nearest(rows: np.ndarray, k: int) -> np.ndarray:
    """(N, k) numbers of the nearest rows, oneself first."""
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    near: np.ndarray = index.search(rows, k)[1]
    return near


def _adjacency(near: np.ndarray) -> csr_array:
    """(N, k) numbers -> (N, N) with 1 where a row names another."""
    count, k = near.shape
    ones = np.ones(count * k, np.float32)
    return csr_array((ones, near.ravel(), np.arange(0, count * k + 1, k)), shape=(count, count))


def _mutual(near: np.ndarray) -> csr_array:
    """1 where two rows name each other."""
    names = _adjacency(near)
    return csr_array(names.multiply(names.T))


def _encode(rows: np.ndarray, near: np.ndarray, k1: int) -> csr_array:
    """Each row's k-reciprocal neighbors, widened by those of its neighbors that mostly agree, as
    weights that sum to 1."""
    wide, narrow = _mutual(near), _mutual(near[:, : k1 // 2 + 1])
    agreed = csr_array((wide @ narrow.T).multiply(wide))
    needed = 2 / 3 * narrow.sum(1)
    agreed.data = (agreed.data > needed[agreed.indices]).astype(np.float32)
    members = csr_array(wide + agreed @ narrow)
    members.eliminate_zeros()
    members.sum_duplicates()
    pairs = members.tocoo()
    cosines = np.concatenate(
        [
            np.einsum("ij,ij->i", rows[pairs.row[i : i + 65536]], rows[pairs.col[i : i + 65536]])
            for i in range(0, len(pairs.row), 65536)
        ]
    )
    weights = csr_array((np.exp(2 * cosines - 2), (pairs.row, pairs.col)), shape=members.shape)
    return csr_array(diags_array(1 / weights.sum(1)) @ weights)


def _shared_mass(queries: csr_array, gallery: csr_array) -> np.ndarray:
    """(Q, G): the sum over columns of the smaller of two weights, a query at a time."""
    columns = gallery.tocsc()
    shared = np.zeros((queries.shape[0], gallery.shape[0]), np.float32)
    for i, out in enumerate(shared):
        mine = slice(queries.indptr[i], queries.indptr[i + 1])
        names, weights = queries.indices[mine], queries.data[mine]
        starts, ends = columns.indptr[names], columns.indptr[names + 1]
        lengths = ends - starts
        indices = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(
            lengths.sum()
        )
        smaller = np.minimum(columns.data[indices], np.repeat(weights, lengths))
        out[:] = np.bincount(columns.indices[indices], smaller, len(out))
    return shared
