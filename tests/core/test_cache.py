"""The cache keeps every row, in few files, whoever writes at the same time."""

import os
import resource
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from lookalike.core.cache import FANOUT, KEY, FeatureCache, keys_of, with_checksums
from lookalike.core.errors import UserError
from lookalike.core.log import log_to


def open_cache(root: Path, dim: int = 4, **about: str) -> FeatureCache:
    return FeatureCache(root, "some/model", {"weights": "w"} | about, dim)


def keys(*numbers: int) -> np.ndarray:
    """Keys in an order of their own, spread as hashes are."""
    return keys_of(f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:016x}" for number in numbers)


def rows(*numbers: int, dim: int = 4) -> np.ndarray:
    return np.array([[i + j / 10 for j in range(dim)] for i in numbers], np.float32)


def intact_rows(store: FeatureCache, wanted: np.ndarray) -> np.ndarray:
    found, missing = store.rows(wanted)
    assert not len(missing)
    return found


def shards(store: FeatureCache) -> list[Path]:
    return sorted(store.folder.glob("*.keys.npy"))


def test_rows_come_back_in_the_order_of_the_keys(tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    store.add(keys(*range(3000)), rows(*range(3000)))
    store.flush()
    order = np.random.default_rng(0).permutation(3000).tolist()
    again = open_cache(tmp_path)
    assert np.array_equal(intact_rows(again, keys(*order, 5, 5)), rows(*order, 5, 5))
    assert again.missing(keys(9, 5000, 4000, 5000)).tolist() == [1, 2]
    assert open_cache(tmp_path, weights="other").missing(keys(9)).tolist() == [0]
    assert again.rows(keys(1, 5000, 5000, 2))[1].tolist() == [1]


def test_keys_that_end_in_zeros_are_kept_apart(tmp_path: Path) -> None:
    store = open_cache(tmp_path, dim=1)
    many = keys_of(["00" * 16, "01" + "00" * 15, "ff" * 15 + "00"])
    store.add(many, rows(1, 2, 3, dim=1))
    store.flush()
    assert intact_rows(store, many).ravel().tolist() == [1, 2, 3]
    assert store.missing(keys_of(["0100" + "00" * 13 + "01"])).tolist() == [0]


def test_half_written_and_broken_shards_are_left_out(tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    store.add(keys(1), rows(1))
    store.flush()
    np.save(store.folder / "killed.rows.npy", rows(2))  # its keys never came
    np.save(store.folder / "orphan.keys.npy", keys(3))
    np.save(store.folder / "short.keys.npy", np.sort(keys(4, 5)))
    np.save(store.folder / "short.rows.npy", with_checksums(keys(4), rows(4)))
    np.save(store.folder / "wild.keys.npy", np.sort(keys(4, 5))[::-1])
    np.save(store.folder / "wild.rows.npy", with_checksums(np.sort(keys(4, 5))[::-1], rows(4, 5)))
    (store.folder / "noise.keys.npy").write_bytes(b"noise")
    (store.folder / "noise.rows.npy").write_bytes(b"noise")
    assert open_cache(tmp_path).missing(keys(1, 2, 3, 4, 5)).tolist() == [1, 2, 3, 4]


def test_many_shards_become_few_and_keep_every_row(tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    for i in range(FANOUT**2 + 3):
        store.add(keys(i, i + 1), rows(i, i + 1))  # every second key twice, as two runs might
        store.flush()
        assert len(shards(store)) < 2 * FANOUT
    numbers = range(FANOUT**2 + 4)
    for one in (store, open_cache(tmp_path)):
        assert np.array_equal(intact_rows(one, keys(*numbers)), rows(*numbers))
    assert len(list(store.folder.glob("*.rows.npy"))) == len(shards(store))


def test_a_shard_that_another_run_has_merged_is_found_in_the_larger_one(tmp_path: Path) -> None:
    mine, other = open_cache(tmp_path), open_cache(tmp_path)
    for i in range(FANOUT - 1):
        mine.add(keys(i), rows(i))
        mine.flush()
    other.refresh()
    before = shards(mine)
    mine.add(keys(100), rows(100))
    mine.flush()
    assert not any(path.exists() for path in before), "or the test shows nothing"
    assert np.array_equal(intact_rows(other, keys(3, 0)), rows(3, 0))
    assert other.missing(keys(0, 100, 7)).tolist() == [2]


def test_a_merge_that_is_killed_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_cache(tmp_path)
    for i in range(FANOUT - 1):
        store.add(keys(i), rows(i))
        store.flush()

    real = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith("keys.npy"):  # the first of the old shards to be taken away
            raise KeyboardInterrupt
        real(path, missing_ok)

    store.add(keys(9), rows(9))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        store.flush()
    again = open_cache(tmp_path)
    numbers = (*range(FANOUT - 1), 9)
    assert np.array_equal(intact_rows(again, keys(*numbers)), rows(*numbers))
    again.merge()
    assert np.array_equal(intact_rows(again, keys(*numbers)), rows(*numbers))


def _fill(root: Path, start: int) -> None:
    store = open_cache(root)
    for i in range(start, start + 300):
        store.add(keys(i), rows(i))
        if i % 7 == 0:
            store.flush()
    store.flush()
    assert not len(store.missing(keys(*range(start, start + 300))))
    os._exit(0)


def test_runs_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    context = get_context("spawn")
    writers = [context.Process(target=_fill, args=(tmp_path, start)) for start in (0, 150, 450)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    store = open_cache(tmp_path)
    store.merge()  # those that were written while another writer was merging
    assert np.array_equal(intact_rows(store, keys(*range(750))), rows(*range(750)))
    assert len(shards(store)) < 4 * FANOUT


def test_keys_have_sixteen_bytes() -> None:
    assert keys(7).dtype == KEY and keys(7).nbytes == 16


@pytest.mark.parametrize("what", ["rows", "keys"])
def test_no_turned_bit_is_ever_returned(what: str, tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    store.add(keys(*range(8)), rows(*range(8)))
    store.flush()
    (path,) = store.folder.glob(f"*.{what}.npy")
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for bit in generator.choice(len(whole) * 8, 300, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        again = open_cache(tmp_path)
        found, missing = again.rows(keys(*range(8)))
        good = np.setdiff1d(np.arange(8), missing)
        assert np.array_equal(found[good], rows(*range(8))[good]), bit


def test_damaged_rows_are_computed_again_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    store = open_cache(tmp_path)
    store.add(keys(*range(8)), rows(*range(8)))
    store.flush()
    (path,) = store.folder.glob("*.rows.npy")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # in the last row's last number
    path.write_bytes(content)
    filled: list[int] = []

    def fill(missing: np.ndarray) -> None:
        filled.extend(missing)
        numbers = missing.tolist()
        store.add(keys(*numbers), rows(*numbers))
        store.flush()

    for _ in range(2):  # the second time, the new row counts
        assert np.array_equal(store.fetch(keys(*range(8)), fill), rows(*range(8)))
    assert len(filled) == 1
    assert "1 rows are damaged, and are computed again" in capsys.readouterr().err


def test_shards_without_checksums_are_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    store = open_cache(tmp_path)
    np.save(store.folder / "old.rows.npy", rows(1))
    np.save(store.folder / "old.keys.npy", keys(1))
    assert open_cache(tmp_path).missing(keys(1)).tolist() == [0]
    assert "an earlier version wrote it, without checksums" in capsys.readouterr().err


def test_a_full_disk_leaves_no_shard(tmp_path: Path) -> None:
    store = open_cache(tmp_path, dim=4000)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        store.add(keys(*range(20)), np.zeros((20, 4000), np.float32))
        with pytest.raises(UserError, match="the disk is full"):
            store.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert [path.name for path in store.folder.iterdir()] == ["about.json"]


def test_rows_that_are_not_finite_are_missing_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_cache(tmp_path)
    store.add(keys(1, 2, 3), np.where(np.eye(3, 4, 1) > 0, np.nan, rows(1, 2, 3)))
    store.add(keys(4), rows(4))
    store.flush()
    assert store.rows(keys(1, 2, 3, 4))[1].tolist() == [0, 1, 2]

    def fill(missing: np.ndarray) -> None:
        store.add(keys(1, 2, 3), rows(1, 2, 3))
        store.flush()

    assert np.array_equal(store.fetch(keys(1, 2, 3, 4), fill), rows(1, 2, 3, 4))
    assert "3 rows are damaged, and are computed again" in caplog.text
    assert len(intact_rows(open_cache(tmp_path), keys(1, 2, 3, 4))) == 4
