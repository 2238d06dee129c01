"""The protocol of a leaderboard: what is posted, what is answered, and the headers of all replies.

POST /retrieval/     {"groupname": name, "images": {query: [ten gallery names]}} as JSON
-> {"accuracy": score from 0 to 1000}, or {"error": what is wrong} with
status 400 (not this form), 413 (too large), 422 (refused), 429 (too often)
"""

import sqlite3
from typing import TYPE_CHECKING

from lookalike.core.errors import UserError
from lookalike.core.log import log
from lookalike.core.readers import parse_json
from lookalike.evaluation.submissions import Submission, parse_submission

if TYPE_CHECKING:  # flask is loaded when a server starts, not for --help
    from flask import Flask, Response
    from werkzeug.exceptions import HTTPException

POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Let no browser guess a type, or tell others where it comes from.
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
FORM = '{"groupname": name, "images": {query: [gallery names]}}'


def parse_request(body: bytes) -> tuple[str, Submission]:
    """Return the group's name and the submission in the body of a request.

    Raises:
        UserError: It does not have the protocol's form.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"not valid JSON ({error})") from error
    content = parse_json(text, "body")
    if not isinstance(content, dict) or not isinstance(content.get("images"), dict):
        raise UserError(f"not of the form {FORM}")
    group = content.get("groupname")
    return group if isinstance(group, str) else "", parse_submission(text, "images")


def refuse_haste(seconds: float, who: str, rate: int, span: str = "a minute") -> None:
    """Refuse whoever has to wait.

    Args:
        seconds: Until they may send again; 0: now.
        who: Who sends.
        rate: How often they may within the span.
        span: Its name.

    Raises:
        werkzeug.exceptions.TooManyRequests: They have to wait.
    """
    from werkzeug.exceptions import TooManyRequests

    if seconds:
        reason = f"{who} has sent {rate} times within {span}"
        raise TooManyRequests(reason, retry_after=int(seconds) + 1)


def answer_errors(app: "Flask", largest: float) -> None:
    """Answer every error as JSON, {"error": reason}; `largest`: megabytes of a submission."""
    from werkzeug.exceptions import HTTPException

    @app.errorhandler(sqlite3.Error)
    @app.errorhandler(OSError)
    def unavailable(error: Exception) -> "Response":
        return as_json(not_kept(error), largest)

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> "Response":
        return as_json(error, largest)


def not_kept(error: Exception) -> "HTTPException":
    """Return what is answered where a result cannot be saved, and log why."""
    from werkzeug.exceptions import ServiceUnavailable

    log.error("error: a result cannot be saved, and its sender is told so: %s", error)
    return ServiceUnavailable("results cannot be kept at the moment: try again later")


def reason_of(error: "HTTPException", largest: float) -> str:
    """Return why a request is refused; `largest`: megabytes of a submission."""
    if error.code == 413:
        return f"larger than the {largest:g} MB that are accepted"
    return error.description or error.name


def as_json(error: "HTTPException", largest: float) -> "Response":
    """Return an error as a program reads it; `largest`: megabytes of a submission."""
    from flask import jsonify
    from werkzeug.exceptions import TooManyRequests

    reason = reason_of(error, largest)
    log.info("refused with %s: %s", error.code, reason)
    response = jsonify(error=reason)
    response.status_code = error.code or 500
    if isinstance(error, TooManyRequests):
        response.headers["Retry-After"] = str(error.retry_after)
    return response
