"""Submitting: nothing defective is sent, nothing is sent twice unnoticed, and all is recorded."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests

from lookalike import pipeline
from lookalike.data.catalogue import COLUMNS, write_catalogue
from lookalike.evaluation.submissions import Submission
from lookalike.leaderboard import client, submit
from lookalike.leaderboard.client import Outcome
from lookalike.leaderboard.history import HistoryRow, read_history
from lookalike.leaderboard.server import ServeSettings
from tests.conftest import FAST, ROOT, Start
from tests.leaderboard.test_server import BEST, GALLERY, GOOD, LABELS


@pytest.fixture
def url(tmp_path: Path, start: Start) -> str:
    """Where a leaderboard of LABELS takes submissions."""
    (tmp_path / "labels.json").write_text(json.dumps(LABELS._asdict()))
    settings = ServeSettings(tmp_path / "labels.json", port=0, results=tmp_path / "r.sqlite")
    return start(settings) + "retrieval/"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a submission that scores 1000."""
    folder = tmp_path / "runs" / "x"
    parts = [("query", LABELS.query), ("gallery", LABELS.gallery)]
    rows = [(f"test/{part}/{name}", part) for part, names in parts for name in names]
    catalogue = pd.DataFrame(rows, columns=["path", "part"]).reindex(columns=COLUMNS, fill_value="")
    write_catalogue(folder / "test.csv", catalogue)
    (folder / "submission.json").write_text(json.dumps(BEST))
    (folder / "config.json").write_text('{"seed": 1, "run": "runs/x"}')
    (folder / "metrics.json").write_text('{"forecast": {"score": 990.5, "ci95": [950, 1000]}}')
    return folder


def send(*words: str | Path) -> int:
    return submit.main(["send", *map(str, words)])


def sent() -> list[HistoryRow]:
    return read_history(Path("runs/submissions.csv"))


def counted(url: str) -> int:
    """How many submissions the leaderboard has."""
    groups = requests.get(url.replace("retrieval/", "ranking.json"), timeout=30).json()
    return sum(group["submissions"] for group in groups)


