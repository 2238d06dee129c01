"""The run folder: whole files, stages that know when there is nothing to do, one process."""

import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.core.errors import UserError
from lookalike.core.files import listing, only_process, read_json, whole_file, write_json
from lookalike.core.log import log_to, report_each
from lookalike.core.options import parse_settings
from lookalike.core.runs import Run, Stage
from lookalike.core.settings import Settings
from tests.conftest import ROOT


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_reading_json_says_what_makes_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"split\.json is missing: make it with --stage split"):
        read_json(tmp_path / "split.json", "--stage split")
    (tmp_path / "split.json").write_text("{")
    with pytest.raises(UserError, match="make it anew with --stage split"):
        read_json(tmp_path / "split.json", "--stage split")


def make_run(folder: Path, *words: str) -> tuple[Run, Stage, list[str]]:
    """A run with one stage that copies in.json to out.json, and the list of its works."""
    done: list[str] = []

    def work(run: Run) -> str:
        done.append("worked")
        write_json(run.path("out.json"), read_json(run.path("in.json"), "hand"))
        return "a copy"

    settings = parse_settings(words) if words else Settings()
    files = {"settings": ("seed", "weights"), "files": ("in.json",), "outputs": ("out.json",)}
    return Run(folder, folder, settings), Stage("copy", work, **files), done  # type: ignore[arg-type]


def test_a_stage_is_redone_only_when_something_changed(tmp_path: Path) -> None:
    write_json(tmp_path / "in.json", 1)
    run, stage, done = make_run(tmp_path)
    run.do(stage)
    run.do(stage)
    assert len(done) == 1, "nothing changed"
    write_json(tmp_path / "in.json", 2)
    run.do(stage)
    assert len(done) == 2, "a file that it reads changed"
    (tmp_path / "out.json").write_text("broken")
    run.do(stage)
    assert len(done) == 3, "what it made was changed by someone else"
    (tmp_path / "out.json").unlink()
    run.do(stage)
    assert len(done) == 4, "what it made is gone"
    (tmp_path / "stages.json").write_text("{ broken")
    run.do(stage)
    assert len(done) == 5, "its memory is gone"


def test_a_changed_setting_named_file_or_force_redoes_a_stage(tmp_path: Path) -> None:
    write_json(tmp_path / "in.json", 1)
    weights = tmp_path / "w.pth"
    weights.write_text("1")
    words = ["--seed=3", f"--weights={weights}"]
    for change in (lambda: None, lambda: weights.write_text("2"), lambda: words.append("--force")):
        change()
        run, stage, done = make_run(tmp_path, *words)
        run.do(stage)
        assert len(done) == 1
    run, stage, done = make_run(tmp_path, *words[:2])
    run.do(stage)
    assert not done


def test_a_stage_that_fails_is_not_remembered(tmp_path: Path) -> None:
    run, stage, done = make_run(tmp_path)
    with pytest.raises(UserError):
        run.do(stage)
    write_json(tmp_path / "in.json", 1)
    run.do(stage)
    assert len(done) == 2


def test_the_listing_changes_with_names_sizes_and_times(tmp_path: Path) -> None:
    seen = {listing(tmp_path)}
    (tmp_path / "a").write_text("1")
    seen.add(listing(tmp_path))
    (tmp_path / "a").write_text("12")
    seen.add(listing(tmp_path))
    (tmp_path / "a").rename(tmp_path / "b")
    seen.add(listing(tmp_path))
    assert len(seen) == 4
    assert listing(tmp_path) in seen


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path; from lookalike.core.files import only_process\n"
        f"with only_process(Path({str(tmp_path / '.lock')!r}), 'runs/x'): print('held')"
    )
    with only_process(tmp_path / ".lock", "runs/x"):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process works on runs/x" in other.stderr
    after = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert after.stdout == "held\n"


def test_long_reports_are_cut_on_screen_and_whole_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(tmp_path)
    report_each("pictures are blue", [f"name{i:02}" for i in range(30)])
    screen, book = capsys.readouterr().err, (tmp_path / "log.txt").read_text()
    assert "30 pictures are blue" in screen and "name29" not in screen
    assert all(f"name{i:02}" in book for i in range(30))
