"""The web server of a competition: what is the same for all pages, and the way in for programs.

    POST /retrieval/     {"images": {query: [ten gallery names]}} as JSON, with the header
                         `Authorization: Bearer TOKEN`
                         -> {"accuracy": score, "rank": 3, "best": score, "left": {"hour": 19}}, or
                         {"error": what is wrong} with status 400 (not this form), 401 (no such
                         token), 403 (not open), 413 (too large), 422 (refused), 429 (too often)

`pages` holds what people read, `organizer` what the organizer does. No page has a script or a style
within it, and no path or name from outside reaches the disk.
"""

import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lookalike.competition.access import Guesses
from lookalike.competition.board import Board, Closed, Receipt
from lookalike.competition.clock import show_moment, show_time
from lookalike.competition.sessions import Organizer, use_sessions
from lookalike.competition.store import QuotaUsed, Team
from lookalike.core.errors import UserError
from lookalike.evaluation.submissions import Submission as Lists
from lookalike.leaderboard.listening import ARRIVED, is_local
from lookalike.leaderboard.protocol import (
    HEADERS,
    as_json,
    not_kept,
    parse_request,
    reason_of,
    refuse_haste,
)
from lookalike.leaderboard.rules import RateLimit, sender

if TYPE_CHECKING:  # flask is loaded when a server starts, not for --help
    from flask import Flask, Response
    from werkzeug.exceptions import HTTPException

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS_OF_PAGES = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    **HEADERS,
}
POSTS = 300  # of an address in a minute: a class may share one
SENT = 20  # of a name at an address in a minute, in an open competition
PROGRAMS = "/retrieval"


