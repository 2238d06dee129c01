"""Build, store, open and search the index of a gallery, exact or approximate.

    index = build_index(gallery)
    ranking = search(index, gallery_names, queries, query_names, k=10)
    as_mapping(ranking)     # {query: [gallery names, best first]}

An exact index compares each query with every picture. Of the two approximate kinds, `ivf` assigns
the gallery to lists by k-means and searches the lists nearest to the query (Sivic and Zisserman,
2003); `hnsw` walks a graph of neighbors (Malkov and Yashunin, 2018). How far they search is
measured when they are built: until they find 99 % of the ten pictures that exact search finds for
pictures of the gallery. All kinds come from FAISS. A stored index is opened as a memory map, not
loaded.

Equal scores are ordered by gallery name, so that a ranking is the same on every machine.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import faiss
import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, whole_file
from lookalike.core.log import log
from lookalike.core.numeric import blocks
from lookalike.core.readers import Count, as_form
from lookalike.core.sealed import read_sealed, write_sealed
from lookalike.evaluation.metrics import TOP

WIDEST_ON_GPU = 2048  # FAISS takes no more neighbors there
TIE = 1e-5  # two roundings of one inner product of unit vectors differ by less
RESCORED = 8192  # candidates whose scores are computed again at once
SMALL = 10_000  # exact search of fewer takes milliseconds
LARGE = 1_000_000  # from here on building a faster index pays, for `auto`
RECALL = 0.99
SAMPLE = 1000  # pictures of the gallery that the recall is measured with
TRAINING_PER_LIST = 39  # pictures that k-means sees per list of `ivf`, the fewest FAISS recommends
HNSW_LINKS, HNSW_CONSTRUCTION = 16, 40  # neighbors of a picture; candidates to choose them from
BLOCK = 16_384  # pictures added at once
KINDS = ("exact", "ivf", "hnsw", "auto")


class Ranking(NamedTuple):
    """The best gallery pictures of each query, best first.

    Row i of `gallery` and of `scores` belongs to `queries[i]`; equal scores are ordered by gallery
    name, ascending.

    Attributes:
        queries: The names of the Q queries.
        gallery: (Q, k) array of str, the names of the gallery pictures; k is the number asked for,
            or the size of the gallery where that is smaller.
        scores: (Q, k) float64, never increasing along a row: cosines in [-1, 1] from an index;
            after a step that rescores all pairs (see `postprocess.score_all`) only their order
            means something.

    >>> ranking = Ranking(["q"], np.array([["a", "b"]]), np.array([[0.9, 0.4]]))
    >>> ranking.gallery[0].tolist()
    ['a', 'b']
    """

    queries: list[str]
    gallery: np.ndarray
    scores: np.ndarray

    def first(self, k: int) -> "Ranking":
        """Return the best k of each query."""
        return Ranking(self.queries, self.gallery[:, :k], self.scores[:, :k])


def as_mapping(ranking: Ranking) -> dict[str, list[str]]:
    """Return {query: [gallery names, best first]}, in the order of the queries.

    >>> as_mapping(Ranking(["q"], np.array([["a", "b"]]), np.array([[0.9, 0.4]])))
    {'q': ['a', 'b']}
    """
    return {
        query: names.tolist() for query, names in zip(ranking.queries, ranking.gallery, strict=True)
    }


def without_own(ranking: Ranking) -> Ranking:
    """Take each query's own name out of its list, or the last name of a list that lacks it.

    Args:
        ranking: Of queries that are in the gallery by the same names; lists are one name too long.

    >>> found = Ranking(["a", "b"], np.array([["a", "c"], ["c", "a"]]), np.zeros((2, 2)))
    >>> without_own(found).gallery.tolist()
    [['c'], ['c']]
    """
    own = ranking.gallery == np.array(ranking.queries)[:, None]
    own[~own.any(1), -1] = True
    shape = len(own), own.shape[1] - 1
    return Ranking(
        ranking.queries, ranking.gallery[~own].reshape(shape), ranking.scores[~own].reshape(shape)
    )


def with_scores(ranking: Ranking) -> dict[str, list[tuple[str, float]]]:
    """Return {query: [(gallery name, score), best first]}, scores rounded to six decimals.

    >>> with_scores(Ranking(["q"], np.array([["a", "b"]]), np.array([[0.9, 0.4]])))
    {'q': [('a', 0.9), ('b', 0.4)]}
    """
    scores = ranking.scores.round(6).tolist()
    return {
        query: list(zip(names, row, strict=True))
        for (query, names), row in zip(as_mapping(ranking).items(), scores, strict=True)
    }


# ---- building -----------------------------------------------------------------------------------


def build_index(rows: ArrayLike, kind: str = "exact", seed: int = 0) -> faiss.Index:
    """Build an inner-product index over the embeddings of a gallery.

    Args:
        rows: (N, D) float32 rows of length 1; a memory map is read in blocks.
        kind: exact, ivf, hnsw, or auto: hnsw from a million pictures on, else exact. Fewer than
            10,000 pictures are always searched exactly.
        seed: Of the k-means of `ivf` and the graph of `hnsw`. The same seed and number of threads
            give the same index.

    Raises:
        UserError: The kind is unknown, or the rows are no array of shape (N, D).

    >>> index = build_index(np.eye(3, dtype=np.float32))
    >>> index.ntotal, index.d
    (3, 3)
    """
    return build_and_measure(rows, kind, seed)[0]


def build_and_measure(
    rows: ArrayLike, kind: str, seed: int = 0
) -> tuple[faiss.Index, dict[str, Any]]:
    """Build an index as `build_index` does, and describe it.

    Args:
        rows: (N, D) float32 rows of length 1.
        kind: exact, ivf, hnsw or auto.
        seed: Of the random choices.

    Returns:
        The index, and the record that is stored with it: its kind and, of an approximate one, the
        search width and the recall@10 against exact search.

    Raises:
        UserError: The kind is unknown, or the rows are no array of shape (N, D).
    """
    rows = np.asarray(rows)
    if kind not in KINDS:
        raise UserError(f"index kind {kind!r}: must be {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if rows.ndim != 2:
        raise UserError(f"the gallery's rows must be an array of shape (N, D), not {rows.shape}")
    count = len(rows)
    if kind == "auto":
        kind = "hnsw" if count >= LARGE else "exact"
    elif kind != "exact" and count < SMALL:
        log.info("index: %d pictures are few: searched exactly, without --index %s", count, kind)
        kind = "exact"
    if kind == "exact":
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        return index, {"kind": "exact"}
    index = (_build_ivf if kind == "ivf" else _build_hnsw)(rows, seed)
    record = tune_search_width(index, rows, seed)
    description = ", ".join(f"{name} {value}" for name, value in record.items())
    log.info("index: %s of %d pictures, against exact search: %s", kind, count, description)
    if record[f"recall@{TOP}"] < RECALL:
        log.warning("warning: --index %s does not find %.0f %% here", kind, 100 * RECALL)
    del record["times_exact"]  # it differs between machines, and what is stored must not
    return index, {"kind": kind, **record}


def _build_ivf(rows: np.ndarray, seed: int) -> faiss.Index:
    """Build lists by k-means on a sample; every picture then goes to its nearest list."""
    count, dim = rows.shape
    lists = min(4 * isqrt(count), count // TRAINING_PER_LIST)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.spherical = seed + 1, True
    index.train(rows[_sample(count, TRAINING_PER_LIST * lists, seed)])
    _add(index, rows)
    index.make_direct_map()  # search reconstructs the candidates' rows through it
    return index


def _build_hnsw(rows: np.ndarray, seed: int) -> faiss.Index:
    """Build a graph of neighbors, picture by picture in the order of the rows."""
    index = faiss.IndexHNSWFlat(rows.shape[1], HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = HNSW_CONSTRUCTION
    index.hnsw.rng = faiss.RandomGenerator(seed + 1)
    # Reserve the storage at once: a growing vector is copied, and exists twice meanwhile.
    codes = faiss.downcast_index(index.storage).codes
    codes.resize(rows.size * 4)
    codes.resize(0)
    # In one thread: the links depend on which picture was added first.
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        _add(index, rows)
    finally:
        faiss.omp_set_num_threads(threads)
    return index


def _add(index: faiss.Index, rows: np.ndarray) -> None:
    """Add rows in blocks, with a progress bar."""
    with tqdm(total=len(rows), desc="indexing", unit=" pictures") as bar:
        for block in blocks(len(rows), BLOCK):
            index.add(rows[block])
            bar.update(block.stop - block.start)


def _sample(count: int, size: int, seed: int) -> np.ndarray:
    """Draw row numbers by the seed, ascending."""
    chosen = np.random.default_rng(seed).choice(count, min(count, size), replace=False)
    return np.sort(chosen)


# ---- the search width of an approximate index ---------------------------------------------------

Search = Callable[[], tuple[np.ndarray, np.ndarray]]  # -> scores and row numbers, best first


def tune_search_width(index: faiss.Index, rows: np.ndarray, seed: int) -> dict[str, Any]:
    """Set the least search width at which an approximate index finds 99 % of the ten best.

    The width is `nprobe` (lists searched) of `ivf`, `efSearch` (candidates held on the walk) of
    `hnsw`. The queries are a sample of the gallery; that a picture finds itself does not count.

    Args:
        index: An IVF or HNSW index over `rows`; its width is set.
        rows: (N, D) float32 rows of length 1.
        seed: Of the sample.

    Returns:
        The width by its name, `recall@10`, and `times_exact`: how many times faster than exact
        search it is.
    """
    sample = _sample(len(rows), SAMPLE, seed)
    queries = np.ascontiguousarray(rows[sample])
    exact, exact_seconds = _timed_search(
        lambda: faiss.knn(queries, rows, TOP + 1, faiss.METRIC_INNER_PRODUCT), sample
    )
    is_ivf = isinstance(index, faiss.IndexIVF)
    name, least, most = ("nprobe", 1, index.nlist) if is_ivf else ("efSearch", TOP + 1, SMALL)

    def recall_at(width: int) -> tuple[float, float]:
        """Set the width; return the recall and the seconds of the search."""
        faiss.ParameterSpace().set_index_parameter(index, name, width)
        scores, seconds = _timed_search(lambda: index.search(queries, TOP + 1), sample)
        return float((scores >= exact[:, -1:] - TIE).mean()), seconds

    widths = _growing(least, most)
    chosen = widths[bisect_left(widths[:-1], RECALL, key=lambda width: recall_at(width)[0])]
    recall, seconds = recall_at(chosen)
    speedup = round(exact_seconds / seconds, 2)
    return {name: chosen, f"recall@{TOP}": round(recall, 4), "times_exact": speedup}


def _timed_search(search: Search, own_rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the ten best scores of each query without its own row, and the seconds it took."""
    start = time.perf_counter()
    scores, found = search()
    seconds = time.perf_counter() - start
    return -np.sort(-np.where(found == own_rows[:, None], -np.inf, scores))[:, :TOP], seconds


