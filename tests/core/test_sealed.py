"""Records with a checksum: a changed value is noticed, and earlier versions' files are read."""

import json
from pathlib import Path
from typing import Any

import pytest

from lookalike.core.errors import UserError
from lookalike.core.readers import Finite
from lookalike.core.sealed import read_sealed, write_sealed

RECORD: dict[str, Any] = {"z": 0.1, "é": [1, (2, None)], "a": {"10": 1e-300, "9": True}}


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_sealed(tmp_path / "x.json", RECORD)
    read = read_sealed(tmp_path / "x.json", "x", dict[str, Any])
    assert read == RECORD | {"é": [1, [2, None]]}


@pytest.mark.parametrize("change", [{"z": 0.2}, {"é": [1, [2, 0]]}, {"more": 1}])
def test_a_changed_value_is_noticed(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_sealed(path, RECORD)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"x\.json: was changed.*make it anew with `y`"):
        read_sealed(path, "`y`", dict[str, Any])


def test_without_a_checksum_the_form_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}')
    assert read_sealed(path, "y", dict[str, Finite]) == {"a": 1}
    for number in ("NaN", "-Infinity", "1e999", '"1"'):
        path.write_text(f'{{"a": {number}}}')
        with pytest.raises(UserError, match=r"x\.json: Expected .*make it anew with y"):
            read_sealed(path, "y", dict[str, Finite])
