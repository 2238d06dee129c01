"""The history: no row is lost, a file of something else is left alone, the best are marked."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lookalike.core.errors import UserError
from lookalike.leaderboard.client import Outcome, Target
from lookalike.leaderboard.history import (
    COLUMNS,
    HistoryRow,
    PreparedSubmission,
    forecast_error,
    history_table,
    read_history,
    record_outcome,
    record_start,
)

HISTORY = Path("runs/submissions.csv")
TARGET = Target("http://example.org/", "us")


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedSubmission:
    path = tmp_path / "submission.json"
    path.write_text('{"q": ["g"]}')
    return PreparedSubmission(path, "f" * 64, {"q": ["g"]}, "runs/x", "", 1.0)


def send(prepared: PreparedSubmission, outcome: Outcome, target: Target = TARGET) -> bool:
    """Record a sending; whether it was a new one."""
    row, earlier = record_start(HISTORY, prepared, target, again=False)
    if earlier is None:
        record_outcome(HISTORY, row, outcome)
    return earlier is None


def test_a_row_stands_there_before_the_outcome_is_known(prepared: PreparedSubmission) -> None:
    row, earlier = record_start(HISTORY, prepared, TARGET, again=False)
    assert earlier is None and read_history(HISTORY) == [row]
    assert row["status"] == "no reply"
    record_outcome(HISTORY, row, Outcome("scored", "", 2.5))
    (done,) = read_history(HISTORY)
    assert (done["status"], done["answer"], done["score"]) == ("scored", "", "2.5000")
    assert forecast_error(done) == -1.5


@pytest.mark.parametrize(
    ("status", "blocks"),
    [
        ("scored", True),
        ("accepted", True),
        ("unclear", True),
        ("no reply", True),
        ("refused", False),
        ("failed", False),
        ("not sent", False),
    ],
)
def test_what_may_have_counted_is_not_sent_again(
    prepared: PreparedSubmission, status: str, blocks: bool
) -> None:
    assert send(prepared, Outcome(status, ""))
    assert send(prepared, Outcome(status, "")) is (not blocks)
    assert send(prepared, Outcome(status, ""), TARGET._replace(group="they"))
    assert record_start(HISTORY, prepared, TARGET, again=True)[1] is None


def test_processes_that_write_at_once_lose_no_row(prepared: PreparedSubmission) -> None:
    def send_one(number: int) -> None:
        target = TARGET._replace(group=f"{number}")
        assert send(prepared, Outcome("scored", "", float(number)), target)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send_one, range(24)))
    rows = read_history(HISTORY)
    assert sorted((float(row["score"]), row["group"]) for row in rows) == [
        (float(number), f"{number}") for number in range(24)
    ]


def test_a_broken_history_is_not_written_over(prepared: PreparedSubmission) -> None:
    assert send(prepared, Outcome("refused", ""))
    HISTORY.write_text(HISTORY.read_text() + "2026-11-22T12:00:00,runs/y,ab")  # half a line
    assert send(prepared, Outcome("refused", ""))
    assert [row["run"] for row in read_history(HISTORY)] == ["runs/x", "runs/y", "runs/x"]
    for text in ("something,else\n1,2\n", ",".join((*COLUMNS, "my notes")) + "\n"):
        HISTORY.write_text(text)
        with pytest.raises(UserError, match="it has other columns"):
            send(prepared, Outcome("refused", ""))
        assert HISTORY.read_text() == text


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"time,run\n",
        b"{}",
        ",".join(COLUMNS).encode() + b"\na,b,c,d,e,f,g,h,i,j,k\n",
        ",".join(COLUMNS).encode() + b'\n"' + b"x" * 200_000,
    ],
)
def test_what_is_no_history_is_an_error_and_left_alone(
    content: bytes, prepared: PreparedSubmission
) -> None:
    HISTORY.parent.mkdir()
    HISTORY.write_bytes(content)
    with pytest.raises(UserError, match=r"is no history of submissions .* move it away"):
        record_start(HISTORY, prepared, TARGET, again=False)
    assert HISTORY.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf"])
def test_an_empty_history_is_one(content: bytes, prepared: PreparedSubmission) -> None:
    HISTORY.parent.mkdir()
    HISTORY.write_bytes(content)
    assert send(prepared, Outcome("scored", "", 2.5))
    assert len(read_history(HISTORY)) == 1


def test_a_history_that_cannot_be_written_lets_nothing_be_sent(
    prepared: PreparedSubmission,
) -> None:
    Path("folder.csv").mkdir()
    with pytest.raises((UserError, OSError), match=r"folder\.csv"):
        record_start(Path("folder.csv"), prepared, TARGET, again=False)


def test_the_best_of_each_leaderboard_is_marked_and_answers_cannot_break_the_table() -> None:
    def row(leaderboard: str, score: str, answer: str = "") -> HistoryRow:
        written = {"leaderboard": leaderboard, "score": score, "answer": answer}
        return dict.fromkeys(COLUMNS, "") | written

    evil = "200: \x1b[31m\n| a table\n"
    rows = [row("http://a/", "10"), row("http://a/", "30"), row("http://b/", "20")]
    rows.append(row("http://b/", "", evil))
    HISTORY.parent.mkdir()
    with HISTORY.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    lines = history_table(read_history(HISTORY)).splitlines()[2:]
    assert [line.startswith("*") for line in lines] == [False, True, True, False]
    assert "\x1b" not in lines[3] and "[31m | a table" in lines[3]


def test_scores_up_to_one_and_their_errors_have_four_digits() -> None:
    row = dict.fromkeys(COLUMNS, "") | {"leaderboard": "http://a/"}
    table = history_table([row | {"score": "0.9125", "forecast": "0.9"}])
    assert "0.9125" in table and "-0.0125" in table and "forecast: 0.0125" in table
    table = history_table([row | {"score": "912.5", "forecast": "913"}])
    assert "912.5" in table and "+0.5\n" in table and "forecast: 0.5 (" in table
