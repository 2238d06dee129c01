"""The results of a leaderboard, in an SQLite file."""

import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from lookalike.core.errors import UserError
from lookalike.core.log import log

PATIENCE = 10  # seconds that a locked file is waited for
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
        recall_at_1: Of the same submission, from 0 to 1.
        submissions: How many it has sent.
        last: When it sent the last one, in seconds since the epoch.
    """

    rank: int
    group: str
    score: float
    recall_at_1: float
    submissions: int
    last: float


class Results:
    """The results of all submissions, in an SQLite file: what was added survives a power cut."""

    def __init__(self, path: Path, labels_hash: str, former_hash: str = "") -> None:
        """Open or create the file.

        Args:
            path: The file.
            labels_hash: Hash of the labels that submissions are scored with. Results of other
                labels stay in the file and out of the ranking: they cannot be compared.
            former_hash: Another hash of the same labels, by which earlier versions knew them.

        Raises:
            UserError: The file is something else, or damaged.
        """
        self.path, self.labels_hash = path, labels_hash
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._open() as database:
                (state,) = database.execute("PRAGMA quick_check").fetchone()
                if state != "ok":
                    raise sqlite3.DatabaseError(state)
                renamed = "UPDATE results SET labels = ? WHERE labels = ?"
                database.execute(renamed, (labels_hash, former_hash))
        except sqlite3.Error as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: cannot hold results ({reason}); move it away") from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open a connection for one use, since threads share none; commit at the end.

        Raises:
            sqlite3.Error: The file is locked, damaged, or on a full disk.
        """
        is_new = not self.path.exists()
        with closing(sqlite3.connect(self.path, timeout=PATIENCE)) as database, database:
            if is_new:
                log.info("%s: results are saved there", self.path)
            database.execute("PRAGMA journal_mode = WAL")  # readers do not wait for writers
            for statement in SCHEMA:
                database.execute(statement)
            yield database

    def secret(self) -> str:
        """Return a random text that nobody else knows and that a restart does not change."""
        with self._open() as database:
            row = database.execute("SELECT key FROM secret").fetchone()
            if row is None:
                row = (secrets.token_hex(16),)
                database.execute("INSERT INTO secret VALUES (?)", row)
        return str(row[0])

    def groups(self) -> list[str]:
        """Return the names of all groups, in the order of their first submissions."""
        with self._open() as database:
            rows = database.execute("SELECT team FROM results GROUP BY team ORDER BY MIN(id)")
            return [name for (name,) in rows]

    def add(self, group: str, score: float, recall_at_1: float) -> None:
        """Add the result of one submission; it is on the disk when this returns."""
        row = (self.labels_hash, group, time.time(), score, recall_at_1)
        with self._open() as database:
            database.execute(
                "INSERT INTO results (labels, team, time, score, recall_at_1) "
                "VALUES (?, ?, ?, ?, ?)",
                row,
            )

    def ranking(self) -> list[RankedGroup]:
        """Return all groups, best first; the first of a group's equal submissions is its best."""
        with self._open() as database:
            rows = database.execute(
                """
                SELECT best.team, best.score, best.recall_at_1, sent.number, sent.last
                FROM (SELECT team, COUNT(*) AS number, MAX(time) AS last, MAX(score) AS score
                      FROM results WHERE labels = :labels GROUP BY team) AS sent
                JOIN results AS best ON best.id = (
                    SELECT MIN(id) FROM results
                    WHERE labels = :labels AND team = sent.team AND score = sent.score)
                ORDER BY best.score DESC, best.id
                """,
                {"labels": self.labels_hash},
            ).fetchall()
        return [RankedGroup(rank, *row) for rank, row in enumerate(rows, 1)]