def test_a_submission_is_scored_and_stands_in_the_history(
    url: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send("--run", run, "--url", url, "--group", "us") == 0
    assert f"{url} says: 1000.0 (forecast 990.5)" in capsys.readouterr().err
    (row,) = sent()
    assert (row["group"], row["score"], row["status"]) == ("us", "1000.0000", "scored")
    assert row["leaderboard"] == url and row["forecast"] == "990.5000"
    assert len(row["file_hash"]) == len(row["settings_hash"]) == 64
    assert submit.main(["history"]) == 0
    table = capsys.readouterr().out
    assert "1000.0" in table and "-9.5" in table and table.count("*") == 1
    assert "mean absolute error of the forecast: 9.5 (n = 1)" in table


def test_the_same_file_is_sent_again_only_when_asked_for(
    url: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--run", run, "--url", url)
    assert send(*words, "--group", "us") == 0
    capsys.readouterr()
    assert send(*words, "--group", "us") == 0
    assert "not sent: the same file went to" in capsys.readouterr().err
    assert counted(url) == 1
    assert send(*words, "--group", "us", "--again") == 0
    assert send(*words, "--group", "they") == 0
    (run / "submission.json").write_text(json.dumps(GOOD))
    assert send(*words, "--group", "us") == 0
    assert counted(url) == len(sent()) == 4


def test_a_dry_run_shows_what_would_go_and_sends_nothing(
    url: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = url.replace("http://", "http://me:pw@") + "?key=pw"
    assert send("--run", run, "--url", secret, "--group", "us", "--dry-run") == 0
    printed = capsys.readouterr().err
    assert url in printed and '{"groupname": "us", "images": {"q0.jpg": ["g00.jpg"' in printed
    assert "and 2 more queries" in printed and "pw" not in printed
    assert counted(url) == 0 and sent() == []


def test_all_that_is_wrong_is_said_in_one_list_and_nothing_is_sent(
    url: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad: Submission = {
        "test/query/q0.jpg": GALLERY[:9],
        "q1.jpg": [*GALLERY[:8], "g00.jpg", "test_folder/gallery/g09.jpg"],
        "q7.jpg": [*GALLERY[:9], "other.jpg"],
    }
    (run / "submission.json").write_text(json.dumps(bad))
    before = (run / "submission.json").read_bytes()
    assert send("--run", run, "--url", url, "--group", "us") == 1
    assert capsys.readouterr().err.splitlines()[1:] == [
        "queries that are missing (1): 'q2.jpg'",
        "query names with a folder in front (1): 'test/query/q0.jpg'",
        "queries that the test does not have (1): 'q7.jpg'",
        "queries without exactly 10 gallery names (1): 'test/query/q0.jpg'",
        "queries that name a picture more than once (1): 'q1.jpg'",
        "gallery names with a folder in front (1): 'test_folder/gallery/g09.jpg'",
        "names that the gallery does not have (1): 'other.jpg'",
    ]
    assert counted(url) == 0 and sent() == []
    assert (run / "submission.json").read_bytes() == before


def test_names_come_from_labels_or_data_where_there_is_no_run(
    url: str, competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.json").write_text(json.dumps(GOOD))
    words = ("mine.json", "--url", url, "--group", "us")
    assert send(*words) == 1
    assert "add --run, --data or --labels" in capsys.readouterr().err
    assert send(*words, "--data", competition) == 1
    assert "queries that are missing (8)" in capsys.readouterr().err
    assert send(*words, "--labels", "labels.json") == 0
    assert [(row["run"], row["forecast"]) for row in sent()] == [("", "")]
    assert send("--url", url, "--group", "us") == 1
    assert "name a submission" in capsys.readouterr().err


def test_a_forecast_counts_only_for_the_runs_own_file(url: str, run: Path) -> None:
    Path("mine.json").write_text(json.dumps(GOOD))
    assert send("mine.json", "--run", run, "--url", url, "--group", "us") == 0
    assert [(row["run"], row["forecast"]) for row in sent()] == [(str(run), "")]


def test_the_hash_of_the_settings_does_not_depend_on_the_place_of_the_run(run: Path) -> None:
    before = submit.settings_hash(run)
    (run / "config.json").write_text('{"run": "elsewhere", "seed": 1}')
    assert submit.settings_hash(run) == before
    (run / "config.json").write_text('{"run": "elsewhere", "seed": 2}')
    assert submit.settings_hash(run) != before


# ---- what goes wrong, end to end ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "advice", "again"),
    [
        (Outcome("refused", "422: no"), "refused: 422: no\nit has not counted", True),
        (Outcome("failed", "429: busy"), "the server did not take it", True),
        (Outcome("not sent", "no connection"), "it has not counted; the same command", True),
        (Outcome("no reply", "no reply within 1 s"), "it may have counted", False),
        (Outcome("unclear", "200: <html>"), "it may have counted", False),
    ],
)
def test_the_user_reads_what_came_back_and_whether_to_send_again(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: Outcome,
    advice: str,
    again: bool,
) -> None:
    monkeypatch.setattr(submit, "post", lambda *_: outcome)
    before = (run / "submission.json").read_bytes()
    words = ("--run", run, "--url", "http://example.org/", "--group", "us")
    assert send(*words) == 1
    printed = capsys.readouterr().err
    assert outcome.answer in printed and advice in printed and "is as it was" in printed
    assert "Traceback" not in printed
    assert (run / "submission.json").read_bytes() == before
    (row,) = sent()
    assert (row["status"], row["answer"], row["score"]) == (outcome.status, outcome.answer, "")
    send(*words)
    assert len(sent()) == (2 if again else 1)


def test_a_refusal_of_the_server_reaches_the_user(
    url: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send("--run", run, "--url", url, "--group", "x" * 65) == 1
    printed = capsys.readouterr().err
    assert "refused: 400: groupname must be 1 to 64 printable characters" in printed


def test_a_server_that_is_down_loses_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client, "RETRY_DELAYS", (0.0,))
    assert send("--run", run, "--url", "http://127.0.0.1:9/", "--group", "us") == 1
    assert "not sent: no connection: is the server up" in capsys.readouterr().err
    assert [row["status"] for row in sent()] == ["not sent"]


def test_a_process_that_dies_while_it_sends_leaves_a_trace(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(submit, "post", stop)
    words = ("--run", run, "--url", "http://example.org/", "--group", "us")
    assert send(*words) == 130
    assert [row["status"] for row in sent()] == ["no reply"]
    assert sent()[0]["answer"] == "stopped while it was being sent (KeyboardInterrupt)"
    assert send(*words) == 1, "nobody knows whether it counted"
    assert "it may have counted; --again" in capsys.readouterr().err


def test_what_is_sent_is_the_file_that_was_hashed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = []

    def change_and_post(target: Any, submission: Any, timeout: float) -> Outcome:
        (run / "submission.json").write_text(json.dumps(GOOD))  # by another process
        bodies.append(submission)
        return Outcome("scored", "", 1000.0)

    digest = hashlib.sha256((run / "submission.json").read_bytes()).hexdigest()
    monkeypatch.setattr(submit, "post", change_and_post)
    assert send("--run", run, "--url", "http://example.org/", "--group", "us") == 0
    assert bodies == [BEST] and sent()[0]["file_hash"] == digest


# ---- as a stage ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_sends_only_where_a_leaderboard_is_named(
    competition: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(competition), *FAST]
    assert pipeline.main(["--stage", "all", *words]) == 0
    printed = capsys.readouterr().err
    assert printed.count("submit: not sent, since no leaderboard is named") == 1
    assert pipeline.main(["--stage", "submit", *words]) == 1
    assert "add --url and --group" in capsys.readouterr().err
    board = start(ServeSettings(competition / "labels.json", port=0, results=Path("r.sqlite")))
    where = ["--url", board + "retrieval/?key=secret", "--group", "us"]
    assert pipeline.main(["--stage", "all", *words, *where]) == 0
    printed = capsys.readouterr().err
    score = json.loads(Path("runs/tiny/metrics.json").read_text())["test"]["score"]
    assert f"submit: {board}retrieval/ says: {score:.1f}" in printed and "secret" not in printed
    assert pipeline.main(["--stage", "submit", *words, *where]) == 0
    assert "submit: not sent: the same file" in capsys.readouterr().err
    saved = "".join(path.read_text() for path in Path("runs").rglob("*.[jt][sx]*"))
    assert "secret" not in saved + Path("runs/submissions.csv").read_text()
    assert '"group"' not in Path("runs/tiny/config.json").read_text()


def test_a_leaderboard_that_cannot_be_used_shows_before_the_work(
    competition: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEADERBOARD_URL", "http://example.org/")
    assert pipeline.main(["--stage", "all", "--data", str(competition)]) == 1
    assert "--url without --group" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["send", "history", "serve"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], [command, "--help"]):
        with pytest.raises(SystemExit) as end:
            submit.main(words)
        assert end.value.code == 0 and command in capsys.readouterr().out


def test_help_needs_no_server_and_no_pandas() -> None:
    loads = "import sys, lookalike.leaderboard.submit; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loads], cwd=ROOT, capture_output=True, text=True)
    assert not {"torch", "pandas", "flask", "waitress"} & set(done.stdout.split())
    assert done.returncode == 0
