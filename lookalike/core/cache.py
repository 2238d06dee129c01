"""The embedding cache: a backbone's features of a picture's content, for every later run.

    lookalike cache list
    lookalike cache prune --keep 5 --unused 30     # at most 5 GB, used within the last 30 days

    cache/efficientnet_lite0-5f3a…/about.json        what made the rows; its time is their last use
    cache/efficientnet_lite0-5f3a…/<shard>.rows.npy  (n, dim + 1) 32-bit words, opened as a memory
                                                     map: the numbers of each row, and a checksum
    cache/efficientnet_lite0-5f3a…/<shard>.keys.npy  (n,) 16-byte keys, ascending; it comes last:
                                                     with it the shard is whole

A shard is written once, under a name of its own, and never changed: any number of runs may read and
write at once, and a run that is killed loses only the rows of its unwritten shard. Eight shards of
like size become one, so that millions of rows lie in a few large files; nothing but the rows that
are asked for is read into memory. A row counts only if its checksum (CRC-32 of key and row) is
right and its numbers are finite: any other is missing, and is computed again.
"""

import hashlib
import json
import os
import uuid
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log as logarithm
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import DTypeLike

from lookalike.core.errors import UserError
from lookalike.core.files import share, whole_file, write_json
from lookalike.core.log import log

KEY = np.dtype("S16")
WORD = np.dtype("<u4")
ROWS_PER_SHARD = 1024
FANOUT = 8  # shards of like size that become one
FIRST_BYTES = np.array([bytes([byte]) for byte in range(256)], KEY)


def keys_of(contents: Iterable[str]) -> np.ndarray:
    """Return content hashes, 32 hexadecimal digits each, as an (N,) array of keys.

    >>> keys_of(["00" * 15 + "ff"]).tobytes()[-1]
    255
    """
    return np.frombuffer(bytes.fromhex("".join(contents)), KEY)


