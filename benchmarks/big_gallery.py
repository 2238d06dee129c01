"""Exact search beside bare FAISS, and an approximate index beside exact search; rows of run.py.

The gallery is generated: people with ten pictures each. A person is a point of a Gaussian in 64
dimensions, a picture that point with Gaussian noise of half its deviation; a random matrix takes
both to 512 dimensions, where they are brought to length 1: pictures of a person have a cosine of
0.8, of two people 0 ± 0.13. Queries are other pictures of the same people. Of points spread evenly
in 512 dimensions, no index finds the nearest without looking at most of them.
"""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import faiss
import numpy as np

from benchmarks.rows import Given, Row, in_turns, seconds
from lookalike.core.files import read_json
from lookalike.retrieval.index import Ranking, build_as, build_index, load_index, save_index, search

DIM, WITHIN, INNER, PICTURES, QUERIES = 512, 0.5, 64, 10, 1000
BLOCK = 50_000


def faiss_version() -> str:
    """The FAISS that is installed."""
    for name in ("faiss-gpu", "faiss-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "FAISS"


def pictures_of(people: np.ndarray, each: int, rng: np.random.Generator) -> np.ndarray:
    """(len(people) · each, DIM) float32 unit rows."""
    into = np.random.default_rng(0).normal(size=(INNER, DIM)).astype(np.float32)
    points = np.repeat(people, each, axis=0)
    rows = (points + WITHIN * rng.normal(size=points.shape).astype(np.float32)) @ into
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def people_blocks(count: int) -> Iterator[np.ndarray]:
    """The people of the gallery, a block at a time."""
    rng = np.random.default_rng(1)
    for start in range(0, count // PICTURES, BLOCK // PICTURES):
        size = min(BLOCK // PICTURES, count // PICTURES - start)
        yield rng.normal(size=(size, INNER)).astype(np.float32)


def make_gallery(arguments: Given) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(gallery as a memory map, queries, the gallery's keys)."""
    path, rng = arguments.out / f"gallery-{arguments.gallery}.npy", np.random.default_rng(2)
    count = arguments.gallery // PICTURES * PICTURES
    if not path.is_file():
        beside = path.with_suffix(".partial")
        rows = np.lib.format.open_memmap(beside, "w+", np.float32, (count, DIM))
        for i, people in enumerate(people_blocks(count)):
            start = i * BLOCK
            rows[start : start + len(people) * PICTURES] = pictures_of(people, PICTURES, rng)
        rows.flush()
        beside.rename(path)
    settings = np.concatenate(list(people_blocks(count)))[:: max(1, count // PICTURES // QUERIES)]
    queries = pictures_of(settings[:QUERIES], 1, np.random.default_rng(3))
    gallery = np.load(path, mmap_mode="r").view(np.ndarray)
    return gallery, queries, [f"gallery/{i:07}.jpg" for i in range(count)]


def exact(arguments: Given) -> list[Row]:
    """Our search, keys and all, beside the index's own."""
    gallery, queries, keys = make_gallery(arguments)
    index, names = build_index(gallery), [str(i) for i in range(len(queries))]
    programs = (
        seconds(lambda: search(index, keys, queries, names)),
        seconds(lambda: index.search(queries, 10)),
    )
    figures = in_turns(programs, arguments.repeats)
    what = f"{len(queries):,} × {len(keys):,} × {DIM}, exact, the ten best"
    remark = "ours orders ties by key and takes scores again in double precision; one warm-up"
    other = f"{faiss_version()}, IndexFlatIP.search"
    return [Row(what, "`search`", other, "s", 0.95, figures[0], figures[1], remark)]


def graph(arguments: Given) -> list[Row]:
    """`--index hnsw` beside exact search."""
    return approximate(arguments, "hnsw")


def lists(arguments: Given) -> list[Row]:
    """`--index ivf` beside exact search."""
    return approximate(arguments, "ivf")


def approximate(arguments: Given, kind: str) -> list[Row]:
    """An approximate index beside exact search, both ours; built once, which takes minutes."""
    gallery, queries, keys = make_gallery(arguments)
    path = arguments.out / f"gallery-{arguments.gallery}-{kind}.faiss"
    if not path.is_file():
        index, about = build_as(kind, gallery)
        save_index(index, keys, about, path)
    quick, _ = load_index(path, {})
    about = read_json(path.with_suffix(".json"), "this benchmark")
    whole, names = build_index(gallery), [str(i) for i in range(len(queries))]

    def of(index: faiss.Index) -> Ranking:
        return search(index, keys, queries, names)

    recall = recall_of(of(quick), of(whole))
    figures = in_turns((seconds(lambda: of(quick)), seconds(lambda: of(whole))), arguments.repeats)
    built = {name: value for name, value in about.items() if name not in ("keys", "bytes")}
    remark = f"recall@10 {recall:.4f} of new pictures; as built: {built}; "
    remark += frontier(quick, gallery, queries)
    what = f"{len(queries):,} × {len(keys):,} × {DIM}, recall@10 ≥ 0.99"
    return [
        Row(what, f"`--index {kind}`", "`--index exact`", "s", 10, figures[0], figures[1], remark)
    ]


def recall_of(found: Ranking, wanted: Ranking) -> float:
    """Share of the wanted that were found."""
    pairs = zip(found.gallery, wanted.gallery, strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


def frontier(index: faiss.Index, gallery: np.ndarray, queries: np.ndarray) -> str:
    """Recall and milliseconds a query, by how far the index looks."""
    _, wanted = faiss.knn(queries, gallery, 10, faiss.METRIC_INNER_PRODUCT)
    name = "nprobe" if isinstance(index, faiss.IndexIVF) else "efSearch"
    told, points = getattr(index if name == "nprobe" else index.hnsw, name), []
    for value in (told // 4, told // 2, told, told * 2):
        if value < 1:
            continue
        faiss.ParameterSpace().set_index_parameter(index, name, value)
        taken = seconds(lambda: points.append(index.search(queries, 10)[1]))()
        found = points.pop()
        pairs = zip(found, wanted, strict=True)
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in pairs])
        points.append(f"{name} {value}: {recall:.3f}, {1000 * taken / len(queries):.2f} ms")
    faiss.ParameterSpace().set_index_parameter(index, name, told)
    return "; ".join(points)
