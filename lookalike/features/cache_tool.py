"""TODO lookalike.features.cache_tool."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tabulate import tabulate

from lookalike.core.checks import check_least
from lookalike.core.errors import UserError
from lookalike.core.files import read_json
from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse


@dataclass
class List:
    """Shows what lies in the cache, the least recently used first."""

    cache: Path = Path("cache")
    """Folder of the cache."""


@dataclass
class Prune:
    """Deletes what was not used for long; what a later run misses, it makes again."""

    cache: Path = Path("cache")
    """Folder of the cache."""
    unused: float | None = None
    """Delete what was not used within so many days."""
    keep: float | None = None
    """Keep at most so many gigabytes, those that were used last."""
    dry_run: bool = False
    """Only show what would be deleted."""


@dataclass
class Program:
    """Settings of this file as a program."""

    command: tyro.conf.OmitSubcommandPrefixes[List | Prune]


@dataclass(frozen=True)
class Entry:
    """A folder of the cache: the rows made in one way, or a compiled model.

    what: how it was made. rows: None where it holds none. used: days since it was used last.
    """

    folder: Path
    what: str
    rows: int | None
    size: int
    used: float


def entries(root: Path) -> list[Entry]:
    """What lies in a cache, the least recently used first.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name the cache with --cache")
    stored = [path.parent for path in root.glob("*/about.json")]
    compiled = [path.parent for path in root.glob("engines/*/model.xml")]
    found = [*map(_entry_of_rows, stored), *map(_entry_of_model, compiled)]
    return sorted(found, key=lambda entry: (-entry.used, entry.folder))


def _entry_of_rows(folder: Path) -> Entry:
    about = read_json(folder / "about.json", "any run that uses it")
    shown = (about.get(name) for name in ("engine", "view", "detector"))
    rows = sum(map(_keys_in, folder.glob("[!.]*.keys.npy")))
    return _entry(folder, ", ".join(filter(None, shown)), rows, "about.json")


def _keys_in(path: Path) -> int:
    """How many keys a shard has; none where it is broken or has just gone."""
    try:
        return len(np.load(path, mmap_mode="r"))
    except (OSError, ValueError, EOFError):
        return 0


def _entry_of_model(folder: Path) -> Entry:
    return _entry(folder, "compiled model", None, "model.xml")


def _entry(folder: Path, what: str, rows: int | None, marker: str) -> Entry:
    size = sum(path.stat().st_size for path in folder.iterdir())
    used = (time.time() - (folder / marker).stat().st_mtime) / 86_400
    return Entry(folder, what, rows, size, used)


def to_delete(found: Sequence[Entry], settings: Prune) -> list[Entry]:
    """Those that were not used for too long, then as many of the others as are too much."""
    total = sum(entry.size for entry in found)
    chosen = []
    for entry in found:
        old = settings.unused is not None and entry.used > settings.unused
        if old or (settings.keep is not None and total > settings.keep * 1e9):
            chosen.append(entry)
            total -= entry.size
    return chosen


def show(found: Sequence[Entry]) -> str:
    """A row an entry, and the sum."""
    rows = [
        (
            entry.folder.name,
            entry.what,
            "" if entry.rows is None else f"{entry.rows:,}",
            f"{entry.size / 1e6:,.1f}",
            f"{entry.used:.1f}",
        )
        for entry in found
    ]
    heads = ["folder", "made by", "pictures", "MB", "days unused"]
    total = sum(entry.size for entry in found) / 1e6
    return f"{tabulate(rows, heads, disable_numparse=True)}\n{len(found)} folders, {total:,.1f} MB"


def prune(settings: Prune) -> None:
    """Deletes what the settings say, and shows it.

    Raises:
        UserError: nothing was said, or a limit below 0.
    """
    if settings.unused is None and settings.keep is None:
        raise UserError("say what may go: --unused 30 (days), --keep 5 (gigabytes), or both")
    check_least(settings, unused=0, keep=0)
    chosen = to_delete(entries(settings.cache), settings)
    for entry in () if settings.dry_run else chosen:
        (entry.folder / "about.json").unlink(missing_ok=True)  # first: half a folder is none
        shutil.rmtree(entry.folder)
    print(f"{show(chosen)} {'would be' if settings.dry_run else ''} deleted")


def main(arguments: Sequence[str]) -> int:
    """Lists or prunes the cache; returns the exit code."""
    settings = parse(arguments, "lookalike cache", Program, "What lies in the cache.").command
    log_to(None)
    if isinstance(settings, Prune):
        return exit_code(lambda: prune(settings))
    return exit_code(lambda: print(show(entries(settings.cache))))
