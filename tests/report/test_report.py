"""The command `lookalike report`: its errors, and what it imports."""

import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.report import report
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere/config.json: cannot be read"),
        (("nowhere", "--perplexity", "0"), "--perplexity 0.0: must be above 1"),
        (("nowhere", "--iterations", "9"), "--iterations 9: must be at least 250"),
    ],
)
def test_bad_input_is_an_error_in_words(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(words) == 1
    assert message in capsys.readouterr().err and not Path("nowhere").exists()


def test_help_answers_without_the_libraries() -> None:
    code = "import sys, lookalike.report.report; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "sklearn", "faiss", "pandas"} & set(done.stdout.split())
