"""What a user reads of every way in which a leaderboard can reply, or fail to; real servers."""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lookalike.core.errors import UserError
from lookalike.core.options import announce
from lookalike.core.settings import Settings, SubmitSettings, recipe
from lookalike.leaderboard import client
from lookalike.leaderboard.client import (
    Outcome,
    Target,
    configured_target,
    parse_reply,
    post,
    required_target,
    send_to_kaggle,
)

SUBMISSION = {"q.jpg": ["a.jpg", "b.jpg"]}
Reply = Callable[[BaseHTTPRequestHandler], None]


class Leaderboard:
    """A server that replies as a test tells it to, and remembers what it was sent."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.bodies: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                outer.bodies.append(json.loads(self.rfile.read(length)))
                replies = outer.replies
                (replies.pop(0) if len(replies) > 1 else replies[0])(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/retrieval/"
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leaderboard]:
    monkeypatch.setattr(client, "RETRY_DELAYS", (0.0, 0.0))
    board = Leaderboard()
    yield board
    board.close()


def says(code: int, text: str | bytes, **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        body = text if isinstance(text, bytes) else text.encode()
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def hangs(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(3)


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def drips(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):  # the other end has had enough
        for _ in range(50):
            handler.wfile.write(b" ")
            time.sleep(0.1)


def raw(*pieces: bytes, pause: float = 0.02) -> Reply:
    """Send bytes as they are, again and again, until the other end has had enough."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        with suppress(OSError):
            for _ in range(500):
                for piece in pieces:
                    handler.connection.sendall(piece)
                    time.sleep(pause)

    return reply


