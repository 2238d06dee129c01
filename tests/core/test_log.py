"""The log: on screen and in the file, and errors as exit codes."""

from pathlib import Path

import pytest
import torch

from lookalike.core.errors import UserError
from lookalike.core.log import exit_code, log, log_to, report_each


def test_long_reports_are_cut_on_screen_and_whole_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(tmp_path)
    report_each("pictures are blue", [f"name{i:02}" for i in range(30)])
    screen, book = capsys.readouterr().err, (tmp_path / "log.txt").read_text()
    assert "30 pictures are blue" in screen and "name29" not in screen
    assert all(f"name{i:02}" in book for i in range(30))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("name another --data"), 1, "error: name another --data\n"),
        (OSError("disk full"), 1, "error: disk full\n"),
        (KeyboardInterrupt(), 130, "the same command continues from here"),
    ],
)
def test_expected_errors_are_a_sentence_and_a_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    log_to(None)
    assert exit_code(work) == code
    shown = capsys.readouterr().err
    assert said in shown and "Traceback" not in shown


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)  # type: ignore[arg-type]
    assert exit_code(lambda: None) == 0


def test_times_are_in_the_file_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_to(tmp_path)
    log.info("a line")
    assert capsys.readouterr().err == "a line\n"
    assert (tmp_path / "log.txt").read_text().endswith(" INFO a line\n")


def test_names_from_outside_neither_colour_nor_break_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(tmp_path)
    report_each("names", ["red\x1b[31m", "half\udcff", "line\nerror: forged", "back\rwards", "é"])
    log.warning("%s", "bell\x07")
    for text in (capsys.readouterr().err, (tmp_path / "log.txt").read_text(encoding="utf-8")):
        assert r"red\x1b[31m, half\udcff, line\nerror: forged, back\rwards, é" in text
        assert r"bell\x07" in text and len(text.splitlines()) == 2


def test_a_full_gpu_is_a_sentence_and_no_other_runtime_error_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(error: Exception) -> None:
        raise error

    log_to(None)
    assert exit_code(lambda: fail(torch.OutOfMemoryError("CUDA out of memory"))) == 1
    assert "the GPU's memory is full: name a smaller --batch-size" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="a fault"):
        exit_code(lambda: fail(RuntimeError("a fault")))
