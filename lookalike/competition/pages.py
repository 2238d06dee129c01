"""The pages that everybody and the teams read: ranking, sign-up, sign-in, and a team's own page."""

import time
from typing import TYPE_CHECKING, Any

from lookalike.competition.access import same
from lookalike.competition.board import OPEN, SOON, final_is_shown, schedule_of
from lookalike.competition.sessions import sign_in
from lookalike.competition.store import SPANS, Submission, Team
from lookalike.core.errors import UserError
from lookalike.evaluation.submissions import Submission as Lists
from lookalike.evaluation.submissions import parse_submission
from lookalike.leaderboard.rules import MAX_NAME_LENGTH

if TYPE_CHECKING:  # flask is loaded when a server starts, not for --help
    from flask import Flask
    from werkzeug.datastructures import FileStorage

    from lookalike.competition.web import Site

CURVE = (600, 120)  # width and height of a team's curve


def add_pages(app: "Flask", site: "Site") -> None:
    """Add the pages."""
    app.context_processor(lambda: shared(site))
    _add_ranking(app, site)
    _add_entrance(app, site)
    _add_team(app, site)


def shared(site: "Site") -> dict[str, Any]:
    """Return what all pages show: the time that is left, and who has signed in."""
    board = site.board
    state, now = board.store.state(), board.clock.now()
    schedule = schedule_of(state)
    phase = schedule.phase(now)
    return {
        "title": site.title,
        "metric": board.judge.metric,
        "phase": phase,
        "moment": schedule.opens if phase == SOON else schedule.closes,
        "seconds_left": schedule.seconds_left(now),
        "is_open": phase == OPEN,
        "is_final": final_is_shown(state, now),
        "is_frozen": "frozen" in state,
        "open_to_all": board.is_open,
        "step": board.judge.step,
        "longest_name": MAX_NAME_LENGTH,
        "spans": SPANS,
        "zone": time.strftime("%Z"),
    }


def _add_ranking(app: "Flask", site: "Site") -> None:
    from flask import jsonify, render_template

    @app.get("/")
    def ranking() -> str:
        return render_template("board.html", ranking=site.board.ranking())

    @app.get("/ranking.html")
    def ranking_part() -> str:
        return render_template("_live.html", ranking=site.board.ranking())

    @app.get("/ranking.json")
    def ranking_json() -> Any:
        names = ("rank", "team", "score", "submissions", "last")
        return jsonify(
            [{name: getattr(place, name) for name in names} for place in site.board.ranking()]
        )


def _add_entrance(app: "Flask", site: "Site") -> None:
    from flask import redirect, render_template, request, session, url_for
    from werkzeug.wrappers import Response

    @app.route("/join", methods=["GET", "POST"])
    def join() -> Any:
        if request.method == "GET":
            return render_template("join.html")
        name, code = request.form.get("name", ""), request.form.get("code", "").strip()
        known = site.board.store.state().get("join_code", "")
        if not known or not same(code, known):
            site.wrong_secret("join code")
            return render_template(
                "join.html", name=name, problem="This is not the join code."
            ), 403
        try:
            team, token = site.board.sign_up(name, "somebody with the join code", site.address())
        except UserError as error:
            problem = str(error).replace("groupname", "The name")
            return render_template("join.html", name=name, problem=problem), 422
        sign_in(team)
        return render_template("token.html", team=team, token=token, back=url_for("team_page"))

    @app.route("/sign-in", methods=["GET", "POST"])
    def team_sign_in() -> Any:
        if request.method == "GET":
            return render_template("sign_in.html")
        team = site.board.team_of_token(request.form.get("token", "").strip())
        if team is None:
            site.wrong_secret("token")
            return render_template("sign_in.html", problem="No team has this token."), 403
        sign_in(team)
        return redirect(url_for("team_page"), 303)

    @app.post("/sign-out")
    def sign_out() -> Response:
        session.clear()
        return redirect(url_for("ranking"), 303)


def _add_team(app: "Flask", site: "Site") -> None:
    from flask import redirect, render_template, request, url_for
    from werkzeug.exceptions import HTTPException

    def render(team: Team, **more: Any) -> str:
        own = site.board.store.submissions(team.id)
        counted = [one for one in own if not one.withdrawn]
        place = next((p for p in site.board.ranking() if p.team == team.name), None)
        best = max(counted, key=lambda one: (one.given, -one.time, -one.id), default=None)
        if place is not None and site.board.is_final():  # it counts by its exact public score
            best = next(one for one in own if one.id == place.submission)
        return render_template(
            "team.html",
            team=team,
            submissions=own[::-1],
            best=best,
            curve=curve(counted, site.board.judge.metric.highest),
            size=CURVE,
            left=site.board.left(team),
            place=place,
            largest=site.largest,
            **more,
        )

    @app.get("/team")
    def team_page() -> Any:
        team = site.team()
        if team is None:
            return redirect(url_for("team_sign_in"), 303)
        sent = request.args.get("sent", "")
        own = {str(one.id): one for one in site.board.store.submissions(team.id)}
        return render(team, sent=own.get(sent), again="again" in request.args)

    @app.post("/team")
    def upload() -> Any:
        team = site.team()
        if team is None:
            return redirect(url_for("team_sign_in"), 303)
        try:
            receipt = site.take(team, _lists_of_file(request.files.get("file")))
        except UserError as error:
            return render(team, problem=str(error)), 422
        except HTTPException as error:
            return render(team, problem=error.description), error.code or 500
        again = None if receipt.is_new else 1
        return redirect(url_for("team_page", sent=receipt.submission.id, again=again), 303)


def _lists_of_file(file: "FileStorage | None") -> Lists:
    """Return the submission in an uploaded file.

    Raises:
        UserError: There is none, or it is no submission.
    """
    if file is None or not file.filename:
        raise UserError("choose a file first")
    try:
        text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError("the file is not text in UTF-8, as JSON and CSV are") from error
    is_csv = file.filename.lower().endswith(".csv")
    return parse_submission(text, "the file", is_csv)


def curve(submissions: list[Submission], highest: float) -> list[tuple[float, float]]:
    """Return the points of a team's scores as a curve, over the order of its submissions."""
    width, height = CURVE
    step = width / max(1, len(submissions) - 1)
    return [
        (round(i * step, 1), round(height * (1 - one.given / highest), 1))
        for i, one in enumerate(submissions)
    ]
