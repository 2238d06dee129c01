"""The results of a leaderboard: kept in memory, and saved in an SQLite file."""

import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.log import log
from lookalike.core.readers import as_form

PATIENCE = 10.0  # seconds that a locked file is waited for
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS results (id INTEGER PRIMARY KEY, labels TEXT, team TEXT, "
    "time REAL, score REAL, recall_at_1 REAL)",
    "CREATE INDEX IF NOT EXISTS best ON results (labels, team, score)",
    "CREATE TABLE IF NOT EXISTS secret (key TEXT)",
)


class RankedGroup(NamedTuple):
    """A line of the ranking.

    Attributes:
        rank: From 1.
        group: The group's name.
        score: Of its best submission, from 0 to 1000.
        submissions: How many it has sent.
        last: When it sent the last one, in seconds since the epoch.
    """

    rank: int
    group: str
    score: float
    submissions: int
    last: float


class _Row(NamedTuple):
    """The result of one submission, as the file holds it."""

    id: int
    labels: str
    team: str
    time: float
    score: float
    recall_at_1: float


class _Group(NamedTuple):
    """The best result of a group, the first among equals; how many it has, and the last one."""

    best: _Row
    number: int
    last: _Row


class Results:
    """The results of all submissions: what was added survives a power cut, and a deleted file.

    The ranking is read from memory, so that it is shown whatever happens to the file.
    """

    def __init__(self, path: Path, labels_hash: str, former_hash: str = "") -> None:
        """Open or create the file.

        Args:
            path: The file.
            labels_hash: Hash of the labels that submissions are scored with. Results of other
                labels stay in the file and out of the ranking: they cannot be compared.
            former_hash: Another hash of the same labels, by which earlier versions knew them.

        Raises:
            UserError: The file is something else, damaged, or locked.
        """
        self.path, self.labels_hash = path, labels_hash
        self.secret = secrets.token_hex(16)  # known to nobody else, and the same after a restart
        self._rows: list[_Row] = []
        self._groups: dict[str, _Group] = {}
        self._writing = threading.Lock()
        try:
            self._load(former_hash)
        except sqlite3.Error as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path}: cannot hold results ({reason}); move it away, or name another file with "
                "--results"
            ) from error

    def _load(self, former_hash: str) -> None:
        """Read the file into memory.

        Raises:
            sqlite3.Error: It is something else, damaged, or locked.
        """
        with self._open() as database:
            (state,) = database.execute("PRAGMA quick_check").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
            for statement in SCHEMA:  # files of earlier versions hold no secret
                database.execute(statement)
            renamed = "UPDATE results SET labels = ? WHERE labels = ?"
            database.execute(renamed, (self.labels_hash, former_hash))
            saved = database.execute("SELECT key FROM secret").fetchone()
            if saved is None:
                database.execute("INSERT INTO secret VALUES (?)", (self.secret,))
            else:
                (self.secret,) = saved
            columns = ", ".join(_Row._fields)
            rows = database.execute(f"SELECT {columns} FROM results ORDER BY id").fetchall()
        for row in as_form(rows, str(self.path), list[_Row]):
            self._keep(row)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one use by one thread, and commit at the end.

        Raises:
            sqlite3.Error: The file is locked, damaged, or on a full disk.
        """
        with self._writing:
            if not self.path.exists() or (self.path.is_file() and not self.path.stat().st_size):
                self._write_anew()
            with closing(sqlite3.connect(self.path, timeout=PATIENCE)) as database, database:
                database.execute("PRAGMA journal_mode = WAL")  # other programs may read it
                yield database

    def _write_anew(self) -> None:
        """Write a file that is new, or was deleted, with all that is in memory.

        Raises:
            sqlite3.Error: It cannot be written.
        """
        log.info("%s: results are saved there", self.path)
        try:
            for beside in ("-wal", "-shm"):  # they belong to the file that is gone
                self.path.with_name(self.path.name + beside).unlink(missing_ok=True)
            with (
                whole_file(self.path) as beside_path,
                closing(sqlite3.connect(beside_path)) as database,
                database,
            ):
                for statement in SCHEMA:
                    database.execute(statement)
                database.execute("INSERT INTO secret VALUES (?)", (self.secret,))
                values = ", ".join("?" * len(_Row._fields))
                database.executemany(f"INSERT INTO results VALUES ({values})", self._rows)
        except (OSError, UserError) as error:
            raise sqlite3.OperationalError(str(error)) from error

    def _keep(self, row: _Row) -> None:
        """Keep a row in memory."""
        self._rows.append(row)
        if row.labels != self.labels_hash:
            return
        best, number, _ = self._groups.get(row.team, _Group(row, 0, row))
        best = row if row.score > best.score else best
        self._groups[row.team] = _Group(best, number + 1, row)

    def groups(self) -> list[str]:
        """Return the names of all groups, in the order of their first submissions."""
        return list(self._groups)

    def add(self, group: str, score: float, recall_at_1: float) -> None:
        """Add the result of one submission; it is on the disk when this returns.

        Raises:
            sqlite3.Error: It cannot be saved, and has not been added.
        """
        new = (self.labels_hash, group, time.time(), score, recall_at_1)
        with self._open() as database:
            columns = ", ".join(_Row._fields[1:])
            inserted = f"INSERT INTO results ({columns}) VALUES (?, ?, ?, ?, ?)"
            row = _Row(database.execute(inserted, new).lastrowid or 0, *new)
            database.commit()
            self._keep(row)

    def ranking(self) -> list[RankedGroup]:
        """Return all groups, best first; the first of a group's equal submissions is its best."""
        groups = sorted(self._groups.values(), key=lambda g: (-g.best.score, g.best.id))
        return [
            RankedGroup(rank, group.best.team, group.best.score, group.number, group.last.time)
            for rank, group in enumerate(groups, 1)
        ]
