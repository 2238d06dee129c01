"""The program: what it prints, where, and what it says of mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.evaluation.scoring import score
from tests.conftest import ROOT, Program
from tests.evaluation.test_scoring import GOOD, LABELS


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    (tmp_path / "labels.json").write_text(json.dumps(LABELS._asdict()))
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(GOOD))
    return path


@pytest.mark.parametrize("program", ["evaluate.py", "evaluate"])
def test_json_is_all_that_is_printed(run_program: Program, submission: Path, program: str) -> None:
    done = run_program(program, submission, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == score(GOOD, LABELS)
    assert "fewer than 10" in done.stderr and "q1.jpg" in done.stderr
    assert "left out: q3.jpg" in done.stderr


def test_the_table_shows_measures_intervals_and_queries(
    run_program: Program, submission: Path
) -> None:
    done = run_program("evaluate.py", submission, "--per-query", "--k", "3")
    assert "recall@3" in done.stdout and "map@10_hits" in done.stdout and "95 %" in done.stdout
    assert "2 queries, 0 missing, 1 left out" in done.stdout
    assert "q1.jpg" in done.stdout and "first hit at" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.json", "--labels", "labels.json"], "nowhere.json: cannot be read"),
        (["submission.json", "--labels", "nowhere.json"], "nowhere.json: no such file"),
        (["submission.json", "--k", "2"], "'q1.jpg' has 3 gallery pictures, more than 2"),
        (["submission.json", "--k", "0"], "must be at least 1"),
    ],
)
def test_mistakes_exit_1_without_a_traceback(
    run_program: Program, submission: Path, words: list[str], message: str
) -> None:
    done = run_program("evaluate.py", *words)
    assert done.returncode == 1 and done.stdout == ""
    assert message in done.stderr and "Traceback" not in done.stderr


def test_help_needs_no_pandas() -> None:
    loads = "import sys, lookalike.evaluation.evaluate; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loads], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not {"torch", "pandas"} & set(done.stdout.split())
