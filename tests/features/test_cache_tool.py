"""`lookalike cache` lists what lies in the cache and deletes only what the limits choose."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lookalike.core.cache import FeatureCache, keys_of
from lookalike.core.files import write_json
from lookalike.features import cache_tool
from lookalike.features.cache_tool import Entry, Prune, entries, to_delete


def open_cache(root: Path, view: str) -> FeatureCache:
    return FeatureCache(root, "some/model", {"engine": "torch", "view": view}, dim=4)


def fill(root: Path, view: str, days: float, count: int) -> Path:
    """A folder of rows that was last used so many days ago, and is not in use."""
    store = open_cache(root, view)
    store.add(keys(count), np.ones((count, 4), np.float32))
    store.flush()
    then = time.time() - days * 86_400
    for path in store.folder.iterdir():
        os.utime(path, (then, then))
    return store.folder


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
    folder = fill(tmp_path, "plain", 0, 10)
    (folder / "broken.keys.npy").write_bytes(b"broken")
    os.mkfifo(folder / "pipe.keys.npy")
    assert [entry.rows for entry in entries(tmp_path)] == [10]


def test_what_was_not_used_for_long_is_pruned(tmp_path: Path) -> None:
    old, new = fill(tmp_path, "old", 40, 10), fill(tmp_path, "new", 1, 10)
    assert prune(tmp_path, "--unused", "30", "--dry-run") == 0
    assert old.is_dir()
    assert prune(tmp_path, "--unused", "30") == 0
    assert not old.exists() and new.is_dir()
    assert open_cache(tmp_path, "new").rows(keys(10))[0].tolist() == np.ones((10, 4)).tolist()


def test_the_least_recently_used_goes_where_the_cache_is_too_large(tmp_path: Path) -> None:
    stores = [fill(tmp_path, str(days), days, 2000) for days in (1, 5, 9)]
    size = sum(path.stat().st_size for path in stores[0].iterdir())
    assert prune(tmp_path, "--keep", str(2.5 * size / 1e9)) == 0
    assert [store.is_dir() for store in stores] == [True, True, False]


def test_both_limits_count_together() -> None:
    found = [Entry(Path(name), "", 1, 10**9, days) for name, days in (("a", 9), ("b", 5), ("c", 1))]
    chosen = to_delete(found, Prune(unused=7, keep=2))
    assert [entry.folder.name for entry in chosen] == ["a"], "what is old has made enough room"


def test_a_folder_that_is_used_counts_as_used(tmp_path: Path) -> None:
    folder = fill(tmp_path, "plain", 40, 10)
    open_cache(tmp_path, "plain")
    assert prune(tmp_path, "--unused", "30") == 0
    assert folder.is_dir()


def test_what_a_run_is_using_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, store = fill(tmp_path, "plain", 9, 10), open_cache(tmp_path, "plain")
    assert prune(tmp_path, "--keep", "0") == 0
    assert folder.is_dir() and len(store.rows(keys(10))[0]) == 10
    output = capsys.readouterr()
    assert folder.name in output.err and "in use" in output.err and "0 folders" in output.out
    del store
    assert prune(tmp_path, "--keep", "0") == 0 and not folder.exists()


def test_what_was_used_since_it_was_listed_is_left_alone(tmp_path: Path) -> None:
    folder = fill(tmp_path, "plain", 40, 10)
    [entry] = entries(tmp_path)
    (folder / "new.rows.npy").write_bytes(b"")
    assert not cache_tool.delete(entry) and folder.is_dir()


def test_links_and_foreign_files_are_left_alone(tmp_path: Path) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    kept = fill(elsewhere, "plain", 40, 10)
    before = set(kept.iterdir())
    fill(cache, "own", 40, 10)
    (cache / "link").symlink_to(kept)
    (cache / "engines").symlink_to(elsewhere)
    (cache / "weights").mkdir()
    (cache / "weights" / "x.bin").touch()
    (cache / "notes.txt").touch()
    (cache / "own.keys.npy").symlink_to(kept / "about.json")
    assert len(entries(cache)) == 1
    assert prune(cache, "--keep", "0") == 0
    left = {path.name for path in cache.iterdir() if not path.name.startswith(".")}
    assert left == {"link", "engines", "weights", "notes.txt", "own.keys.npy"}
    assert set(kept.iterdir()) == before


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"engine": 3}', b"\xff", None])
def test_a_damaged_folder_is_listed_and_pruned(
    damage: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(tmp_path, "plain", 40, 10)
    (folder / "about.json").unlink()
    if damage is not None:
        (folder / "about.json").write_bytes(damage)
    assert cache_tool.main(["list", "--cache", str(tmp_path)]) == 0
    output = capsys.readouterr()
    assert "unknown" in output.out and ("about.json" in output.err) == (damage is not None)
    assert prune(tmp_path, "--keep", "0") == 0 and not folder.exists()


def test_a_folder_without_permission_is_named_and_the_others_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, gone, open_one = (fill(tmp_path, name, 40, 10) for name in ("a", "b", "c"))
    iterdir = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:  # root may read everything
        if folder == secret:
            raise PermissionError(13, "Permission denied", str(folder))
        if folder == gone:
            raise FileNotFoundError(2, "No such file or directory", str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert prune(tmp_path, "--keep", "0") == 0
    output = capsys.readouterr()
    assert f"{secret} (Permission denied)" in output.err and gone.name not in output.err
    assert secret.is_dir() and gone.is_dir() and not open_one.exists()


def test_a_folder_that_cannot_be_deleted_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, other = fill(tmp_path, "one", 40, 10), fill(tmp_path, "two", 40, 10)
    rmtree = shutil.rmtree

    def refuse(path: Path) -> None:
        if path == folder:
            raise PermissionError(13, "Permission denied", str(path))
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert prune(tmp_path, "--keep", "0") == 0
    assert f"{folder}: Permission denied" in capsys.readouterr().err and not other.exists()


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
