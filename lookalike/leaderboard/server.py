"""A leaderboard server: to rehearse with before a competition, or to hold one.

    lookalike submit serve --labels labels.json
    lookalike submit serve --labels labels.json --host 0.0.0.0 --port 8000 --title "Friday"

    POST /retrieval/     {"groupname": name, "images": {query: [ten gallery names]}} as JSON
                         -> {"accuracy": score from 0 to 1000}, or {"error": what is wrong} with
                         status 400 (not this form), 413 (too large), 422 (refused), 429 (too often)
    GET  /               the ranking, as a page that updates by itself
    GET  /ranking.json   the ranking for programs

A group is ranked by its best submission, ties by time, earlier first. The protocol is that of the
original competition and has no passwords: whoever knows a group's name can send in that name. A
score can only rise by that.
"""

import json
import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from annotated_types import Interval

from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash
from lookalike.core.log import log
from lookalike.core.settings import Natural
from lookalike.evaluation.matching import match, refusals
from lookalike.evaluation.scoring import (
    Labels,
    find_hits,
    hits_of_match,
    mean_measures,
    read_labels,
)
from lookalike.evaluation.submissions import Submission, parse_submission

if TYPE_CHECKING:  # flask and waitress are loaded when a server starts, not for --help
    from flask import Flask
    from waitress.server import BaseWSGIServer, MultiSocketServer

MAX_NAME_LENGTH = 64
MINUTE = 60.0
MAX_GROUPS_REMEMBERED = 10_000  # by the rate limit, at once
FORM = '{"groupname": name, "images": {query: [gallery names]}}'


@dataclass
class ServeSettings:
    """Settings of the leaderboard server."""

    labels: Path
    """Labels of the test, {"query": {name: identity}, "gallery": {name: identity}}."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets other machines in."""
    port: Annotated[int, Interval(ge=0, le=65_535)] = 8000
    """Port to listen at; 0 takes a free one."""
    results: Path = Path("runs/leaderboard.sqlite")
    """File that holds the results; a restarted server continues with it."""
    title: str = "Leaderboard"
    """Heading of the page."""
    rate: Natural = 20
    """Submissions that a group may send in a minute; 0: no limit."""
    largest: Annotated[float, Interval(gt=0, le=1000)] = 10.0
    """Size of the largest submission that is accepted, in megabytes."""


# ---- results ------------------------------------------------------------------------------------


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

    def __init__(self, path: Path, labels_hash: str) -> None:
        """Open or create the file.

        Args:
            path: The file.
            labels_hash: Hash of the labels that submissions are scored with. Results of other
                labels stay in the file and out of the ranking: they cannot be compared.

        Raises:
            UserError: The file is something else.
        """
        self.path, self.labels_hash = path, labels_hash
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._open() as database:
                database.execute("PRAGMA journal_mode = WAL")  # readers do not wait for writers
                database.execute(
                    "CREATE TABLE IF NOT EXISTS results (id INTEGER PRIMARY KEY, labels TEXT, "
                    "team TEXT, time REAL, score REAL, recall_at_1 REAL)"
                )
                database.execute("CREATE INDEX IF NOT EXISTS best ON results (labels, team, score)")
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: cannot hold results ({error})") from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open a connection for one use, since threads share none; commit at the end."""
        with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
            yield database

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


class RateLimit:
    """A limit to the submissions that each group may send in a minute.

    Example:
        >>> limit = RateLimit(1)
        >>> [limit.wait(group, now) for group, now in (("ada", 100), ("bo", 100), ("ada", 130))]
        [0.0, 0.0, 30.0]
    """

    def __init__(self, rate: int) -> None:
        """Set the limit; 0: there is none."""
        self.rate = rate
        self._sent: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def wait(self, group: str, now: float | None = None) -> float:
        """Return the seconds until a group may send again.

        Args:
            group: The group's name.
            now: The time in seconds. Default: that of a monotonic clock.

        Returns:
            0 where it may send now, and this counts as sent.
        """
        if not self.rate:
            return 0.0
        now = time.monotonic() if now is None else now
        with self._lock:
            if len(self._sent) > MAX_GROUPS_REMEMBERED:  # names cost nothing: bound the memory
                self._sent = {g: t for g, t in self._sent.items() if t[-1] > now - MINUTE}
            times = self._sent.setdefault(group, deque(maxlen=self.rate))
            if len(times) == self.rate and times[0] > now - MINUTE:
                return times[0] + MINUTE - now
            times.append(now)
        return 0.0


# ---- the protocol -------------------------------------------------------------------------------


def parse_request(body: bytes) -> tuple[str, Submission]:
    """Return the group's name and the submission in the body of a request.

    Raises:
        UserError: It does not have the protocol's form.
    """
    try:
        text = body.decode("utf-8")
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON ({str(error)[:200]})") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), dict):
        raise UserError(f"not of the form {FORM}")
    group = content.get("groupname")
    group = group.strip() if isinstance(group, str) else ""
    if not 1 <= len(group) <= MAX_NAME_LENGTH or not group.isprintable():
        raise UserError(f"groupname must be 1 to {MAX_NAME_LENGTH} printable characters")
    return group, parse_submission(text, "images")


