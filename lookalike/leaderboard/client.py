"""Sends a checked submission to a leaderboard, by HTTP or by the kaggle package.

What is sent: POST, JSON, {"groupname": group, "images": {query: [ten gallery names]}}. What comes
back: {"accuracy": score} or {"results": score}; anything else is handed on as it is, without
control characters and not too long. Nothing that comes back is trusted.
"""

import importlib.util
import io
import json
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
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from lookalike.core.errors import UserError
from lookalike.core.log import log
from lookalike.core.options import without_secrets
from lookalike.core.settings import SubmitSettings
from lookalike.evaluation.submissions import Submission, read_submission, write_submission

CONNECT_SECONDS = 10.0
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts
LONGEST_PAUSE = 60.0  # whatever a Retry-After asks for
PASSING = {429, 500, 502, 503, 504}  # answers that may be others in a moment
REPLY_BYTES = 1_000_000
REPLY_SHOWN = 500


# ---- where to -----------------------------------------------------------------------------------


class Target(NamedTuple):
    """Where a submission goes: a leaderboard's URL and the group, or a Kaggle competition."""

    url: str
    group: str
    kaggle: str = ""

    @property
    def name(self) -> str:
        """As it is shown and kept: without what may be secret."""
        return f"kaggle:{self.kaggle}" if self.kaggle else without_secrets(self.url)


def target(settings: SubmitSettings) -> Target | None:
    """The leaderboard that the settings or, for what they leave open, the environment name.

    Raises:
        UserError: a URL without a group, or something that is no URL.
    """
    if settings.kaggle:
        return Target("", "", settings.kaggle)
    url = settings.url or os.environ.get("LEADERBOARD_URL")
    group = settings.group or os.environ.get("LEADERBOARD_GROUP")
    if not url:
        return None
    if not is_url(url):
        raise UserError("--url must look like https://example.org/retrieval/")
    if not group:
        raise UserError("--url without --group: name your group (or set LEADERBOARD_GROUP)")
    return Target(url, group)


def is_url(text: str) -> bool:
    """Whether this is the URL of a web server.

    >>> is_url("http://127.0.0.1:8000/retrieval/"), is_url("example.org"), is_url("http://a:b/")
    (True, False, False)
    """
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def required_target(settings: SubmitSettings) -> Target:
    """The target of the settings.

    Raises:
        UserError: they name none: what to do.
    """
    where = target(settings)
    if where is None:
        raise UserError(
            "no leaderboard is named: add --url and --group (or set LEADERBOARD_URL and "
            "LEADERBOARD_GROUP), or --kaggle"
        )
    return where


# ---- what comes back ----------------------------------------------------------------------------


def number(value: Any) -> float | None:
    """A finite number, also one that is written as text; None for everything else.

    >>> number("931.2"), number(True), number("NaN"), number([1])
    (931.2, None, None, None)
    """
    try:
        found = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and not isinstance(value, bool) else None


class Outcome(NamedTuple):
    """What came of sending.

    status: `scored`, `accepted` (the score comes later), `unclear` (another answer than a score),
        `no reply` (it may have counted), `refused`, `failed` (the server's trouble) or `not sent`.
    """

    status: str
    answer: str
    score: float | None = None


def plain(text: str, length: int = REPLY_SHOWN) -> str:
    """Text from outside as a line that is safe to print: no control characters, not too long.

    >>> plain("<h1>Bad\\x1b[31m\\n  gateway</h1>")
    '<h1>Bad [31m gateway</h1>'
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= length else line[:length] + " ..."


def understand(code: int, text: str, elsewhere: str = "") -> Outcome:
    """What a reply says, from its status code and text; `elsewhere`: where a redirect leads.

    >>> understand(200, '{"accuracy": 931.5}')
    Outcome(status='scored', answer='', score=931.5)
    >>> understand(422, '{"error": "nine names"}')
    Outcome(status='refused', answer='422: nine names', score=None)
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    table = content if isinstance(content, dict) else {}
    score = number(table.get("accuracy", table.get("results")))
    if 200 <= code < 300 and score is not None:
        return Outcome("scored", "", score)
    if 300 <= code < 400:
        return Outcome("refused", f"{code}: it lives at {plain(without_secrets(elsewhere))} now")
    said = plain(str(table.get("error", text))) or "(an empty answer)"
    status = "unclear" if code < 300 else "failed" if code in PASSING else "refused"
    return Outcome(status, f"{code}: {said}")


