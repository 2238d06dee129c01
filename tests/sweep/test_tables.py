"""The tables of a sweep: means, intervals and paired differences, computed by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lookalike.core.errors import UserError
from lookalike.sweep import tables
from lookalike.sweep.grid import Factors
from tests.conftest import files_up_to

BASE = Factors("efficientnet_b0", 0.001, 3, 32)
COSTS = {"efficientnet_b0": {"pictures_per_second": 50.0, "parameters": 4e6, "flops": 8e8}}


def result(seed: int, score: float, **changed: Any) -> dict[str, Any]:
    factors = vars(BASE) | changed
    measures = dict.fromkeys(tables.MEASURES, 0.5) | {"score": score}
    return {
        **factors,
        **measures,
        "seed": seed,
        "row": f"row{seed}",
        "part": "test",
        "ci95": {"score": [score - 10, score + 20]},
        "head_seconds": 2.0,
        "training_pictures": 100,
        "memory": 1e9,
    }


THREE = [
    *(result(seed, score) for seed, score in enumerate((400.0, 450.0, 500.0))),
    *(result(seed, score, lr=0.1) for seed, score in enumerate((390.0, 438.0, 492.0))),
]


def write(results: list[dict[str, Any]], folder: Path) -> tuple[str, pd.DataFrame]:
    text = tables.write_tables(results, COSTS, folder)
    return text, pd.read_csv(folder / "summary.csv")


def test_seeds_are_averaged_and_time_counts_the_embedding(tmp_path: Path) -> None:
    _, summary = write(THREE, tmp_path)
    assert summary.score.tolist() == [450, 440]
    assert (summary.low[0], summary.high[0]) == (400, 500), "± the standard deviation of 50"
    assert summary.training_seconds.tolist() == [4, 4], "2 s, and 100 pictures at 50 a second"
    assert summary.relative.tolist() == pytest.approx([1, 440 / 450])


def test_one_seed_has_the_interval_of_the_bootstrap(tmp_path: Path) -> None:
    text, summary = write([result(0, 400.0), result(0, 390.0, lr=0.1)], tmp_path)
    assert (summary.low[0], summary.high[0]) == (390, 420)
    assert "one seed: unknown" in text


def test_changes_are_compared_seed_by_seed(tmp_path: Path) -> None:
    """A spread of 50 between seeds hides a loss of 10 that every seed shows."""
    text, _ = write(THREE, tmp_path)
    line = next(line for line in text.splitlines() if line.startswith("| lr=0.1"))
    assert "-10.0" in line and "worse" in line and "1e-2 and 1e-1 worse" in line
    half = 4.302653 * np.std([-10, -12, -8], ddof=1) * np.sqrt(1 / 3 + 0.6)
    assert f"{-10 - half:.1f} to {-10 + half:.1f}" in line


def test_the_interval_of_overlapping_splits_holds_the_truth() -> None:
    """200 pictures, of which each seed tests 60: five seeds are no five samples."""
    rng = np.random.default_rng(0)
    held, plain = [], []
    for _ in range(1000):
        gains = rng.normal(size=200)  # of a change that does nothing, by picture
        seeds = np.array([rng.permutation(gains)[:60].mean() for _ in range(5)])
        found = tables.paired_difference(seeds, changes=1)
        held.append(found["low"] <= 0 <= found["high"])
        plain.append(abs(seeds.mean()) <= 2.776 * seeds.std(ddof=1) / np.sqrt(5))
    assert np.mean(held) >= 0.94 and np.mean(plain) < 0.85


def test_many_changes_are_judged_together() -> None:
    differences = np.array([10.0, 12.0, 8.0, 9.0, 11.0])
    one, ten = (tables.paired_difference(differences, changes) for changes in (1, 10))
    assert ten["low"] < one["low"] < 10 < one["high"] < ten["high"]
    assert np.isnan(tables.paired_difference(differences[:1], 1)["low"])


def test_the_baseline_reports_rows_stand_beside_ours(tmp_path: Path) -> None:
    text, _ = write(THREE, tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("| EfficientNet-B0")]
    ours = {tuple(cell.strip() for cell in line.split("|")[2:5]): line for line in lines}
    assert "450.0 ± 50.0" in ours["0.001", "3", "438.7"]
    assert "440.0 ± 51.0" in ours["0.1", "3", "402.8"]
    assert ours["0.01", "3", "405.0"].split("|")[-2].strip() == "-"


def test_a_failed_row_says_why_and_the_others_count(tmp_path: Path) -> None:
    failed = {**vars(BASE), "lr": 0.1, "seed": 0, "row": "row", "failed": "no such <thing>"}
    text, summary = write([result(0, 400.0), failed], tmp_path)
    assert summary.seeds.tolist() == [1, 0] and "no such <thing>" in text
    assert pd.read_csv(tmp_path / "rows.csv").failed[1] == "no such <thing>"


def test_plots_are_drawn_where_there_is_something_to_show(tmp_path: Path) -> None:
    write(THREE, tmp_path)
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == {"score_against_time", "learning_rates", "ablations"}


def test_a_sweep_whose_rows_have_all_failed_has_tables_that_are_read_again(tmp_path: Path) -> None:
    failed = {**vars(BASE), "seed": 0, "row": "row", "failed": "no memory"}
    text, _ = write([failed, failed | {"lr": 0.1}], tmp_path)
    assert "no memory" in text and not list(tmp_path.glob("*.png"))
    summary = tables.read_summary(tmp_path / "summary.csv")
    assert summary.seeds.tolist() == [0, 0] and summary.score.isna().all()


def test_tables_that_do_not_fit_on_the_disk_are_a_sentence(tmp_path: Path) -> None:
    with files_up_to(100), pytest.raises(UserError, match=r"rows\.csv: the disk is full"):
        write(THREE, tmp_path)
    assert not list(tmp_path.iterdir())
