"""The leaderboard: what it takes and refuses, what it saves, and its page in a real browser."""

import json
import os
import resource
import select
import shutil
import socket
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from werkzeug.exceptions import TooManyRequests

from benchmarks.leaderboard_load import load, serving
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash
from lookalike.evaluation.scoring import Labels, score
from lookalike.evaluation.submissions import Submission
from lookalike.leaderboard import results as results_module
from lookalike.leaderboard import server
from lookalike.leaderboard.listening import connection_limit, page_url
from lookalike.leaderboard.results import Results
from lookalike.leaderboard.server import ServeSettings, labels_hash, make_server
from tests.conftest import Start

LABELS = Labels(
    {f"q{i}.jpg": f"person{i}" for i in range(3)},
    {f"g{i:02}.jpg": f"person{i % 3}" for i in range(12)},
)
GALLERY = list(LABELS.gallery)
GOOD: Submission = dict.fromkeys(LABELS.query, GALLERY[:10])
BEST: Submission = {f"q{i}.jpg": GALLERY[i:10] + GALLERY[:i] for i in range(3)}
HALF = {**GOOD, "q1.jpg": BEST["q1.jpg"]}


@pytest.fixture
def settings(tmp_path: Path) -> ServeSettings:
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(LABELS._asdict()))
    return ServeSettings(labels, port=0, results=tmp_path / "results.sqlite", rate=0)


