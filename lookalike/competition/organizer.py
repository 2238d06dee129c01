"""The organizer's page: teams and submissions, when to open and close, and tables to take along."""

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lookalike.competition.board import CLOSED
from lookalike.competition.clock import parse_time, show_time
from lookalike.competition.exports import TABLES, table_as_csv
from lookalike.competition.standings import final_ranking
from lookalike.core.errors import UserError

if TYPE_CHECKING:  # flask is loaded when a server starts, not for --help
    from flask import Flask

    from lookalike.competition.board import Board
    from lookalike.competition.web import Site


def add_organizer(app: "Flask", site: "Site") -> None:
    """Add the organizer's pages."""
    _add_sign_in(app, site)
    _add_page(app, site)
    _add_tables(app, site)


def _add_sign_in(app: "Flask", site: "Site") -> None:
    from flask import redirect, render_template, request, url_for

    @app.route("/organizer/sign-in", methods=["GET", "POST"])
    def organizer_sign_in() -> Any:
        if request.method == "GET":
            return render_template("organizer_sign_in.html")
        site.refuse_guessing()
        if not site.organizer.sign_in(request.form.get("password", "")):
            site.wrong_secret("password")
            problem = "This is not the password."
            return render_template("organizer_sign_in.html", problem=problem), 403
        site.board.note("organizer", "signed in", site.address())
        return redirect(url_for("organizer_page"), 303)


def _add_page(app: "Flask", site: "Site") -> None:
    from flask import redirect, render_template, request, url_for

    board = site.board
    actions = Actions(board)

    def render(**more: Any) -> str:
        teams, state = board.store.teams(), board.store.state()
        return render_template(
            "organizer.html",
            teams=teams,
            names={team.id: team.name for team in teams},
            submissions=board.store.submissions()[::-1],
            final=final_ranking(board.store),
            audit=board.store.audit(last=50),
            opens=local_time(state.get("opens")),
            closes=local_time(state.get("closes")),
            held="held" in state,
            join_code=state.get("join_code", ""),
            **more,
        )

    @app.get("/organizer")
    @site.organizer.only
    def organizer_page() -> Any:
        return render()

    @app.post("/organizer")
    @site.organizer.only
    def organizer_act() -> Any:
        form, address = request.form, site.address()
        try:
            shown = actions.do(form.get("action", ""), form.get("value", "").strip(), address)
        except UserError as error:
            return render(problem=str(error).replace("groupname", "the name")), 422
        if shown is None:
            return redirect(url_for("organizer_page"), 303)
        team, token = shown
        back = url_for("organizer_page")
        return render_template("token.html", team=team, token=token, back=back)


class Actions:
    """What the organizer can do, by the name of a button."""

    def __init__(self, board: "Board") -> None:
        self.board = board

    def do(self, action: str, value: str, address: str) -> Any:
        """Do something, and write it in the audit log.

        Args:
            action: The name of the button.
            value: What belongs to it: a time, a name or a number.
            address: The organizer's.

        Returns:
            The team and its new token, where there is one; else None.

        Raises:
            UserError: It cannot be done.
        """
        known: dict[str, Callable[[str], str]] = {
            "opens": lambda time: self._set_time("opens", time),
            "closes": lambda time: self._set_time("closes", time),
            "close-now": self._close_now,
            "freeze": self._freeze,
            "hold": self._hold,
            "join-code": self._join_code,
            "withdraw-team": lambda number: self._withdraw("teams", number, True),
            "restore-team": lambda number: self._withdraw("teams", number, False),
            "withdraw-submission": lambda number: self._withdraw("submissions", number, True),
            "restore-submission": lambda number: self._withdraw("submissions", number, False),
        }
        if action == "add-team":
            return self.board.sign_up(value, "organizer", address)
        if action == "new-token":
            team = self.board.store.team_by("id", _number(value))
            if team is None:
                raise UserError(f"there is no team {value}")
            return team, self.board.renew_token(team, address)
        if action not in known:
            raise UserError("there is no such button")
        self.board.note("organizer", known[action](value), address)
        return None

    def _set_time(self, name: str, value: str) -> str:
        seconds = parse_time(value, f"the competition {name}") if value else None
        changed = self.board.schedule._replace(**{name: seconds})
        changed.check()
        if name == "closes" and changed.phase(self.board.clock.now()) == CLOSED:
            raise UserError(f"{value} is in the past: to end the competition, use Close now")
        self.board.store.set_state(name, None if seconds is None else str(seconds))
        return f"the competition {name}: {show_time(seconds) if seconds else 'at no set time'}"

    def _close_now(self, value: str) -> str:
        now = self.board.clock.now()
        if self.board.schedule.phase(now) == CLOSED:
            raise UserError("the competition is closed already")
        self.board.store.set_state("closes", str(now))
        return "closed the competition"

    def _freeze(self, value: str) -> str:
        store = self.board.store
        if not value:
            store.set_state("frozen", None)
            return "let the ranking move again"
        store.set_state("frozen", str(max((one.id for one in store.submissions()), default=0)))
        return "froze the ranking"

    def _hold(self, value: str) -> str:
        self.board.store.set_state("held", value or None)
        return "holds the final ranking back" if value else "shows the final ranking at the end"

    def _join_code(self, value: str) -> str:
        code = secrets.token_urlsafe(9) if value else None
        self.board.store.set_state("join_code", code)
        return "made a new join code" if code else "ended the sign-up"

    def _withdraw(self, table: str, number: str, withdrawn: bool) -> str:
        if not self.board.store.withdraw(table, _number(number), withdrawn):
            raise UserError(f"there is no number {number} among the {table}")
        return f"{'withdrew' if withdrawn else 'restored'} {table[:-1]} {number}"


def _number(text: str) -> int:
    """Return a number from a form; -1, which nothing has, where it is none.

    >>> _number("12"), _number("1 OR 1=1"), _number("9" * 30)
    (12, -1, -1)
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else -1


def local_time(seconds: str | None) -> str:
    """Return a time as a form shows it, in this machine's zone; empty where there is none."""
    from datetime import datetime

    return "" if seconds is None else f"{datetime.fromtimestamp(float(seconds)):%Y-%m-%dT%H:%M:%S}"


def _add_tables(app: "Flask", site: "Site") -> None:
    from flask import abort, make_response

    @app.get("/organizer/<name>.csv")
    @site.organizer.only
    def table(name: str) -> Any:
        if name not in TABLES:
            abort(404)
        response = make_response(table_as_csv(name, site.board.store))
        response.headers["Content-Type"] = "text/csv; charset=utf-8"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}.csv"'
        return response
