"""A leaderboard: to rehearse with before the two hours, or to hold a competition of your own.

    lookalike submit serve --labels labels.json
    lookalike submit serve --labels labels.json --host 0.0.0.0 --port 8000 --title "Friday"

    POST /retrieval/     {"groupname": name, "images": {query: [ten gallery names]}} as JSON
                         -> {"accuracy": score from 0 to 1000}, or {"error": what was wrong} with
                         status 400 (not this form), 413 (too large), 422 (refused), 429 (too often)
    GET  /               the ranking, as a page that updates by itself
    GET  /ranking.json   the ranking for programs

A group stands by its best submission; of two equal ones, the earlier stands higher. The protocol
is that of the original competition and knows no passwords: who knows a group's name can send in
it. Scores only rise by that.
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
from typing import Any, NamedTuple

from flask import Flask, Response, jsonify, render_template, request
from waitress.server import BaseWSGIServer, MultiSocketServer, create_server
from werkzeug.exceptions import BadRequest, HTTPException, TooManyRequests, UnprocessableEntity

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash
from lookalike.core.log import log
from lookalike.evaluation.matching import match, refusals
from lookalike.evaluation.scoring import Labels, find_hits, hits_of_match, mean_measures, read_labels
from lookalike.evaluation.submissions import Submission, parse_submission

LONGEST_NAME = 64
MINUTE = 60.0
RATES_KEPT = 10_000  # groups whose pace is remembered at once
FORM = '{"groupname": name, "images": {query: [gallery names]}}'


@dataclass
class ServeSettings:
    """Settings of the leaderboard."""

    labels: Path
    """Labels of the test, {"query": {name: identity}, "gallery": {name: identity}}."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    results: Path = Path("runs/leaderboard.sqlite")
    """File that keeps the results; a server started again goes on with it."""
    title: str = "Leaderboard"
    """Heading of the page."""
    rate: int = 20
    """Submissions that a group may send in a minute; 0: as many as it likes."""
    largest: float = 10.0
    """Size of the largest submission that is taken, in megabytes."""


# ---- results ------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A line of the ranking: a group's best submission, and how many it sent."""

    rank: int
    group: str
    score: float
    recall_at_1: float
    submissions: int
    last: float  # seconds since the epoch


class Results:
    """The results of all submissions, in an SQLite file: what was added survives a power cut.

    labels: hash of the labels that they are scored with. Results of other labels stay in the file
    and out of the ranking, since they cannot be compared.

    Raises:
        UserError: the file is something else.
    """

    def __init__(self, path: Path, labels: str) -> None:
        self.path, self.labels = path, labels
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._open() as book:
                book.execute("PRAGMA journal_mode = WAL")  # readers do not wait for writers
                book.execute(
                    "CREATE TABLE IF NOT EXISTS results (id INTEGER PRIMARY KEY, labels TEXT, "
                    "team TEXT, time REAL, score REAL, recall_at_1 REAL)"
                )
                book.execute("CREATE INDEX IF NOT EXISTS best ON results (labels, team, score)")
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: cannot keep results there ({error})") from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use: threads share nothing. Commits at the end."""
        with closing(sqlite3.connect(self.path, timeout=60)) as book, book:
            yield book

    def add(self, group: str, score: float, recall_at_1: float) -> None:
        """Keeps one submission's result; it is on the disk when this returns."""
        row = (self.labels, group, time.time(), score, recall_at_1)
        with self._open() as book:
            book.execute(
                "INSERT INTO results (labels, team, time, score, recall_at_1) "
                "VALUES (?, ?, ?, ?, ?)",
                row,
            )

    def ranking(self) -> list[Place]:
        """All groups, best first; the first of a group's equal submissions is its best."""
        with self._open() as book:
            rows = book.execute(
                """
                SELECT best.team, best.score, best.recall_at_1, sent.number, sent.last
                FROM (SELECT team, COUNT(*) AS number, MAX(time) AS last, MAX(score) AS score
                      FROM results WHERE labels = :labels GROUP BY team) AS sent
                JOIN results AS best ON best.id = (
                    SELECT MIN(id) FROM results
                    WHERE labels = :labels AND team = sent.team AND score = sent.score)
                ORDER BY best.score DESC, best.id
                """,
                {"labels": self.labels},
            ).fetchall()
        return [Place(rank, *row) for rank, row in enumerate(rows, 1)]


