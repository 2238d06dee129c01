"""The client of a leaderboard: send a checked submission by HTTP or by the kaggle package.

    target = required_target(settings)                 # from --url and --group, or --kaggle
    outcome = post(target, submission, timeout=60.0)   # Outcome("scored", "", 931.5)

The request is a POST of JSON, {"groupname": group, "images": {query: [ten gallery names]}}. The
reply is {"accuracy": score} or {"results": score}; any other reply is shown as text, without
control characters and cut to a sensible length. No reply is trusted.
"""

import importlib.util
import io
import math
import os
import sys
import time
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
)

from lookalike.core.errors import UserError
from lookalike.core.http import timed
from lookalike.core.log import log
from lookalike.core.options import without_secrets
from lookalike.core.readers import parse_json
from lookalike.core.settings import SubmitSettings
from lookalike.evaluation.submissions import Submission, read_submission, write_submission

CONNECT_TIMEOUT = 10.0  # seconds
RETRY_DELAYS = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts
MAX_RETRY_DELAY = 60.0  # whatever a Retry-After asks for
MAY_HAVE_COUNTED_CODES = {500, 502, 503, 504}  # something broke behind the door
MAX_REPLY_BYTES = 1_000_000
MAX_REPLY_CHARS = 500  # of what is shown


# ---- the target ---------------------------------------------------------------------------------


class Target(NamedTuple):
    """A leaderboard to send to.

    Attributes:
        url: Where the leaderboard takes submissions; empty for Kaggle.
        group: The group's name there; empty for Kaggle.
        kaggle: The name of a Kaggle competition; empty for a URL.
        token: The team's token; empty where the leaderboard asks for none.
    """

    url: str
    group: str
    kaggle: str = ""
    token: str = ""

    @property
    def name(self) -> str:
        """The leaderboard as it is shown and saved: without a password or a query string.

        >>> Target("https://me:secret@example.org/retrieval/?key=1", "us").name
        'https://example.org/retrieval/'
        """
        return f"kaggle:{self.kaggle}" if self.kaggle else without_secrets(self.url)


def configured_target(settings: SubmitSettings) -> Target | None:
    """Return the leaderboard that the settings name, or else the environment; None: neither does.

    Raises:
        UserError: The URL has neither group nor token, or is not a URL.
    """
    if settings.kaggle:
        return Target("", "", settings.kaggle)
    url = settings.url or os.environ.get("LEADERBOARD_URL")
    group = settings.group or os.environ.get("LEADERBOARD_GROUP") or ""
    token = settings.token or os.environ.get("LEADERBOARD_TOKEN") or ""
    if not url:
        return None
    if not is_url(url):
        raise UserError("--url must look like https://example.org/retrieval/")
    if not group and not token:
        raise UserError("--url without --group: name your group (or set LEADERBOARD_GROUP)")
    if not (token.isascii() and token.isprintable()):
        raise UserError("the token holds what no token has: copy it anew")
    return Target(url, group, token=token)


def required_target(settings: SubmitSettings) -> Target:
    """Return the leaderboard that the settings or the environment name.

    Raises:
        UserError: They name none, or not completely.
    """
    target = configured_target(settings)
    if target is None:
        raise UserError(
            "no leaderboard is named: add --url and --group (or set LEADERBOARD_URL and "
            "LEADERBOARD_GROUP), or --kaggle"
        )
    return target


def is_url(text: str) -> bool:
    """Return whether a text is the URL of a web server.

    Example:
        >>> is_url("http://127.0.0.1:8000/retrieval/"), is_url("example.org")
        (True, False)
    """
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


# ---- the reply ----------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """The result of sending a submission.

    Attributes:
        status: `scored`; `accepted` (the score comes later); `unclear` (the reply is no score);
            `no reply` (none came, or one that says nothing of the submission: it may have
            counted); `refused`; `failed` (it was not taken, and may be later); or `not sent`.
        answer: What the leaderboard or the connection said, in one line; empty with a score.
        score: The score, from 0 to 1000; None where none came.
    """

    status: str
    answer: str
    score: float | None = None


def finite_number(value: Any) -> float | None:
    """Return a finite number, also one that is written as text; None for everything else.

    Example:
        >>> finite_number("931.2"), finite_number(True), finite_number("NaN"), finite_number([1])
        (931.2, None, None, None)
    """
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def printable_line(text: str, length: int = MAX_REPLY_CHARS) -> str:
    r"""Return text from outside as one line that is safe to print, cut to a length.

    Example:
        >>> printable_line("<h1>Bad\x1b[31m\n  gateway</h1>")
        '<h1>Bad [31m gateway</h1>'
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= length else line[:length] + " ..."


