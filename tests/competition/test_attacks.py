"""What an attacker tries, as tests: each is answered, tells nothing, changes nothing."""

import hashlib
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from itsdangerous import URLSafeTimedSerializer

from lookalike.competition import web
from lookalike.competition.access import token_hash
from lookalike.competition.judge import QUERIES_OF_STEP
from lookalike.competition.organizer import local_time
from lookalike.competition.serve import store_of
from lookalike.leaderboard import listening
from lookalike.leaderboard.rules import coarse, score_step
from tests.competition.conftest import GALLERY, PUBLIC, SECRET, Serve, Served, submission

Token = Callable[[str], str]
# What no page may show to a stranger: identities, ways, and what is inside.
INSIDE = ("person0", "person1", "solution.csv", "Traceback", "sqlite", "site-packages", SECRET)


@pytest.fixture
def served(serve: Serve, token: Token) -> Served:
    """A server with one submission of one team."""
    running = serve()
    running.token = token("us")
    assert running.send(running.token, submission(55)).ok
    return running


def raw(served: Served, request: bytes, timeout: float = 10.0) -> bytes:
    """Send bytes, and return all that comes back."""
    parts = urlsplit(served.url)
    reply = b""
    with socket.create_connection((parts.hostname, parts.port), timeout) as connection:
        connection.sendall(request)
        with suppress(OSError):
            while piece := connection.recv(65536):
                reply += piece
    return reply


def unharmed(served: Served, text: str) -> None:
    """Check that a reply tells nothing, and that everything goes on as it was."""
    assert not [word for word in INSIDE if word in text]
    places = served.ranking()
    assert [(team, sent) for team, _, sent in places] == [("us", 1)]


# ---- requests by hand ---------------------------------------------------------------------------

