"""`lookalike cache` lists what lies in the cache and deletes only what the limits choose."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from lookalike.core.cache import FeatureCache, keys_of
from lookalike.core.files import write_json
from lookalike.features import cache_tool
from lookalike.features.cache_tool import Entry, Prune, entries, to_delete


def open_cache(root: Path, view: str) -> FeatureCache:
    return FeatureCache(root, "some/model", {"engine": "torch", "view": view}, dim=4)


def fill(root: Path, view: str, days: float, count: int) -> FeatureCache:
    """A folder of rows that was last used so many days ago."""
    store = open_cache(root, view)
    store.add(keys(count), np.ones((count, 4), np.float32))
    store.flush()
    then = time.time() - days * 86_400
    os.utime(store.folder / "about.json", (then, then))
    return store


def keys(count: int) -> np.ndarray:
    return keys_of(f"{number:032x}" for number in range(count))


def prune(root: Path, *words: str) -> int:
    return cache_tool.main(["prune", "--cache", str(root), *words])


def test_the_cache_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, "plain", 3, 1500)
    write_json(tmp_path / "engines" / "some-model" / "model.xml", {})
    assert cache_tool.main(["list", "--cache", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "torch, plain" in printed and "1,500" in printed and "3.0" in printed
    assert "compiled model" in printed and "2 folders" in printed


def test_a_broken_shard_counts_for_nothing(tmp_path: Path) -> None:
    store = fill(tmp_path, "plain", 0, 10)
    (store.folder / "broken.keys.npy").write_bytes(b"broken")
    assert [entry.rows for entry in entries(tmp_path)] == [10]


def test_what_was_not_used_for_long_is_pruned(tmp_path: Path) -> None:
    old, new = fill(tmp_path, "old", 40, 10), fill(tmp_path, "new", 1, 10)
    assert prune(tmp_path, "--unused", "30", "--dry-run") == 0
    assert old.folder.is_dir()
    assert prune(tmp_path, "--unused", "30") == 0
    assert not old.folder.exists() and new.folder.is_dir()
    assert new.rows(keys(10))[0].tolist() == np.ones((10, 4)).tolist()


def test_the_least_recently_used_goes_where_the_cache_is_too_large(tmp_path: Path) -> None:
    stores = [fill(tmp_path, str(days), days, 2000) for days in (1, 5, 9)]
    size = sum(path.stat().st_size for path in stores[0].folder.iterdir())
    assert prune(tmp_path, "--keep", str(2.5 * size / 1e9)) == 0
    assert [store.folder.is_dir() for store in stores] == [True, True, False]


def test_both_limits_count_together() -> None:
    found = [Entry(Path(name), "", 1, 10**9, days) for name, days in (("a", 9), ("b", 5), ("c", 1))]
    chosen = to_delete(found, Prune(unused=7, keep=2))
    assert [entry.folder.name for entry in chosen] == ["a"], "what is old has made enough room"


def test_a_folder_that_is_used_counts_as_used(tmp_path: Path) -> None:
    store = fill(tmp_path, "plain", 40, 10)
    open_cache(tmp_path, "plain")
    assert prune(tmp_path, "--unused", "30") == 0
    assert store.folder.is_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prune"], "say what to delete: --unused 30"),
        (["prune", "--keep", "-1"], "--keep -1.0: must be at least 0"),
        (["list", "--cache", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_says_why(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cache_tool.main(words) == 1
    assert message in capsys.readouterr().err
