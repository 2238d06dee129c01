"""The embedding cache: a backbone's features of a picture's content, for every later run.

    lookalike cache list
    lookalike cache prune --keep 5 --unused 30     # at most 5 GB, used within the last 30 days

    cache/efficientnet_lite0-5f3a…/about.json        what made the rows; its time is their last use
    cache/efficientnet_lite0-5f3a…/<shard>.rows.npy  (n, dim) float32, opened as a memory map
    cache/efficientnet_lite0-5f3a…/<shard>.keys.npy  (n,) 16-byte keys, ascending; it comes last:
                                                     with it the shard is whole

A shard is written once, under a name of its own, and never changed: any number of runs may read and
write at once, and a run that is killed loses only the rows of its unwritten shard. Eight shards of
like size become one, so that millions of rows lie in a few large files; nothing but the rows that
are asked for is read into memory.
"""

import hashlib
import json
import os
import uuid
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import log as logarithm
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lookalike.core.files import share, whole_file, write_json
from lookalike.core.log import log
from lookalike.core.numeric import blocks

KEY = np.dtype("S16")
ROWS_PER_SHARD = 1024
ROWS_AT_ONCE = 256  # that are looked at: feature maps are wide
FANOUT = 8  # shards of like size that become one
FIRST_BYTES = np.array([bytes([byte]) for byte in range(256)], KEY)


def keys_of(contents: Iterable[str]) -> np.ndarray:
    """Return content hashes, 32 hexadecimal digits each, as an (N,) array of keys.

    >>> keys_of(["00" * 15 + "ff"]).tobytes()[-1]
    255
    """
    return np.frombuffer(bytes.fromhex("".join(contents)), KEY)


def lock_of(folder: Path) -> Path:
    """Return the lock file that is held while a folder of rows is in use; it is never deleted."""
    return folder.with_name(f".{folder.name}.lock")


