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
score can only rise by that, and the group's own rate is not used up: each address has its own.
Scores are given in steps (`rules.coarse`), so that many posts cannot read the answers off.
"""

import hashlib
import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash
from lookalike.core.log import log, printable
from lookalike.core.settings import Natural, Positive
from lookalike.evaluation.matching import match, refusals
from lookalike.evaluation.metrics import DEFAULT_METRIC, SCORE, Metric, parse_metric
from lookalike.evaluation.scoring import (
    Labels,
    find_hits,
    hits_of_match,
    mean_measures,
    read_labels,
)
from lookalike.leaderboard.listening import is_local, listen, page_url
from lookalike.leaderboard.protocol import (
    HEADERS,
    POLICY,
    answer_errors,
    parse_request,
    refuse_haste,
)
from lookalike.leaderboard.results import Results
from lookalike.leaderboard.rules import Groups, RateLimit, coarse, score_step, sender

if TYPE_CHECKING:  # flask and waitress are loaded when a server starts, not for --help
    from flask import Flask
    from waitress.server import BaseWSGIServer

ADDRESS_FACTOR = 10  # times the rate of a group: many groups may share an address


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
    metric: str = DEFAULT_METRIC
    """What the score is, such as map@100, see evaluate.py."""
    k: Positive | None = None
    """Gallery names that each query must have. Default: as many as the metric looks at, at least
    ten."""
    rate: Natural = 20
    """Submissions of a group that are taken from an address in a minute, and a tenth of all posts
    that the address may send; 0: no limit."""
    largest: Annotated[float, Interval(gt=0, le=1000)] = 10.0
    """Size of the largest submission that is accepted, in megabytes."""


# ---- the application ----------------------------------------------------------------------------


def make_app(labels: Labels, results: Results, settings: ServeSettings) -> "Flask":
    """Return the leaderboard as a WSGI application; its pages are in templates/.

    Raises:
        UserError: No query of the labels has a relevant picture in the gallery.
    """
    from flask import Flask

    metric = parse_metric(settings.metric, settings.k)
    scorer = Scorer(labels, results, settings.rate, metric)
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = int(settings.largest * 1e6)
    _add_submissions(app, scorer)
    _add_ranking(app, results, printable(settings.title), metric)
    answer_errors(app, settings.largest)
    return app


class Scorer:
    """Scores posts, one after the other or at once, by the rules of the leaderboard.

    A refused post counts against its sender's address and never against a group: nobody can keep a
    group from sending by posting in its name.
    """

    def __init__(self, labels: Labels, results: Results, rate: int, metric: Metric = SCORE) -> None:
        """Continue with the groups of earlier results.

        Raises:
            UserError: No query of the labels has a relevant picture in the gallery.
        """
        self.labels, self.results, self.rate, self.metric = labels, results, rate, metric
        self.k = min(metric.length, len(labels.gallery) - labels.leave_one_out)
        self.groups = Groups(results.groups())
        self.step = score_step(len(find_hits({}, labels).queries), metric.highest)
        self.by_group, self.by_address = RateLimit(rate), RateLimit(ADDRESS_FACTOR * rate)

    def score(self, body: bytes, address: str) -> float:
        """Score a post and keep the result.

        Args:
            body: Of the post.
            address: Of its sender. A proxy on this machine hides those of the senders: its own has
                no limit.

        Raises:
            werkzeug.exceptions.HTTPException: It is refused.
            sqlite3.Error: The result cannot be kept.
        """
        from werkzeug.exceptions import BadRequest, UnprocessableEntity

        who = sender(address)
        if not is_local(address):
            refuse_haste(self.by_address.wait(who), "this address", ADDRESS_FACTOR * self.rate)
            self.by_address.count(who)
        try:
            name, submission = parse_request(body)
            group = self.groups.known(name)
        except UserError as error:
            raise BadRequest(str(error)[:500]) from error
        group_there = f"{group} {who}"
        refuse_haste(self.by_group.wait(group_there), group, self.rate)
        labels = self.labels
        matched = match(submission, labels.query, labels.gallery, self.k, labels.leave_one_out)
        if reasons := refusals(matched):
            raise UnprocessableEntity("; ".join(reasons))
        measures = mean_measures(hits_of_match(matched, labels), self.metric)
        secret, highest = self.results.secret, self.metric.highest
        given = coarse(measures["score"], self.step, submission, secret, highest)
        self.results.add(group, given, measures["recall@1"])
        self.groups.add(group)
        self.by_group.count(group_there)
        log.info("%s: %s", group, self.metric.show(given))
        return given


def _add_submissions(app: "Flask", scorer: Scorer) -> None:
    """Add the route that takes submissions."""
    from flask import Response, jsonify, request

    @app.post("/retrieval/", strict_slashes=False)
    def retrieval() -> Response:
        return jsonify(accuracy=scorer.score(request.get_data(), str(request.remote_addr)))


def _add_ranking(app: "Flask", results: Results, title: str, metric: Metric) -> None:
    """Add the pages of the ranking."""
    from flask import Response, jsonify, render_template

    @app.get("/ranking.json")
    def ranking() -> Response:
        return jsonify([group._asdict() for group in results.ranking()])

    @app.get("/ranking.html")
    def table() -> str:
        return render_template(
            "ranking.html", title=title, ranking=results.ranking(), metric=metric
        )

    @app.get("/")
    def page() -> Response:
        nonce = secrets.token_urlsafe(16)
        text = render_template(
            "leaderboard.html", title=title, ranking=results.ranking(), metric=metric, nonce=nonce
        )
        # Should a name ever slip through unescaped, the browser would still run nothing of it.
        policy = f"{POLICY}; connect-src 'self'; style-src 'nonce-{nonce}'; "
        headers = {"Content-Security-Policy": policy + f"script-src 'nonce-{nonce}'"}
        return Response(text, mimetype="text/html", headers=headers)

    @app.after_request
    def protect(response: Response) -> Response:
        """Let no browser run anything else, or show a page within another."""
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers.update(HEADERS)
        return response

    @app.template_filter("clock")
    def clock(seconds: float) -> str:
        return time.strftime("%d %b %H:%M:%S", time.localtime(seconds))


# ---- the server ---------------------------------------------------------------------------------


def make_server(settings: ServeSettings) -> "BaseWSGIServer":
    """Return a server that listens already; its `run()` answers until it is stopped.

    Raises:
        UserError: The labels or the results cannot be used, or the port is taken.
    """
    check_bounds(settings)
    labels = read_labels(settings.labels)
    kept_by = labels_hash(labels)
    if settings.metric not in ("score", DEFAULT_METRIC):
        kept_by += f" {settings.metric}"  # scores of another metric are not comparable
    results = Results(settings.results, kept_by, str(file_hash(settings.labels)))
    app = make_app(labels, results, settings)
    if ranking := results.ranking():
        log.info("%s: continues with the results of %d groups", settings.results, len(ranking))
    largest = int(settings.largest * 1e6)
    headers = [("Content-Security-Policy", POLICY), *HEADERS.items()]
    return listen(app, settings.host, settings.port, largest, headers)


def labels_hash(labels: Labels) -> str:
    """Return a hash of what labels say, however their file is written."""
    return hashlib.sha256(json.dumps(labels.as_json(), sort_keys=True).encode()).hexdigest()


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
