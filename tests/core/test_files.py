"""Files: complete or not there, hashed, listed, locked."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lookalike.core.errors import UserError
from lookalike.core.files import (
    file_hash,
    files_below,
    listing,
    only_process,
    reserve,
    share,
    unshared,
    whole_file,
    write_json,
    write_text,
)
from lookalike.core.readers import saved_record
from tests.conftest import ROOT


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_listing_changes_with_names_sizes_and_times(tmp_path: Path) -> None:
    seen = {listing(tmp_path)}
    (tmp_path / "a").write_text("1")
    seen.add(listing(tmp_path))
    (tmp_path / "a").write_text("12")
    seen.add(listing(tmp_path))
    (tmp_path / "a").rename(tmp_path / "b")
    seen.add(listing(tmp_path))
    assert len(seen) == 4
    assert listing(tmp_path) in seen


def test_a_file_that_was_replaced_in_place_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "query.jpg"
    path.write_text("old")
    before, state = listing(tmp_path), path.stat()
    path.write_text("new")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert listing(tmp_path) != before


def test_a_folder_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def refuse(folder: str) -> Any:  # root may read everything: the mode alone would not do
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    for work in (files_below, listing):
        with pytest.raises(UserError, match="closed: the folder cannot be read"):
            work(tmp_path)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """A disk on which no file grows beyond 100,000 bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_is_a_sentence(tmp_path: Path, small_disk: None) -> None:
    with pytest.raises(UserError, match=r"big.bin: the disk is full \(.* MB are free\)"):
        write_text(tmp_path / "big.bin", "x" * 200_000)
    with pytest.raises(UserError, match=r"map.bin: the disk is full \(it needs 0.2 MB"):
        reserve(tmp_path / "map.bin", 200_000)


def test_an_error_of_a_library_on_a_full_disk_is_about_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write() -> None:
        with whole_file(tmp_path / "model.bin"):
            raise RuntimeError("PytorchStreamWriter failed")

    with pytest.raises(RuntimeError):
        write()
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"model\.bin: the disk is full"):
        write()


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path; from lookalike.core.files import only_process\n"
        f"with only_process(Path({str(tmp_path / '.lock')!r}), 'runs/x'): print('held')"
    )
    with only_process(tmp_path / ".lock", "runs/x"):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process works on runs/x" in other.stderr
    after = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert after.stdout == "held\n"


def test_the_same_value_is_written_as_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_json(tmp_path / "new" / name, {"é": [1.5, None]})
    one, two = tmp_path / "new" / "a", tmp_path / "new" / "b"
    assert one.read_bytes() == two.read_bytes() and file_hash(one) == file_hash(two)
    assert file_hash(tmp_path / "nowhere") is None


def test_what_is_no_record_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert saved_record(path) == {}
    for content in ("{", "[1]"):
        path.write_text(content)
        assert saved_record(path) == {}
    path.write_text('{"a": 1}')
    assert saved_record(path) == {"a": 1}


def test_linked_folders_are_followed_once_and_hidden_files_left_out(tmp_path: Path) -> None:
    for name in ("real/a.jpg", "real/.hidden", ".cache/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    found = [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)]
    assert found == ["gone.jpg", "real/a.jpg"]


def test_hidden_files_are_found_where_they_are_asked_for(tmp_path: Path) -> None:
    before = listing(tmp_path)
    (tmp_path / ".folder").mkdir()
    (tmp_path / ".folder" / ".a.jpg").touch()
    assert files_below(tmp_path) == []
    assert files_below(tmp_path, hidden=True) == [tmp_path / ".folder" / ".a.jpg"]
    assert listing(tmp_path) != before


def test_a_name_that_no_file_can_hold_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.json: cannot hold .*, which is not UTF-8: rename it"):
        write_json(tmp_path / "x.json", {"data": "\udcff"})
    assert not list(tmp_path.iterdir())


def test_a_shared_lock_is_held_until_it_is_closed(tmp_path: Path) -> None:
    lock = tmp_path / "more" / "x.lock"
    one, two = share(lock), share(lock)
    with unshared(lock) as free:
        assert not free
    one.close()
    with unshared(lock) as free:
        assert not free
    two.close()
    with unshared(lock) as free:
        assert free
