"""Exact search beside bare FAISS, and an approximate index beside exact search; rows of run.py.

The gallery is generated: identities with ten pictures each. An identity is a point of a Gaussian in
64 dimensions, a picture that point with Gaussian noise of half its deviation; a random matrix maps
both to 512 dimensions, where they are brought to length 1: pictures of one identity have a cosine
of 0.8, of two identities 0 ± 0.13. Queries are other pictures of the same identities. (Of points
spread evenly in 512 dimensions, no index finds the nearest without comparing most of them.)
"""

import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import faiss
import numpy as np

from benchmarks.rows import BenchmarkSettings, Row, in_turns, seconds
from lookalike.core.readers import read_json
from lookalike.retrieval.index import (
    Ranking,
    build_and_measure,
    build_index,
    load_index,
    save_index,
    search,
)

DIM, WITHIN, INNER, PICTURES, QUERIES = 512, 0.5, 64, 10, 1000
BLOCK = 50_000


def faiss_version() -> str:
    """Return name and version of the FAISS package that is installed."""
    for name in ("faiss-gpu", "faiss-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "FAISS"


def pictures_of(identities: np.ndarray, each: int, rng: np.random.Generator) -> np.ndarray:
    """Return (len(identities) · each, DIM) float32 rows of length 1."""
    projection = np.random.default_rng(0).normal(size=(INNER, DIM)).astype(np.float32)
    points = np.repeat(identities, each, axis=0)
    rows = (points + WITHIN * rng.normal(size=points.shape).astype(np.float32)) @ projection
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def identity_blocks(count: int) -> Iterator[np.ndarray]:
    """Yield the identities of a gallery of `count` pictures, a block at a time."""
    rng = np.random.default_rng(1)
    for start in range(0, count // PICTURES, BLOCK // PICTURES):
        size = min(BLOCK // PICTURES, count // PICTURES - start)
        yield rng.normal(size=(size, INNER)).astype(np.float32)


def make_gallery(arguments: BenchmarkSettings) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the gallery as a memory map, the queries, and the names of the gallery."""
    path, rng = arguments.out / f"gallery-{arguments.gallery}.npy", np.random.default_rng(2)
    count = arguments.gallery // PICTURES * PICTURES
    if not path.is_file():
        beside = path.with_suffix(".partial")
        rows = np.lib.format.open_memmap(beside, "w+", np.float32, (count, DIM))
        for i, identities in enumerate(identity_blocks(count)):
            start = i * BLOCK
            stop = start + len(identities) * PICTURES
            rows[start:stop] = pictures_of(identities, PICTURES, rng)
        rows.flush()
        beside.rename(path)
    every = max(1, count // PICTURES // QUERIES)
    identities = np.concatenate(list(identity_blocks(count)))[::every][:QUERIES]
    queries = pictures_of(identities, 1, np.random.default_rng(3))
    gallery = np.load(path, mmap_mode="r").view(np.ndarray)
    return gallery, queries, [f"gallery/{i:07}.jpg" for i in range(count)]


def exact(arguments: BenchmarkSettings) -> list[Row]:
    """Measure our search, which returns names, beside the index's own."""
    gallery, queries, gallery_names = make_gallery(arguments)
    index, query_names = build_index(gallery), [str(i) for i in range(len(queries))]
    programs = (
        seconds(lambda: search(index, gallery_names, queries, query_names)),
        seconds(lambda: index.search(queries, 10)),
    )
    figures = in_turns(programs, arguments.repeats)
    what = f"{len(queries):,} × {len(gallery):,} × {DIM}, exact, the ten best"
    remark = "ours orders ties by name and rescores in double precision; one warm-up"
    other = f"{faiss_version()}, IndexFlatIP.search"
    return [Row(what, "`search`", other, "s", 0.95, figures[0], figures[1], remark)]


def graph(arguments: BenchmarkSettings) -> list[Row]:
    """Measure `--index hnsw` beside exact search."""
    return approximate(arguments, "hnsw")


def lists(arguments: BenchmarkSettings) -> list[Row]:
    """Measure `--index ivf` beside exact search."""
    return approximate(arguments, "ivf")


def approximate(arguments: BenchmarkSettings, kind: str) -> list[Row]:
    """Measure an approximate index beside exact search; it is built once, which takes minutes."""
    gallery, queries, gallery_names = make_gallery(arguments)
    path = arguments.out / f"gallery-{arguments.gallery}-{kind}.faiss"
    if not path.is_file():
        index, record = build_and_measure(gallery, kind)
        save_index(index, gallery_names, path, record)
    quick, _ = load_index(path)
    record = read_json(path.with_suffix(".json"), "this benchmark")
    exact, query_names = build_index(gallery), [str(i) for i in range(len(queries))]

    def rank(index: faiss.Index) -> Ranking:
        return search(index, gallery_names, queries, query_names)

    recall = recall_of(rank(quick), rank(exact))
    programs = seconds(lambda: rank(quick)), seconds(lambda: rank(exact))
    figures = in_turns(programs, arguments.repeats)
    built = {name: value for name, value in record.items() if name not in ("keys", "bytes")}
    remark = f"recall@10 {recall:.4f} of new pictures; as built: {built}; "
    remark += frontier(quick, gallery, queries)
    what = f"{len(queries):,} × {len(gallery):,} × {DIM}, recall@10 ≥ 0.99"
    return [
        Row(what, f"`--index {kind}`", "`--index exact`", "s", 10, figures[0], figures[1], remark)
    ]


def recall_of(found: Ranking, wanted: Ranking) -> float:
    """Return the share of the wanted pictures that were found."""
    pairs = zip(found.gallery, wanted.gallery, strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


def frontier(index: faiss.Index, gallery: np.ndarray, queries: np.ndarray) -> str:
    """Say recall and milliseconds per query at several search widths."""
    _, wanted = faiss.knn(queries, gallery, 10, faiss.METRIC_INNER_PRODUCT)
    name = "nprobe" if isinstance(index, faiss.IndexIVF) else "efSearch"
    tuned, points = getattr(index if name == "nprobe" else index.hnsw, name), []
    for width in (tuned // 4, tuned // 2, tuned, tuned * 2):
        if width < 1:
            continue
        faiss.ParameterSpace().set_index_parameter(index, name, width)
        start = time.perf_counter()
        _, found = index.search(queries, 10)
        taken = time.perf_counter() - start
        pairs = zip(found, wanted, strict=True)
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in pairs])
        points.append(f"{name} {width}: {recall:.3f}, {1000 * taken / len(queries):.2f} ms")
    faiss.ParameterSpace().set_index_parameter(index, name, tuned)
    return "; ".join(points)
