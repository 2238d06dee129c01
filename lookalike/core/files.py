"""Files: written completely or not at all, hashed, listed, and locked by one process at a time."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lookalike.core.errors import UserError


def saved_record(path: Path) -> dict[str, Any]:
    """Return the JSON object that an earlier command wrote; empty if there is none to read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is moved over `path` at the end.

    The file is written completely or, after an error, left as it was.

    Args:
        path: The file to write; its folder is made.

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
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, completely or not at all."""
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, completely or not at all; the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, made_by: str) -> Any:
    """Return what a JSON file holds.

    Args:
        path: The file.
        made_by: The command that writes it, for the error message.

    Raises:
        UserError: It is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: make it with {made_by}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): make it anew with {made_by}") from error


def file_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file in hexadecimal; None where there is no such file."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted.

    Linked folders are followed, and broken links included. Files and folders whose names start with
    a dot are left out.
    """
    found: list[Path] = []
    seen: set[Path] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = Path(here).resolve()
        folders[:] = [f for f in folders if not f.startswith(".")] if real not in seen else []
        if real not in seen:
            found += [Path(here, file) for file in files if not file.startswith(".")]
        seen.add(real)
    return sorted(found)


def listing(folder: Path) -> str:
    """Return a hash of the names, sizes and modification times of all files below a folder."""
    digest = hashlib.sha256()
    for path in files_below(folder):
        if path.exists():
            state = path.stat()
            line = f"{path.relative_to(folder).as_posix()}\0{state.st_size}\0{state.st_mtime_ns}\n"
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
