"""Sessions of the pages: signed cookies, secrets against forged forms, and who has signed in.

A session holds a prefix of the hash of a token, so that a new token ends the sessions of the old
one; the organizer's ends with another password.
"""

import secrets
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from lookalike.competition.access import same, token_hash
from lookalike.competition.board import Board
from lookalike.competition.store import Team

if TYPE_CHECKING:  # flask is loaded when a server starts, not for --help
    from flask import Flask

COOKIE = "competition"
PREFIX = 32  # hexadecimal digits of a hash


def use_sessions(app: "Flask", board: Board, is_of_program: Callable[[], bool]) -> None:
    """Let an application's pages have sessions, and refuse forms that are not from its pages.

    Args:
        app: The application.
        board: The competition.
        is_of_program: Returns whether a request is a program's, which has no session and no form.
    """
    from flask import abort, request, session
    from flask.sessions import SecureCookieSessionInterface

    class Sessions(SecureCookieSessionInterface):
        def get_cookie_secure(self, app: "Flask") -> bool:
            return request.is_secure  # a class may well do without TLS

    app.session_interface = Sessions()
    app.secret_key = board.store.first_state("cookies", secrets.token_hex(32))
    app.config.update(
        SESSION_COOKIE_NAME=f"{COOKIE}_{token_hash(app.secret_key)[:8]}",  # one host may hold two
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
    )

    @app.context_processor
    def form_secret() -> dict[str, Any]:
        return {"form_secret": _form_secret}

    @app.before_request
    def refuse_forged() -> None:
        """Refuse a form that another site made a browser send."""
        if request.method not in ("GET", "HEAD", "OPTIONS") and not is_of_program():
            known = session.get("form", "")
            if not known or not same(request.form.get("form", ""), known):
                abort(403, "this form has expired: go back, load the page anew and send it again")


def _form_secret() -> str:
    """Return the session's secret for its forms; only pages with forms begin a session."""
    from flask import session

    return str(session.setdefault("form", secrets.token_urlsafe(16)))


def sign_in(team: Team) -> None:
    """Let the session be a team's."""
    from flask import session

    session.clear()  # nothing of an earlier session is known to whoever began it
    session["team"] = team.id
    session["key"] = str(team.token_hash)[:PREFIX]


def signed_in_team(board: Board) -> Team | None:
    """Return the team of the session; None where there is none, or its token is another now."""
    from flask import session

    number, key = session.get("team"), session.get("key")
    team = board.store.team_by("id", number) if isinstance(number, int) else None
    if team is None or team.token_hash is None:
        return None
    return team if same(str(key), team.token_hash[:PREFIX]) else None


class Organizer:
    """The organizer's session."""

    def __init__(self, password: str, secret: str) -> None:
        """Know the password.

        Args:
            password: The organizer's.
            secret: Known to the competition alone, so that a cookie does not tell a password's
                hash.
        """
        self._password = password
        self._key = token_hash(f"{secret} {password}")[:PREFIX]

    def sign_in(self, password: str) -> bool:
        """Let the session be the organizer's where the password is right; return whether it is."""
        from flask import session

        if not same(password, self._password):
            return False
        session.clear()
        session["organizer"] = self._key
        return True

    def is_here(self) -> bool:
        """Return whether the session is the organizer's."""
        from flask import session

        return same(str(session.get("organizer", "")), self._key)

    def only(self, page: Callable[..., Any]) -> Callable[..., Any]:
        """Let a page be the organizer's alone: others are led to where one signs in."""
        from flask import redirect, url_for

        @wraps(page)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if not self.is_here():
                return redirect(url_for("organizer_sign_in"), 303)
            return page(*args, **kwargs)

        return guarded