# ---- by HTTP ------------------------------------------------------------------------------------


def post(where: Target, ranked: Submission, timeout: float) -> Outcome:
    """Sends a submission, again after a pause where it cannot have counted and the error may pass.

    timeout: seconds to wait for the reply.
    """
    outcome = Outcome("not sent", "")
    for pause in (*PAUSES, None):
        outcome, settings = attempt(where, ranked, timeout)
        if settings is None or pause is None:
            break
        pause = min(max(pause, settings), LONGEST_PAUSE)
        log.warning("%s: %s; next attempt in %.0f s", where.name, outcome.answer, pause)
        time.sleep(pause)
    return outcome


def attempt(where: Target, ranked: Submission, timeout: float) -> tuple[Outcome, float | None]:
    """One attempt: what came of it, and seconds to wait before another (None: no other)."""
    body: dict[str, Any] = {"groupname": where.group, "images": ranked}
    try:
        # A redirected POST becomes a GET, whose page would look like an answer: not followed.
        with requests.post(
            where.url,
            json=body,
            timeout=(min(CONNECT_SECONDS, timeout), timeout),
            stream=True,
            allow_redirects=False,
        ) as reply:
            text = read_reply(reply, timeout)
            elsewhere = urljoin(where.url, reply.headers.get("Location", ""))
            settings = number(reply.headers.get("Retry-After")) or 0.0
            outcome = understand(reply.status_code, text, elsewhere)
            return outcome, settings if reply.status_code in PASSING else None
    except requests.exceptions.InvalidURL:
        return Outcome("not sent", "its URL cannot be used"), None
    except requests.exceptions.SSLError:
        return Outcome("not sent", "its certificate cannot be trusted"), None
    except (requests.RequestException, HTTPError) as error:
        if never_left(error):
            return Outcome("not sent", "no connection: is the server up, and the URL right?"), 0.0
        late = isinstance(error, requests.Timeout) or "timed out" in str(error)
        what = f"no reply within {timeout:g} s" if late else "the connection broke"
        return Outcome("no reply", what), None


def read_reply(reply: requests.Response, seconds: float) -> str:
    """The beginning of a reply's text: at most a megabyte, and what comes within `seconds`.

    Raises:
        requests.Timeout: it came too slowly.
        HTTPError: the connection broke.
    """
    end = time.monotonic() + seconds
    body = b""
    while len(body) < REPLY_BYTES and (piece := reply.raw.read1(65536, decode_content=True)):
        body += piece
        if time.monotonic() > end:
            raise requests.Timeout
    return body[:REPLY_BYTES].decode("utf-8", "replace")


def never_left(error: Exception) -> bool:
    """Whether there was no connection, so that nothing can have arrived."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, NewConnectionError | ConnectTimeoutError)


# ---- to Kaggle ----------------------------------------------------------------------------------


def send_to_kaggle(where: Target, path: Path, ranked: Submission) -> Outcome:
    """Writes a submission as Kaggle's CSV beside its file, reads that back, and uploads it.

    Raises:
        UserError: the kaggle package is not installed or not configured; nothing was sent.
    """
    api = kaggle_api()
    table = path.with_name(f"{path.stem}.kaggle.csv")
    write_submission(ranked, table, "csv")
    if read_submission(table) != ranked:
        raise UserError(f"{table} does not hold what {path} holds: nothing is sent")
    try:
        with redirect_stdout(sys.stderr):
            done = api.competition_submit(str(table), path.parent.name, where.kaggle)
    except requests.HTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        return Outcome("refused", f"{code}: {plain(str(error))}")
    except (requests.RequestException, ValueError) as error:
        return Outcome("not sent" if never_left(error) else "no reply", plain(str(error)))
    answer = plain(str(done.message))
    failed = answer == getattr(api, "COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE", None)
    return Outcome("not sent" if failed else "accepted", answer)


def kaggle_api() -> Any:
    """The kaggle package's client, signed in.

    Raises:
        UserError: it is not installed, or has no credentials.
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
