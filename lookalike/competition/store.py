"""What a competition keeps: teams, submissions, its state and an audit log, in one SQLite file.

    store = Store(Path("friday/organizer/competition.sqlite"))
    team = store.add_team("the A team", token_hash, now)
    submission, is_new = store.add_submission(NewSubmission(...), quota)

What was added is on the disk when a function returns, and survives a kill or a power cut. Several
processes may use the file at once: the server, and the organizer's commands.
"""

import math
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.readers import parse_json
from lookalike.evaluation.submissions import Submission as Lists

SPANS = {"hour": "an hour", "day": "a day"}
PATIENCE = 10.0  # seconds that a locked file is waited for
SCHEMA = """
CREATE TABLE teams (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, token_hash TEXT UNIQUE,
    created REAL NOT NULL, withdrawn INTEGER NOT NULL DEFAULT 0);
CREATE TABLE submissions (
    id INTEGER PRIMARY KEY, team INTEGER NOT NULL REFERENCES teams, time REAL NOT NULL,
    digest TEXT NOT NULL, public REAL NOT NULL, private REAL NOT NULL, given REAL NOT NULL,
    withdrawn INTEGER NOT NULL DEFAULT 0, body BLOB NOT NULL, UNIQUE (team, digest));
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE audit (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, address TEXT NOT NULL, who TEXT NOT NULL,
    what TEXT NOT NULL);
PRAGMA user_version = 1;
"""


class Team(NamedTuple):
    """A team.

    Attributes:
        id: Its number.
        name: Its name, as it is shown.
        token_hash: SHA-256 of its token; None in an open competition.
        created: When it was added, in seconds since the epoch.
        withdrawn: Whether the organizer took it out of the ranking.
    """

    id: int
    name: str
    token_hash: str | None
    created: float
    withdrawn: int


class Submission(NamedTuple):
    """A scored submission, without its content.

    Attributes:
        id: Its number, in the order in which they were kept.
        team: The number of its team.
        time: When it arrived, in seconds since the epoch.
        digest: SHA-256 of its content.
        public: Its score on the public queries.
        private: Its score on the private ones.
        given: The public score as its team sees it.
        withdrawn: Whether the organizer took it out of the ranking.
    """

    id: int
    team: int
    time: float
    digest: str
    public: float
    private: float
    given: float
    withdrawn: int


class NewSubmission(NamedTuple):
    """A submission to be kept; the attributes are those of `Submission`, and its content."""

    team: int
    time: float
    digest: str
    public: float
    private: float
    given: float
    body: bytes


class AuditEntry(NamedTuple):
    """A line of the audit log.

    Attributes:
        time: In seconds since the epoch.
        address: Where it came from; empty for this machine's own commands.
        who: A team, or the organizer.
        what: What was done or refused.
    """

    time: float
    address: str
    who: str
    what: str


class Quota(NamedTuple):
    """How many submissions of a team are taken.

    Attributes:
        hour: Within an hour; 0: no limit.
        day: Within a day; 0: no limit.
    """

    hour: int = 0
    day: int = 0

    def spans(self) -> Iterator[tuple[str, float, int]]:
        """Yield the name, the seconds and the number of each limit there is."""
        for name, seconds, number in (("hour", 3600.0, self.hour), ("day", 86400.0, self.day)):
            if number:
                yield name, seconds, number


class QuotaUsed(Exception):
    """A team has used up its quota.

    Attributes:
        wait: Seconds until it may send again.
    """

    def __init__(self, span: str, number: int, wait: float) -> None:
        minutes = math.ceil(wait / 60)
        super().__init__(f"{number} times within {SPANS[span]}; again in {minutes} minutes")
        self.wait = wait


SUBMISSION = ", ".join(Submission._fields)


