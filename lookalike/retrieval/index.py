"""The index of a gallery, exact or approximate: built, stored, opened, searched.

Exact search compares each query with every picture. Of the two kinds that do not, `ivf` puts the
gallery's pictures into lists by k-means (Sivic and Zisserman, 2003) and looks into the nearest few;
`hnsw` walks a graph of neighbors (Malkov and Yashunin, 2018). How far they look is measured when
they are built: until 99 % of the ten that exact search finds for pictures of the gallery are found.
All come from FAISS. A stored index is opened as a memory map, not loaded.

A Ranking is query keys, gallery keys and scores as arrays. Equal scores are ordered by gallery key,
so that a ranking is the same on every machine.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.core.files import read_json, whole_file, write_json
from lookalike.core.log import log
from lookalike.core.numeric import blocks
from lookalike.evaluation.submissions import TOP

WIDEST_ON_GPU = 2048  # FAISS takes no more neighbors there
TIE = 1e-5  # two roundings of one inner product of unit vectors differ by less
RESCORED = 8192  # candidates whose scores are taken again at once
SMALL = 10_000  # exact search of fewer takes milliseconds
LARGE = 1_000_000  # from here on building a faster index pays, for `auto`
RECALL = 0.99
SAMPLE = 1000  # pictures of the gallery that the recall is measured with
TRAINED_BY = 39  # pictures a list of `ivf` is trained by, the least that FAISS deems enough
LINKS, CARE = 16, 40  # of `hnsw`: neighbors of a picture, candidates looked at to choose them
BLOCK = 16_384  # pictures added at once


class Ranking(NamedTuple):
    """For each query the best gallery pictures, best first.

    queries: Q keys. gallery: (Q, k) array of keys. scores: (Q, k) float64 cosines.
    """

    queries: list[str]
    gallery: np.ndarray
    scores: np.ndarray


# ---- building -----------------------------------------------------------------------------------


def build_index(embeddings: np.ndarray) -> faiss.Index:
    """An exact inner-product index over (N, D) float32 unit rows."""
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(embeddings)
    return index


def build_as(
    kind: str, embeddings: np.ndarray, seed: int = 0
) -> tuple[faiss.Index, dict[str, Any]]:
    """An index over (N, D) float32 unit rows, and what is to be said of it.

    kind: exact, ivf, hnsw or auto: hnsw from a million pictures on, else exact. Fewer than 10,000
        are searched exactly whatever is asked for. embeddings: may be a memory map; it is read in
        blocks.

    The same seed and number of threads give the same index; `hnsw` is built in one thread, since
    its links depend on which picture came first.
    """
    count = len(embeddings)
    if kind == "auto":
        kind = "hnsw" if count >= LARGE else "exact"
    elif kind != "exact" and count < SMALL:
        log.info("index: %d pictures are few: searched exactly, without --index %s", count, kind)
        kind = "exact"
    if kind == "exact":
        return build_index(embeddings), {"kind": "exact"}
    index = (_build_ivf if kind == "ivf" else _build_hnsw)(embeddings, seed)
    about = _look_far_enough(index, embeddings, seed)
    said = ", ".join(f"{name} {value}" for name, value in about.items())
    log.info("index: %s of %d pictures, against exact search: %s", kind, count, said)
    if about[f"recall@{TOP}"] < RECALL:
        log.warning("warning: --index %s does not find %.0f %% here", kind, 100 * RECALL)
    del about["times_exact"]  # no two machines agree on it, and what is stored must not change
    return index, {"kind": kind, **about}


def _build_ivf(embeddings: np.ndarray, seed: int) -> faiss.Index:
    """Lists by k-means of a part of the pictures; all of them then go to their nearest."""
    count, dim = embeddings.shape
    lists = min(4 * isqrt(count), count // TRAINED_BY)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.spherical = seed + 1, True
    index.train(embeddings[_drawn(count, TRAINED_BY * lists, seed)])
    _add(index, embeddings)
    index.make_direct_map()  # where each picture came to lie: its score is taken again from there
    return index


def _build_hnsw(embeddings: np.ndarray, seed: int) -> faiss.Index:
    """A graph of neighbors, grown picture by picture in the order of the rows."""
    index = faiss.IndexHNSWFlat(embeddings.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = CARE
    index.hnsw.rng = faiss.RandomGenerator(seed + 1)
    # Room for all at once: a vector that grows is copied, and stands there twice meanwhile.
    codes = faiss.downcast_index(index.storage).codes
    codes.resize(embeddings.size * 4)
    codes.resize(0)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        _add(index, embeddings)
    finally:
        faiss.omp_set_num_threads(threads)
    return index


def _add(index: faiss.Index, embeddings: np.ndarray) -> None:
    with tqdm(total=len(embeddings), desc="indexing", unit=" pictures") as bar:
        for block in blocks(len(embeddings), BLOCK):
            index.add(embeddings[block])
            bar.update(block.stop - block.start)


def _drawn(count: int, wanted: int, seed: int) -> np.ndarray:
    """Numbers of rows, drawn by the seed, in their order."""
    chosen = np.random.default_rng(seed).choice(count, min(count, wanted), replace=False)
    return np.sort(chosen)


def _look_far_enough(index: faiss.Index, embeddings: np.ndarray, seed: int) -> dict[str, Any]:
    """Lets an approximate index look as far as it must, and says how well and fast it then is.

    Pictures of the gallery are the queries; what they find of themselves does not count. Sets
    `nprobe` (lists looked into) or `efSearch` (candidates kept on the walk) in the index.
    """
    rows = _drawn(len(embeddings), SAMPLE, seed)
    queries = np.ascontiguousarray(embeddings[rows])

    def timed(search: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, float]:
        """The scores that a search finds, best first, without the query itself; its seconds."""
        start = time.perf_counter()
        scores, found = search()
        seconds = time.perf_counter() - start
        return -np.sort(-np.where(found == rows[:, None], -np.inf, scores))[:, :TOP], seconds

    best, exact_seconds = timed(
        lambda: faiss.knn(queries, embeddings, TOP + 1, faiss.METRIC_INNER_PRODUCT)
    )
    ivf = isinstance(index, faiss.IndexIVF)
    name, least, most = ("nprobe", 1, index.nlist) if ivf else ("efSearch", TOP + 1, SMALL)

    def looked(value: int) -> tuple[float, float]:
        """Recall and seconds when it looks so far; it goes on to look so far."""
        faiss.ParameterSpace().set_index_parameter(index, name, value)
        scores, seconds = timed(lambda: index.search(queries, TOP + 1))
        return float((scores >= best[:, -1:] - TIE).mean()), seconds

    values = _growing(least, most)
    enough = bisect_left(values[:-1], RECALL, key=lambda value: looked(value)[0])
    recall, seconds = looked(values[enough])
    times = round(exact_seconds / seconds, 2)
    return {name: values[enough], f"recall@{TOP}": round(recall, 4), "times_exact": times}


def _growing(least: int, most: int) -> list[int]:
    """Whole numbers from `least` to `most`, each an eighth more than the one before, or one more.

    >>> _growing(1, 20)
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20]
    """
    values = [least]
    while values[-1] < most:
        values.append(min(most, values[-1] + max(1, values[-1] // 8)))
    return values


# ---- storing ------------------------------------------------------------------------------------


def save_index(index: faiss.Index, keys: Sequence[str], about: dict[str, Any], path: Path) -> None:
    """Writes `path` (.faiss) and, beside it, .json with the keys of its rows and `about`."""
    with whole_file(path) as beside:
        faiss.write_index(index, str(beside))
    size = path.stat().st_size
    write_json(path.with_suffix(".json"), about | {"bytes": size, "keys": list(keys)})


def load_index(path: Path, made_from: dict[str, Any]) -> tuple[faiss.Index, list[str]]:
    """An index, opened as a memory map, and the keys of its rows.

    made_from: what it must have been made from.

    Raises:
        UserError: it is missing or broken, or was made from something else.
    """
    about = read_json(path.with_suffix(".json"), "--stage index")
    other = [name for name, state in made_from.items() if about.get(name) != state]
    if other:
        raise UserError(f"{path} was made from another {other[0]}: run --stage index retrieve")
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise UserError(f"{path} cannot be read: --stage index makes it anew") from error
    # FAISS does not see that the end of a memory map is missing.
    if index.ntotal != len(about["keys"]) or path.stat().st_size != about["bytes"]:
        raise UserError(f"{path} does not fit its keys: --stage index makes both anew")
    return index, about["keys"]


# ---- searching ----------------------------------------------------------------------------------


def search(
    index: faiss.Index, keys: Sequence[str], queries: np.ndarray, names: Sequence[str], k: int = TOP
) -> Ranking:
    """The k best gallery pictures of each query, equal scores by key.

    index, keys: the gallery; queries, names: (Q, D) float32 unit rows and their keys.

    FAISS finds candidates; their scores are taken again in double precision, since FAISS may round
    equal pictures differently depending on where they stand in the index.
    """
    k = min(k, index.ntotal)
    rows = np.zeros((len(queries), k), np.int64)
    scores = np.zeros((len(queries), k))
    at_hand, times, open_queries = _on_gpu(index), 1, np.arange(len(queries))
    while len(open_queries):
        width = min(2 * k * times, index.ntotal)
        if width == index.ntotal:
            near = np.broadcast_to(np.arange(width), (len(open_queries), width))
            settled = np.full(len(open_queries), True)
        else:
            at_hand = index if width > WIDEST_ON_GPU else at_hand
            found, near = at_hand.search(queries[open_queries], width, params=_effort(index, times))
            # All that could tie with the last place must be among the candidates.
            settled = found[:, -1] < found[:, k - 1] - TIE
        for part in _parts(np.flatnonzero(settled), width):
            done = open_queries[part]
            rows[done], scores[done] = _best(index, keys, near[part], queries[done], k)
        open_queries, times = open_queries[~settled], 4 * times
    return Ranking(list(names), _keys_of(rows, keys), scores)


def _effort(index: faiss.Index, times: int) -> faiss.SearchParameters | None:
    """An approximate index looks this many times as far as it was told when it was built."""
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=min(times * index.nprobe, index.nlist))
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=times * index.hnsw.efSearch)
    return None


def _parts(numbers: np.ndarray, width: int) -> list[np.ndarray]:
    """Numbers of queries, in parts whose candidates are scored at once."""
    size = max(1, RESCORED // width)
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _best(
    index: faiss.Index, keys: Sequence[str], near: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of (n, width) candidates of n queries the k best, (n, k), and their scores.

    near: rows of the index; -1 where an approximate search has found fewer.
    """
    vectors = index.reconstruct_batch(np.maximum(near, 0).ravel()).astype(np.float64)
    vectors = vectors.reshape(*near.shape, -1)
    scores = np.multiply(vectors, queries[:, None].astype(np.float64)).sum(axis=-1)
    scores[near < 0] = -np.inf
    order = np.lexsort((_keys_of(near, keys), -scores), axis=-1)[:, :k]
    return np.take_along_axis(near, order, 1), np.take_along_axis(scores, order, 1)


