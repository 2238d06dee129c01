"""The command `lookalike`: its usage page, version, and names that it does not know."""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pkgutil import resolve_name

import pytest

import lookalike
from lookalike.cli import COMMANDS, call, main
from tests.conftest import Program


def test_the_usage_page_names_every_command_in_lines_of_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in ([], ["--help"], ["-h"]):
        assert main(words) == 0
        page = capsys.readouterr().out
        assert all(f"  {name} " in page for name in COMMANDS)
        assert max(map(len, page.splitlines())) <= 90 and len(page.splitlines()) < 24


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lookalike {lookalike.__version__}\n"
    with suppress(PackageNotFoundError):  # the package need not be installed
        assert version("lookalike") == lookalike.__version__


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evalute"]) == 2
    assert "no command 'evalute'; did you mean 'evaluate'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_function(name: str) -> None:
    assert callable(resolve_name(COMMANDS[name][0]))


def test_the_package_runs_as_a_module(run_program: Program) -> None:
    result = run_program("extract", "--source", "ftp")
    assert result.returncode == 2 and "competition" in result.stderr


def test_ctrl_c_during_the_import_of_a_command_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "interrupted_module.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    assert call("interrupted_module:main", []) == 130
    assert capsys.readouterr().err == "stopped\n"
