"""Every kind of index finds what exact search finds, is the same twice, and opens without loading.

Rankings are exact, and ties are ordered by name.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
import pytest

from lookalike.core.errors import UserError
from lookalike.core.numeric import unit
from lookalike.evaluation.metrics import TOP
from lookalike.retrieval import index as index_module
from lookalike.retrieval.index import (
    as_mapping,
    build_and_measure,
    build_index,
    load_index,
    ranking_of,
    save_index,
    search,
    with_scores,
)
from tests.conftest import ROOT, files_up_to

KINDS = ("ivf", "hnsw")
COUNT = 12_000
Built = dict[str, tuple[faiss.Index, dict[str, Any]]]


@pytest.fixture(scope="module")
def gallery() -> np.ndarray:
    """Rows of length 1, of 3,000 identities with four pictures each."""
    rng = np.random.default_rng(0)
    centers = np.repeat(rng.normal(size=(COUNT // 4, 24)), 4, axis=0)
    rows = centers + 0.4 * rng.normal(size=centers.shape)
    return unit(rows)


@pytest.fixture(scope="module")
def built(gallery: np.ndarray) -> Built:
    return {kind: build_and_measure(gallery, kind, seed=3) for kind in KINDS}


def queries_of(gallery: np.ndarray) -> np.ndarray:
    """Other pictures of some of the identities."""
    rows = gallery[::60] + 0.05 * np.random.default_rng(1).normal(size=gallery[::60].shape)
    return unit(rows)


NAMES = [f"g{i:05}" for i in range(COUNT)]


@pytest.mark.parametrize("kind", KINDS)
def test_nearly_all_that_exact_search_finds_is_found(
    kind: str, gallery: np.ndarray, built: Built
) -> None:
    index, record = built[kind]
    assert record["kind"] == kind and record["recall@10"] >= 0.99 and len(record) == 3
    queries = queries_of(gallery)
    names = [f"q{i}" for i in range(len(queries))]
    exact = search(build_index(gallery), NAMES, queries, names)
    found = search(index, NAMES, queries, names)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.gallery, found.gallery, strict=True)]
    assert np.mean(shared) / 10 > 0.97
    assert (np.diff(found.scores) <= 0).all()
    same = found.gallery == exact.gallery
    assert np.array_equal(found.scores[same], exact.scores[same]), "scores are computed again"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_index(kind: str, gallery: np.ndarray, built: Built) -> None:
    again, _ = build_and_measure(gallery, kind, seed=3)
    first, second = (faiss.serialize_index(index) for index in (built[kind][0], again))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("kind", (*KINDS, "auto"))
def test_a_small_gallery_is_searched_exactly(
    kind: str, gallery: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="toolkit"):
        index, record = build_and_measure(gallery[:500], kind)
    assert record == {"kind": "exact"} and isinstance(index, faiss.IndexFlat)
    assert ("searched exactly" in caplog.text) == (kind != "auto")


def test_auto_is_for_large_galleries(gallery: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_and_measure(gallery, "auto")[1]["kind"] == "exact"
    monkeypatch.setattr(index_module, "LARGE", COUNT)
    assert build_and_measure(gallery, "auto")[1]["kind"] == "hnsw"


@pytest.mark.parametrize("kind", KINDS)
def test_ties_are_ordered_by_name_in_every_kind(kind: str, gallery: np.ndarray) -> None:
    copies = np.concatenate([gallery, np.repeat(gallery[:1], 40, axis=0)])
    names = [*NAMES, *(f"copy{i:02}" for i in range(40))]
    index, _ = build_and_measure(copies, kind)
    found = search(index, names, gallery[:1], ["q"])
    assert found.gallery[0].tolist() == [f"copy{i:02}" for i in range(10)]


def test_too_few_searched_lists_still_give_k_pictures(gallery: np.ndarray, built: Built) -> None:
    """A leaderboard refuses a query with nine names."""
    index = faiss.clone_index(built["ivf"][0])
    index.nprobe = 1
    sizes = [index.invlists.list_size(i) for i in range(index.nlist)]
    probe = index.quantizer.reconstruct(int(np.argmin(sizes)))[None]
    assert min(sizes) < 30, "there is a list with fewer"
    found = search(index, NAMES, probe, ["q"], k=30)
    assert len(set(found.gallery[0])) == 30 and np.isfinite(found.scores).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_index_is_not_loaded(kind: str, gallery: np.ndarray, tmp_path: Path) -> None:
    """Opened in a process of its own, an index of 50 MB takes little memory that is not the
    file's, and the same is found."""
    wide = np.tile(gallery, (1, 40)) / np.sqrt(40).astype(np.float32)
    index, _ = build_and_measure(wide, kind)
    save_index(index, NAMES, tmp_path / "g.faiss")
    code = """
import sys, numpy as np, re
from pathlib import Path
from typing import Any
from lookalike.retrieval.index import load_index
def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\\s+(\\d+)", status)[1])
before = anonymous()
index, names = load_index(Path("g.faiss"))
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
    save_index(index, NAMES, path, {"--index": kind})
    assert json.loads(path.with_suffix(".json").read_text())["--index"] == kind
    with pytest.raises(UserError, match="made from another --index: run --stage index"):
        load_index(path, {"--index": "other"})
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="--stage index makes"):
            load_index(path, {"--index": kind})


@pytest.mark.parametrize("position", [60, 3000, -1])
@pytest.mark.parametrize("name", ["g.faiss", "g.json"])
def test_a_turned_bit_is_noticed(name: str, position: int, tmp_path: Path) -> None:
    """The size stays the same: without a checksum, another ranking would come out."""
    rows = unit(np.random.default_rng(0).normal(size=(500, 8)))
    save_index(build_index(rows), NAMES[:500], tmp_path / "g.faiss", {"--index": "exact"})
    content = bytearray((tmp_path / name).read_bytes())
    content[position] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"g\.{name[2:]}.*--stage index"):
        load_index(tmp_path / "g.faiss")


def test_swapped_names_are_noticed(tmp_path: Path) -> None:
    save_index(build_index(np.eye(2, dtype=np.float32)), ["a", "b"], tmp_path / "g.faiss")
    record = json.loads((tmp_path / "g.json").read_text())
    (tmp_path / "g.json").write_text(json.dumps(record | {"keys": ["b", "a"]}))
    with pytest.raises(UserError, match=r"g\.json: was changed.*make it anew with --stage index"):
        load_index(tmp_path / "g.faiss")


def test_an_index_of_an_earlier_version_is_verified_by_its_size(tmp_path: Path) -> None:
    path, names = tmp_path / "g.faiss", ["a", "b"]
    faiss.write_index(build_index(np.eye(2, dtype=np.float32)), str(path))
    record = {"model": "1", "bytes": path.stat().st_size, "keys": names}
    path.with_suffix(".json").write_text(json.dumps(record))
    assert load_index(path, {"model": "1"})[1] == names
    path.with_suffix(".json").write_text(json.dumps(record | {"bytes": 7}))
    with pytest.raises(UserError, match="is damaged"):
        load_index(path)


def test_an_index_that_does_not_fit_on_the_disk_is_a_sentence(tmp_path: Path) -> None:
    index = build_index(np.zeros((4000, 256), np.float32))  # 4 MB
    with (
        files_up_to(1_000_000),
        pytest.raises(UserError, match=r"g\.faiss: the disk is full"),
    ):
        save_index(index, ["a"] * 4000, tmp_path / "g.faiss")
    assert not list(tmp_path.iterdir())


# ---- rankings ----------------------------------------------------------------------------------


def test_search_equals_sorting_all_scores() -> None:
    rng = np.random.default_rng(0)
    gallery, queries = unit(rng.normal(size=(500, 16))), unit(rng.normal(size=(50, 16)))
    names = [f"g{i:03}" for i in range(500)]
    found = search(build_index(gallery), names, queries, [f"q{i}" for i in range(50)])
    scores = queries.astype(float) @ gallery.astype(float).T
    expected = np.argsort(-scores, axis=1)[:, :TOP]
    assert found.gallery.tolist() == [[names[i] for i in row] for row in expected]
    assert np.allclose(found.scores, np.take_along_axis(scores, expected, 1), atol=1e-12)


def test_ties_are_ordered_by_name_whatever_their_row() -> None:
    """Thirty copies of one picture: the ten first by name, though FAISS sees them all as equal."""
    rng = np.random.default_rng(1)
    one, others = unit(rng.normal(size=(1, 33))), unit(rng.normal(size=(300, 33)))
    gallery = np.concatenate([others, np.repeat(one, 30, axis=0)])
    order = rng.permutation(330)
    names = np.array([f"x{i:03}" for i in range(300)] + [f"copy{i:02}" for i in range(30)])[order]
    found = search(build_index(gallery[order]), names.tolist(), one, ["q"])
    assert found.gallery[0].tolist() == [f"copy{i:02}" for i in range(10)]
    assert len(set(found.scores[0])) == 1


def test_a_small_gallery_gives_what_it_has() -> None:
    rows = unit(np.eye(3, dtype=np.float32))
    found = search(build_index(rows), ["a", "b", "c"], rows[:1], ["q"])
    assert found.gallery.tolist() == [["a", "b", "c"]]


def test_an_index_fits_its_names_and_its_model(tmp_path: Path) -> None:
    path = tmp_path / "gallery.faiss"
    save_index(build_index(np.eye(2, dtype=np.float32)), ["a", "b"], path, {"m.csv": "1"})
    index, names = load_index(path, {"m.csv": "1"})
    assert index.ntotal == 2 and names == ["a", "b"]
    with pytest.raises(UserError, match=r"made from another m\.csv: run --stage index retrieve"):
        load_index(path, {"m.csv": "2"})
    save_index(build_index(np.eye(3, dtype=np.float32)), ["a", "b"], path, {"m.csv": "1"})
    with pytest.raises(UserError, match="does not fit its names"):
        load_index(path, {"m.csv": "1"})
    path.write_bytes(b"broken")
    with pytest.raises(UserError, match="--stage index makes it anew"):
        load_index(path, {"m.csv": "1"})


def test_a_matrix_of_scores_is_ranked_as_a_search_ranks() -> None:
    scores = np.random.default_rng(2).integers(0, 4, size=(20, 30)) / 4  # many ties
    gallery, queries = [f"g{i:02}" for i in range(30)][::-1], [f"q{i}" for i in range(20)]
    found = ranking_of(scores, gallery, queries, k=7)
    for row, names, best in zip(scores, found.gallery, found.scores, strict=True):
        expected = sorted(zip(-row, gallery, strict=True))[:7]
        assert names.tolist() == [name for _, name in expected]
        assert best.tolist() == [-score for score, _ in expected]


def test_a_ranking_as_a_mapping_with_and_without_scores() -> None:
    rows = np.eye(2, dtype=np.float32)
    found = search(build_index(rows), ["a", "b"], rows, ["p", "q"], k=1)
    assert as_mapping(found) == {"p": ["a"], "q": ["b"]}
    assert with_scores(found) == {"p": [("a", 1.0)], "q": [("b", 1.0)]}


def test_names_are_a_series_with_any_index() -> None:
    rows = np.eye(3, dtype=np.float32)
    names = pd.Series(["a", "b", "c"], index=[2, 0, 1])
    found = search(build_index(rows.tolist()), names, rows[:1].tolist(), names[:1], k=1)
    assert as_mapping(found) == {"a": ["a"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gallery_names": ["a"]}, "gallery_names: 1 names for 2 rows"),
        ({"query_names": []}, "query_names: 0 names for 2 rows"),
        ({"queries": np.eye(3)}, r"shape \(Q, 2\), not \(3, 3\)"),
        ({"k": 0}, "k = 0: must be at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    rows = np.eye(2, dtype=np.float32)
    arguments: dict[str, Any] = {
        "gallery_names": ["a", "b"],
        "queries": rows,
        "query_names": ["p", "q"],
    }
    with pytest.raises(UserError, match=message):
        search(build_index(rows), **(arguments | changes))


def test_an_index_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(UserError, match="'flat': must be exact, ivf, hnsw or auto"):
        build_index(np.eye(2, dtype=np.float32), "flat")
    with pytest.raises(UserError, match=r"shape \(N, D\), not \(2,\)"):
        build_index(np.ones(2, np.float32))


def test_a_package_that_changes_faiss_changes_no_search() -> None:
    """pytorch-metric-learning's accuracy calculator imports faiss.contrib.torch_utils."""
    code = (
        "import faiss.contrib.torch_utils, numpy as np\n"
        "from lookalike.retrieval.index import build_index, search\n"
        "rows = np.eye(40, dtype=np.float32)\n"
        "names = [f'{i:02}' for i in range(40)]\n"
        "found = search(build_index(rows), names, rows[:2], ['a', 'b'], k=3)\n"
        "from lookalike.retrieval.galleries import StoredGallery\n"
        "none = rows[:0]\n"
        "from lookalike.features.extractor import JointExtractor\n"
        "kept = build_index(rows), names, None, (none, none), ([], []), None, None\n"
        "stored = StoredGallery(JointExtractor(()), *kept)\n"
        "print(found.gallery[:, 0].tolist(), type(stored.vectors).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "['00', '01'] ndarray"