class RateLimit:
    """Lets each group send so many times a minute.

    >>> limit = RateLimit(1)
    >>> [limit.wait(group, now) for group, now in (("ada", 100), ("bo", 100), ("ada", 130))]
    [0.0, 0.0, 30.0]
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._sent: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def wait(self, group: str, now: float | None = None) -> float:
        """Seconds until the group may send again; 0: it may now, and this counts as sent."""
        if not self.rate:
            return 0.0
        now = time.monotonic() if now is None else now
        with self._lock:
            if len(self._sent) > RATES_KEPT:  # names cost nothing: memory must have an end
                self._sent = {g: t for g, t in self._sent.items() if t[-1] > now - MINUTE}
            times = self._sent.setdefault(group, deque(maxlen=self.rate))
            if len(times) == self.rate and times[0] > now - MINUTE:
                return times[0] + MINUTE - now
            times.append(now)
        return 0.0


# ---- the protocol -------------------------------------------------------------------------------


def read_post(body: bytes) -> tuple[str, Submission]:
    """The group's name and the submission in the body of a request.

    Raises:
        BadRequest: it does not have the protocol's form.
    """
    try:
        text = body.decode("utf-8")
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"not valid JSON ({str(error)[:200]})") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), dict):
        raise BadRequest(f"not of the form {FORM}")
    group = content.get("groupname")
    group = group.strip() if isinstance(group, str) else ""
    if not 1 <= len(group) <= LONGEST_NAME or not group.isprintable():
        raise BadRequest(f"groupname must be 1 to {LONGEST_NAME} printable characters")
    try:
        return group, parse_submission(text, "images")
    except UserError as error:
        raise BadRequest(str(error)[:500]) from error


def make_app(labels: Labels, results: Results, settings: ServeSettings) -> Flask:
    """The leaderboard as a WSGI application; its templates lie in templates/.

    Raises:
        UserError: labels under which nothing can be scored.
    """
    find_hits({}, labels)
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = int(settings.largest * 1e6)
    limit = RateLimit(settings.rate)

    @app.post("/retrieval/", strict_slashes=False)
    def retrieval() -> Response:
        group, ranked = read_post(request.get_data())
        if seconds := limit.wait(group):
            reason = f"{group} has sent {settings.rate} times within a minute"
            raise TooManyRequests(reason, retry_after=int(seconds) + 1)
        matched = match(ranked, labels.query, labels.gallery)
        if reasons := refusals(matched):
            raise UnprocessableEntity("; ".join(reasons))
        measured = mean_measures(hits_of_match(matched, labels))
        results.add(group, measured["score"], measured["recall@1"])
        log.info("%s: %.1f", group, measured["score"])
        return jsonify(accuracy=measured["score"])

    @app.get("/ranking.json")
    def ranking() -> Response:
        return jsonify([place._asdict() for place in results.ranking()])

    @app.get("/ranking.html")
    def table() -> str:
        return render_template("ranking.html", title=settings.title, ranking=results.ranking())

    @app.get("/")
    def page() -> Response:
        nonce = secrets.token_urlsafe(16)
        text = render_template(
            "leaderboard.html", title=settings.title, ranking=results.ranking(), nonce=nonce
        )
        # Were a name ever to slip through unescaped, the browser would still run nothing of it.
        policy = f"default-src 'none'; connect-src 'self'; style-src 'nonce-{nonce}'; "
        rule = {"Content-Security-Policy": policy + f"script-src 'nonce-{nonce}'"}
        return Response(text, mimetype="text/html", headers=rule)

    @app.template_filter("clock")
    def clock(seconds: float) -> str:
        return time.strftime("%d %b %H:%M:%S", time.localtime(seconds))

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        reason = error.description or error.name
        if error.code == 413:
            reason = f"larger than the {settings.largest:g} MB that are taken"
        log.info("refused with %s: %s", error.code, reason)
        response = jsonify(error=reason)
        response.status_code = error.code or 500
        if isinstance(error, TooManyRequests):
            response.headers["Retry-After"] = str(error.retry_after)
        return response

    return app


# ---- the server ---------------------------------------------------------------------------------


def make_server(settings: ServeSettings) -> MultiSocketServer | BaseWSGIServer:
    """A server that listens already; its `run()` answers until it is stopped.

    Raises:
        UserError: labels or results that cannot be used, or a port that is taken.
    """
    if settings.rate < 0 or settings.largest <= 0:
        raise UserError("--rate must not be negative, and --largest must be above 0")
    labels = read_labels(settings.labels)
    results = Results(settings.results, str(file_hash(settings.labels)))
    app = make_app(labels, results, settings)
    if known := results.ranking():
        log.info("%s: goes on with the results of %d groups", settings.results, len(known))
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
        where = f"{settings.host}:{settings.port}"
        raise UserError(f"cannot listen at {where} ({error}): choose another --port") from error


def address(server: Any) -> str:
    """The URL of a listening server's page."""
    return f"http://{server.effective_host}:{server.effective_port}/"


def serve(settings: ServeSettings) -> None:
    """Runs the leaderboard until Ctrl-C.

    Raises:
        UserError: see make_server.
    """
    server = make_server(settings)
    here = address(server)
    log.info("ranking: %s\nsubmissions: %sretrieval/", here, here)
    log.info("results are kept in %s; Ctrl-C stops the server", settings.results)
    server.run()
