"""`lookalike runs`: a line for each run, the best forecast first, damaged files named."""

import json
from pathlib import Path

import pandas as pd
import pytest

from lookalike import cli
from lookalike.leaderboard.history import COLUMNS

MEASURES = ("score", "recall@1", "recall@5", "recall@10", "map", "map@10", "map@10_hits")


def write_run(
    name: str, forecast: float | None, test: float | None = None, **settings: object
) -> None:
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    metrics = {}
    if forecast is not None:
        ends = [forecast - 10, forecast + 10]
        metrics["forecast"] = {"score": forecast, "ci95": {"score": ends}}
    if test is not None:
        measures = dict.fromkeys(MEASURES, 0.5) | {"score": test}
        metrics["test"] = {**measures, "ci95": {"score": [test - 50, test + 50]}}
    (folder / "config.json").write_text(json.dumps({"lr": 0.001, **settings}))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "timing.json").write_text(json.dumps({"train": 90.0, "index": 30.0}))


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run("low", 400.0, data="data/x")
    write_run("high", 900.0, 880.0, backbone="sface", scales=[1.0, 0.9], data="data/x")
    write_run("unknown", None)
    (tmp_path / "runs" / "no run").mkdir()


def test_the_best_forecast_stands_first_with_what_differs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = dict.fromkeys(COLUMNS, "") | {"run": "runs/high", "score": "871.5"}
    pd.DataFrame([row]).to_csv("runs/submissions.csv", index=False)
    assert cli.main(["runs", "--csv", "all.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["runs/high", "runs/low", "runs/unknown"]
    assert "900.0 (890 to 910)" in lines[0] and "880.0 (830 to 930)" in lines[0]
    assert lines[0].endswith("871.5          2.0        backbone=sface, scales=1.0 0.9")
    assert lines[1].endswith("the defaults") and lines[2].split()[3:5] == ["-", "-"]
    table = pd.read_csv("all.csv").set_index("run")
    assert table.forecast["runs/high"] == 900 and table.minutes["runs/low"] == 2
    assert table.leaderboard["runs/high"] == 871.5 and pd.isna(table.test["runs/low"])


def test_a_damaged_run_is_named_and_the_others_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("runs/low/metrics.json").write_text('{"forecast": 3}')
    assert cli.main(["runs"]) == 0
    output = capsys.readouterr()
    assert "runs/high" in output.out and "runs/low" in output.out
    assert "runs/low/metrics.json" in output.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["runs/no run"], "no run there; make one"),
        (["--submissions", "runs/low/config.json"], "is no history of submissions"),
    ],
)
def test_what_cannot_be_listed_is_a_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["runs", *words]) == 1
    assert said in capsys.readouterr().err
