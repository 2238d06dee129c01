"""Files: written completely or not at all, hashed, listed, and locked by one process at a time.

`readers` holds what reads them.
"""

import csv
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from lookalike.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is moved over `path` at the end.

    The file is written completely or, after an error, left as it was.

    Args:
        path: The file to write; its folder is made.

    Raises:
        UserError: The disk is full. Libraries that write files themselves raise what they like
            then, so that the free space decides.

    >>> with whole_file(Path("/tmp/example.txt")) as beside:
    ...     _ = beside.write_text("all of it")
    >>> Path("/tmp/example.txt").read_text()
    'all of it'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        beside.replace(path)
    except Exception as error:
        if _is_about_space(error, path.parent):
            raise UserError(disk_full(path)) from error
        raise
    finally:
        beside.unlink(missing_ok=True)


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_SPACE = 1_000_000  # bytes: where less is free, an error while writing is about that


def _is_about_space(error: Exception, folder: Path) -> bool:
    """Return whether an error came because a file could not grow."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return not isinstance(error, UserError) and shutil.disk_usage(folder).free < NO_SPACE


def disk_full(path: Path, size: int | None = None) -> str:
    """Return the sentence that says that a file could not be written, and how much is missing.

    Args:
        path: The file.
        size: Bytes that it needs, where that is known.
    """
    free = shutil.disk_usage(path.parent).free
    missing = "" if size is None else f"it needs {size / 1e6:,.1f} MB, and "
    return f"{path}: the disk is full ({missing}{free / 1e6:,.1f} MB are free): make room and retry"


def reserve(path: Path, size: int) -> None:
    """Make a file of a size whose blocks the disk has promised, to be mapped into memory.

    A sparse file would end the process (SIGBUS) where the disk turns out to be full.

    Args:
        path: The file; it is made, or made larger.
        size: Bytes.

    Raises:
        UserError: The disk has no room for it.
    """
    with path.open("ab") as stream:
        reserve_open(stream, path, size)


def reserve_open(stream: IO[bytes], path: Path, size: int) -> None:
    """Reserve the blocks of an open file, as `reserve` does.

    Args:
        stream: The file, opened for writing.
        path: What to call it in errors.
        size: Bytes.

    Raises:
        UserError: The disk has no room for it.
    """
    try:
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(stream.fileno(), 0, size)
        else:
            stream.truncate(size)
    except OSError as error:
        if error.errno in FULL:
            raise UserError(disk_full(path, size)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, completely or not at all.

    Raises:
        UserError: The text holds a name that is not UTF-8, or the disk is full.
    """
    try:
        with whole_file(path) as beside:
            beside.write_text(text, encoding="utf-8")
    except UnicodeEncodeError as error:
        around = text[: error.end].rpartition("\n")[2][-80:]
        raise UserError(f"{path}: cannot hold …{around}, which is not UTF-8: rename it") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, completely or not at all; the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a DataFrame as CSV without its index, completely or not at all.

    Python's csv module did not quote a carriage return before 3.11.9: where there is one, every
    text is quoted, so that `readers.read_table` gives back what was written.
    """
    texts = table.select_dtypes(include=["object", "str"])
    has_return = any(
        texts[name].astype(str).str.contains("\r", regex=False).any() for name in texts
    )
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL
    with whole_file(path) as beside:
        table.to_csv(beside, index=False, quoting=quoting)


def file_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file in hexadecimal; None where there is no such file."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_below(folder: Path, hidden: bool = False) -> list[Path]:
    """Return all files below a folder, sorted: whatever is no folder, broken links included.

    Linked folders are followed.

    Args:
        folder: The folder.
        hidden: Whether files and folders whose names start with a dot are among them.

    Raises:
        UserError: A folder cannot be read.
    """
    found: list[Path] = []
    seen: set[Path] = set()
    for here, folders, files in os.walk(folder, onerror=_raise_unreadable, followlinks=True):
        real = Path(here).resolve()
        if real in seen:
            folders.clear()
            continue
        folders[:] = [name for name in folders if hidden or not name.startswith(".")]
        found += [Path(here, name) for name in files if hidden or not name.startswith(".")]
        seen.add(real)
    return sorted(found)


def _raise_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise UserError(
            f"{error.filename}: the folder cannot be read ({error.strerror})"
        ) from error


def file_state(path: Path) -> str:
    """Return what changes whenever a file does: size, time and number, as the system keeps them.

    The time of the last change is among them, which no program can set back: a file that was
    replaced by one with the same size and modification time is another one.
    """
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"


def listing(folder: Path) -> str:
    """Return a hash of the names and states of all files below a folder, hidden ones among them.

    Raises:
        UserError: A folder cannot be read.
    """
    digest = hashlib.sha256()
    for path in files_below(folder, hidden=True):
        if path.exists():
            line = f"{path.relative_to(folder).as_posix()}\0{file_state(path)}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@contextmanager
def only_process(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file, which the system releases even when the process is killed.

    Args:
        lock: The lock file.
        what: What it protects, for the error message.

    Raises:
        UserError: Another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"another process works on {what}: wait for it, or stop it") from error


def share(lock: Path) -> IO[bytes]:
    """Hold a lock file together with other processes, until the returned file is closed.

    The system releases it when the process ends. While a process is within `unshared`, this waits.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    stream = lock.open("ab")
    if fcntl is not None:
        fcntl.flock(stream, fcntl.LOCK_SH)
    return stream


@contextmanager
def unshared(lock: Path) -> Iterator[bool]:
    """Yield whether no process holds a lock file by `share`; until the end, none can."""
    with lock.open("ab") as stream:
        free = True
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free = False
        yield free
