"""The cache of features: what a backbone made of a picture's content, kept for every later run.

    cache/efficientnet_lite0-5f3a…/about.json        what made the rows
    cache/efficientnet_lite0-5f3a…/<shard>.rows.npy  (n, dim) float32, opened as a memory map
    cache/efficientnet_lite0-5f3a…/<shard>.keys.npy  (n,) 16-byte keys; it comes last: with it the
                                                     shard is whole

A shard is written once, under a name of its own, and never changed: any number of runs may read and
write at once, and a run that is killed loses only the rows of its unwritten shard.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runs import log, whole_file, write_json

KEY = np.dtype("V16")
ROWS_PER_SHARD = 1024


class FeatureCache:
    """Rows of `dim` float32 numbers by 16-byte key.

    >>> import tempfile
    >>> cache = FeatureCache(Path(tempfile.mkdtemp()), "example", {"weights": "abc"}, dim=2)
    >>> cache.add([b"0123456789abcdef"], np.array([[1, 2]], np.float32)); cache.flush()
    >>> cache.rows([b"0123456789abcdef"])
    array([[1., 2.]], dtype=float32)
    """

    def __init__(self, root: Path, name: str, about: Mapping[str, Any], dim: int) -> None:
        """Opens the folder of the rows that were made as `about` says."""
        digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8)
        self.folder = root / f"{name.replace('/', '_').replace(':', '_')}-{digest.hexdigest()}"
        self.dim = dim
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "about.json").exists():
            write_json(self.folder / "about.json", dict(about))
        self._shards: set[str] = set()
        self._places: dict[bytes, tuple[str, int]] = {}
        self._new_keys: list[bytes] = []
        self._new_rows: list[np.ndarray] = []
        self.refresh()

    def refresh(self) -> None:
        """Takes up the shards that other runs have finished since."""
        for path in sorted(self.folder.glob("*.keys.npy")):
            shard = path.name.removesuffix(".keys.npy")
            if shard in self._shards:
                continue
            try:
                keys, rows = np.load(path), self._open(shard)
            except (OSError, ValueError, EOFError) as error:
                log.warning("warning: %s is broken and left out (%s)", path, error)
                continue
            if keys.dtype == KEY and rows.shape == (len(keys), self.dim):
                self._shards.add(shard)
                self._places |= {key.tobytes(): (shard, i) for i, key in enumerate(keys)}

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Positions of the keys that have no row, the first of equal ones."""
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        return sorted(i for key, i in first.items() if key not in self._places)

    def add(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Takes new rows; they are on the disk after every 1,024 and after `flush`."""
        self._new_keys += keys
        self._new_rows.append(np.asarray(rows, np.float32))
        if len(self._new_keys) >= ROWS_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Writes the rows taken since the last time as a shard."""
        if not self._new_keys:
            return
        self._write(np.frombuffer(b"".join(self._new_keys), KEY), np.concatenate(self._new_rows))
        self._new_keys, self._new_rows = [], []
        self.refresh()

    def rows(self, keys: Sequence[bytes]) -> np.ndarray:
        """(len(keys), dim) float32, in the order of the keys.

        Raises:
            KeyError: a key has no row.
        """
        wanted: dict[str, list[tuple[int, int]]] = {}
        for i, key in enumerate(keys):
            shard, row = self._places[key]
            wanted.setdefault(shard, []).append((i, row))
        out = np.empty((len(keys), self.dim), np.float32)
        for shard, pairs in wanted.items():
            places, rows = np.array(pairs).T
            out[places] = self._open(shard)[rows]
        return out

    def _open(self, shard: str) -> np.ndarray:
        """A shard's rows as a memory map; it is closed with the last use of it, since a process
        may have only so many files open."""
        rows: np.ndarray = np.load(self._rows_path(shard), mmap_mode="r")
        return rows

    def _write(self, keys: np.ndarray, rows: np.ndarray) -> None:
        shard = uuid.uuid4().hex[:12]
        for path, values in ((self._rows_path(shard), rows), (self._keys_path(shard), keys)):
            with whole_file(path) as beside, beside.open("wb") as stream:
                np.save(stream, values)

    def _rows_path(self, shard: str) -> Path:
        return self.folder / f"{shard}.rows.npy"

    def _keys_path(self, shard: str) -> Path:
        return self.folder / f"{shard}.keys.npy"