JSON = b"Content-Type: application/json\r\n"
RAW = {
    "traversal to static": b"GET /static/../serve.py HTTP/1.0\r\n\r\n",
    "traversal in percents": b"GET /static/%2e%2e/serve.py HTTP/1.0\r\n\r\n",
    "traversal, encoded twice": b"GET /static/%252e%252e%252fserve.py HTTP/1.0\r\n\r\n",
    "traversal by backslashes": b"GET /static/..\\..\\serve.py HTTP/1.0\r\n\r\n",
    "a path from the root": b"GET //etc/passwd HTTP/1.0\r\n\r\n",
    "a path after static": b"GET /static//etc/passwd HTTP/1.0\r\n\r\n",
    "a NUL in the path": b"GET /static/board.css%00.html HTTP/1.0\r\n\r\n",
    "a URL for a path": b"GET http://localhost/organizer/ranking.csv HTTP/1.0\r\n\r\n",
    "the solution by name": b"GET /organizer/solution.csv HTTP/1.0\r\n\r\n",
    "the file by name": b"GET /competition.sqlite HTTP/1.0\r\n\r\n",
    "templates by name": b"GET /templates/organizer.html HTTP/1.0\r\n\r\n",
    "the debugger": b"GET /?__debugger__=yes&cmd=resource&f=style.css HTTP/1.0\r\n\r\n",
    "a line in a header": b"GET / HTTP/1.0\r\nX: a\r\n b\r\n\r\n",
    "a reply split in two": b"GET /%0d%0aSet-Cookie:%20a=b HTTP/1.0\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.0\r\n: x\r\n\r\n",
    "a foreign host": b"GET /sign-in HTTP/1.0\r\nHost: evil.example\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a method of its own": b"HACK / HTTP/1.0\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.0\r\nAuthorization: Bearer x\r\n\r\n",
    "DELETE": b"DELETE /organizer HTTP/1.0\r\n\r\n",
    "PUT": b"PUT /retrieval/ HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
    "CONNECT": b"CONNECT localhost:22 HTTP/1.0\r\n\r\n",
    "two lengths": b"POST /retrieval/ HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}",
    "length and chunks": b"POST /retrieval/ HTTP/1.1\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /organizer HTTP/1.1\r\n\r\n",
    "a negative length": b"POST /retrieval/ HTTP/1.0\r\nContent-Length: -1\r\n\r\n",
    "a length of letters": b"POST /retrieval/ HTTP/1.0\r\nContent-Length: many\r\n\r\n",
    "a promised gigabyte": b"POST /retrieval/ HTTP/1.0\r\nContent-Length: 1000000000\r\n\r\n",
    "headers of a megabyte": b"GET / HTTP/1.0\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "a thousand headers": b"GET / HTTP/1.0\r\n" + b"X: aaaaaaaaaaaaaaaa\r\n" * 1000 + b"\r\n",
    "a path of a megabyte": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.0\r\n\r\n",
    "a token of 100 KB": b"POST /retrieval/ HTTP/1.0\r\nAuthorization: Bearer "
    + b"a" * 100_000
    + b"\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("attack", RAW)
def test_bytes_by_hand_are_answered_and_tell_nothing(served: Served, attack: str) -> None:
    reply = raw(served, RAW[attack].replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n"))
    status = reply.split(b" ")[1:2]
    text = reply.decode("utf-8", "replace")
    assert b"Set-Cookie: a=b" not in reply and "root:" not in text
    assert status[0].startswith(b"2") is False or reply.count(b"Content-Security-Policy") == 1
    assert int(status[0]) in (200, 303, 302, 308, 400, 401, 403, 404, 405, 413, 414, 431, 501)
    unharmed(served, text)


# ---- tokens and sessions ------------------------------------------------------------------------


def cookie_name(served: Served) -> str:
    session = requests.Session()
    session.get(f"{served.url}sign-in", timeout=30)
    return str(next(iter(session.cookies)).name)


FORGED: dict[str, Callable[[Served], dict[str, str]]] = {
    "none": lambda _: {},
    "an empty one": lambda _: {"Authorization": "Bearer "},
    "spaces": lambda _: {"Authorization": "Bearer      "},
    "the team's name": lambda _: {"Authorization": "Bearer us"},
    "its number": lambda _: {"Authorization": "Bearer 1"},
    "None": lambda _: {"Authorization": "Bearer None"},
    "SQL": lambda _: {"Authorization": "Bearer ' OR '1'='1"},
    "all but a letter": lambda s: {"Authorization": f"Bearer {s.token[:-1]}"},
    "a letter more": lambda s: {"Authorization": f"Bearer {s.token}A"},
    "in capitals": lambda s: {"Authorization": f"Bearer {s.token.upper()}"},
    "what is kept of it": lambda s: {"Authorization": f"Bearer {token_hash(s.token)}"},
    "the password": lambda _: {"Authorization": f"Bearer {SECRET}"},
    "as a password": lambda s: {"Authorization": f"Basic {s.token}"},
    "in another header": lambda s: {"X-Token": s.token},
    "in a cookie": lambda s: {"Cookie": f"{cookie_name(s)}={s.token}"},
    "two of them": lambda s: {"Authorization": f"Bearer x, Bearer {s.token}"},
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_token_sends_nothing(served: Served, forged: str) -> None:
    reply = served.send(None, submission(1), **FORGED[forged](served))
    assert reply.status_code == 401
    unharmed(served, reply.text)


def test_wrong_tokens_lock_nobody_out_and_do_not_fill_the_log(served: Served) -> None:
    """A class may share an address, and 192 bits cannot be guessed."""
    codes = {served.send(f"guess{i}", submission(1)).status_code for i in range(15)}
    assert codes == {401}
    assert served.send(served.token, submission(1)).ok
    audit = served.organizer().get(f"{served.url}organizer/audit.csv", timeout=30).text
    assert audit.count("a wrong token") == 10


def test_the_password_cannot_be_tried_in_numbers(serve: Serve, token: Token) -> None:
    ours = token("us")
    served = serve(proxy="127.0.0.1")

    def sign_in(address: str, password: str) -> int:
        session = requests.Session()
        session.headers["X-Forwarded-For"] = address
        return served.post(session, "organizer/sign-in", password=password).status_code

    assert [sign_in("10.0.0.1", f"guess{i}") for i in range(12)] == [403] * 10 + [429] * 2
    assert sign_in("10.0.0.1", SECRET) == 429 and sign_in("10.0.0.2", SECRET) == 200
    assert served.send(ours, submission(1), **{"X-Forwarded-For": "10.0.0.1"}).ok


def test_at_the_servers_own_machine_nobody_locks_the_organizer_out(served: Served) -> None:
    session = requests.Session()
    for number in range(12):
        served.post(session, "organizer/sign-in", password=f"guess{number}")
    assert served.post(session, "organizer/sign-in", password=SECRET).ok


SESSIONS: dict[str, Callable[[str], dict[str, Any]]] = {
    "another team's number": lambda key: {"team": 1, "key": "0" * 32},
    "no key": lambda key: {"team": 1},
    "a key that is true": lambda key: {"team": 1, "key": True},
    "a team in words": lambda key: {"team": "1 OR 1=1", "key": key},
    "a list for a team": lambda key: {"team": [1], "key": key},
    "a word for the organizer": lambda key: {"organizer": True},
    "the team's key for the organizer": lambda key: {"organizer": key},
    "an empty key of the organizer": lambda key: {"organizer": ""},
}


@pytest.mark.parametrize("kind", SESSIONS)
def test_a_session_is_worth_nothing_without_its_key(served: Served, folder: Any, kind: str) -> None:
    """Even whoever could sign a cookie has to know more."""
    key = token_hash(served.token)[:32]
    content = SESSIONS[kind](key)
    cookie = _signed(content, store_of(folder).state()["cookies"])
    for page in ("team", "organizer", "organizer/ranking.csv"):
        reply = requests.get(
            f"{served.url}{page}", cookies={cookie_name(served): cookie}, timeout=30
        )
        assert reply.url.endswith("sign-in")
        unharmed(served, reply.text)


@pytest.mark.parametrize("secret", ["", "dev", "0" * 64])
def test_a_cookie_signed_by_another_is_none(served: Served, secret: str) -> None:
    key = token_hash(served.token)[:32]
    cookie = _signed({"team": 1, "key": key}, secret or "x")
    reply = requests.get(f"{served.url}team", cookies={cookie_name(served): cookie}, timeout=30)
    assert reply.url.endswith("sign-in")


def _signed(content: dict[str, Any], secret: str) -> str:
    """Return a session's cookie, as Flask signs it."""
    signer = URLSafeTimedSerializer(
        secret,
        salt="cookie-session",
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha1},
    )
    return str(signer.dumps(content))


def test_a_signed_cookie_of_ours_is_one(served: Served, folder: Any) -> None:
    """The forgeries above fail by their content, and not by a wrong signature."""
    key = token_hash(served.token)[:32]
    cookie = _signed({"team": 1, "key": key}, store_of(folder).state()["cookies"])
    reply = requests.get(f"{served.url}team", cookies={cookie_name(served): cookie}, timeout=30)
    assert "<h1>us</h1>" in reply.text


# ---- forms --------------------------------------------------------------------------------------

NAMES = {
    "a script": "<script>alert(1)</script>",
    "an attribute": '" onmouseover="alert(1)',
    "a template": "{{ config.SECRET_KEY }}",
    "a format": "{0.__class__}",
    "SQL": "'); DROP TABLE teams; --",
    "a path": "../../organizer/solution.csv",
    "a command": "$(reboot)",
    "an entity": "&lt;b&gt;",
}
REFUSED_NAMES = {
    "nothing": "",
    "a NUL": "us\0",
    "a terminal's colors": "\x1b[31mus",
    "from right to left": "\u202esu",
    "invisible": "u\u200bs",
    "a double": "\uff35\uff33",
    "Cyrillic letters": "u\u0455",
    "too long": "u" * 65,
    "a megabyte": "u" * 100_000,
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_is_shown_as_it_is_and_does_nothing(served: Served, folder: Any, kind: str) -> None:
    code = store_of(folder).state()["join_code"]
    session = requests.Session()
    page = served.post(session, "join", name=NAMES[kind], code=code).text
    fresh = page.partition('id="token">')[2].partition("<")[0]
    assert served.send(fresh, submission(90)).ok
    organizer = served.organizer().get(f"{served.url}organizer", timeout=30).text
    for text in (page, requests.get(served.url, timeout=30).text, organizer):
        assert "<script>alert" not in text and '" onmouseover="' not in text
    assert served.ranking()[0][0] == NAMES[kind]


@pytest.mark.parametrize("kind", REFUSED_NAMES)
def test_a_name_that_deceives_is_refused(served: Served, folder: Any, kind: str) -> None:
    code = store_of(folder).state()["join_code"]
    reply = served.post(requests.Session(), "join", name=REFUSED_NAMES[kind], code=code)
    assert reply.status_code in (413, 422)
    unharmed(served, reply.text)


@pytest.mark.parametrize("code", ["", " ", "None", "%", "' OR '1'='1", "x" * 5000])
def test_a_join_code_cannot_be_forged(served: Served, code: str) -> None:
    served.act("join-code")  # nobody can sign up: there is none
    assert served.post(requests.Session(), "join", name="they", code=code).status_code == 403


@pytest.mark.parametrize(
    ("action", "value"),
    [
        ("drop", ""),
        ("withdraw-team", "1 OR 1=1"),
        ("withdraw-team", "-1"),
        ("withdraw-submission", "9" * 400),
        ("new-token", "' OR ''='"),
        ("closes", "9999999-01-01"),
        ("opens", "<script>"),
        ("closes", "2001-01-01T10:00:00"),
        ("add-team", "us"),
        ("__class__", ""),
    ],
)
def test_an_odd_button_does_nothing(served: Served, action: str, value: str) -> None:
    reply = served.act(action, value)
    assert reply.status_code == 422 and 'role="alert"' in reply.text
    assert served.ranking()[0][0] == "us"


FILES: dict[str, tuple[str, bytes]] = {
    "a path for a name": ("../../organizer/solution.csv", b"{}"),
    "a NUL in its name": ("a\0.json", b"{}"),
    "nested ten thousand deep": ("s.json", b"[" * 10_000),
    "a number of 5,000 digits": ("s.json", b'{"q000.jpg": ' + b"9" * 5000 + b"}"),
    "a query twice": ("s.json", b'{"q000.jpg": [], "q000.jpg": []}'),
    "lists of numbers": ("s.json", b'{"q000.jpg": [1, 2]}'),
    "not a number": ("s.json", b'{"q000.jpg": NaN}'),
    "half a character": ("s.json", b'{"\\ud800": []}'),
    "a zip": ("s.json", b"PK\x03\x04" + bytes(100)),
    "XML with an entity": ("s.json", b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
    "a pickle": ("s.json", b"cos\nsystem\n(S'reboot'\ntR."),
    "a CSV of one field": ("s.csv", b'"' * 1001),
    "a gallery of a whole folder": (
        "s.json",
        json.dumps(dict.fromkeys(submission(1), GALLERY)).encode(),
    ),
    "gallery names with folders": (
        "s.json",
        json.dumps({q: [f"/x/{n}" for n in ns] for q, ns in submission(1).items()}).encode(),
    ),
    "one name ten times": (
        "s.json",
        json.dumps(dict.fromkeys(submission(1), GALLERY[:1] * 10)).encode(),
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_hostile_file_is_refused_with_a_reason(served: Served, kind: str) -> None:
    session = requests.Session()
    served.post(session, "sign-in", token=served.token)
    reply = served.post(session, "team", files={"file": FILES[kind]})
    assert reply.status_code == 422 and 'role="alert"' in reply.text
    unharmed(served, reply.text)


def test_a_file_that_is_too_large_is_refused(served: Served) -> None:
    session = requests.Session()
    served.post(session, "sign-in", token=served.token)
    reply = served.post(session, "team", files={"file": ("s.json", b"[" * 1_020_000)})
    assert reply.status_code == 413 and "1 MB" in reply.text
    many = {"file": ("s.json", b"{}"), **{f"part{i}": ("x", b"") for i in range(50)}}
    assert served.post(session, "team", files=many).status_code == 413
    unharmed(served, reply.text)


def test_another_site_cannot_send_by_the_session_of_a_browser(served: Served) -> None:
    session = requests.Session()
    served.post(session, "sign-in", token=served.token)
    body = json.dumps({"images": submission(1)})
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Origin": "https://evil.example"}):
        kind = {"Content-Type": "text/plain", **headers}
        reply = session.post(f"{served.url}retrieval/", data=body, headers=kind, timeout=30)
        assert reply.status_code == 401
        unharmed(served, reply.text)


def test_a_body_without_a_token_is_not_read(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any) -> Any:
        raise AssertionError("it was read")

    monkeypatch.setattr(web, "parse_request", read)
    assert served.send(None, submission(1)).status_code == 401
    assert served.send("wrong", submission(1)).status_code == 401


def test_another_site_cannot_sign_in_or_send_for_a_browser(served: Served) -> None:
    session = requests.Session()
    reply = session.post(f"{served.url}sign-in", data={"token": served.token}, timeout=30)
    assert reply.status_code == 403, "nor sign it in as another team"
    assert session.get(f"{served.url}team", timeout=30).url.endswith("sign-in")
    other = requests.Session()
    served.post(other, "sign-in", token=served.token)
    foreign = session.get(f"{served.url}join", timeout=30).text
    form = foreign.partition('name="form" value="')[2].partition('"')[0]
    reply = other.post(f"{served.url}team", data={"form": form}, timeout=30)
    assert reply.status_code == 403, "the secret of a form is that of its session"


def test_a_session_that_an_attacker_began_is_not_his_after_the_sign_in(served: Served) -> None:
    attacker = requests.Session()
    attacker.get(f"{served.url}sign-in", timeout=30)
    victim = requests.Session()
    victim.cookies.update(attacker.cookies)
    served.post(victim, "sign-in", token=served.token)
    assert attacker.get(f"{served.url}team", timeout=30).url.endswith("sign-in")


def test_every_reply_has_its_headers(served: Served) -> None:
    pages = ("", "join", "sign-in", "organizer/sign-in", "ranking.json", "none", "static/board.js")
    for page in pages:
        headers = requests.get(f"{served.url}{page}", timeout=30).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "nonce" not in policy
        assert "frame-ancestors 'none'" in policy and headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert page.startswith("static") or headers["Cache-Control"] == "no-store"
    text = requests.get(served.url, timeout=30).text
    assert " style=" not in text and "<style" not in text and "<script>" not in text


# ---- floods, slowness and races -----------------------------------------------------------------


def test_a_request_that_trickles_is_ended(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "SLOWEST", 1)
    parts = urlsplit(served.url)
    for start in (b"GET / HTTP/1.1\r\n", b"POST /team HTTP/1.1\r\nContent-Length: 9999\r\n\r\n"):
        with socket.create_connection((parts.hostname, parts.port), 10) as connection:
            connection.sendall(start)
            with pytest.raises(OSError):
                for _ in range(100):
                    connection.sendall(b"X")
                    time.sleep(0.1)
    unharmed(served, "")


def test_many_silent_connections_keep_nobody_from_reading(served: Served) -> None:
    parts = urlsplit(served.url)
    silent = [socket.create_connection((parts.hostname, parts.port)) for _ in range(60)]
    try:
        unharmed(served, requests.get(served.url, timeout=10).text)
    finally:
        for connection in silent:
            connection.close()


def test_a_flood_of_one_address_is_refused_and_holds_no_team_up(
    serve: Serve, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = token("us")
    monkeypatch.setattr(web, "POSTS", 5)
    served = serve(proxy="127.0.0.1")

    def post(address: str, secret: str | None = None) -> int:
        return served.send(secret, submission(1), **{"X-Forwarded-For": address}).status_code

    assert [post("10.0.0.1") for _ in range(7)] == [401] * 5 + [429] * 2
    assert post("10.0.0.1", ours) == 200, "the class behind the same router goes on"
    assert post("10.0.0.2") == 401
    assert post("10.0.0.2, 10.0.0.1") == 429, "the last one is what the proxy saw"
    assert [post(f"2001:db8::{i}") for i in range(7)].count(429) == 2, "one network"


def test_a_flood_of_one_team_holds_no_other_up(
    serve: Serve, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = token("us"), token("they")
    monkeypatch.setattr(web, "TRIES", 5)
    served = serve()
    assert [served.send(ours, {}).status_code for _ in range(7)] == [422] * 5 + [429] * 2
    assert served.send(theirs, submission(1)).ok


def test_a_forwarded_address_is_believed_of_a_named_proxy_alone(serve: Serve, token: Token) -> None:
    ours = token("us")
    addresses = []
    for number, proxy in enumerate((None, "10.9.9.9", "127.0.0.1")):
        served = serve(proxy=proxy)
        guess = served.send("guess", submission(1), **{"X-Forwarded-For": "1.2.3.4"})
        assert guess.status_code == 401
        served.send(ours, submission(number))
        audit = served.organizer().get(f"{served.url}organizer/audit.csv", timeout=30).text
        (line,) = [line for line in audit.splitlines() if "a wrong token" in line][-1:]
        addresses.append("1.2.3.4" in line)
    assert addresses == [False, False, True]


def test_at_the_deadline_everything_is_either_counted_or_refused(
    serve: Serve, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TRIES", 0)  # no limit
    ours, now = token("us"), time.time()
    served = serve(per_hour=0, per_day=0, wall=[now])
    served.act("closes", local_time(str(now + 2.5)))

    def send_until_closed(first: int) -> int:
        for number in range(1000):
            code = served.send(ours, submission(number % 100, first + 8 * (number // 100)))
            if code.status_code == 403:
                return number
            assert code.ok
        raise AssertionError("it does not close")

    with ThreadPoolExecutor(8) as pool:
        taken = sum(pool.map(send_until_closed, range(8)))
    rows = served.organizer().get(f"{served.url}organizer/submissions.csv", timeout=30).text
    assert len(rows.splitlines()) - 1 == taken > 0


# ---- fishing ------------------------------------------------------------------------------------


def fished(step: float, seed: int, posts: int) -> float:
    """Attack: random lists for 54 public queries, and a ridge regression of what comes back.

    Returns:
        The share of the queries for which the picture with the largest coefficient is right.
    """
    queries, gallery = 54, 300
    owners, asked = np.arange(gallery) % 60, np.arange(queries) // 3
    rng = np.random.default_rng(seed)
    weights = np.array([1, 0.4, 0.4, 0.4, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1])
    design, given = np.zeros((posts, queries * gallery)), np.zeros(posts)
    for post in range(posts):
        lists = np.stack([rng.permutation(gallery)[:10] for _ in range(queries)])
        right = owners[lists] == asked[:, None]
        hits = np.stack([right[:, 0], right[:, :5].any(1), right.any(1)])
        exact = float((np.array([600, 300, 100]) @ hits).mean())
        given[post] = coarse(exact, step, {str(post): [str(seed)]}, SECRET) if step else exact
        np.put_along_axis(design[post].reshape(queries, gallery), lists, weights[None], axis=1)
    design -= design.mean(0)
    kernel = design @ design.T
    ridge = 0.3 * np.trace(kernel) / posts * np.eye(posts)
    coefficients = design.T @ np.linalg.solve(kernel + ridge, given - given.mean())
    return float((owners[coefficients.reshape(queries, gallery).argmax(1)] == asked).mean())


def test_the_quota_of_a_day_does_not_suffice_to_fish_the_public_answers() -> None:
    step = score_step(54, 1000.0, QUERIES_OF_STEP)
    found = np.mean([fished(step, seed, posts=50) for seed in range(4)])
    assert found <= 0.08, "4 of 54 queries; a guess finds one"
    assert fished(0, 0, posts=400) > 0.15, "the attack is one: many exact scores give more away"


def test_private_queries_cannot_be_fished_at_all(served: Served) -> None:
    """Submissions that differ in private queries alone get the same public score in expectation."""
    token = served.token
    given = []
    for shift in range(12):
        good, bad = submission(100, shift), submission(0, shift)
        mixed = {
            q: (submission(55)[q] if q in PUBLIC else (bad if shift % 2 else good)[q]) for q in good
        }
        given.append(served.send(token, mixed).json()["accuracy"])
    exact = 1000 * sum(int(q[1:4]) < 55 for q in PUBLIC) / len(PUBLIC)
    assert {value - value % 1 for value in given} <= {exact // 100 * 100, exact // 100 * 100 + 100}


def test_a_change_of_one_query_is_lost_in_the_rounding(served: Served) -> None:
    token, known = served.token, submission(55)
    differences = []
    for query in sorted(PUBLIC)[:8]:
        worse = known | {query: submission(0)[query]}
        reply = served.send(token, worse).json()
        differences.append(reply["accuracy"] - served.send(token, known).json()["accuracy"])
    assert {abs(difference) for difference in differences} <= {0, 100}


def test_there_are_at_least_sixty_tries() -> None:
    tables: list[Any] = [RAW, FORGED, SESSIONS, NAMES, REFUSED_NAMES, FILES]
    assert sum(map(len, tables)) >= 60
