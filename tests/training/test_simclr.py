"""The command says what it does and what is wrong before it loads PyTorch."""

import subprocess
import sys

import pytest

from lookalike.training.simclr import main
from tests.conftest import ROOT


def test_the_help_page_loads_no_torch() -> None:
    program = "import sys; from lookalike.cli import main\ntry: main(['simclr', '--help'])\n"
    program += "except SystemExit: pass\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert "--temperature" in done.stdout and done.stdout.endswith("False\n"), done.stderr


def test_a_setting_out_of_bounds_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["missing", "--temperature", "0"]) == 1
    assert "--temperature 0.0: must be above 0" in capsys.readouterr().err


def test_a_run_that_is_missing_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["missing"]) == 1
    assert "no run there" in capsys.readouterr().err
