"""The run folder: its settings, and stages that know when there is nothing to do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lookalike.core import runs
from lookalike.core.errors import UserError
from lookalike.core.files import write_json
from lookalike.core.log import log_to
from lookalike.core.options import parse_settings
from lookalike.core.readers import read_json
from lookalike.core.runs import BEFORE_REPORT, RESULT, Run, Stage, open_run
from lookalike.core.settings import Settings


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
    assert len(done) == 3, "its output was changed by someone else"
    (tmp_path / "out.json").unlink()
    run.do(stage)
    assert len(done) == 4, "its output is gone"
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


def test_settings_are_saved_and_the_run_opened_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    settings = parse_settings(["--lr", "0.5", "--url", "https://example.org"])
    Run(Path("runs/a"), Path("data"), settings).save_settings()
    monkeypatch.chdir("/")
    run = open_run(tmp_path / "runs" / "a")
    assert run.data == tmp_path / "data" and run.settings.train.lr == 0.5
    assert run.settings.submit.url is None


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run there; make one with main\.py"):
        open_run(tmp_path)


def test_stages_done_under_the_old_names_of_settings_count(tmp_path: Path) -> None:
    write_json(tmp_path / "in.json", 1)
    run, stage, done = make_run(tmp_path)
    stage = replace(stage, settings=("image_size",))
    run.do(stage)
    path = tmp_path / "stages.json"
    path.write_text(path.read_text().replace('"image_size"', '"side"'))
    run.do(stage)
    assert len(done) == 1


def test_results_are_those_of_the_stages_that_were_done(tmp_path: Path) -> None:
    write_json(tmp_path / "in.json", 1)
    run, stage, _ = make_run(tmp_path)
    run.do(replace(stage, name="split"))
    run.do(replace(stage, name="report"))
    assert list(run.results()) == ["split", "report"]
    before = run.results(BEFORE_REPORT)
    assert list(before) == ["split"] and before["split"].keys() == {*RESULT}


def test_a_file_that_was_changed_is_not_read(tmp_path: Path) -> None:
    write_json(tmp_path / "in.json", 1)
    run, stage, _ = make_run(tmp_path)
    run.do(stage)
    after = replace(stage, name="after", files=("out.json",), outputs=())
    write_json(tmp_path / "out.json", 7)
    for work in (lambda: run.do(after), lambda: run.verify("in.json", "out.json")):
        with pytest.raises(UserError, match=r"out\.json is not what --stage copy wrote"):
            work()
    run.do(stage)
    run.do(after)
    run.verify("in.json", "out.json", "nothing.json")


@pytest.mark.parametrize(
    "value",
    [1, [], {"inputs": 1}, {"inputs": {"settings": []}}, {"outputs": {"out.json": 1}}],
    ids=str,
)
def test_a_damaged_stamp_counts_as_none(value: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "in.json", 1)
    run, stage, done = make_run(tmp_path)
    run.do(stage)
    stamps = read_json(tmp_path / "stages.json", "")
    damaged = stamps["copy"] | value if isinstance(value, dict) else value
    write_json(tmp_path / "stages.json", {"copy": damaged, "else": value})
    assert run.stamps() == {}
    run.do(stage)
    assert len(done) == 2 and run.stamps().keys() == {"copy"}


def test_versions_are_those_that_made_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    write_json(tmp_path / "in.json", 1)
    run, stage, done = make_run(tmp_path)
    for number, name in (("2.9", "copy"), ("2.14", "other")):
        monkeypatch.setattr(runs, "versions", lambda number=number: {"torch": number, "numpy": "2"})
        run.do(replace(stage, name=name))
    run.do(stage)
    assert len(done) == 2
    assert "copy: made by other versions (torch 2.9) and kept" in capsys.readouterr().err
    run.save_settings()
    made = read_json(tmp_path / "versions.json", "")
    assert made == {"torch": "2.9 (copy); 2.14 (other)", "numpy": "2"}


def test_the_code_is_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for text in ("a = 1", "a = 2", "a = 1"):
        (tmp_path / "module.py").write_text(text)
        monkeypatch.setattr(runs, "PACKAGE", tmp_path)
        runs._code_version.cache_clear()
        seen.add(runs.versions()["lookalike"])
    runs._code_version.cache_clear()
    assert len(seen) == 2