@dataclass
class Site:
    """What the pages of a competition share.

    Attributes:
        board: The competition.
        organizer: The organizer's session.
        title: Heading of the pages.
        largest: Megabytes of the largest submission.
        behind_proxy: Whether a proxy says who sends.
    """

    board: Board
    organizer: Organizer
    title: str
    largest: float
    behind_proxy: bool

    def __post_init__(self) -> None:
        self.guesses = Guesses()
        self.posts, self.sent = RateLimit(POSTS), RateLimit(SENT)

    def address(self) -> str:
        """Return the address of the request's sender."""
        from flask import request

        return str(request.remote_addr)

    def limit_posts(self) -> None:
        """Refuse an address that posts too often."""
        from flask import request

        # Without a word from a proxy on this machine, all senders behind it have its address.
        if request.method != "POST" or (is_local(self.address()) and not self.behind_proxy):
            return
        who = sender(self.address())
        refuse_haste(self.posts.wait(who), "this address", POSTS)
        self.posts.count(who)

    def refuse_guessing(self) -> None:
        """Refuse an address that has tried too many wrong secrets."""
        wait = self.guesses.wait(sender(self.address()))
        refuse_haste(wait, "this address", 10, "a minute what is no valid token, code or password")

    def wrong_secret(self, what: str) -> None:
        """Count a wrong secret of the request's sender, and write it down."""
        self.guesses.wrong(sender(self.address()))
        self.board.note("somebody", f"a wrong {what}", self.address())

    def arrived(self) -> float:
        """Return when the request's last byte came, however long it waited for its turn."""
        from flask import request

        waited = time.monotonic() - request.environ.get(ARRIVED, time.monotonic())
        return self.board.clock.now() - waited

    def take(self, team: Team, lists: Lists) -> Receipt:
        """Score the request's submission.

        Raises:
            werkzeug.exceptions.HTTPException: It is refused.
        """
        from werkzeug.exceptions import Forbidden, TooManyRequests, UnprocessableEntity

        try:
            return self.board.submit(team, lists, self.arrived(), self.address())
        except Closed as error:
            raise Forbidden(str(error)) from error
        except QuotaUsed as error:
            minutes = -(-int(error.wait) // 60)
            raise TooManyRequests(
                f"{team.name} has sent {error.number} times within a{'n' * (error.span == 'hour')} "
                f"{error.span}; again in {minutes} minutes",
                retry_after=int(error.wait) + 1,
            ) from error
        except UserError as error:
            raise UnprocessableEntity(str(error)) from error


def make_app(site: Site) -> "Flask":
    """Return a competition as a WSGI application; its pages are in templates/."""
    from flask import Flask

    from lookalike.competition.organizer import add_organizer
    from lookalike.competition.pages import add_pages

    app = Flask(__name__)
    app.config.update(MAX_CONTENT_LENGTH=int(site.largest * 1e6), MAX_FORM_PARTS=20)
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    app.before_request(site.limit_posts)
    use_sessions(app, site.board)
    _add_protection(app)
    _add_programs(app, site)
    add_pages(app, site)
    add_organizer(app, site)
    _add_answers(app, site)
    app.template_filter("clock")(show_time)
    app.template_filter("moment")(show_moment)
    return app


def _add_protection(app: "Flask") -> None:
    from flask import request

    @app.after_request
    def protect(response: "Response") -> "Response":
        """Let no browser run anything else, show a page within another, or keep it."""
        response.headers.update(HEADERS_OF_PAGES)
        if request.endpoint != "static":
            response.headers["Cache-Control"] = "no-store"
        return response


def _add_programs(app: "Flask", site: Site) -> None:
    """Add the route that takes submissions of programs."""
    from flask import jsonify, request
    from werkzeug.exceptions import BadRequest

    @app.post(f"{PROGRAMS}/", strict_slashes=False)
    def retrieval() -> "Response":
        token = _bearer(request.headers.get("Authorization", ""))
        team = None if token is None else _team_of_token(site, token)
        try:
            name, lists = parse_request(request.get_data())
            team = _sender_of_post(site, team, name)
        except UserError as error:
            raise BadRequest(str(error)[:500]) from error
        return jsonify(as_answer(site.take(team, lists)))


def as_answer(receipt: Receipt) -> dict[str, Any]:
    """Return a receipt as a program reads it."""
    own = receipt.submission
    return {
        "accuracy": own.given,
        "submission": own.id,
        "sent_before": not receipt.is_new,
        "rank": receipt.rank,
        "best": receipt.best,
        "left": receipt.left,
    }


def _bearer(header: str) -> str | None:
    """Return the token in a header; None where there is none."""
    kind, _, token = header.partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _team_of_token(site: Site, token: str) -> Team:
    from werkzeug.datastructures import WWWAuthenticate
    from werkzeug.exceptions import Unauthorized

    site.refuse_guessing()
    team = site.board.team_of_token(token)
    if team is None:
        site.wrong_secret("token")
        raise Unauthorized("no team has this token", www_authenticate=WWWAuthenticate("bearer"))
    return team


def _sender_of_post(site: Site, team: Team | None, name: str) -> Team:
    """Return the team that a post is of.

    Raises:
        UserError: It is of another than the token's, or its name cannot be used.
        werkzeug.exceptions.HTTPException: It has no token, or comes too soon.
    """
    from werkzeug.datastructures import WWWAuthenticate
    from werkzeug.exceptions import Unauthorized

    if team is not None:
        if name and name != team.name:
            raise UserError(f"the token is that of {team.name!r}, the groupname {name!r}")
        return team
    if not site.board.is_open:
        raise Unauthorized(
            "send your team's token in the header Authorization: Bearer TOKEN",
            www_authenticate=WWWAuthenticate("bearer"),
        )
    team = site.board.team_of_name(name)
    named = f"{team.name} {sender(site.address())}"
    refuse_haste(site.sent.wait(named), team.name, SENT)
    site.sent.count(named)
    return team


def _add_answers(app: "Flask", site: Site) -> None:
    """Answer errors: programs by JSON, people by a page."""
    from flask import request
    from werkzeug.exceptions import HTTPException, InternalServerError

    def answer(error: "HTTPException") -> "Response | tuple[str, int, dict[str, str]]":
        if request.path.rstrip("/") == PROGRAMS or request.path.endswith(".json"):
            response = as_json(error, site.largest)
        else:
            reason = reason_of(error, site.largest)
            # Not by render_template, which would ask the competition for the time that is left.
            page = app.jinja_env.get_template("message.html")
            text = page.render(title=site.title, reason=reason)
            response = app.make_response((text, error.code or 500))
        if challenge := getattr(error, "www_authenticate", None):
            response.headers["WWW-Authenticate"] = ", ".join(map(str, challenge))
        return response

    @app.errorhandler(sqlite3.Error)
    @app.errorhandler(OSError)
    def unavailable(error: Exception) -> Any:
        return answer(not_kept(error))

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Any:
        if isinstance(error, InternalServerError):  # its text may tell what is inside
            error.description = "something went wrong here; the organizer sees it in the log"
        return answer(error)