ENDLESS = {
    "headers, byte by byte": raw(b"H"),
    "a header without an end": raw(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "100 Continue": raw(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b" "),
    "chunks": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


def send(board: Leaderboard, *replies: Reply, timeout: float = 30.0) -> Outcome:
    board.replies = list(replies)
    return post(Target(board.url, "us"), SUBMISSION, timeout)


def test_what_is_sent_is_the_protocol_and_the_score_is_read(board: Leaderboard) -> None:
    assert send(board, says(200, '{"accuracy": 931.5}')) == Outcome("scored", "", 931.5)
    assert send(board, says(200, '{"results": "12"}')).score == 12.0
    assert board.bodies == [{"groupname": "us", "images": SUBMISSION}] * 2


@pytest.mark.parametrize(
    ("reply", "status", "message"),
    [
        (says(422, '{"error": "nine names"}'), "refused", "422: nine names"),
        (says(404, "<h1>Not found</h1>"), "refused", "404: <h1>Not found</h1>"),
        (says(413, ""), "refused", "413: (an empty answer)"),
        (says(200, "<html>\n<p>Gateway"), "unclear", "200: <html> <p>Gateway"),
        (says(200, "Wrong \x1b[2Jgroup\x00!"), "unclear", "200: Wrong [2Jgroup !"),
        (says(200, '{"accuracy": "high"}'), "unclear", '200: {"accuracy": "high"}'),
        (says(200, '{"accuracy": NaN}'), "unclear", '200: {"accuracy": NaN}'),
        (says(200, b"\xff\xfe"), "unclear", "200: \ufffd\ufffd"),
        (says(200, "[" * 100_000), "unclear", "200: " + "[" * client.MAX_REPLY_CHARS + " ..."),
    ],
)
def test_a_reply_without_a_score_is_shown_and_nothing_is_sent_again(
    board: Leaderboard, reply: Reply, status: str, message: str
) -> None:
    assert send(board, reply) == Outcome(status, message)
    assert len(board.bodies) == 1


def test_a_redirect_is_not_followed_but_named(board: Leaderboard) -> None:
    outcome = send(board, says(302, "", Location="/login?secret=1"))
    assert outcome.status == "refused" and outcome.answer.endswith("/login")
    assert "secret" not in outcome.answer and len(board.bodies) == 1


@pytest.mark.parametrize(
    "busy",
    [
        pytest.param((429, {}), id="429"),
        pytest.param((503, {"Retry_After": "0"}), id="503 that asks for another attempt"),
    ],
)
def test_what_was_not_taken_is_sent_again(
    board: Leaderboard, busy: tuple[int, dict[str, str]]
) -> None:
    code, headers = busy
    reply = says(code, '{"error": "full"}', **headers)
    assert send(board, reply, reply, says(200, '{"accuracy": 5}')) == Outcome("scored", "", 5.0)
    assert len(board.bodies) == 3
    assert send(board, reply) == Outcome("failed", f"{code}: full")
    assert len(board.bodies) == 6


@pytest.mark.parametrize("code", [500, 502, 503, 504])
def test_an_error_behind_the_door_may_have_counted_and_is_not_sent_again(
    board: Leaderboard, code: int
) -> None:
    assert send(board, says(code, "bad gateway")) == Outcome("no reply", f"{code}: bad gateway")
    assert len(board.bodies) == 1


def test_a_server_that_asks_for_time_gets_it_within_a_limit(
    board: Leaderboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(client.time, "sleep", waited.append)
    busy = [says(429, "", Retry_After=text) for text in ("7", "100000")]
    assert send(board, *busy, says(200, '{"accuracy": 5}')).score == 5.0
    assert waited == [7.0, client.MAX_RETRY_DELAY]


def test_a_server_that_is_down_is_tried_again_and_nothing_was_sent(
    board: Leaderboard, caplog: pytest.LogCaptureFixture
) -> None:
    board.close()
    outcome = post(Target(board.url, "us"), SUBMISSION, 5)
    assert outcome.status == "not sent" and "is the server up" in outcome.answer
    assert caplog.text.count("next attempt in 0 s") == 2


@pytest.mark.parametrize(
    ("reply", "message"),
    [(hangs, "no reply within 0.5 s"), (drips, "no reply within"), (hangs_up, "connection broke")],
)
def test_a_reply_that_is_lost_may_have_counted_and_is_not_sent_again(
    board: Leaderboard, reply: Reply, message: str
) -> None:
    outcome = send(board, reply, timeout=0.5)
    assert outcome.status == "no reply" and message in outcome.answer
    assert len(board.bodies) == 1


@pytest.mark.parametrize("reply", ENDLESS.values(), ids=ENDLESS)
def test_an_exchange_ends_at_its_deadline(board: Leaderboard, reply: Reply) -> None:
    start = time.monotonic()
    outcome = send(board, reply, timeout=0.3)
    assert outcome.status in ("no reply", "unclear") and len(board.bodies) == 1
    assert time.monotonic() - start < 5, "500 pieces would take longer"


def test_a_broken_place_to_move_to_is_no_traceback(board: Leaderboard) -> None:
    outcome = send(board, says(302, "", Location="http://[::1"))
    assert outcome == Outcome("refused", "it has moved to what is no URL")


@pytest.mark.parametrize(
    "url", ["http://name.invalid/", "http://127.0.0.1:1/", "http://a" + "b" * 70 + ".org/"]
)
def test_a_host_that_was_never_reached_has_counted_nothing(url: str, board: Leaderboard) -> None:
    assert post(Target(url, "us"), SUBMISSION, 2).status == "not sent"


def test_a_proxy_that_refuses_has_counted_nothing(
    board: Leaderboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    outcome = post(Target("http://example.org/", "us"), SUBMISSION, 2)
    assert outcome.status == "not sent", outcome


def test_only_the_beginning_of_a_huge_reply_is_read(board: Leaderboard) -> None:
    outcome = send(board, says(200, b"x" * 5_000_000))
    assert outcome.status == "unclear" and len(outcome.answer) < 600


def test_a_deep_or_long_number_is_no_score() -> None:
    assert parse_reply(200, '{"accuracy": 1' + "0" * 10_000 + "}").status == "unclear"
    assert parse_reply(200, '{"accuracy": ["5"]}').score is None


# ---- the target ---------------------------------------------------------------------------------


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured_target(SubmitSettings()) is None
    monkeypatch.setenv("LEADERBOARD_URL", "http://here/")
    with pytest.raises(UserError, match="--url without --group"):
        configured_target(SubmitSettings())
    monkeypatch.setenv("LEADERBOARD_GROUP", "us")
    assert configured_target(SubmitSettings()) == Target("http://here/", "us")
    settings = SubmitSettings(url="http://there/", group="they")
    assert configured_target(settings) == Target("http://there/", "they")


def test_a_token_takes_the_place_of_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SubmitSettings(url="http://here/", token="abc")
    assert configured_target(settings) == Target("http://here/", "", token="abc")
    monkeypatch.setenv("LEADERBOARD_TOKEN", "of-the-environment")
    assert configured_target(SubmitSettings(url="http://here/")).token == "of-the-environment"  # type: ignore[union-attr]
    assert configured_target(settings).token == "abc"  # type: ignore[union-attr]
    for odd in ("a\nb", "ä"):
        with pytest.raises(UserError, match="copy it anew"):
            configured_target(SubmitSettings(url="http://here/", token=odd))


def test_a_token_is_remembered_and_shown_nowhere() -> None:
    settings = Settings(submit=SubmitSettings(url="http://here/", token="secret-token"))
    assert "secret-token" not in " ".join(announce(settings))
    assert "token" not in recipe(settings) and "url" not in recipe(settings)


def test_what_is_no_url_is_an_error_that_does_not_repeat_it() -> None:
    for text in ("me:secret@example.org/x", "ftp://secret/", "http://", "http://[secret"):
        with pytest.raises(UserError, match="must look like") as error:
            configured_target(SubmitSettings(url=text, group="us"))
        assert "secret" not in str(error.value)
    with pytest.raises(UserError, match="LEADERBOARD_URL"):
        required_target(SubmitSettings())


def test_secrets_in_a_url_are_not_shown() -> None:
    assert Target("https://me:pw@host/x?key=1", "us").name == "https://host/x"


# ---- to Kaggle ----------------------------------------------------------------------------------

FAKE = """
import pathlib, requests
class KaggleApi:
    COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE = "Could not submit to competition"
    def authenticate(self):
        print("a page of help")
        <authenticate>
    def competition_submit(self, file, message, competition):
        print(competition, message, pathlib.Path(file).read_text())
        <submit>
class Done:
    def __init__(self, message):
        self.message = message
"""


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a kaggle package that behaves as told where Python finds it."""

    def install(authenticate: str = "pass", submit: str = "return Done('Submitted')") -> None:
        package = tmp_path / "packages" / "kaggle"
        (package / "api").mkdir(parents=True)
        for name in ("__init__.py", "api/__init__.py"):
            (package / name).write_text("")
        code = FAKE.replace("<authenticate>", authenticate).replace("<submit>", submit)
        (package / "api" / "kaggle_api_extended.py").write_text(code)
        monkeypatch.syspath_prepend(str(package.parent))

    yield install
    for name in [name for name in sys.modules if name.partition(".")[0] == "kaggle"]:
        del sys.modules[name]


TO_KAGGLE = Target("", "", "faces")


def test_kaggle_gets_its_csv(
    kaggle: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle()
    done = send_to_kaggle(TO_KAGGLE, tmp_path / "submission.json", SUBMISSION)
    assert done == Outcome("accepted", "Submitted")
    printed = capsys.readouterr()
    assert "id,images\nq.jpg,a.jpg b.jpg\n" in printed.err and printed.out == ""
    assert (tmp_path / "submission.kaggle.csv").is_file()
    assert not (tmp_path / "submission.csv").exists(), "that is the file of the stage"


@pytest.mark.parametrize(
    ("submit", "status", "message"),
    [
        ("return Done('Could not submit to competition')", "not sent", "Could not submit"),
        (
            "reply = requests.Response(); reply.status_code = 403\n"
            "        raise requests.HTTPError('accept the rules', response=reply)",
            "refused",
            "403: accept the rules",
        ),
        ("raise requests.ConnectionError('gone')", "no reply", "gone"),
    ],
)
def test_what_kaggle_says_instead(
    kaggle: Callable[..., None], tmp_path: Path, submit: str, status: str, message: str
) -> None:
    kaggle(submit=submit)
    outcome = send_to_kaggle(TO_KAGGLE, tmp_path / "submission.json", SUBMISSION)
    assert outcome.status == status and message in outcome.answer


def test_kaggle_without_package_or_credentials_says_what_to_do(
    kaggle: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(client.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match="pip install kaggle"):
            send_to_kaggle(TO_KAGGLE, tmp_path / "s.json", SUBMISSION)
    kaggle(authenticate="raise SystemExit(1)")
    with pytest.raises(UserError, match=r"kaggle\.json"):
        send_to_kaggle(TO_KAGGLE, tmp_path / "s.json", SUBMISSION)
