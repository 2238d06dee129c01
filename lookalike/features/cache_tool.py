"""The command `lookalike cache`: list the folders of the cache, and delete unused ones.

    lookalike cache list
    lookalike cache prune --unused 30 --keep 5     # used within 30 days, and at most 5 GB
    lookalike cache prune --keep 5 --dry-run       # only show what would be deleted

What a run is using is never deleted. A later run computes again what it misses.
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
import tyro
from annotated_types import Interval
from tabulate import tabulate

from lookalike.core.cache import lock_of
from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.files import unshared
from lookalike.core.log import exit_code, log, log_to, report_each
from lookalike.core.options import parse
from lookalike.core.readers import read_if_good, read_json


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
    unused: Annotated[float, Interval(ge=0, le=1_000_000)] | None = None
    """Delete the folders that were not used within this many days."""
    keep: Annotated[float, Interval(ge=0, le=1_000_000)] | None = None
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


class About(TypedDict, total=False):
    """What the about.json of a folder of rows holds, and is shown."""

    engine: str
    view: str
    detector: str


def entries(root: Path) -> list[Entry]:
    """Return the folders of a cache, the least recently used first.

    Links are left alone, and so is what is no part of a cache; a folder that cannot be read is
    named in the log.

    Raises:
        UserError: There is no such cache.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name the cache with --cache")
    found, unreadable = [], []
    for folder in (*_subfolders(root), *_subfolders(root / "engines")):
        try:
            found.append(_entry(folder))
        except FileNotFoundError:
            continue  # another process has just deleted it
        except OSError as error:
            unreadable.append(f"{folder} ({error.strerror})")
    report_each("folders of the cache cannot be read: left alone", unreadable)
    listed = [entry for entry in found if entry is not None]
    return sorted(listed, key=lambda entry: (-entry.days, entry.folder))


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, without links and hidden ones, which are being written."""
    if folder.name == "engines" and (folder.is_symlink() or not folder.is_dir()):
        return []
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return [path for path in visible if path.is_dir() and not path.is_symlink()]


def _entry(folder: Path) -> Entry | None:
    """Describe a folder; None where it is neither a folder of rows nor a compiled model.

    Raises:
        OSError: It is gone, or cannot be read.
    """
    states = {}
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # shards become one, and partial files whole ones
            states[path] = path.lstat()
    if not states:
        return None
    names = {path.name for path in states}
    shards = [path for path in states if path.match("[!.]*.keys.npy")]
    if folder.parent.name == "engines" and "model.xml" in names:
        description, rows = "compiled model", None
    elif "about.json" in names or shards:
        description, rows = _description(folder / "about.json"), sum(map(_count_keys, shards))
    else:
        return None
    days = (time.time() - max(state.st_mtime for state in states.values())) / 86_400
    return Entry(folder, description, rows, sum(s.st_size for s in states.values()), days)


def _description(path: Path) -> str:
    """Say how the rows beside an about.json were made."""
    about = read_if_good(read_about, path, "not known how its rows were made")
    if about is None:
        return "unknown"
    parts = about.get("engine"), about.get("view"), about.get("detector")
    return ", ".join(filter(None, parts))


def read_about(path: Path) -> About:
    """Read the about.json of a folder of rows.

    Raises:
        UserError: The file is missing or damaged.
    """
    about: About = read_json(path, "any run that uses it", About)
    return about


def _count_keys(path: Path) -> int:
    """Count the keys of a shard; none where it is broken or has just been merged away."""
    if not path.is_file():
        return 0
    try:
        return len(np.load(path, mmap_mode="r"))
    except Exception:  # what NumPy raises for a damaged header is not documented
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
    if settings.dry_run:
        print(f"{table(chosen)} would be deleted")
        return
    deleted = [entry for entry in chosen if delete(entry)]
    kept = [entry.folder.name for entry in chosen if entry not in deleted]
    report_each("folders are in use, or cannot be deleted: left alone", kept)
    print(f"{table(deleted)} deleted")


def delete(entry: Entry) -> bool:
    """Delete a folder of the cache, unless it is in use or was used since it was listed.

    Returns:
        Whether it is gone.
    """
    try:
        with unshared(lock_of(entry.folder)) as free:
            now = _entry(entry.folder)
            if not free or now is None or now.days < entry.days:
                return False
            shutil.rmtree(entry.folder)
    except FileNotFoundError:  # another process deletes it, too
        return True
    except OSError as error:
        log.warning("warning: %s: %s", error.filename, error.strerror)
        return False
    return True


def main(arguments: Sequence[str]) -> int:
    """Run `lookalike cache` and return the exit code: 0, or 1 for a mistake."""
    description = "List or prune the cache of features and compiled models."
    settings = parse(arguments, "lookalike cache", CacheCommand, description).command
    log_to(None)
    if isinstance(settings, Prune):
        return exit_code(lambda: prune(settings))
    return exit_code(lambda: print(table(entries(settings.cache))))