class Store:
    """The file of a competition; every use opens it anew, so that threads do not share it."""

    def __init__(self, path: Path) -> None:
        """Open or make the file.

        Raises:
            UserError: It is something else, damaged, or of a newer version.
        """
        self.path = path
        try:
            with FileLock(path.with_name(f".{path.name}.lock")):
                if not path.exists():
                    self._make()
            with self.opened() as database:
                (version,) = database.execute("PRAGMA user_version").fetchone()
                (state,) = database.execute("PRAGMA quick_check").fetchone()
            if version != 1 or state != "ok":
                raise sqlite3.DatabaseError(state if version == 1 else "of another program")
        except sqlite3.Error as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path}: cannot be used ({reason}); move it away, with the files of this name "
                f"that end in -wal and -shm, and put the newest of {path.parent / 'backups'} there"
            ) from error

    def _make(self) -> None:
        """Make the file; what belongs to one that is gone must not be read with it.

        Raises:
            UserError: There was one before: its backups are there.
        """
        if backups := sorted((self.path.parent / "backups").glob("*.sqlite")):
            raise UserError(
                f"{self.path}: is gone, and backups of it are there: put {backups[-1]} in its "
                "place, or move the backups away to begin anew"
            )
        for end in ("-wal", "-shm"):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        with whole_file(self.path) as beside, closing(sqlite3.connect(beside)) as database:
            database.executescript(SCHEMA)

    @contextmanager
    def opened(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        """Open the file for one use by one thread; what it wrote is kept whole or not at all.

        Raises:
            sqlite3.Error: The file is gone, locked or damaged, or the disk is full.
        """
        with closing(self._connect()) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        # A file that was deleted meanwhile is not silently begun anew.
        uri = f"{self.path.resolve().as_uri()}?mode=rw"
        return sqlite3.connect(uri, timeout=PATIENCE, uri=True, isolation_level=None)

    # ---- teams ----------------------------------------------------------------------------------

    def add_team(self, name: str, token_hash: str | None, entry: AuditEntry) -> Team:
        """Add a team, and what the audit log says of it.

        Raises:
            UserError: There is one of this name.
        """
        try:
            with self.opened(write=True) as database:
                added = database.execute(
                    "INSERT INTO teams (name, token_hash, created) VALUES (?, ?, ?)",
                    (name, token_hash, entry.time),
                )
                _note(database, entry)
                return Team(added.lastrowid or 0, name, token_hash, entry.time, 0)
        except sqlite3.IntegrityError as error:
            raise UserError(f"there is a team {name!r} already") from error

    def teams(self) -> list[Team]:
        """Return all teams, oldest first."""
        with self.opened() as database:
            return [*map(Team._make, database.execute("SELECT * FROM teams ORDER BY id"))]

    def team_by(self, column: str, value: Any) -> Team | None:
        """Return the team with a value in a column; None where there is none."""
        if column not in Team._fields:
            raise ValueError(column)
        with self.opened() as database:
            row = database.execute(f"SELECT * FROM teams WHERE {column} = ?", (value,)).fetchone()
        return None if row is None else Team._make(row)

    def set_token(self, team: int, token_hash: str, entry: AuditEntry) -> None:
        """Give a team another token; the old one and its sessions are no longer valid."""
        with self.opened(write=True) as database:
            _note(database, entry)
            database.execute("UPDATE teams SET token_hash = ? WHERE id = ?", (token_hash, team))

    # ---- submissions ----------------------------------------------------------------------------

    def add_submission(self, new: NewSubmission, quota: Quota) -> tuple[Submission, bool]:
        """Keep a submission, unless its team has sent the same before.

        Args:
            new: The submission.
            quota: How many of them the team may send.

        Returns:
            The submission as it is kept, and whether it is new: one that is sent again after a
            lost reply does not count twice.

        Raises:
            QuotaUsed: The team has sent too many.
            sqlite3.Error: It cannot be kept.
        """
        with self.opened(write=True) as database:
            if (known := _same_submission(database, new.team, new.digest)) is not None:
                return known, False
            _require_quota(database, new.team, new.time, quota)
            columns, marks = ", ".join(new._fields), ", ".join("?" * len(new))
            added = database.execute(
                f"INSERT INTO submissions ({columns}) VALUES ({marks})", new
            ).lastrowid
            return Submission(added or 0, *new[:-1], 0), True

    def require_quota(self, team: int, now: float, quota: Quota) -> None:
        """Check that a team may send.

        Raises:
            QuotaUsed: It has sent too many.
        """
        with self.opened() as database:
            _require_quota(database, team, now, quota)

    def left(self, team: int, now: float, quota: Quota) -> dict[str, int]:
        """Return how many submissions a team may still send, {"hour": number, "day": number}."""
        with self.opened() as database:
            return {
                span: max(0, number - len(_times_within(database, team, now, seconds)))
                for span, seconds, number in quota.spans()
            }

    def submissions(self, team: int | None = None) -> list[Submission]:
        """Return the submissions of a team, or of all, in the order in which they were kept."""
        where, values = ("WHERE team = ?", (team,)) if team is not None else ("", ())
        with self.opened() as database:
            sql = f"SELECT {SUBMISSION} FROM submissions {where} ORDER BY id"
            return [*map(Submission._make, database.execute(sql, values))]

    def same_submission(self, team: int, digest: str) -> Submission | None:
        """Return the submission of a team with this content; None where there is none."""
        with self.opened() as database:
            return _same_submission(database, team, digest)

    def lists(self, submission: int) -> Lists:
        """Return the content of a submission, {query: [gallery names, best first]}."""
        with self.opened() as database:
            sql = "SELECT body FROM submissions WHERE id = ?"
            (body,) = database.execute(sql, (submission,)).fetchone()
        text = zlib.decompress(body).decode()
        lists: Lists = parse_json(text, f"submission {submission}", Lists)
        return lists

    def set_scores(self, scores: list[tuple[float, float, float, int]], scored_by: str) -> None:
        """Replace the scores of submissions: (public, private, given, number) of each.

        Args:
            scores: The scores.
            scored_by: What they were scored by, as the state remembers it.
        """
        with self.opened(write=True) as database:
            sql = "UPDATE submissions SET public = ?, private = ?, given = ? WHERE id = ?"
            database.executemany(sql, scores)
            _set(database, "scored_by", scored_by)

    def withdraw(self, table: str, number: int, withdrawn: bool) -> bool:
        """Take a row of `teams` or `submissions` out of the ranking, or put it back.

        Returns:
            Whether there is one of this number.
        """
        if table not in ("teams", "submissions"):
            raise ValueError(table)
        with self.opened(write=True) as database:
            sql = f"UPDATE {table} SET withdrawn = ? WHERE id = ?"
            return database.execute(sql, (int(withdrawn), number)).rowcount == 1

    # ---- state and audit ------------------------------------------------------------------------

    def state(self) -> dict[str, str]:
        """Return the state of the competition, such as when it closes."""
        with self.opened() as database:
            return dict(database.execute("SELECT name, value FROM state"))

    def set_state(self, name: str, value: str | None) -> None:
        """Set a part of the state; None removes it."""
        with self.opened(write=True) as database:
            _set(database, name, value)

    def first_state(self, name: str, value: str) -> str:
        """Return a part of the state, which is set to a value where there is none."""
        with self.opened(write=True) as database:
            database.execute("INSERT OR IGNORE INTO state VALUES (?, ?)", (name, value))
            sql = "SELECT value FROM state WHERE name = ?"
            return str(database.execute(sql, (name,)).fetchone()[0])

    def note(self, entry: AuditEntry) -> None:
        """Add a line to the audit log."""
        with self.opened(write=True) as database:
            _note(database, entry)

    def audit(self, last: int = -1) -> list[AuditEntry]:
        """Return the last lines of the audit log, or all of them, the newest first."""
        with self.opened() as database:
            sql = "SELECT time, address, who, what FROM audit ORDER BY id DESC LIMIT ?"
            return [*map(AuditEntry._make, database.execute(sql, (last,)))]

    def back_up(self, path: Path) -> None:
        """Copy the file while it is used.

        Raises:
            sqlite3.Error: It cannot be copied.
        """
        with whole_file(path) as beside, closing(sqlite3.connect(beside)) as copy:
            with closing(self._connect()) as database:
                database.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without others beside it


def _same_submission(database: sqlite3.Connection, team: int, digest: str) -> Submission | None:
    sql = f"SELECT {SUBMISSION} FROM submissions WHERE team = ? AND digest = ?"
    row = database.execute(sql, (team, digest)).fetchone()
    return None if row is None else Submission._make(row)


def _set(database: sqlite3.Connection, name: str, value: str | None) -> None:
    if value is None:
        database.execute("DELETE FROM state WHERE name = ?", (name,))
    else:
        database.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, value))


def _note(database: sqlite3.Connection, entry: AuditEntry) -> None:
    sql = "INSERT INTO audit (time, address, who, what) VALUES (?, ?, ?, ?)"
    database.execute(sql, entry)


def _require_quota(database: sqlite3.Connection, team: int, now: float, quota: Quota) -> None:
    for span, seconds, number in quota.spans():
        times = _times_within(database, team, now, seconds)
        if len(times) >= number:
            raise QuotaUsed(span, number, max(times[-number] + seconds - now, 1.0))


def _times_within(
    database: sqlite3.Connection, team: int, now: float, seconds: float
) -> list[float]:
    """Return when a team sent within a span, sorted.

    Times a little ahead count, too: another thread may keep a later submission first. Those far
    ahead do not: a server's clock was wrong then.
    """
    sql = "SELECT time FROM submissions WHERE team = ? AND abs(time - ?) < ? ORDER BY time"
    return [time for (time,) in database.execute(sql, (team, now, seconds))]
