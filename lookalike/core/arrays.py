"""Named vectors: the embeddings that another program has written, as .npz or Parquet.

    names, rows = read_named_rows(Path("clip.npz"))     # N strings, (N, D) float32

Nothing is unpickled, and no name of an array or a column is asked for: the one that holds text has
the names, the one that holds numbers the rows.
"""

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from lookalike.core.errors import UserError

MOST_BYTES = 1 << 35  # of all arrays of a file


def read_named_rows(path: Path) -> tuple[list[str], np.ndarray]:
    """Read names and a vector for each.

    Args:
        path: A NumPy archive (.npz) with one array of N strings and one of (N, D) numbers; or a
            Parquet table with one column of strings, beside one column of lists or D columns of
            floating-point numbers.

    Returns:
        The N names, all different, and (N, D) float32 rows, all finite.

    Raises:
        UserError: The file is missing, damaged, too large, or holds something else; or Parquet, and
            pyarrow is not installed.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two.npz"
        >>> np.savez(path, paths=["a.jpg", "b.jpg"], embeddings=np.eye(2, 3))
        >>> names, rows = read_named_rows(path)
        >>> names, rows.shape
        (['a.jpg', 'b.jpg'], (2, 3))
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    read = _read_parquet if path.suffix.lower() == ".parquet" else _read_npz
    try:
        names, rows = read(path)
        with np.errstate(over="ignore"):  # what float32 cannot hold is not finite, and named below
            rows = np.ascontiguousarray(rows, np.float32)
    except ImportError as error:
        raise UserError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    except UserError:
        raise
    except Exception as error:  # a broken file can fail in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as .npz or Parquet ({reason})") from error
    _check(path, names, rows)
    return names, rows


def _check(path: Path, names: list[str], rows: np.ndarray) -> None:
    """Raise UserError where names and rows are not as they are to be."""
    if rows.ndim != 2 or not rows.size or len(names) != len(rows):
        raise UserError(f"{path}: has {len(names)} names for numbers of shape {rows.shape}")
    if len(set(names)) < len(names):
        name = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"{path}: names {name!r} more than once")
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise UserError(f"{path}: the numbers of {names[bad[0]]!r} are not finite")


def _read_npz(path: Path) -> tuple[list[str], np.ndarray]:
    """Read the two arrays of a NumPy archive."""
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MOST_BYTES:
        raise UserError(f"{path}: {size:,} bytes when unpacked, more than {MOST_BYTES:,}")
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    texts = [array for array in arrays.values() if array.dtype.kind in "US" and array.ndim == 1]
    numbers = [array for array in arrays.values() if array.dtype.kind in "fiu" and array.ndim == 2]
    if len(texts) != 1 or len(numbers) != 1:
        shown = ", ".join(f"{name} {a.dtype} {a.shape}" for name, a in arrays.items()) or "nothing"
        raise UserError(
            f"{path}: holds {shown}; it takes one array of strings, a picture's path each, and one "
            "of numbers, its embedding each: np.savez(file, paths=..., embeddings=...)"
        )
    (names,) = texts
    names = np.char.decode(names, "utf-8") if names.dtype.kind == "S" else names
    return names.tolist(), numbers[0]


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    """Read the names and the vectors of a Parquet table."""
    import pandas as pd

    table = pd.read_parquet(path)
    first = {name: column.iloc[0] for name, column in table.items()} if len(table) else {}
    texts = [name for name, value in first.items() if isinstance(value, str)]
    lists = [name for name, value in first.items() if isinstance(value, np.ndarray | list)]
    numbers = [name for name in first if pd.api.types.is_float_dtype(table[name])]
    if len(texts) != 1 or len(lists) > 1 or not (lists or numbers):
        raise UserError(
            f"{path}: has the columns {', '.join(map(str, table.columns))}; it takes one of "
            "strings, a picture's path each, and one of lists, its embedding each"
        )
    names = table[texts[0]].tolist()
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: a row has no text in its column {texts[0]!r}")
    rows = np.stack(list(table[lists[0]])) if lists else table[numbers].to_numpy()
    return names, rows
