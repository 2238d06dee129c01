"""The command `lookalike cache`: list the folders of the cache, and delete unused ones.

    lookalike cache list
    lookalike cache prune --unused 30 --keep 5     # used within 30 days, and at most 5 GB
    lookalike cache prune --keep 5 --dry-run       # only show what would be deleted

A later run computes again what it misses.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from annotated_types import Interval
from tabulate import tabulate

from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse
from lookalike.core.readers import read_json


@dataclass
class List:
    """List the folders of the cache, the least recently used first."""

    cache: Path = Path("cache")
    """Folder of the cache."""


@dataclass
class Prune:
    """Delete the folders that were not used for long."""

    cache: Path = Path("cache")
    """Folder of the cache."""
    unused: Annotated[float, Interval(ge=0)] | None = None
    """Delete the folders that were not used within this many days."""
    keep: Annotated[float, Interval(ge=0)] | None = None
    """Keep at most this many gigabytes, the most recently used ones."""
    dry_run: bool = False
    """Only show what would be deleted."""


@dataclass
class CacheCommand:
    """The command line: `list` or `prune`."""

    command: tyro.conf.OmitSubcommandPrefixes[List | Prune]


@dataclass(frozen=True)
class Entry:
    """A folder of the cache: the rows computed in one way, or a compiled model.

    Attributes:
        folder: Its path.
        description: How it was made.
        rows: Number of pictures; None for a compiled model.
        size: Size in bytes.
        days: Days since it was last used.
    """

    folder: Path
    description: str
    rows: int | None
    size: int
    days: float


def entries(root: Path) -> list[Entry]:
    """Return the folders of a cache, the least recently used first.

    Raises:
        UserError: There is no such cache.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name the cache with --cache")
    stored = [path.parent for path in root.glob("*/about.json")]
    compiled = [path.parent for path in root.glob("engines/*/model.xml")]
    found = [*map(_entry_of_rows, stored), *map(_entry_of_model, compiled)]
    return sorted(found, key=lambda entry: (-entry.days, entry.folder))


def _entry_of_rows(folder: Path) -> Entry:
    """Describe a folder of rows."""
    about = read_json(folder / "about.json", "any run that uses it")
    parts = (about.get(name) for name in ("engine", "view", "detector"))
    rows = sum(map(_count_keys, folder.glob("[!.]*.keys.npy")))
    return _entry(folder, ", ".join(filter(None, parts)), rows, "about.json")


def _entry_of_model(folder: Path) -> Entry:
    """Describe a folder with a compiled model."""
    return _entry(folder, "compiled model", None, "model.xml")


def _entry(folder: Path, description: str, rows: int | None, marker: str) -> Entry:
    """Describe a folder; the time of its file `marker` is that of its last use."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    days = (time.time() - (folder / marker).stat().st_mtime) / 86_400
    return Entry(folder, description, rows, size, days)


def _count_keys(path: Path) -> int:
    """Count the keys of a shard; none where it is broken or has just been merged away."""
    try:
        return len(np.load(path, mmap_mode="r"))
    except (OSError, ValueError, EOFError):
        return 0


def to_delete(found: Sequence[Entry], settings: Prune) -> list[Entry]:
    """Choose what to delete: what was unused for too long, then the oldest of what is too much.

    Args:
        found: The cache's folders, the least recently used first.
        settings: The limits.
    """
    total = sum(entry.size for entry in found)
    chosen = []
    for entry in found:
        too_old = settings.unused is not None and entry.days > settings.unused
        if too_old or (settings.keep is not None and total > settings.keep * 1e9):
            chosen.append(entry)
            total -= entry.size
    return chosen


def table(found: Sequence[Entry]) -> str:
    """Format folders of the cache as a table with a row each, and their sum."""
    rows = [
        (
            entry.folder.name,
            entry.description,
            "" if entry.rows is None else f"{entry.rows:,}",
            f"{entry.size / 1e6:,.1f}",
            f"{entry.days:.1f}",
        )
        for entry in found
    ]
    heads = ["folder", "made by", "pictures", "MB", "days unused"]
    total = sum(entry.size for entry in found) / 1e6
    return f"{tabulate(rows, heads, disable_numparse=True)}\n{len(found)} folders, {total:,.1f} MB"


def prune(settings: Prune) -> None:
    """Delete what the settings choose, and print it.

    Raises:
        UserError: No limit is given, or one below 0, or there is no such cache.
    """
    if settings.unused is None and settings.keep is None:
        raise UserError("say what to delete: --unused 30 (days), --keep 5 (gigabytes), or both")
    check_bounds(settings)
    chosen = to_delete(entries(settings.cache), settings)
    if not settings.dry_run:
        for entry in chosen:
            # First what makes it a folder of rows: a process killed here leaves no half folder.
            (entry.folder / "about.json").unlink(missing_ok=True)
            shutil.rmtree(entry.folder)
    print(f"{table(chosen)} {'would be deleted' if settings.dry_run else 'deleted'}")


def main(arguments: Sequence[str]) -> int:
    """Run `lookalike cache` and return the exit code: 0, or 1 for a mistake."""
    description = "List or prune the cache of features and compiled models."
    settings = parse(arguments, "lookalike cache", CacheCommand, description).command
    log_to(None)
    if isinstance(settings, Prune):
        return exit_code(lambda: prune(settings))
    return exit_code(lambda: print(table(entries(settings.cache))))