@pytest.fixture(autouse=True)
def exact_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three queries, scores would be given as 0 or 1000; test_rules.py tests that."""
    monkeypatch.setattr(server, "coarse", lambda score, *_: score)


def send(url: str, group: str, submission: Any) -> requests.Response:
    body = {"groupname": group, "images": submission}
    return requests.post(f"{url}retrieval/", json=body, timeout=30)


def ranking(url: str) -> list[tuple[str, float, int]]:
    groups = requests.get(f"{url}ranking.json", timeout=30).json()
    return [(group["group"], group["score"], group["submissions"]) for group in groups]


def test_the_answer_is_the_score_of_evaluate(settings: ServeSettings, start: Start) -> None:
    url = start(settings)
    for submission in (GOOD, HALF, BEST):
        reply = send(url, "us", submission)
        assert reply.json() == {"accuracy": score(submission, LABELS)["score"]}
    assert ranking(url) == [("us", 1000.0, 3)]


def test_the_best_counts_and_ties_are_ranked_by_time(settings: ServeSettings, start: Start) -> None:
    url = start(settings)
    for group, submission in (
        ("late", GOOD),
        ("first", BEST),
        ("poor", GOOD),
        ("late", BEST),
        ("first", GOOD),
        ("first", BEST),
    ):
        assert send(url, group, submission).ok
    assert [group for group, *_ in ranking(url)] == ["first", "late", "poor"]
    assert [sent for *_, sent in ranking(url)] == [3, 2, 1]


def changed(**queries: Any) -> dict[str, Any]:
    return GOOD | {f"{name}.jpg": names for name, names in queries.items()}


@pytest.mark.parametrize(
    ("images", "code", "reason"),
    [
        ({q: n for q, n in GOOD.items() if q != "q1.jpg"}, 422, "missing (1): 'q1.jpg'"),
        (changed(q9=GALLERY[:10]), 422, "that the test does not have (1): 'q9.jpg'"),
        (changed(q1=GALLERY[:9]), 422, "without exactly 10 gallery names (1): 'q1.jpg'"),
        (changed(q1=GALLERY[:11]), 422, "without exactly 10 gallery names (1): 'q1.jpg'"),
        (changed(q1=GALLERY[:9] + GALLERY[:1]), 422, "more than once (1): 'q1.jpg'"),
        (changed(q1=[*GALLERY[:9], "x.jpg"]), 422, "the gallery does not have (1): 'x.jpg'"),
        (changed(q1=[*GALLERY[:9], "test/g09.jpg"]), 422, "folder in front (1): 'test/g09.jpg'"),
        (changed(q1="g01.jpg"), 400, "'q1.jpg' has no list of gallery names"),
        (changed(q1=[1] * 10), 400, "'q1.jpg' has no list of gallery names"),
        ([], 400, "not of the form"),
        ({}, 422, "missing (3)"),
    ],
)
def test_a_bad_submission_is_refused_with_the_reason(
    settings: ServeSettings, start: Start, images: Any, code: int, reason: str
) -> None:
    url = start(settings)
    reply = send(url, "us", images)
    assert reply.status_code == code and reason in reply.json()["error"]
    assert ranking(url) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"no JSON", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1]", "not of the form"),
        (b'{"images": {}}', "groupname must be"),
        (b'{"groupname": " ", "images": {}}', "groupname must be"),
        (b'{"groupname": "a\\u0000", "images": {}}', "groupname must be"),
        (b'{"groupname": "\\ud800", "images": {}}', "half a character"),
        (b'{"groupname": "%s", "images": {}}' % (b"a" * 65), "groupname must be"),
        (b'{"groupname": "us", "images": {"q": [], "q": []}}', "'q' appears twice"),
    ],
)
def test_what_is_not_the_protocol_is_refused(
    settings: ServeSettings, start: Start, body: bytes, reason: str
) -> None:
    url = start(settings)
    reply = requests.post(f"{url}retrieval/", data=body, timeout=30)
    assert reply.status_code == 400 and reason in reply.json()["error"]


def test_a_body_that_is_too_large_is_refused_and_the_server_goes_on(
    settings: ServeSettings, start: Start
) -> None:
    url = start(replace(settings, largest=0.01))
    reply = requests.post(f"{url}retrieval/", data=b" " * 20_000, timeout=30)
    assert reply.status_code == 413 and "larger than the 0.01 MB" in reply.json()["error"]
    assert send(url, "us", GOOD).ok


def test_a_group_that_sends_too_often_has_to_wait_and_others_need_not(
    settings: ServeSettings, start: Start
) -> None:
    url = start(replace(settings, rate=2))
    codes = [send(url, "us", GOOD).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    late = send(url, "us", GOOD)
    assert 1 <= int(late.headers["Retry-After"]) <= 61 and "within a minute" in late.json()["error"]
    assert send(url, "they", GOOD).ok
    assert ranking(url)[0][2] == 2


def test_nobody_keeps_a_group_from_sending_by_posting_in_its_name(
    settings: ServeSettings, start: Start
) -> None:
    url = start(replace(settings, rate=2))
    for _ in range(30):
        assert send(url, "us", {}).status_code == 422
    assert send(url, "us", BEST).ok
    scorer = server.Scorer(LABELS, Results(settings.results, ""), rate=2)
    post = json.dumps({"groupname": "us", "images": GOOD}).encode()
    for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
        scorer.score(post, address)
    with pytest.raises(TooManyRequests, match="us has sent 2 times"):
        scorer.score(post, "10.0.0.1")
    scorer.score(post, "10.0.0.2")


def test_free_names_do_not_get_around_the_rate(settings: ServeSettings) -> None:
    scorer = server.Scorer(LABELS, Results(settings.results, ""), rate=2)
    for number in range(20):
        post = json.dumps({"groupname": f"us {number}", "images": GOOD}).encode()
        scorer.score(post, "10.0.0.1")
    with pytest.raises(TooManyRequests, match="this address has sent 20 times"):
        scorer.score(post, "10.0.0.1")
    scorer.score(post, "10.0.0.3")


def test_names_that_look_alike_are_one_group_or_refused(
    settings: ServeSettings, start: Start
) -> None:
    url = start(settings)
    assert send(url, "Team A", GOOD).ok and send(url, " team  a", BEST).ok
    assert ranking(url) == [("Team A", 1000.0, 2)]
    for name in ("Team-A", "TEAM \u0410", "te\u0430m a"):
        reply = send(url, name, GOOD)
        assert reply.status_code == 400 and "groupname" in reply.json()["error"]
    for name in ("a\u200bb", "\u202eabc", "\u3164", "ab\u00adc", "\u2800"):
        assert send(url, name, GOOD).status_code == 400


def test_every_answer_has_its_headers(settings: ServeSettings, start: Start) -> None:
    url = start(settings)
    answers = [requests.get(url + path, timeout=30) for path in ("", "ranking.json", "nowhere")]
    for answer in (*answers, send(url, "us", GOOD), send(url, "us", {})):
        policy = answer.headers["Content-Security-Policy"]
        for part in ("default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"):
            assert part in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"


HOST = b" HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /retrieval/" + HOST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", b"400"),
        (b"POST /retrieval/" + HOST + b"Content-Length: 90000000\r\n\r\n", b"413"),
        (b"POST /retrieval/" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET http://[::1" + HOST + b"\r\n", b"400"),
        (b"GET http://[x]y/" + HOST + b"\r\n", b"400"),
        (b"GET /%ff%00/../x" + HOST + b"\r\n", b"404"),
        (b"GET //evil" + HOST + b"\r\n", b"404"),
        (b"GET / HTTP/1.1\r\nHost: a b\xff[\r\n\r\n", b"200"),
        (b"GET /" + HOST + b"no header\r\n\r\n", b"400"),
        (b"GET /" + HOST + b"A: " + b"x" * 300_000 + b"\r\n\r\n", b"431"),
        (b"TRACE /" + HOST + b"\r\n", b"405"),
        (b"get /" + HOST + b"\r\n", b"400"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_hostile_requests_are_answered_with_the_headers_of_every_reply(
    settings: ServeSettings,
    start: Start,
    caplog: pytest.LogCaptureFixture,
    sent: bytes,
    status: bytes,
) -> None:
    address = ("127.0.0.1", int(start(settings).rpartition(":")[2].strip("/")))
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(sent)
        answer = b""
        while b"\r\n\r\n" not in answer and (part := connection.recv(65536)):
            answer += part
    assert answer.split(b" ")[1:2] == [status]
    for header in (b"nosniff", b"no-referrer", b"frame-ancestors 'none'", b"base-uri 'none'"):
        assert header in answer
    assert "exception" not in caplog.text


@pytest.mark.parametrize(
    ("host", "url"),
    [("::1", "http://[::1]:"), ("[::1]", "http://[::1]:"), ("localhost", "http://127.0.0.1:")],
)
def test_the_url_of_every_host_can_be_opened(settings: ServeSettings, host: str, url: str) -> None:
    listening = make_server(replace(settings, host=host))
    listening.close()
    listening.task_dispatcher.shutdown()
    assert page_url(listening).startswith(url)


def test_a_title_that_is_not_unicode_is_shown(settings: ServeSettings, start: Start) -> None:
    assert (
        r"Fri\udcff" in requests.get(start(replace(settings, title="Fri\udcff")), timeout=30).text
    )


def test_labels_that_were_saved_anew_keep_their_results(
    settings: ServeSettings, start: Start
) -> None:
    assert send(start(settings), "us", BEST).ok
    content = json.loads(settings.labels.read_text())
    settings.labels.write_text(json.dumps(dict(reversed(content.items())), indent=4))
    assert ranking(start(settings)) == [("us", 1000.0, 1)]


def test_results_by_the_hash_of_the_file_are_found(settings: ServeSettings, start: Start) -> None:
    Results(settings.results, str(file_hash(settings.labels))).add("us", 7.0, 0.0)
    assert ranking(start(settings)) == [("us", 7.0, 1)]


def test_results_that_cannot_be_kept_are_an_answer(
    settings: ServeSettings, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = start(settings)

    def full(*values: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Results, "add", full)
    reply = send(url, "us", GOOD)
    assert reply.status_code == 503 and "try again later" in reply.json()["error"]


@pytest.mark.parametrize("loss", ["deleted", "emptied", "folder deleted"])
def test_results_that_are_deleted_while_it_runs_are_written_anew(
    settings: ServeSettings, start: Start, loss: str
) -> None:
    settings = replace(settings, results=settings.results.parent / "runs" / "results.sqlite")
    Results(settings.results, "another test").add("they", 1.0, 0.0)
    url = start(settings)
    assert send(url, "first", BEST).ok
    if loss == "folder deleted":
        shutil.rmtree(settings.results.parent)
    elif loss == "deleted":
        settings.results.unlink()
    else:
        settings.results.write_bytes(b"")
    assert [group for group, *_ in ranking(url)] == ["first"], "it is shown all the while"
    assert send(url, "second", BEST).ok
    assert [group for group, *_ in ranking(start(settings))] == ["first", "second"]
    assert [row.group for row in Results(settings.results, "another test").ranking()] == ["they"]


@pytest.mark.parametrize("trouble", ["locked", "damaged", "full"])
def test_a_post_whose_result_cannot_be_saved_is_refused_and_the_ranking_stays(
    settings: ServeSettings, start: Start, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    url = start(settings)
    assert send(url, "us", BEST).ok
    monkeypatch.setattr(results_module, "PATIENCE", 0.05)
    before = settings.results.read_bytes()
    with closing(sqlite3.connect(settings.results)) as other:
        if trouble == "locked":
            other.execute("BEGIN EXCLUSIVE")
        elif trouble == "damaged":
            settings.results.write_bytes(b"x" * len(before))
        else:
            full = sqlite3.OperationalError("database or disk is full")
            monkeypatch.setattr(sqlite3, "connect", raising(full))
        assert send(url, "they", BEST).status_code == 503
        assert ranking(url) == [("us", 1000.0, 1)]
    monkeypatch.undo()
    settings.results.write_bytes(before)
    assert [row.group for row in Results(settings.results, labels_hash(LABELS)).ranking()] == ["us"]


def raising(error: Exception) -> Any:
    """Return a function that raises an error."""

    def function(*_: Any, **__: Any) -> None:
        raise error

    return function


def test_a_device_is_no_file_of_results(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe", tmp_path):
        with pytest.raises(UserError, match="cannot hold results"):
            Results(path, "")
        assert not path.is_file(), "it is not replaced"


def test_groups_of_another_test_reserve_no_names(settings: ServeSettings, start: Start) -> None:
    Results(settings.results, "another test").add("TEAM-A", 1.0, 0.0)
    assert send(start(settings), "Team A", GOOD).ok


def test_nothing_exact_is_published(settings: ServeSettings, start: Start) -> None:
    url = start(settings)
    assert send(url, "us", HALF).ok
    groups = requests.get(f"{url}ranking.json", timeout=30).json()
    assert {*groups[0]} == {"rank", "group", "score", "submissions", "last"}
    assert "recall@1</th>" not in requests.get(url, timeout=30).text


def test_the_step_is_of_the_queries_that_are_scored(settings: ServeSettings) -> None:
    alone = {f"x{i}.jpg": f"nobody{i}" for i in range(1000)}
    labels = Labels(LABELS.query | alone, LABELS.gallery)
    assert server.Scorer(labels, Results(settings.results, ""), rate=0).step == 1000


def test_a_damaged_file_of_results_is_an_error(settings: ServeSettings) -> None:
    results = Results(settings.results, "labels")
    for number in range(200):
        results.add(f"group {number}", 1.0, 0.0)
    content = bytearray(settings.results.read_bytes())
    content[5000:12000] = b"\x55" * 7000
    settings.results.write_bytes(content)
    for beside in settings.results.parent.glob("results.sqlite-*"):
        beside.unlink()
    with pytest.raises(UserError, match=r"results\.sqlite: cannot hold results .* move it away"):
        make_server(settings)


def test_unfinished_uploads_end_at_the_limit(settings: ServeSettings, start: Start) -> None:
    url = start(replace(settings, largest=0.01))
    address = ("127.0.0.1", int(url.rpartition(":")[2].strip("/")))
    with socket.create_connection(address, timeout=10) as connection:
        head = b"POST /retrieval/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head)
        sent = 0
        with suppress(OSError):
            while sent < 5_000_000:
                connection.sendall(b"8000\r\n" + b" " * 0x8000 + b"\r\n")
                sent += 0x8000
                if select.select([connection], [], [], 0)[0]:
                    break
        assert sent < 5_000_000, "the server answers long before"


def test_fewer_connections_than_half_of_the_files() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
        limit = connection_limit()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert limit >= 8 and 2 * limit < files, "an upload has a socket and a temporary file"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    "odd",
    [
        {"port": 70_000},
        {"port": -1},
        {"largest": float("nan")},
        {"largest": float("inf")},
        {"largest": 0.0},
        {"rate": 10**30},
        {"host": ""},
        {"host": "*"},
        {"host": "a b"},
        {"host": "name.invalid"},
        {"host": "\udcff"},
        {"host": "a" * 300},
        {"host": "host:80"},
    ],
    ids=str,
)
def test_odd_settings_are_an_error_before_anything_starts(
    settings: ServeSettings, odd: dict[str, Any]
) -> None:
    with pytest.raises(UserError):
        make_server(replace(settings, **odd))


def test_results_survive_a_kill_and_other_labels_have_a_ranking_of_their_own(
    settings: ServeSettings,
) -> None:
    with serving(settings.labels, settings.results) as (url, process):
        assert send(url, "us", BEST).ok
        process.kill()
        process.wait()
    with serving(settings.labels, settings.results) as (url, _):
        assert send(url, "they", GOOD).ok
        assert [group for group, *_ in ranking(url)] == ["us", "they"]
    other = LABELS._replace(gallery=dict.fromkeys(GALLERY, "person0"))
    settings.labels.write_text(json.dumps(other._asdict()))
    with serving(settings.labels, settings.results) as (url, _):
        assert ranking(url) == []


def test_what_keeps_the_server_from_starting_is_an_error(
    settings: ServeSettings, start: Start
) -> None:
    port = int(start(settings).rpartition(":")[2].strip("/"))
    with pytest.raises(UserError, match="choose another --port"):
        make_server(replace(settings, port=port))
    settings.results.with_name("notes.txt").write_text("not a data base " * 100)
    with pytest.raises(UserError, match=r"notes\.txt: cannot hold results"):
        Results(settings.results.with_name("notes.txt"), "")
    with pytest.raises(UserError, match="--rate"):
        make_server(replace(settings, rate=-1))
    settings.labels.write_text('{"query": {"q": "a"}, "gallery": {"g": "b"}}')
    with pytest.raises(UserError, match="nothing to score"):
        make_server(settings)


def test_teams_that_send_at_once_lose_nothing_and_are_not_mixed_up(tmp_path: Path) -> None:
    done = load(teams=8, submissions=5, folder=tmp_path)
    assert (done.sent, done.lost, done.mixed_up, done.ranking_right) == (40, 0, 0, True)


# ---- the page -----------------------------------------------------------------------------------

EVIL = '<img src=x onerror="document.title=1">&lt;'


def test_names_are_escaped_and_the_browser_is_told_to_run_nothing_else(
    settings: ServeSettings, start: Start
) -> None:
    url = start(settings)
    assert send(url, EVIL, GOOD).ok
    page = requests.get(url, timeout=30)
    assert "<img" not in page.text and "&lt;img" in page.text and "&amp;lt;" in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_a_leaderboard_scores_by_its_metric_and_takes_lists_of_its_length(
    settings: ServeSettings, start: Start
) -> None:
    url = start(replace(settings, metric="mrr@2", k=1))
    refused = send(url, "us", GOOD)
    assert refused.status_code == 422 and "without exactly 1 gallery names" in refused.text
    answer = send(url, "us", {query: names[:1] for query, names in GOOD.items()})
    assert answer.ok and 0 <= answer.json()["accuracy"] <= 1
    assert 'max="1.0"' in requests.get(url, timeout=30).text


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_updates_by_itself_and_shows_names_as_text(
    settings: ServeSettings, start: Start, browser: Any
) -> None:
    url = start(replace(settings, title="Friday <b>"))
    page = browser.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(url)
    assert page.get_by_text("No submissions yet").is_visible()
    assert send(url, "they", GOOD).ok and send(url, EVIL, BEST).ok
    page.get_by_role("cell", name=EVIL, exact=True).wait_for(timeout=20_000)
    rows = [row.inner_text().split("\t") for row in page.locator("tbody tr").all()]
    assert [row[1].strip() for row in rows] == [EVIL, "they"]
    assert rows[0][2] == "1000.0"
    assert page.title() == "Friday <b>" and page.locator("img").count() == 0
    assert not messages


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_fits_a_phone_and_says_when_the_server_is_gone(
    settings: ServeSettings, browser: Any
) -> None:
    with serving(settings.labels, settings.results) as (url, process):
        assert send(url, "W" * 64, BEST).ok
        page = browser.new_page(viewport={"width": 360, "height": 640})
        page.goto(url)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        process.kill()
        page.get_by_text("The server does not answer").wait_for(timeout=20_000)
        assert page.get_by_role("cell", name="W" * 64).is_visible(), "the last ranking stays"
