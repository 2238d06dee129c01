"""The sweep: its grid, rows that resume, fail and are logged, and options that it refuses."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lookalike.core.errors import UserError
from lookalike.core.files import only_process
from lookalike.core.readers import read_json
from lookalike.core.sealed import write_sealed
from lookalike.evaluation.results import Measures
from lookalike.sweep import grid
from lookalike.sweep.grid import (
    Factors,
    GridRow,
    SweepSettings,
    failure_reason,
    make_grid,
    read_result,
    run_measured,
)
from tests.conftest import FAST, ROOT, Program

BLOCK: dict[str, Any] = dict.fromkeys(Measures.__annotations__, 1.0)
BLOCK |= {"ci95": {"score": (0.5, 1.5)}}
SETTINGS = SweepSettings(
    Path("tiny"), backbones="a,b", lrs="1e-1,1e-3", epochs="3", batch_sizes="8,32"
)


def test_one_factor_at_a_time_starts_from_the_defaults() -> None:
    base = Factors("a", 0.001, 3, 32)
    changed: list[dict[str, Any]] = [{"backbone": "b"}, {"lr": 0.1}, {"batch_size": 8}]
    changed += [{"normalization": "none"}, {"train_views": 4}]
    factors = make_grid(replace(SETTINGS, ablate="normalization,augmentation"))
    assert factors == [base, *(replace(base, **change) for change in changed)]


def test_every_combination_has_ablations_of_the_base_only() -> None:
    rows = make_grid(replace(SETTINGS, grid="all", ablate="normalization"))
    assert len(rows) == len(set(rows)) == 2 * 2 * 2 + 1
    assert [factors.normalization for factors in rows].count("none") == 1


@pytest.mark.parametrize(
    ("changed", "words", "reason"),
    [
        ({"lrs": "0.1,x"}, [], "--lrs 0.1,x: not a list of numbers"),
        ({"epochs": "1.5"}, [], "--epochs 1.5: not a list of numbers"),
        ({"seeds": ""}, [], "--seeds: name at least one"),
        ({"ablate": "luck"}, [], "--ablate luck: can be normalization, augmentation"),
        ({"lrs": "-1"}, [], "--lr -1.0: must be above 0"),
        ({"data": None}, [], "by --data or by --source-path"),
        ({"data": Path("nowhere")}, [], "nowhere: no such folder"),
        ({}, ["--lr=1"], "--lr cannot be given after --"),
        ({}, ["--run", "x"], "--run cannot be given after --"),
        ({"log_to": "wandb"}, [], "--log-to wandb needs its package: pip install wandb"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_row(
    changed: dict[str, Any], words: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tiny").mkdir()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError) as caught:
        grid.run_sweep(replace(SETTINGS, **changed), words)
    assert reason in str(caught.value)


def test_names_of_rows_are_names_of_folders() -> None:
    row = GridRow(Factors("onnx:my/model.onnx", 1e-5, 3, 32), 2)
    assert row.name == "onnx_my_model.onnx-1e-05-3-32-auto-0-seed2"


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, float]]]:
    """What a tracker is told; Weights & Biases itself is replaced."""
    told: list[tuple[str, str, dict[str, float]]] = []

    def init(project: str, name: str, config: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(
            log=lambda numbers, step: told.append((project, name, numbers)),
            finish=lambda exit_code: None,
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return told


@pytest.mark.slow
def test_a_sweep_resumes_and_a_row_that_fails_says_why(
    competition: Path,
    tracked: list[tuple[str, str, dict[str, float]]],
) -> None:
    words = ["--data", str(competition), "--epochs", "1", "--log-to", "wandb", "--backbones"]
    row_options = ["--", "--weights", "none", "--embed-dim", "8"]
    assert grid.main([*words, f"{FAST[1]},nosuch", *row_options]) == 0
    out = Path("runs/benchmark")
    text = (out / "report.md").read_text()
    assert "| test_efficientnet" in text and "--backbone nosuch: unknown" in text
    name = f"{FAST[1]}-0.001-1-32-auto-0-seed0"
    measured = read_json(out / "rows" / name / "row.json", "")["result"]
    score = read_json(out / "rows" / name / "metrics.json", "")["test"]["score"]
    assert measured["score"] == score and measured["memory"] > 1e8
    project, row, numbers = tracked[0]
    assert (project, row) == ("retrieval-benchmark", name)
    assert numbers["score"] == score and "recall_at_1" in numbers
    before = (out / "rows" / name / "row.json").stat().st_mtime_ns
    assert grid.main([*words, FAST[1], *row_options]) == 0
    assert (out / "rows" / name / "row.json").stat().st_mtime_ns == before
    assert [entry[1] for entry in tracked].count(name) == 1, "a row is logged once"


def test_a_row_of_other_data_or_options_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def run(command: list[str], output: Path) -> tuple[int, int]:
        done.append(" ".join(command))
        output.write_text("error: not today\n")
        return 1, 0

    monkeypatch.setattr(grid, "run_measured", run)
    row = GridRow(Factors("a", 0.001, 3, 32), 0)
    settings = replace(SETTINGS, out=tmp_path)
    assert grid.run_row(settings, row, [], "one") == {"failed": "not today"}
    path = tmp_path / "rows" / row.name / "row.json"
    good = {**BLOCK, "part": "test", "head_seconds": 2.0, "training_pictures": 9}
    write_sealed(path, read_json(path, "") | {"result": good})
    assert grid.run_row(settings, row, [], "one")["score"] == 1.0 and len(done) == 1
    assert "failed" in grid.run_row(settings, row, [], "two")
    assert "failed" in grid.run_row(settings, row, ["--embed-dim=8"], "two") and len(done) == 3
    assert "--embed-dim=8" in done[-1] and "submit" not in done[-1]


@pytest.mark.parametrize(
    "damage",
    [
        {"result": {"score": 1.0}},
        {"result": ["failed"]},
        {"made_from": "one"},
        {"result": {"part": "test"}},
    ],
)
def test_a_damaged_row_is_run_again_and_named(
    damage: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    row, settings = GridRow(Factors("a", 0.001, 3, 32), 0), replace(SETTINGS, out=tmp_path)
    monkeypatch.setattr(grid, "run_measured", lambda command, output: (output.touch() or 1, 0))
    made_from = {"arguments": grid.row_arguments(settings, row, []), "state": "one"}
    good = {**BLOCK, "part": "test", "head_seconds": 2.0, "training_pictures": 9}
    path = tmp_path / "rows" / row.name / "row.json"
    record = {"made_from": made_from, "result": good}
    write_sealed(path, record)
    assert grid.run_row(settings, row, [], "one")["score"] == 1.0
    path.write_text(json.dumps(record | damage))
    assert grid.run_row(settings, row, [], "one") == {"failed": "it printed nothing"}
    assert "the row is run again" in caplog.text and "row.json" in caplog.text


def test_damaged_costs_are_measured_again_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    costs = {"parameters": 4e6, "flops": None, "pictures_per_second": 50.0}
    write_sealed(tmp_path / "nosuch.json", costs)
    assert grid.backbone_costs("nosuch", tmp_path) == costs
    (tmp_path / "nosuch.json").write_text(json.dumps(costs | {"parameters": "many"}))
    assert grid.read_if_good(grid.read_costs, tmp_path / "nosuch.json", "measured again") is None
    assert "measured again" in caplog.text


def test_a_row_that_outlived_a_kill_is_left_alone(tmp_path: Path) -> None:
    row = GridRow(Factors("a", 0.001, 3, 32), 0)
    folder = tmp_path / "rows" / row.name
    with only_process(folder / ".lock", "it"), pytest.raises(UserError, match="another process"):
        grid.run_row(replace(SETTINGS, out=tmp_path), row, [], "one")
    assert folder.is_dir()


def test_a_command_is_run_with_the_package_and_its_memory_is_measured(tmp_path: Path) -> None:
    program = (
        "import lookalike; print(lookalike.__name__); x = b'1' * 50_000_000; raise SystemExit(3)"
    )
    code, peak = run_measured([sys.executable, "-c", program], tmp_path / "output.txt")
    assert code == 3 and (tmp_path / "output.txt").read_text() == "lookalike\n"
    assert peak > 50_000_000


def test_the_reason_of_a_failure_is_its_last_error_else_its_last_line() -> None:
    assert failure_reason("error: one\nerror: two\nepoch 3\n") == "two"
    assert failure_reason("epoch 3\nKilled\n") == "Killed"
    assert failure_reason("") == "it printed nothing"


def test_a_result_is_that_of_the_test_else_of_the_validation(tmp_path: Path) -> None:
    row = GridRow(replace(Factors("a", 0.001, 3, 32), train_views=4), 0)
    empty: dict[str, Any] = {"query": {}, "gallery": {}}
    files: dict[str, Any] = {
        "metrics": {"test": BLOCK, "validation": BLOCK | {"score": 2.0}},
        "stages": {"train": {"seconds": 5.0, "embedding_seconds": 3.0}},
        "split": {
            "kind": "disjoint",
            "closed_set": False,
            "train": {"a": "x", "b": "x"},
            "holdout": {"c": "x"},
            "validation": empty,
        },
    }
    expected = {"part": "test", **BLOCK, "head_seconds": 2.0, "training_pictures": 9}
    for part in ("test", "validation", None):
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        result = read_result(tmp_path, row)
        if part == "test":
            assert result == expected
        elif part == "validation":
            assert result == expected | {"part": "validation", "score": 2.0}
        else:
            assert "could be scored" in result["failed"]
        files["metrics"].pop(part, None)


def test_the_help_page_loads_no_library_of_the_work(run_program: Program) -> None:
    """It shows at once: PyTorch, pandas and SciPy take seconds to import."""
    assert "--backbones" in run_program("sweep", "--help").stdout
    code = (
        "import sys, lookalike.sweep.grid; print({'torch', 'pandas', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"