def _keys_of(rows: np.ndarray, keys: Sequence[str]) -> np.ndarray:
    """The keys of rows of the index, in an array of the same shape."""
    return np.array([keys[row] for row in rows.ravel().tolist()], str).reshape(rows.shape)


def ranking_of(
    scores: np.ndarray, gallery: Sequence[str], keys: Sequence[str], k: int = TOP
) -> Ranking:
    """The k best of each row of a (Q, G) score matrix, equal scores by gallery key."""
    names = np.array(gallery)
    k = min(k, len(names))
    rows = np.zeros((len(keys), k), np.int64)
    for row, values in zip(rows, scores, strict=True):
        least = np.partition(values, -k)[-k]
        near = np.flatnonzero(values >= least)  # all that tie with the last place too
        row[:] = near[np.lexsort((names[near], -values[near]))[:k]]
    best = np.take_along_axis(scores, rows, 1).astype(np.float64)
    return Ranking(list(keys), names[rows], best)


def _on_gpu(index: faiss.Index) -> faiss.Index:
    """An exact index on the GPUs where FAISS finds any; the others stay where they are."""
    if isinstance(index, faiss.IndexFlat) and getattr(faiss, "get_num_gpus", int)() > 0:
        return faiss.index_cpu_to_all_gpus(index)
    return index


def as_mapping(ranking: Ranking) -> dict[str, list[str]]:
    """{query: [gallery keys, best first]}, in the order of the queries."""
    return {
        query: names.tolist() for query, names in zip(ranking.queries, ranking.gallery, strict=True)
    }


def with_scores(ranking: Ranking) -> dict[str, list[tuple[str, float]]]:
    """{query: [(gallery key, score), best first]}, in the order of the queries."""
    scores = ranking.scores.round(6).tolist()
    return {
        query: list(zip(names, row, strict=True))
        for (query, names), row in zip(as_mapping(ranking).items(), scores, strict=True)
    }
