"""The web server of a competition: what is the same for all pages, and the way in for programs.

    POST /retrieval/     {"images": {query: [ten gallery names]}} as JSON, with the header
                         `Authorization: Bearer TOKEN`
                         -> {"accuracy": score, "rank": 3, "best": score, "left": {"hour": 19}}, or
                         {"error": what is wrong} with status 400 (not this form), 401 (no such
                         token), 403 (not open), 413 (too large), 422 (refused), 429 (too often),
                         503 (nothing can be kept at the moment)

`pages` holds what people read, `organizer` what the organizer does. No page has a script or a style
within it, and no path or name from outside reaches the disk.
"""

import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lookalike.competition.board import Board, Closed, Receipt
from lookalike.competition.clock import show_moment, show_time
from lookalike.competition.sessions import Organizer, signed_in_team, use_sessions
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
# Within a minute:
POSTS = 300  # of an address, without a token
TRIES = 60  # of a team, whether they are taken or not
NAMED = 20  # of a name at an address, in an open competition
PASSWORDS = 10  # wrong ones of an address
NOTED = 10  # wrong secrets of an address that the audit log keeps
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
        self.posts, self.tries = RateLimit(POSTS), RateLimit(TRIES)
        self.passwords, self.noted = RateLimit(PASSWORDS), RateLimit(NOTED)
        self.named = RateLimit(NAMED)

    def address(self) -> str:
        """Return the address of the request's sender."""
        from flask import request

        return str(request.remote_addr)

    def team(self) -> Team | None:
        """Return the team of the request: of a program's by its token, of a page's by its session.

        A program's request has no session: the cookies that a browser adds to it count for nothing.
        """
        from flask import g, request

        if "team" not in g:
            token = bearer(request.headers.get("Authorization", ""))
            if is_of_program():
                g.team = None if token is None else self.board.team_of_token(token)
            else:
                g.team = signed_in_team(self.board)
        return g.team

    def limit_posts(self) -> None:
        """Refuse whoever posts too often: a team, or an address that shows no token.

        A class may share an address: nobody there can use up what the teams may post.
        """
        from flask import request

        if request.method != "POST":
            return
        if (team := self.team()) is not None:
            refuse_haste(self.tries.wait(team.name), team.name, TRIES)
            self.tries.count(team.name)
        elif self.organizer.is_here():
            return
        # Without a word from a proxy on this machine, all senders behind it have its address.
        elif self.behind_proxy or not is_local(self.address()):
            who = sender(self.address())
            refuse_haste(self.posts.wait(who), "this address", POSTS)
            self.posts.count(who)

    def refuse_guessing(self) -> None:
        """Refuse an address that has tried too many wrong passwords; nobody can guess a token.

        At the server's own machine, the organizer can sign in whatever others do.
        """
        if is_local(self.address()) and not self.behind_proxy:
            return
        wait = self.passwords.wait(sender(self.address()))
        refuse_haste(wait, "this address", PASSWORDS, "a minute a wrong password")

    def wrong_secret(self, what: str) -> None:
        """Write down a wrong secret of the request's sender; of many, some."""
        who = sender(self.address())
        if what == "password":
            self.passwords.count(who)
        if not self.noted.wait(who):
            self.noted.count(who)
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
            return self.board.submit(team, lists, self.arrived())
        except Closed as error:
            raise Forbidden(str(error)) from error
        except QuotaUsed as error:
            raise TooManyRequests(
                f"{team.name} has sent {error}", retry_after=int(error.wait) + 1
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
    use_sessions(app, site.board, is_of_program)
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
        team = site.team()
        if team is None and bearer(request.headers.get("Authorization", "")) is not None:
            site.wrong_secret("token")
            raise unauthorized("no team has this token")
        if team is None and not site.board.is_open:  # before anything of the body is read
            raise unauthorized("send your team's token in the header Authorization: Bearer TOKEN")
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


def is_of_program() -> bool:
    """Return whether a request is to the way in for programs, which send tokens and no forms."""
    from flask import request

    return request.path.rstrip("/") == PROGRAMS


def bearer(header: str) -> str | None:
    """Return the token in a header; None where there is none.

    >>> bearer("Bearer abc"), bearer("Basic abc")
    ('abc', None)
    """
    kind, _, token = header.partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def unauthorized(reason: str) -> "HTTPException":
    """Return the error of a post without a valid token."""
    from werkzeug.datastructures import WWWAuthenticate
    from werkzeug.exceptions import Unauthorized

    return Unauthorized(reason, www_authenticate=WWWAuthenticate("bearer"))


def _sender_of_post(site: Site, team: Team | None, name: str) -> Team:
    """Return the team that a post is of.

    Raises:
        UserError: It is of another than the token's, or its name cannot be used.
        werkzeug.exceptions.TooManyRequests: A post without a token comes too soon.
    """
    if team is not None:
        if name and name != team.name:
            raise UserError(f"the token is that of {team.name!r}, the groupname {name!r}")
        return team
    team = site.board.team_of_name(name)
    named = f"{team.name} {sender(site.address())}"
    refuse_haste(site.named.wait(named), team.name, NAMED)
    site.named.count(named)
    return team


def _add_answers(app: "Flask", site: Site) -> None:
    """Answer errors: programs by JSON, people by a page."""
    from flask import request
    from werkzeug.exceptions import HTTPException, InternalServerError

    def answer(error: "HTTPException") -> "Response | tuple[str, int, dict[str, str]]":
        if is_of_program() or request.path.endswith(".json"):
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
