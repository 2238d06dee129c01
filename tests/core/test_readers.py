"""Readers: what they return has the stated form; anything else is one sentence."""

import ast
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from lookalike.core.errors import UserError
from lookalike.core.readers import (
    parse_json,
    read_bytes,
    read_json,
    read_table,
    read_text,
    saved_record,
)
from tests.conftest import ROOT


def test_reading_json_says_what_makes_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"split\.json is missing: make it with --stage split"):
        read_json(tmp_path / "split.json", "--stage split")
    (tmp_path / "split.json").write_text("{")
    with pytest.raises(UserError, match="make it anew with --stage split"):
        read_json(tmp_path / "split.json", "--stage split")


@pytest.mark.parametrize(
    ("text", "form", "said"),
    [
        ("[" * 100_000, Any, "nested too deeply"),
        ('{"a":' * 100_000, Any, "nested too deeply"),
        ('{"a": "\\ud800"}', Any, "half a character"),
        ('{"\\udfff": 1}', Any, "half a character"),
        ('{"a": {"b": 1, "b": 2}}', Any, "the key 'b' appears twice"),
        ("[1]", dict[str, Any], "Expected `object`, got `array`"),
        ('{"a": {"score": "high"}}', dict[str, dict[str, float]], "Expected `float`, got `str`"),
        ("1" * 5000, Any, "limit"),
        ("nul", Any, "Expecting value"),
    ],
)
def test_json_of_another_form_is_a_sentence(text: str, form: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"x.json: .*{said}"):
        parse_json(text, "x.json", form)


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text('{"a": "é"}', encoding="utf-8-sig")
    assert read_json(path, "you") == saved_record(path) == {"a": "é"}


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jpg"))
        for name in ("pipe", "device", "folder", "socket"):
            with pytest.raises(OSError):
                read_bytes(tmp_path / f"{name}.jpg")
            with pytest.raises(UserError, match=f"{name}.jpg: cannot be read"):
                read_text(tmp_path / f"{name}.jpg")


def test_a_limit_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # a terabyte of nothing
    with pytest.raises(OSError, match="more than 1,000"):
        read_bytes(path, limit=1000)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"path\na.jpg\n", "has no column size"),
        (b"path,size\na.jpg,1\nb.jpg,2,3\n", "Expected 2 fields"),
        (b"path,size\na.jpg,1,2\n", "more fields in a line than columns"),
        (b"path,size\na.jpg,big\n", "could not convert string to float"),
        (b"path,size\na\0.jpg,1\n", "zero byte"),
        (b"path,size\n\xff.jpg,1\n", "is not UTF-8 at byte 10"),
        (b"", "No columns"),
        (b'path,size\n"a.jpg,1\n', "make it anew"),
        (b"path,size\na.jpg,1", "within a line"),
    ],
)
def test_a_damaged_table_is_a_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "faces.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"faces.csv: .*{said}.*--stage crop"):
        read_table(path, "--stage crop", {"path": str, "size": float})


def test_a_table_keeps_text_as_text(tmp_path: Path) -> None:
    path = tmp_path / "faces.csv"
    path.write_text("path,size,more\nNA,1.5,7\n007,,8\nnull,2,9\n,3,1\n")
    table = read_table(path, "--stage crop", {"path": str, "size": float})
    assert list(table.path) == ["NA", "007", "null", ""]
    assert table["size"].isna().sum() == 1 and table.more.sum() == 25


# ---- every reader goes through core ------------------------------------------------------------

READS = {
    *("json.load", "json.loads", "np.load", "numpy.load", "torch.load", "pickle.load"),
    *("pd.read_csv", "pd.read_json", "csv.reader", "csv.DictReader", "tomllib.load"),
}
READING_METHODS = {"read_text", "read_bytes"}
# {module: {what it calls: why it may}}; modules of core are where the checks are.
ALLOWED: dict[str, dict[str, str]] = {
    "report/page.py": {"read_text": "the page's own template"},
    "sweep/tables.py": {"pd.read_csv": "the package's own baseline report"},
    "sweep/grid.py": {"read_bytes": "what a row has printed, decoded with replacement"},
    "features/cache_tool.py": {"np.load": "only counts keys; any error counts none"},
    "evaluation/samples.py": {"csv.reader": "text from readers.read_text, checked by line"},
    "evaluation/submissions.py": {"csv.reader": "text from readers.read_text, checked by line"},
    "leaderboard/history.py": {"csv.DictReader": "text from readers.read_text, checked by line"},
    "training/trainer.py": {"torch.load": "weights_only; any error begins the training anew"},
    "verification/protocols.py": {"csv.DictReader": "text from readers.read_text, checked by line"},
}


def calls_of(module: Path) -> set[str]:
    """Return what a module calls that reads files: `json.loads`, `read_text` as a method, ..."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = ast.unparse(node.func)
            found |= {name} & READS | {node.func.attr} & READING_METHODS
    return found


def test_files_are_read_by_core_alone() -> None:
    """A new reader belongs to core.readers, or into ALLOWED with its reason."""
    package = ROOT / "lookalike"
    others = {
        path.relative_to(package).as_posix(): calls_of(path)
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] != "core"
    }
    used = {name: calls for name, calls in others.items() if calls}
    assert used == {name: set(calls) for name, calls in ALLOWED.items()}