def parse_reply(code: int, text: str, location: str = "") -> Outcome:
    """Return what a reply says.

    Args:
        code: Its HTTP status code.
        text: Its body.
        location: Where a redirect leads.

    Example:
        >>> parse_reply(200, '{"accuracy": 931.5}')
        Outcome(status='scored', answer='', score=931.5)
        >>> parse_reply(422, '{"error": "nine names"}')
        Outcome(status='refused', answer='422: nine names', score=None)
    """
    try:
        table: dict[str, Any] = parse_json(text, "reply", dict[str, Any])
    except UserError:
        table = {}
    score = finite_number(table.get("accuracy", table.get("results")))
    if 200 <= code < 300 and score is not None:
        return Outcome("scored", _standing(table), score)
    if 300 <= code < 400:
        moved = printable_line(without_secrets(location))
        return Outcome("refused", f"{code}: it has moved to {moved}")
    message = printable_line(str(table.get("error", text))) or "(an empty answer)"
    status = "unclear" if code < 300 else "failed" if code == 429 else "refused"
    status = "no reply" if code in MAY_HAVE_COUNTED_CODES else status
    return Outcome(status, f"{code}: {message}")


def _standing(table: dict[str, Any]) -> str:
    """Return what a reply says beside the score: the rank, the best score, what is left.

    >>> _standing({"rank": 3, "best": 612.5, "left": {"hour": 7, "day": "<b>"}})
    'rank 3, best 612.5, 7 left within the hour'
    >>> _standing({"sent_before": True, "rank": None})
    'sent before: it does not count again'
    """
    words = []
    if table.get("sent_before") is True:
        words.append("sent before: it does not count again")
    for name in ("rank", "best"):
        if (value := finite_number(table.get(name))) is not None:
            words.append(f"{name} {value:g}")
    left = table.get("left")
    for span in ("hour", "day"):
        value = finite_number(left.get(span)) if isinstance(left, dict) else None
        if value is not None:
            words.append(f"{value:g} left within the {span}")
    return ", ".join(words)


# ---- by HTTP ------------------------------------------------------------------------------------


def post(target: Target, submission: Submission, timeout: float) -> Outcome:
    """Send a submission by HTTP; try again after a delay where that is safe and may help.

    It is sent again only where it cannot have counted and the error may be gone in a moment.

    Args:
        target: A leaderboard with a URL.
        submission: {query: [gallery names, best first]}.
        timeout: Seconds for an exchange, from the connection to the last byte of the reply.
    """
    outcome = Outcome("not sent", "")
    for delay in (*RETRY_DELAYS, None):
        outcome, retry_after = post_once(target, submission, timeout)
        if retry_after is None or delay is None:
            break
        delay = min(max(delay, retry_after), MAX_RETRY_DELAY)
        log.warning("%s: %s; next attempt in %.0f s", target.name, outcome.answer, delay)
        time.sleep(delay)
    return outcome


def post_once(
    target: Target, submission: Submission, timeout: float
) -> tuple[Outcome, float | None]:
    """Send a submission by HTTP, once.

    Args:
        target: A leaderboard with a URL.
        submission: {query: [gallery names, best first]}.
        timeout: Seconds to wait for the reply.

    Returns:
        The outcome, and the least seconds to wait before another attempt; None: no other attempt.
    """
    body: dict[str, Any] = {"groupname": target.group, "images": submission}
    try:
        # A redirected POST becomes a GET, whose page would look like an answer: not followed.
        with (
            timed(timeout) as (session, _),
            session.post(
                target.url,
                json=body,
                auth=_Bearer(target.token) if target.token else None,
                timeout=(min(CONNECT_TIMEOUT, timeout), timeout),
                stream=True,
                allow_redirects=False,
            ) as reply,
        ):
            return _outcome_of_reply(reply, target)
    except (requests.RequestException, HTTPError, OSError) as error:
        return _outcome_of_error(error, timeout)
    except ValueError:  # requests reads the Location of a redirect that it does not follow
        return Outcome("refused", "it has moved to what is no URL"), None