def _growing(least: int, most: int) -> list[int]:
    """Return whole numbers from `least` to `most`, each an eighth more than the last, or one more.

    >>> _growing(1, 20)
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20]
    """
    values = [least]
    while values[-1] < most:
        values.append(min(most, values[-1] + max(1, values[-1] // 8)))
    return values


# ---- storing ------------------------------------------------------------------------------------


class StoredNames(TypedDict):
    """What the .json file beside an index holds, besides all that the index was made from.

    Attributes:
        keys: The names of the rows.
        bytes: The size of the index's file.
        index_sha256: Its hash; earlier versions stored none.
    """

    keys: list[str]
    bytes: Count
    index_sha256: NotRequired[str]


def save_index(
    index: faiss.Index,
    gallery_names: Sequence[str],
    path: Path,
    made_from: Mapping[str, Any] | None = None,
) -> None:
    """Write an index, and beside it a .json file with the names of its rows.

    Args:
        index: The index.
        gallery_names: The name of each of its rows.
        path: Of the index, ending in .faiss.
        made_from: What the index was made from, stored with the names: see `load_index`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "gallery.faiss"
    ...     save_index(build_index(np.eye(2, dtype=np.float32)), ["a", "b"], path)
    ...     index, names = load_index(path)
    >>> index.ntotal, names
    (2, ['a', 'b'])
    """
    with whole_file(path) as beside, beside.open("wb") as stream:
        # Through Python: FAISS itself does not notice an error while a file is closed.
        faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write))
    state = {"bytes": path.stat().st_size, "index_sha256": file_hash(path)}
    record = {**(made_from or {}), **state, "keys": list(gallery_names)}
    write_sealed(path.with_suffix(".json"), record)


def load_index(
    path: Path, made_from: Mapping[str, Any] | None = None
) -> tuple[faiss.Index, list[str]]:
    """Open a stored index as a memory map; its bytes are read once before, to verify them.

    Args:
        path: Of the index, as `save_index` wrote it.
        made_from: What it must have been made from: names and values stored with it.

    Returns:
        The index, and the names of its rows.

    Raises:
        UserError: It is missing or damaged, or was made from something else.

    >>> load_index(Path("nowhere.faiss"))
    Traceback (most recent call last):
    lookalike.core.errors.UserError: nowhere.json is missing: make it with --stage index
    """
    record = read_sealed(path.with_suffix(".json"), "--stage index", dict[str, Any])
    other = [name for name, state in (made_from or {}).items() if record.get(name) != state]
    if other:
        raise UserError(f"{path} was made from another {other[0]}: run --stage index retrieve")
    stored: StoredNames = as_form(record, str(path.with_suffix(".json")), StoredNames)
    # Before it is opened: FAISS trusts what it reads, and does not notice a missing end.
    if not path.is_file():
        raise UserError(f"{path} is missing: make it with --stage index")
    size, digest = path.stat().st_size, stored.get("index_sha256")
    if size != stored["bytes"] or digest not in (None, file_hash(path)):
        raise UserError(f"{path} is damaged or not that of its names: --stage index makes it anew")
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise UserError(f"{path} cannot be read: --stage index makes it anew") from error
    if index.ntotal != len(stored["keys"]):
        raise UserError(f"{path} does not fit its names: --stage index makes both anew")
    return index, stored["keys"]


# ---- searching ----------------------------------------------------------------------------------


def search(
    index: faiss.Index,
    gallery_names: Iterable[str],
    queries: ArrayLike,
    query_names: Iterable[str],
    k: int = TOP,
) -> Ranking:
    """Find the k best gallery pictures of each query, equal scores ordered by name.

    FAISS finds candidates; their scores are computed again in double precision, since FAISS may
    round equal pictures differently depending on their position in the index. A query whose k-th
    score could be tied with pictures beyond the candidates is searched again, four times as wide.

    Args:
        index: Of the gallery, see `build_index`.
        gallery_names: The name of each row of the index.
        queries: (Q, D) float32 rows of length 1.
        query_names: The name of each query.
        k: How many pictures to find; a smaller gallery gives all it has.

    Raises:
        UserError: The names are not as many as the rows, the queries have another D than the index,
            or k is below 1.

    >>> rows = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    >>> ranking = search(build_index(rows), ["a", "b", "c"], rows[:1], ["query"], k=2)
    >>> with_scores(ranking)
    {'query': [('a', 1.0), ('c', 0.6)]}
    """
    queries, gallery_names, query_names = np.asarray(queries), [*gallery_names], [*query_names]
    _check_search(index, gallery_names, queries, query_names, k)
    k = min(k, index.ntotal)
    rows = np.zeros((len(queries), k), np.int64)
    scores = np.zeros((len(queries), k))
    searcher, factor, pending = _on_gpu(index), 1, np.arange(len(queries))
    while len(pending):
        width = min(2 * k * factor, index.ntotal)
        if width == index.ntotal:
            candidates = np.broadcast_to(np.arange(width), (len(pending), width))
            settled = np.full(len(pending), True)
        else:
            searcher = index if width > WIDEST_ON_GPU else searcher
            # faiss.contrib.torch_utils, which other packages import, replaces `search` by one that
            # takes no parameters, and keeps this one.
            search_arrays = getattr(searcher, "search_numpy", searcher.search)
            found, candidates = search_arrays(
                queries[pending], width, params=_widened(index, factor)
            )
            # All that could tie with the last rank must be among the candidates.
            settled = found[:, -1] < found[:, k - 1] - TIE
        for part in _parts(np.flatnonzero(settled), width):
            done = pending[part]
            rows[done], scores[done] = _best(
                index, gallery_names, candidates[part], queries[done], k
            )
        pending, factor = pending[~settled], 4 * factor
    return Ranking(query_names, _names_of(rows, gallery_names), scores)


def _check_search(
    index: faiss.Index,
    gallery_names: Sequence[str],
    queries: np.ndarray,
    query_names: Sequence[str],
    k: int,
) -> None:
    """Raise UserError where the arguments of a search do not fit together."""
    if k < 1:
        raise UserError(f"k = {k}: must be at least 1")
    if queries.ndim != 2 or queries.shape[1] != index.d:
        raise UserError(f"queries: must be of shape (Q, {index.d}), not {queries.shape}")
    for option, names, count in (
        ("gallery_names", gallery_names, index.ntotal),
        ("query_names", query_names, len(queries)),
    ):
        if len(names) != count:
            raise UserError(f"{option}: {len(names)} names for {count} rows")


def _widened(index: faiss.Index, factor: int) -> faiss.SearchParameters | None:
    """Return parameters that search an approximate index `factor` times as wide as it is set to."""
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=min(factor * index.nprobe, index.nlist))
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=factor * index.hnsw.efSearch)
    return None