def with_checksums(keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return n rows as a shard holds them: (n, words + 1), the last word a checksum.

    Args:
        keys: (n,) keys of the rows.
        rows: (n, dim), little-endian, each of whole words.
    """
    words = np.ascontiguousarray(rows).view(WORD)
    return np.column_stack([words, _checksums(keys, words)])


def intact(keys: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return which rows of a shard are what was written: (n,) bool.

    Args:
        keys: (n,) keys of the rows.
        words: (n, words + 1), see `with_checksums`.
    """
    same: np.ndarray = _checksums(keys, words[:, :-1]) == words[:, -1]
    return same


def _checksums(keys: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return the CRC-32 of each key with its row."""
    words, raw = np.ascontiguousarray(words), keys.tobytes()
    starts = range(0, len(raw), KEY.itemsize)
    sums = (
        zlib.crc32(row, zlib.crc32(raw[start : start + KEY.itemsize]))
        for start, row in zip(starts, words, strict=True)
    )
    return np.fromiter(sums, WORD, len(words))


def lock_of(folder: Path) -> Path:
    """Return the lock file that is held while a folder of rows is in use; it is never deleted."""
    return folder.with_name(f".{folder.name}.lock")


class FeatureCache:
    """Rows of `dim` numbers by 16-byte key.

    >>> import tempfile
    >>> cache = FeatureCache(Path(tempfile.mkdtemp()), "example", {"weights": "abc"}, dim=2)
    >>> keys = np.array([b"0123456789abcdef"], KEY)
    >>> cache.add(keys, np.array([[1, 2]], np.float32)); cache.flush()
    >>> rows, missing = cache.rows(keys)
    >>> rows, len(missing)
    (array([[1., 2.]], dtype=float32), 0)
    """

    def __init__(
        self,
        root: Path,
        name: str,
        about: Mapping[str, Any],
        dim: int,
        dtype: DTypeLike = np.float32,
    ) -> None:
        """Open the folder of the rows of one kind.

        Args:
            root: Folder of the cache.
            name: Name of the backbone, the first part of the folder's name.
            about: All that the rows depend on besides the picture; its hash is the second part.
            dim: Numbers of a row.
            dtype: Of the numbers; a row fills whole 32-bit words.
        """
        digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8)
        self.folder = root / f"{name.replace('/', '_').replace(':', '_')}-{digest.hexdigest()}"
        self.dim, self.dtype = dim, np.dtype(dtype).newbyteorder("<")
        self.words = dim * self.dtype.itemsize // WORD.itemsize
        # As long as this object lives, `lookalike cache prune` leaves the folder alone.
        weakref.finalize(self, share(lock_of(self.folder)).close)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "about.json").exists():
            write_json(self.folder / "about.json", dict(about))
        os.utime(self.folder / "about.json")
        self._sizes: dict[str, int] = {}
        self._unusable: set[str] = set()
        self._new_keys: list[np.ndarray] = []
        self._new_rows: list[np.ndarray] = []
        self.refresh()

    def refresh(self) -> None:
        """Find the shards that other runs have finished, and forget those that were merged."""
        there = self._shards()
        self._sizes = {shard: n for shard, n in self._sizes.items() if shard in there}
        for shard in sorted(there - self._sizes.keys() - self._unusable):
            try:
                self._sizes[shard] = self._usable(shard)
            except FileNotFoundError:
                continue  # it has just become part of a larger one
            except Exception as error:  # numpy raises what it likes for a damaged header
                self._unusable.add(shard)
                what = "warning: %s is left out, its rows are computed again: %.100s"
                log.warning(what, self._path(shard, "keys"), error)

    def _usable(self, shard: str) -> int:
        """Return the number of rows of a shard; raise ValueError where its files do not fit."""
        keys, rows = self._keys(shard), self._rows(shard)
        if rows.dtype == np.float32 and rows.shape == (len(keys), self.words):
            raise ValueError("an earlier version wrote it, without checksums")
        if keys.dtype != KEY or rows.dtype != WORD or rows.shape != (len(keys), self.words + 1):
            raise ValueError("damaged, or of something else")
        if (keys[1:] < keys[:-1]).any():
            raise ValueError("damaged: its keys are out of order")
        return len(keys)

    def missing(self, keys: np.ndarray) -> np.ndarray:
        """Return the positions of keys that have no row, ascending, the first of equal ones."""
        known = np.zeros(len(keys), bool)
        for indices, _, _ in self._find(keys):
            known[indices] = True
        indices = np.flatnonzero(~known)
        _, first = np.unique(keys[indices], return_index=True)
        return indices[np.sort(first)]

    def rows(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of keys, each with its checksum verified.

        Args:
            keys: (N,) keys.

        Returns:
            (N, dim) in the order of the keys, and the positions of those that have no row
            or a damaged one, ascending, the first of equal ones; what stands there is undefined.
        """
        out = np.empty((len(keys), self.dim), self.dtype)
        for _ in range(2):
            good = np.zeros(len(keys), bool)
            for indices, words, positions in self._find(keys):
                block = words[positions]
                rows = np.ascontiguousarray(block[:, :-1]).view(self.dtype)
                whole = intact(keys[indices], block) & np.isfinite(rows).all(axis=1)
                out[indices[whole]] = rows[whole]
                good[indices[whole]] = True
            if good.all():
                break
            self.refresh()  # another run may have been making several shards one at that moment
        bad = np.flatnonzero(~good)
        _, first = np.unique(keys[bad], return_index=True)
        return out, bad[np.sort(first)]

    def fetch(self, keys: np.ndarray, fill: Callable[[np.ndarray], None]) -> np.ndarray:
        """Return the rows of keys, computing those that are missing or damaged.

        Args:
            keys: (N,) keys.
            fill: Called with the positions of keys without an intact row; adds their rows and
                flushes.

        Returns:
            (N, dim), in the order of the keys.

        Raises:
            UserError: The disk does not give back what is written to it.
        """
        if len(missing := self.missing(keys)):
            fill(missing)
        rows, damaged = self.rows(keys)
        if len(damaged):
            what = "warning: %s: %d rows are damaged, and are computed again"
            log.warning(what, self.folder, len(damaged))
            fill(damaged)
            rows, damaged = self.rows(keys)
        if len(damaged):
            raise UserError(f"{self.folder}: does not keep what is written to it; check the disk")
        return rows

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Add rows; they are on the disk after every 1,024 and after `flush`."""
        self._new_keys.append(keys)
        self._new_rows.append(np.asarray(rows, self.dtype))
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
        return indices, rows, positions[indices]

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
        with (
            whole_file(self._path(name, "keys")) as beside_keys,
            whole_file(self._path(name, "rows")) as beside_rows,
            beside_keys.open("wb") as key_stream,
            beside_rows.open("wb") as row_stream,
        ):
            # Written as a stream: a memory map ends the process (SIGBUS) where the disk is full.
            _write_header(key_stream, KEY, (count,))
            _write_header(row_stream, WORD, (count, self.words + 1))
            for part in range(len(FIRST_BYTES)):
                slices = [slice(cut[part], cut[part + 1]) for cut in cuts]
                keys = np.concatenate([k[s] for (k, _), s in zip(old, slices, strict=True)])
                rows = np.concatenate([r[s] for (_, r), s in zip(old, slices, strict=True)])
                order = np.argsort(keys, kind="stable")
                key_stream.write(keys[order].tobytes())
                row_stream.write(rows[order].tobytes())
        for shard in shards:  # its keys first: without them it is none
            self._path(shard, "keys").unlink(missing_ok=True)
            self._path(shard, "rows").unlink(missing_ok=True)

    def _write(self, keys: np.ndarray, rows: np.ndarray) -> None:
        name = uuid.uuid4().hex[:12]
        self._save(self._path(name, "rows"), with_checksums(keys, rows))
        self._save(self._path(name, "keys"), keys)

    def _save(self, path: Path, values: np.ndarray) -> None:
        with whole_file(path) as beside, beside.open("wb") as stream:
            # numpy's own writer hides what the system says of a full disk.
            _write_header(stream, values.dtype, values.shape)
            stream.write(np.ascontiguousarray(values).data)

    # Maps are opened at each use: a process may have only so many files open.
    def _keys(self, shard: str) -> np.ndarray:
        keys: np.ndarray = np.load(self._path(shard, "keys"), mmap_mode="r")
        return keys

    def _rows(self, shard: str) -> np.ndarray:
        rows: np.ndarray = np.load(self._path(shard, "rows"), mmap_mode="r")
        return rows

    def _shards(self) -> set[str]:
        """Return the names of the shards that have both files.

        A shard that is merged while the folder is read could be missed in both forms: the folder is
        read until it stays the same.
        """
        before: set[str] = set()
        while (now := {path.name for path in self.folder.glob("[!.]*.npy")}) != before:
            before = now
        keys, rows = (
            {name.removesuffix(ending) for name in now if name.endswith(ending)}
            for ending in (".keys.npy", ".rows.npy")
        )
        return keys & rows

    def _path(self, shard: str, what: str) -> Path:
        return self.folder / f"{shard}.{what}.npy"


def _write_header(stream: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file whose content follows as a stream."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