class _Bearer(AuthBase):
    """Authorization by a token; by a header alone, a ~/.netrc would replace it."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def _outcome_of_reply(reply: requests.Response, target: Target) -> tuple[Outcome, float | None]:
    """Return what `post_once` returns for a reply."""
    text = _read_reply(reply)
    location = reply.headers.get("Location", "")
    location = urljoin(target.url, location)
    outcome = parse_reply(reply.status_code, text, location)
    asked = finite_number(reply.headers.get("Retry-After"))
    if reply.status_code == 503 and asked is not None:  # it says that it has not taken it
        outcome = outcome._replace(status="failed")
    return outcome, (asked or 0.0) if outcome.status == "failed" else None


def _outcome_of_error(error: Exception, timeout: float) -> tuple[Outcome, float | None]:
    """Return what `post_once` returns where no whole reply came."""
    if isinstance(error, requests.exceptions.InvalidURL | LocationValueError):
        return Outcome("not sent", "its URL cannot be used"), None
    if isinstance(error, requests.exceptions.SSLError):
        return Outcome("not sent", "its certificate cannot be trusted"), None
    if isinstance(error, requests.exceptions.ProxyError):
        return Outcome("not sent", "the proxy does not let it through"), None
    if _never_connected(error):
        return Outcome("not sent", "no connection: is the server up, and the URL right?"), 0.0
    late = isinstance(error, requests.Timeout) or "timed out" in str(error)
    reason = f"no reply within {timeout:g} s" if late else "the connection broke"
    return Outcome("no reply", reason), None


def _read_reply(reply: requests.Response) -> str:
    """Read the beginning of a reply's text, at most a megabyte.

    Raises:
        HTTPError: The connection broke.
    """
    body = b""
    while len(body) < MAX_REPLY_BYTES and (piece := reply.raw.read1(65536, decode_content=True)):
        body += piece
    return body[:MAX_REPLY_BYTES].decode("utf-8", "replace")


def _never_connected(error: Exception) -> bool:
    """Return whether there was no connection, so that nothing can have arrived."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, NewConnectionError | ConnectTimeoutError)


# ---- to Kaggle ----------------------------------------------------------------------------------


def send_to_kaggle(
    target: Target, path: Path, submission: Submission, filled: Path | None = None
) -> Outcome:
    """Write a submission as Kaggle's CSV beside its file, read that back, and upload it.

    Args:
        target: A Kaggle competition.
        path: The submission's file; `submission.json` gives `submission.kaggle.csv`.
        submission: What the file holds.
        filled: The competition's sample, filled with it: uploaded as it is.

    Raises:
        UserError: The kaggle package is not installed or not configured; nothing was sent.
    """
    api = _kaggle_api()
    table = filled or write_submission(submission, path.with_name(f"{path.stem}.kaggle.csv"), "csv")
    if filled is None and read_submission(table) != submission:
        raise UserError(f"{table} does not hold what {path} holds: nothing is sent")
    try:
        with redirect_stdout(sys.stderr):
            done = api.competition_submit(str(table), path.parent.name, target.kaggle)
    except requests.HTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        return Outcome("refused", f"{code}: {printable_line(str(error))}")
    except (requests.RequestException, ValueError) as error:
        status = "not sent" if _never_connected(error) else "no reply"
        return Outcome(status, printable_line(str(error)))
    answer = printable_line(str(done.message))
    failed = answer == getattr(api, "COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE", None)
    return Outcome("not sent" if failed else "accepted", answer)


def _kaggle_api() -> Any:
    """Return the kaggle package's client, signed in.

    Raises:
        UserError: It is not installed, or has no credentials.
    """
    if importlib.util.find_spec("kaggle") is None:
        raise UserError("--kaggle needs the kaggle package: pip install kaggle")
    try:
        # It prints its own help and ends the program where it finds no credentials.
        with redirect_stdout(io.StringIO()):
            api = import_module("kaggle.api.kaggle_api_extended").KaggleApi()
            api.authenticate()
    except ImportError as error:
        raise UserError(f"the kaggle package cannot be imported ({error}): install it") from error
    except (SystemExit, Exception) as error:
        raise UserError(
            "kaggle cannot sign in: put kaggle.json from your account's settings into ~/.kaggle, "
            "or set KAGGLE_USERNAME and KAGGLE_KEY"
        ) from error
    return api