class FeatureCache:
    """Rows of `dim` float32 numbers by 16-byte key.

    >>> import tempfile
    >>> cache = FeatureCache(Path(tempfile.mkdtemp()), "example", {"weights": "abc"}, dim=2)
    >>> keys = np.array([b"0123456789abcdef"], KEY)
    >>> cache.add(keys, np.array([[1, 2]], np.float32)); cache.flush()
    >>> cache.rows(keys)
    array([[1., 2.]], dtype=float32)
    """

    def __init__(self, root: Path, name: str, about: Mapping[str, Any], dim: int) -> None:
        """Open the folder of the rows of one kind.

        Args:
            root: Folder of the cache.
            name: Name of the backbone, the first part of the folder's name.
            about: All that the rows depend on besides the picture; its hash is the second part.
            dim: Numbers of a row.
        """
        digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8)
        self.folder = root / f"{name.replace('/', '_').replace(':', '_')}-{digest.hexdigest()}"
        self.dim = dim
        # As long as this object lives, `lookalike cache prune` leaves the folder alone.
        weakref.finalize(self, share(lock_of(self.folder)).close)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "about.json").exists():
            write_json(self.folder / "about.json", dict(about))
        os.utime(self.folder / "about.json")
        self._sizes: dict[str, int] = {}
        self._reported: set[str] = set()  # shards with rows that are not finite
        self._new_keys: list[np.ndarray] = []
        self._new_rows: list[np.ndarray] = []
        self.refresh()

    def refresh(self) -> None:
        """Find the shards that other runs have finished, and forget those that were merged."""
        there = self._names("keys") & self._names("rows")
        self._sizes = {shard: n for shard, n in self._sizes.items() if shard in there}
        for shard in sorted(there - self._sizes.keys()):
            try:
                keys, rows = self._keys(shard), self._rows(shard)
            except FileNotFoundError:
                continue  # it has just become part of a larger one
            except (OSError, ValueError, EOFError) as error:
                path = self._path(shard, "keys")
                log.warning("warning: %s is broken and left out (%s)", path, error)
                continue
            if keys.dtype == KEY and rows.shape == (len(keys), self.dim):
                self._sizes[shard] = len(keys)

    def missing(self, keys: np.ndarray) -> np.ndarray:
        """Return the positions of keys that have no row, ascending, the first of equal ones."""
        known = np.zeros(len(keys), bool)
        for indices, _, _ in self._find(keys):
            known[indices] = True
        indices = np.flatnonzero(~known)
        _, first = np.unique(keys[indices], return_index=True)
        return indices[np.sort(first)]

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """Return the rows of keys: (len(keys), dim) float32, in their order.

        Raises:
            KeyError: A key has no row.
        """
        out = np.empty((len(keys), self.dim), np.float32)
        for _ in range(2):
            known = np.zeros(len(keys), bool)
            for indices, rows, positions in self._find(keys):
                out[indices] = rows[positions]
                known[indices] = True
            if known.all():
                return out
            self.refresh()  # another run may have been making several shards one at that moment
        raise KeyError(f"{self.folder}: {np.count_nonzero(~known)} keys have no row")

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Add rows; they are on the disk after every 1,024 and after `flush`."""
        self._new_keys.append(keys)
        self._new_rows.append(np.asarray(rows, np.float32))
        if sum(map(len, self._new_keys)) >= ROWS_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Write the rows that were added since the last time as a shard."""
        if not self._new_keys:
            return
        keys, rows = np.concatenate(self._new_keys), np.concatenate(self._new_rows)
        self._new_keys, self._new_rows = [], []
        order = np.argsort(keys, kind="stable")
        self._write(keys[order], rows[order])
        self.refresh()
        self.merge()

    def merge(self) -> None:
        """Merge eight shards of like size into one, repeatedly, unless another run is at it."""
        try:
            with FileLock(self.folder / ".merge.lock", timeout=0):
                while crowd := self._crowd():
                    self._merge(crowd)
                    self.refresh()
        except Timeout:
            return

    # ---- shards ---------------------------------------------------------------------------------

    def _find(self, keys: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return (positions among the keys, a shard's rows, positions among those) by shard."""
        while True:
            try:
                return [self._find_in(shard, keys) for shard in self._sizes]
            except FileNotFoundError:  # another run has just made them part of a larger one
                self.refresh()

    def _find_in(self, shard: str, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        known, rows = self._keys(shard), self._rows(shard)
        positions = np.searchsorted(known, keys)
        positions[positions == len(known)] = 0
        indices = np.flatnonzero(known[positions] == keys)
        indices = indices[self._are_finite(shard, rows, positions[indices])]
        return indices, rows, positions[indices]

    def _are_finite(self, shard: str, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return which rows of a shard hold only finite numbers: the others count as missing."""
        parts = (rows[positions[block]] for block in blocks(len(positions), ROWS_AT_ONCE))
        good = np.concatenate([np.zeros(0, bool), *(np.isfinite(p).all(axis=1) for p in parts)])
        if not good.all() and shard not in self._reported:
            self._reported.add(shard)
            path, count = self._path(shard, "rows"), np.count_nonzero(~good)
            log.warning("warning: %s: %d rows are not finite: computed again", path, count)
        return good

    def _crowd(self) -> list[str]:
        """Return shards of like size, where there are eight or more."""
        levels = {
            shard: int(logarithm(max(n, ROWS_PER_SHARD) / ROWS_PER_SHARD, FANOUT))
            for shard, n in self._sizes.items()
        }
        for level, count in Counter(levels.values()).items():
            if count >= FANOUT:
                return sorted(shard for shard in levels if levels[shard] == level)
        return []

    def _merge(self, shards: Sequence[str]) -> None:
        """Write the rows of several shards as one, a 256th of the keys at a time; drop the others.

        A key that two of them have stays twice, which does no harm.
        """
        name, count = uuid.uuid4().hex[:12], sum(self._sizes[shard] for shard in shards)
        old = [(self._keys(shard), self._rows(shard)) for shard in shards]
        cuts = [np.append(np.searchsorted(keys, FIRST_BYTES), len(keys)) for keys, _ in old]
        make = np.lib.format.open_memmap
        with (
            whole_file(self._path(name, "keys")) as beside_keys,
            whole_file(self._path(name, "rows")) as beside_rows,
        ):
            new_keys = make(beside_keys, "w+", KEY, (count,))
            new_rows = make(beside_rows, "w+", np.float32, (count, self.dim))
            start = 0
            for part in range(len(FIRST_BYTES)):
                slices = [slice(cut[part], cut[part + 1]) for cut in cuts]
                keys = np.concatenate([k[s] for (k, _), s in zip(old, slices, strict=True)])
                rows = np.concatenate([r[s] for (_, r), s in zip(old, slices, strict=True)])
                order, end = np.argsort(keys, kind="stable"), start + len(keys)
                new_keys[start:end], new_rows[start:end] = keys[order], rows[order]
                start = end
            new_rows.flush()
            new_keys.flush()
        for shard in shards:  # its keys first: without them it is none
            self._path(shard, "keys").unlink(missing_ok=True)
            self._path(shard, "rows").unlink(missing_ok=True)

    def _write(self, keys: np.ndarray, rows: np.ndarray) -> None:
        name = uuid.uuid4().hex[:12]
        self._save(self._path(name, "rows"), rows)
        self._save(self._path(name, "keys"), keys)

    def _save(self, path: Path, values: np.ndarray) -> None:
        with whole_file(path) as beside, beside.open("wb") as stream:
            np.save(stream, values)

    # Maps are opened at each use: a process may have only so many files open.
    def _keys(self, shard: str) -> np.ndarray:
        keys: np.ndarray = np.load(self._path(shard, "keys"), mmap_mode="r")
        return keys

    def _rows(self, shard: str) -> np.ndarray:
        rows: np.ndarray = np.load(self._path(shard, "rows"), mmap_mode="r")
        return rows

    def _names(self, what: str) -> set[str]:
        ending = f".{what}.npy"
        return {path.name.removesuffix(ending) for path in self.folder.glob(f"[!.]*{ending}")}

    def _path(self, shard: str, what: str) -> Path:
        return self.folder / f"{shard}.{what}.npy"