def make_app(labels: Labels, results: Results, settings: ServeSettings) -> "Flask":
    """Return the leaderboard as a WSGI application; its pages are in templates/.

    Raises:
        UserError: No query of the labels has a relevant picture in the gallery.
    """
    from flask import Flask

    find_hits({}, labels)  # raises now, not at the first submission
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = int(settings.largest * 1e6)
    _add_submissions(app, labels, results, settings.rate)
    _add_ranking(app, results, settings.title)
    _add_errors(app, settings.largest)
    return app


def _add_submissions(app: "Flask", labels: Labels, results: Results, rate: int) -> None:
    """Add the route that takes submissions."""
    from flask import Response, jsonify, request
    from werkzeug.exceptions import BadRequest, TooManyRequests, UnprocessableEntity

    limit = RateLimit(rate)

    @app.post("/retrieval/", strict_slashes=False)
    def retrieval() -> Response:
        try:
            group, submission = parse_request(request.get_data())
        except UserError as error:
            raise BadRequest(str(error)[:500]) from error
        if seconds := limit.wait(group):
            reason = f"{group} has sent {rate} times within a minute"
            raise TooManyRequests(reason, retry_after=int(seconds) + 1)
        matched = match(submission, labels.query, labels.gallery)
        if reasons := refusals(matched):
            raise UnprocessableEntity("; ".join(reasons))
        measures = mean_measures(hits_of_match(matched, labels))
        results.add(group, measures["score"], measures["recall@1"])
        log.info("%s: %.1f", group, measures["score"])
        return jsonify(accuracy=measures["score"])


def _add_ranking(app: "Flask", results: Results, title: str) -> None:
    """Add the pages of the ranking."""
    from flask import Response, jsonify, render_template

    @app.get("/ranking.json")
    def ranking() -> Response:
        return jsonify([group._asdict() for group in results.ranking()])

    @app.get("/ranking.html")
    def table() -> str:
        return render_template("ranking.html", title=title, ranking=results.ranking())

    @app.get("/")
    def page() -> Response:
        nonce = secrets.token_urlsafe(16)
        text = render_template(
            "leaderboard.html", title=title, ranking=results.ranking(), nonce=nonce
        )
        # Should a name ever slip through unescaped, the browser would still run nothing of it.
        policy = f"default-src 'none'; connect-src 'self'; style-src 'nonce-{nonce}'; "
        headers = {"Content-Security-Policy": policy + f"script-src 'nonce-{nonce}'"}
        return Response(text, mimetype="text/html", headers=headers)

    @app.template_filter("clock")
    def clock(seconds: float) -> str:
        return time.strftime("%d %b %H:%M:%S", time.localtime(seconds))


def _add_errors(app: "Flask", largest: float) -> None:
    """Answer every error as JSON, {"error": reason}; `largest`: megabytes of a submission."""
    from flask import Response, jsonify
    from werkzeug.exceptions import HTTPException, TooManyRequests

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        reason = error.description or error.name
        if error.code == 413:
            reason = f"larger than the {largest:g} MB that are accepted"
        log.info("refused with %s: %s", error.code, reason)
        response = jsonify(error=reason)
        response.status_code = error.code or 500
        if isinstance(error, TooManyRequests):
            response.headers["Retry-After"] = str(error.retry_after)
        return response


# ---- the server ---------------------------------------------------------------------------------


def make_server(settings: ServeSettings) -> "MultiSocketServer | BaseWSGIServer":
    """Return a server that listens already; its `run()` answers until it is stopped.

    Raises:
        UserError: The labels or the results cannot be used, or the port is taken.
    """
    from waitress.server import create_server

    check_bounds(settings)
    labels = read_labels(settings.labels)
    results = Results(settings.results, str(file_hash(settings.labels)))
    app = make_app(labels, results, settings)
    if ranking := results.ranking():
        log.info("%s: continues with the results of %d groups", settings.results, len(ranking))
    try:
        return create_server(
            app,
            host=settings.host,
            port=settings.port,
            threads=8,
            connection_limit=2000,
            asyncore_use_poll=True,
            # Bodies up to ten times the limit are read to their end, so that their senders surely
            # get to see why they are refused; larger ones waitress refuses unread.
            max_request_body_size=int(settings.largest * 1e7),
        )
    except (OSError, OverflowError) as error:
        address = f"{settings.host}:{settings.port}"
        raise UserError(f"cannot listen at {address} ({error}): choose another --port") from error


def page_url(server: Any) -> str:
    """Return the URL of a listening server's page."""
    return f"http://{server.effective_host}:{server.effective_port}/"


def serve(settings: ServeSettings) -> None:
    """Run the leaderboard until Ctrl-C.

    Raises:
        UserError: The labels or the results cannot be used, or the port is taken.
    """
    server = make_server(settings)
    url = page_url(server)
    log.info("ranking: %s\nsubmissions: %sretrieval/", url, url)
    log.info("results are saved in %s; Ctrl-C stops the server", settings.results)
    server.run()