def _parts(numbers: np.ndarray, width: int) -> list[np.ndarray]:
    """Split query numbers into parts whose candidates are rescored at once."""
    size = max(1, RESCORED // width)
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _best(
    index: faiss.Index, names: Sequence[str], candidates: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of each query's candidates and their scores, both (n, k).

    Args:
        index: Of the gallery.
        names: The name of each row of the index.
        candidates: (n, width) rows of the index; -1 where an approximate search found fewer.
        queries: (n, D) rows.
        k: How many to return.
    """
    vectors = index.reconstruct_batch(np.maximum(candidates, 0).ravel()).astype(np.float64)
    vectors = vectors.reshape(*candidates.shape, -1)
    scores = np.multiply(vectors, queries[:, None].astype(np.float64)).sum(axis=-1)
    scores[candidates < 0] = -np.inf
    order = np.lexsort((_names_of(candidates, names), -scores), axis=-1)[:, :k]
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(scores, order, 1)


def _names_of(rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return the names of rows of the index, in an array of the same shape."""
    return np.array([names[row] for row in rows.ravel().tolist()], str).reshape(rows.shape)


def ranking_of(
    scores: np.ndarray, gallery_names: Sequence[str], query_names: Sequence[str], k: int = TOP
) -> Ranking:
    """Rank the gallery by a matrix of scores, equal scores ordered by gallery name.

    Args:
        scores: (Q, G), the higher the better.
        gallery_names: The names of the G columns.
        query_names: The names of the Q rows.
        k: How many to return; a smaller gallery gives all it has.

    >>> as_mapping(ranking_of(np.array([[0.1, 0.7, 0.7]]), ["a", "c", "b"], ["q"], k=2))
    {'q': ['b', 'c']}
    """
    names = np.array(gallery_names)
    k = min(k, len(names))
    rows = np.zeros((len(query_names), k), np.int64)
    for row, values in zip(rows, scores, strict=True):
        least = np.partition(values, -k)[-k]
        candidates = np.flatnonzero(values >= least)  # all that tie with the last rank too
        row[:] = candidates[np.lexsort((names[candidates], -values[candidates]))[:k]]
    best = np.take_along_axis(scores, rows, 1).astype(np.float64)
    return Ranking(list(query_names), names[rows], best)


def _on_gpu(index: faiss.Index) -> faiss.Index:
    """Copy an exact index to the GPUs where FAISS finds any; other kinds stay in memory."""
    if isinstance(index, faiss.IndexFlat) and getattr(faiss, "get_num_gpus", int)() > 0:
        return faiss.index_cpu_to_all_gpus(index)
    return index
