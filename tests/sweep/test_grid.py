"""The benchmark: its grid, rows that go on, fail and are logged, and words that it refuses."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lookalike.core.errors import UserError
from lookalike.core.files import only_process, read_json
from lookalike.sweep import grid as benchmark
from lookalike.sweep.grid import Factors, Program, Row, make_grid
from tests.conftest import FAST

PROGRAM = Program(Path("tiny"), backbones="a,b", lrs="1e-1,1e-3", epochs="3", batch_sizes="8,32")


def test_one_factor_at_a_time_starts_from_the_defaults() -> None:
    base = Factors("a", 0.001, 3, 32)
    changed: list[dict[str, Any]] = [{"backbone": "b"}, {"lr": 0.1}, {"batch_size": 8}]
    changed += [{"normalization": "none"}, {"train_views": 4}]
    grid = make_grid(replace(PROGRAM, ablate="normalization,augmentation"))
    assert grid == [base, *(replace(base, **change) for change in changed)]


def test_every_combination_has_ablations_of_the_base_only() -> None:
    grid = make_grid(replace(PROGRAM, grid="all", ablate="normalization"))
    assert len(grid) == len(set(grid)) == 2 * 2 * 2 + 1
    assert [factors.normalization for factors in grid].count("none") == 1


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
        ({}, ["--lr=1"], "--lr cannot stand behind --"),
        ({}, ["--run", "x"], "--run cannot stand behind --"),
        ({"log_to": "wandb"}, [], "--log-to wandb needs its package: pip install wandb"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_row(
    changed: dict[str, Any], words: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tiny").mkdir()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError) as caught:
        benchmark.do_benchmark(replace(PROGRAM, **changed), words)
    assert reason in str(caught.value)


def test_names_of_rows_are_names_of_folders() -> None:
    row = Row(Factors("onnx:my/model.onnx", 1e-5, 3, 32), 2)
    assert row.name == "onnx_my_model.onnx-1e-05-3-32-auto-0-seed2"


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, float]]]:
    """What a tracker is told; Weights & Biases itself is not asked."""
    told: list[tuple[str, str, dict[str, float]]] = []

    def init(project: str, name: str, config: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(
            log=lambda numbers, step: told.append((project, name, numbers)),
            finish=lambda exit_code: None,
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return told


def test_a_benchmark_goes_on_and_a_row_that_fails_says_why(
    competition: Path,
    tracked: list[tuple[str, str, dict[str, float]]],
) -> None:
    words = ["--data", str(competition), "--epochs", "1", "--log-to", "wandb", "--backbones"]
    passed = ["--", "--weights", "none", "--embed-dim", "8"]
    assert benchmark.main([*words, f"{FAST[1]},nosuch", *passed]) == 0
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
    assert benchmark.main([*words, FAST[1], *passed]) == 0
    assert (out / "rows" / name / "row.json").stat().st_mtime_ns == before
    assert [entry[1] for entry in tracked].count(name) == 1, "a row is logged once"


def test_a_row_of_other_data_or_words_is_done_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def run(command: list[str], output: Path) -> tuple[int, int]:
        done.append(" ".join(command))
        output.write_text("error: not today\n")
        return 1, 0

    monkeypatch.setattr(benchmark, "run_and_watch", run)
    row = Row(Factors("a", 0.001, 3, 32), 0)
    program = replace(PROGRAM, out=tmp_path)
    assert benchmark.do_row(program, row, [], "one") == {"failed": "not today"}
    path = tmp_path / "rows" / row.name / "row.json"
    path.write_text(json.dumps(read_json(path, "") | {"result": {"score": 1.0}}))
    assert benchmark.do_row(program, row, [], "one") == {"score": 1.0} and len(done) == 1
    assert "failed" in benchmark.do_row(program, row, [], "two")
    assert "failed" in benchmark.do_row(program, row, ["--embed-dim=8"], "two") and len(done) == 3
    assert "--embed-dim=8" in done[-1] and "submit" not in done[-1]


def test_a_row_that_outlived_a_kill_is_left_alone(tmp_path: Path) -> None:
    row = Row(Factors("a", 0.001, 3, 32), 0)
    folder = tmp_path / "rows" / row.name
    with only_process(folder / ".lock", "it"), pytest.raises(UserError, match="another process"):
        benchmark.do_row(replace(PROGRAM, out=tmp_path), row, [], "one")
    assert folder.is_dir()
