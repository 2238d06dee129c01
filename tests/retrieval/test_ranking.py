"""Rankings are exact, ties go by key, and submissions have the promised forms."""

from pathlib import Path

import numpy as np
import pytest

from lookalike.core.errors import UserError
from lookalike.evaluation.submissions import TOP
from lookalike.retrieval.index import as_mapping, build_index, load_index, save_index, search


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def test_search_equals_sorting_all_scores() -> None:
    rng = np.random.default_rng(0)
    gallery, queries = unit(rng.normal(size=(500, 16))), unit(rng.normal(size=(50, 16)))
    keys = [f"g{i:03}" for i in range(500)]
    found = search(build_index(gallery), keys, queries, [f"q{i}" for i in range(50)])
    scores = queries.astype(float) @ gallery.astype(float).T
    expected = np.argsort(-scores, axis=1)[:, :TOP]
    assert found.gallery.tolist() == [[keys[i] for i in row] for row in expected]
    assert np.allclose(found.scores, np.take_along_axis(scores, expected, 1), atol=1e-12)


def test_ties_are_ordered_by_key_wherever_they_stand() -> None:
    """Thirty copies of one picture: the ten first by key, though FAISS sees them all as equal."""
    rng = np.random.default_rng(1)
    one, others = unit(rng.normal(size=(1, 33))), unit(rng.normal(size=(300, 33)))
    gallery = np.concatenate([others, np.repeat(one, 30, axis=0)])
    order = rng.permutation(330)
    keys = np.array([f"x{i:03}" for i in range(300)] + [f"copy{i:02}" for i in range(30)])[order]
    found = search(build_index(gallery[order]), keys.tolist(), one, ["q"])
    assert found.gallery[0].tolist() == [f"copy{i:02}" for i in range(10)]
    assert len(set(found.scores[0])) == 1


def test_a_small_gallery_gives_what_it_has() -> None:
    rows = unit(np.eye(3, dtype=np.float32))
    found = search(build_index(rows), ["a", "b", "c"], rows[:1], ["q"])
    assert found.gallery.tolist() == [["a", "b", "c"]]


def test_an_index_fits_its_keys_and_its_model(tmp_path: Path) -> None:
    path = tmp_path / "gallery.faiss"
    save_index(build_index(np.eye(2, dtype=np.float32)), ["a", "b"], {"m.csv": "1"}, path)
    index, keys = load_index(path, {"m.csv": "1"})
    assert index.ntotal == 2 and keys == ["a", "b"]
    with pytest.raises(UserError, match=r"made from another m\.csv: run --stage index retrieve"):
        load_index(path, {"m.csv": "2"})
    save_index(build_index(np.eye(3, dtype=np.float32)), ["a", "b"], {"m.csv": "1"}, path)
    with pytest.raises(UserError, match="does not fit its keys"):
        load_index(path, {"m.csv": "1"})
    path.write_bytes(b"broken")
    with pytest.raises(UserError, match="--stage index makes it anew"):
        load_index(path, {"m.csv": "1"})


def test_a_ranking_as_a_mapping() -> None:
    rows = np.eye(2, dtype=np.float32)
    found = search(build_index(rows), ["a", "b"], rows, ["p", "q"], k=1)
    assert as_mapping(found) == {"p": ["a"], "q": ["b"]}
