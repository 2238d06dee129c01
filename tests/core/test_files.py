"""Files: complete or not there, hashed, listed, locked."""

import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.core.errors import UserError
from lookalike.core.files import (
    file_hash,
    files_below,
    listing,
    only_process,
    read_json,
    saved_record,
    whole_file,
    write_json,
)
from tests.conftest import ROOT


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_reading_json_says_what_makes_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"split\.json is missing: make it with --stage split"):
        read_json(tmp_path / "split.json", "--stage split")
    (tmp_path / "split.json").write_text("{")
    with pytest.raises(UserError, match="make it anew with --stage split"):
        read_json(tmp_path / "split.json", "--stage split")


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
