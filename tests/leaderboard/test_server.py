"""The leaderboard: what it takes and refuses, what it saves, and its page in a real browser."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from benchmarks.leaderboard_load import load, serving
from lookalike.core.errors import UserError
from lookalike.evaluation.scoring import Labels, score
from lookalike.evaluation.submissions import Submission
from lookalike.leaderboard.server import RateLimit, Results, ServeSettings, make_server
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
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "not of the form"),
        (b'{"images": {}}', "groupname must be"),
        (b'{"groupname": " ", "images": {}}', "groupname must be"),
        (b'{"groupname": "a\\u0000", "images": {}}', "groupname must be"),
        (b'{"groupname": "\\ud800", "images": {}}', "groupname must be"),
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


def test_the_limit_forgets_silent_groups() -> None:
    limit = RateLimit(1)
    for number in range(10_002):
        assert limit.wait(f"group {number}", 0.0) == 0
    assert limit.wait("another", 61.0) == 0
    assert len(limit._sent) == 1


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
