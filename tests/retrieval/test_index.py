"""Every kind of index finds what exact search finds, is the same twice, and opens without loading.

How search orders what it finds stands in tests/test_retrieve.py.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from lookalike.core.errors import UserError
from lookalike.retrieval import index as index_module
from lookalike.retrieval.index import build_as, build_index, load_index, save_index, search
from tests.conftest import ROOT

KINDS = ("ivf", "hnsw")
COUNT = 12_000
Built = dict[str, tuple[faiss.Index, dict[str, Any]]]


@pytest.fixture(scope="module")
def gallery() -> np.ndarray:
    """Unit rows of 3,000 people with four pictures each."""
    rng = np.random.default_rng(0)
    people = np.repeat(rng.normal(size=(COUNT // 4, 24)), 4, axis=0)
    rows = people + 0.4 * rng.normal(size=people.shape)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def built(gallery: np.ndarray) -> Built:
    return {kind: build_as(kind, gallery, seed=3) for kind in KINDS}


def queries_of(gallery: np.ndarray) -> np.ndarray:
    """Other pictures of some of the people."""
    rows = gallery[::60] + 0.05 * np.random.default_rng(1).normal(size=gallery[::60].shape)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


KEYS = [f"g{i:05}" for i in range(COUNT)]


@pytest.mark.parametrize("kind", KINDS)
def test_nearly_all_that_exact_search_finds_is_found(
    kind: str, gallery: np.ndarray, built: Built
) -> None:
    index, about = built[kind]
    assert about["kind"] == kind and about["recall@10"] >= 0.99 and len(about) == 3
    queries = queries_of(gallery)
    names = [f"q{i}" for i in range(len(queries))]
    exact = search(build_index(gallery), KEYS, queries, names)
    found = search(index, KEYS, queries, names)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.gallery, found.gallery, strict=True)]
    assert np.mean(shared) / 10 > 0.97
    assert (np.diff(found.scores) <= 0).all()
    same = found.gallery == exact.gallery
    assert np.array_equal(found.scores[same], exact.scores[same]), "scores are taken again"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_index(kind: str, gallery: np.ndarray, built: Built) -> None:
    again, _ = build_as(kind, gallery, seed=3)
    first, second = (faiss.serialize_index(index) for index in (built[kind][0], again))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("kind", (*KINDS, "auto"))
def test_a_small_gallery_is_searched_exactly(
    kind: str, gallery: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="toolkit"):
        index, about = build_as(kind, gallery[:500])
    assert about == {"kind": "exact"} and isinstance(index, faiss.IndexFlat)
    assert ("searched exactly" in caplog.text) == (kind != "auto")


def test_auto_is_for_large_galleries(gallery: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_as("auto", gallery)[1]["kind"] == "exact"
    monkeypatch.setattr(index_module, "LARGE", COUNT)
    assert build_as("auto", gallery)[1]["kind"] == "hnsw"


@pytest.mark.parametrize("kind", KINDS)
def test_ties_are_ordered_by_key_in_every_kind(kind: str, gallery: np.ndarray) -> None:
    copies = np.concatenate([gallery, np.repeat(gallery[:1], 40, axis=0)])
    keys = [*KEYS, *(f"copy{i:02}" for i in range(40))]
    index, _ = build_as(kind, copies)
    found = search(index, keys, gallery[:1], ["q"])
    assert found.gallery[0].tolist() == [f"copy{i:02}" for i in range(10)]


def test_too_few_lists_looked_into_still_give_all_that_is_asked_for(
    gallery: np.ndarray, built: Built
) -> None:
    """A leaderboard refuses a query with nine names."""
    index = faiss.clone_index(built["ivf"][0])
    index.nprobe = 1
    sizes = [index.invlists.list_size(i) for i in range(index.nlist)]
    probe = index.quantizer.reconstruct(int(np.argmin(sizes)))[None]
    assert min(sizes) < 30, "there is a list with fewer"
    found = search(index, KEYS, probe, ["q"], k=30)
    assert len(set(found.gallery[0])) == 30 and np.isfinite(found.scores).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_index_is_not_loaded(kind: str, gallery: np.ndarray, tmp_path: Path) -> None:
    """Opened in a process of its own, an index of 50 MB takes little memory that is not the
    file's, and the same is found."""
    wide = np.tile(gallery, (1, 40)) / np.sqrt(40).astype(np.float32)
    index, _ = build_as(kind, wide)
    save_index(index, KEYS, {}, tmp_path / "g.faiss")
    code = """
import sys, numpy as np, re
from pathlib import Path
from typing import Any
from lookalike.retrieval.index import load_index
def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\\s+(\\d+)", status)[1])
before = anonymous()
index, keys = load_index(Path("g.faiss"), {})
print(anonymous() - before, index.search(np.load("q.npy"), 1)[1][0, 0])
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux says how much memory is anonymous")
    np.save(tmp_path / "q.npy", wide[7:8])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    grown, nearest = done.stdout.split()
    assert int(nearest) == 7
    assert (tmp_path / "g.faiss").stat().st_size > 45_000_000
    assert int(grown) < 15_000, "kB"


@pytest.mark.parametrize("kind", ("exact", *KINDS))
def test_a_cut_off_file_is_refused(
    kind: str, gallery: np.ndarray, built: Built, tmp_path: Path
) -> None:
    path = tmp_path / "g.faiss"
    index = build_index(gallery) if kind == "exact" else built[kind][0]
    save_index(index, KEYS, {"--index": kind}, path)
    assert json.loads(path.with_suffix(".json").read_text())["--index"] == kind
    with pytest.raises(UserError, match="made from another --index: run --stage index"):
        load_index(path, {"--index": "other"})
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="--stage index makes"):
            load_index(path, {"--index": kind})
