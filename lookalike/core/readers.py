"""Checked readers: bytes, text, JSON and tables of files that may be missing, damaged or hostile.

    stamps = read_json(run / "stages.json", "main.py", dict[str, Stamp])
    rows = read_table(run / "test.csv", "--stage split", {"path": str, "content": str})

What comes back has the stated form; anything else is one sentence with the path and what to do.
"""

import hashlib
import io
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from lookalike.core.errors import UserError
from lookalike.core.log import log

T = TypeVar("T")
# A number that is neither NaN nor infinite, and one that counts something.
Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Count = Annotated[int, msgspec.Meta(ge=0)]


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """Read a regular file; a pipe, a device or a socket is never waited for.

    Args:
        path: The file; links are followed.
        limit: Bytes it may have.

    Raises:
        OSError: It is missing, unreadable, no regular file, or larger than the limit.
    """
    with open(path, "rb", opener=_open_without_waiting) as stream:  # noqa: PTH123: has no opener
        state = os.fstat(stream.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise OSError(None, "not a regular file", str(path))
        if limit is not None and state.st_size > limit:
            raise OSError(None, f"{state.st_size:,} bytes, more than {limit:,}", str(path))
        return stream.read()


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes to is opened at once, too."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: It is missing, no regular file, or not UTF-8.
    """
    return _as_text(path, _read_raw(path))


def read_text_and_hash(path: Path) -> tuple[str, str]:
    """Read a text file as `read_text` does; return the SHA-256 of the same bytes, too."""
    raw = _read_raw(path)
    return _as_text(path, raw), hashlib.sha256(raw).hexdigest()


def _read_raw(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _as_text(path: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 at byte {error.start}") from error


class _UniqueKeys(dict[str, Any]):
    """A JSON object in which no key appears twice."""

    def __init__(self, pairs: Iterable[tuple[str, Any]]) -> None:
        for key, value in pairs:
            if key in self:
                raise ValueError(f"the key {key[:100]!r} appears twice")
            self[key] = value


def parse_json(text: str, source: str, form: Any = Any) -> Any:
    """Parse JSON that may be anything, and check its form.

    Args:
        text: The text.
        source: What to call it in errors, such as its path.
        form: The type that the value must have: `dict[str, list[str]]`, a `TypedDict`, ...; see
            the supported types of `msgspec.convert`.

    Raises:
        UserError: It is no JSON, nested too deeply, has a key twice in an object, holds text that
            is not Unicode, or has another form.

    >>> parse_json('{"a": [1, 2]}', "x.json", dict[str, list[int]])
    {'a': [1, 2]}
    >>> parse_json('{"a": [1, "b"]}', "x.json", dict[str, list[int]])
    Traceback (most recent call last):
    lookalike.core.errors.UserError: x.json: Expected `int`, got `str` - at `$[...][1]`
    >>> parse_json('{"a": 1, "a": 2}', "x.json")
    Traceback (most recent call last):
    lookalike.core.errors.UserError: x.json: the key 'a' appears twice
    """
    try:
        value = json.loads(text, object_pairs_hook=_UniqueKeys)
        if "\\u" in text:  # an escape may stand for half a character, which no file can hold
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise UserError(f"{source}: is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"{source}: holds half a character (\\u{ord(error.object[error.start]):x})"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: not valid JSON ({error})") from error
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    return as_form(value, source, form)


def as_form(value: Any, source: str, form: Any) -> Any:
    """Return a value as a type describes it; arguments as for `parse_json`.

    Of a `TypedDict`, keys that it does not name are left out.

    Raises:
        UserError: The value has another form.
    """
    try:
        return msgspec.convert(value, form)
    except (ValueError, RecursionError) as error:  # a ValueError is what msgspec raises
        raise UserError(f"{source}: {error}") from error


def read_json(path: Path, made_by: str, form: Any = Any) -> Any:
    """Return what a JSON file holds.

    Args:
        path: The file.
        made_by: The command that writes it, for the error message.
        form: The type that the value must have, see `parse_json`.

    Raises:
        UserError: It is missing, damaged, or has another form.
    """
    _require(path, made_by)
    try:
        return parse_json(read_text(path), str(path), form)
    except UserError as error:
        raise UserError(f"{error}; make it anew with {made_by}") from error


def read_if_good(read: Callable[[Path], T], path: Path, otherwise: str) -> T | None:
    """Return what a file holds; None where there is none, or it is damaged, which the log says.

    Args:
        read: Reads the file, and raises UserError where it is damaged.
        path: The file.
        otherwise: What happens without it, e.g. "left out of the report".
    """
    if not path.exists():
        return None
    try:
        return read(path)
    except UserError as error:
        log.warning("warning: %s: %s", otherwise, error)
        return None


def saved_record(path: Path) -> dict[str, Any]:
    """Return the JSON object that an earlier command wrote; empty if there is none to read."""
    try:
        record: dict[str, Any] = parse_json(read_text(path), str(path), dict[str, Any])
    except UserError:
        return {}
    return record


def read_table(path: Path, made_by: str, columns: Mapping[str, type]) -> Any:
    """Return a CSV file as a DataFrame.

    Args:
        path: The file.
        made_by: The command that writes it, for the error message.
        columns: The columns that it must have, with their types. Text is never missing: an empty
            field is an empty text. Other columns are read as pandas likes.

    Raises:
        UserError: It is missing, damaged, or lacks a column.
    """
    import pandas as pd

    _require(path, made_by)
    texts = [name for name, kind in columns.items() if kind is str]
    try:
        text = read_text(path)
        if "\0" in text:
            raise ValueError("holds a zero byte")
        if text and not text.endswith("\n"):
            raise ValueError("ends within a line")
        # Text is read as text: "NA", "null" and "007" are names.
        table = pd.read_csv(
            io.StringIO(text),
            dtype=dict.fromkeys(texts, str),
            keep_default_na=False,
            na_values={name: [""] for name, kind in columns.items() if kind is not str},
        )
        if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first ones for an index
            raise ValueError("has more fields in a line than columns")
        missing = [name for name in columns if name not in table]
        if missing:
            raise ValueError(f"has no column {', '.join(missing)}")
        return table.astype(dict(columns))
    except (UserError, ValueError) as error:  # of pandas too: its parser's errors are ValueErrors
        reason = str(error).removeprefix(f"{path}: ").strip()
        raise UserError(f"{path}: {reason}; make it anew with {made_by}") from error


TABLES = (".csv", ".tsv", ".parquet", ".jsonl")  # suffixes of tables that others have made
MOST_OF_TABLE = 1 << 31  # bytes


def read_outside_table(path: Path) -> Any:
    """Return a table that others have made as a DataFrame of text: `001`, `NA` and `1e5` are names.

    Args:
        path: CSV (separated by commas, semicolons or tabs), TSV, Parquet, or JSON lines.

    Raises:
        UserError: It is damaged, or no such table; or Parquet, and pyarrow is not installed.
    """
    import pandas as pd

    readers = {".parquet": _read_parquet, ".jsonl": _read_json_lines}
    try:
        raw = read_bytes(path, MOST_OF_TABLE)
        table = readers.get(path.suffix.lower(), _read_separated)(raw)
    except ImportError as error:
        raise UserError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 at byte {error.start}") from error
    except (OSError, ValueError, RecursionError) as error:  # of pandas too: ValueErrors
        raise UserError(f"{path}: cannot be read as a table ({error})") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first columns for an index
        raise UserError(f"{path}: has more fields in a line than columns")
    return table.fillna("").astype(str)


def _read_separated(raw: bytes) -> Any:
    """Read CSV, separated by what its first line holds most of."""
    import pandas as pd

    text = raw.decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("holds a zero byte")
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    return pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)


def _read_parquet(raw: bytes) -> Any:
    """Read Parquet."""
    import pandas as pd

    return pd.read_parquet(io.BytesIO(raw)).reset_index(drop=True)


def _read_json_lines(raw: bytes) -> Any:
    """Read a JSON object a line; numbers stay as they are written."""
    import pandas as pd

    lines = [line for line in raw.decode("utf-8-sig").splitlines() if line.strip()]
    rows = [json.loads(line, parse_int=str, parse_float=str) for line in lines]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no JSON object")
    return pd.DataFrame(rows)


def _require(path: Path, made_by: str) -> None:
    """Raise an error where there is no such file."""
    if not path.exists():
        raise UserError(f"{path} is missing: make it with {made_by}")
