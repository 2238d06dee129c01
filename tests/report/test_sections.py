"""The sections of the report: what is shown, how much of it, and what is left out."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lookalike.core.settings import ReportSettings
from lookalike.evaluation.results import Measures, read_metrics
from lookalike.report.embedding_space import measure_spreads
from lookalike.report.panels import Thumbnails
from lookalike.report.sections import (
    error_tables,
    labeled_rows,
    map_points,
    score_cards,
    sweep_section,
    training_curves,
    widest_spreads,
    with_shades,
)
from tests.report.ranked import make_part


def test_every_block_with_a_score_has_a_card(tmp_path: Path) -> None:
    block = dict.fromkeys(Measures.__annotations__, 0.5) | {"ci95": {"score": [500.0, 700.0]}}
    path = tmp_path / "metrics.json"
    forecast = {"score": 612.5, "ci95": block["ci95"]}
    path.write_text(json.dumps({"test": block, "forecast": forecast, "timing": {"split": 1.0}}))
    test, card = score_cards(read_metrics(path))
    assert (card["name"], card["score"], card["interval"]) == ("forecast", 612.5, (500.0, 700.0))
    assert ("mAP", 0.5, None) in test["measures"] and len(test["measures"]) == 6
    assert card["measures"] == [] and card["left_out"] == 0


def test_a_sweep_is_shown_where_there_is_one(tmp_path: Path) -> None:
    settings = ReportSettings(benchmark=tmp_path)
    assert sweep_section(settings) is None
    line: dict[str, object] = dict.fromkeys(
        "lr epochs batch_size normalization train_views seeds".split(), 1
    )
    line |= dict.fromkeys("score low high recall@1 recall@5 recall@10 map map@10_hits".split(), 0.5)
    line |= dict.fromkeys("training_seconds pictures_per_second parameters flops".split(), 7.0)
    line |= {"backbone": "tiny", "memory": 1e6, "relative": 1.0}
    pd.DataFrame([line]).to_csv(tmp_path / "summary.csv", index=False)
    shown = sweep_section(settings)
    assert shown is not None and shown["rows"][0][0] == "tiny" and "<svg" in shown["plot"]


def test_errors_by_detection_need_detected_faces() -> None:
    tables = error_tables(make_part(), None)
    assert not tables["faces"] and tables["confusions"][0]["retrieved"] == "bo"
    assert list(tables["scores"]) == [
        "by the query's domain",
        "by relevant pictures in the gallery",
    ]
    faces = pd.DataFrame({"path": ["test/q1.jpg", "test/q3.jpg"], "found": ["padded", "at once"]})
    tables = error_tables(make_part(), faces)
    groups = [row["group"] for row in tables["scores"]["by how the query's face was found"]]
    assert tables["faces"] and groups == ["at once", "padded"]


def test_without_a_history_there_are_no_curves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history.csv"
    assert training_curves(path) is None
    path.write_text("epoch,train_loss,holdout_loss,holdout_accuracy\n")
    assert training_curves(path) is None and not caplog.records


HISTORIES = {
    "holdout": "epoch,train_loss,holdout_loss,holdout_accuracy\n1,0.5,0.6,0.7\n2,0.4,0.5,0.8\n",
    "retrieval": "epoch,train_loss,score,spread,lr,minutes\n0,,300,1,0,0\n1,0.5,310,1,0.1,1\n",
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES.keys())
def test_a_damaged_history_is_left_out_and_named(
    history: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history.csv"
    path.write_text(history)
    assert "<svg" in str(training_curves(path)) and not caplog.records
    rows = history.splitlines()
    damages = [history.replace("0.5", "x"), history.replace("0.5", ""), history[:-4], ""]
    damages += [history.replace("train_loss", "loss"), f"{rows[0]}\n0,,300,1,0,0\n", "\0"]
    for number, damaged in enumerate(damages, 1):
        path.write_text(damaged)
        assert training_curves(path) is None
        assert caplog.text.count("left out of the report") == number


def test_a_damaged_summary_of_a_sweep_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "summary.csv").write_text("backbone,score\nsface,high\n")
    assert sweep_section(ReportSettings(benchmark=tmp_path)) is None
    assert "left out of the report" in caplog.text and "make it anew with lookalike" in caplog.text


def test_labeled_rows_are_readable_and_have_an_identity() -> None:
    part = make_part()
    part.gallery.loc["a2", "problem"] = "unreadable"
    rows = labeled_rows(part)
    assert rows.identity.tolist() == ["ada", "ada", "bo", "nobody", "ada", "bo", "cy"]
    with pytest.raises(ValueError, match="the test has no labels"):
        labeled_rows(make_part(labels=None))


def test_points_of_the_map_refer_to_sorted_names() -> None:
    rows = labeled_rows(make_part())
    positions = np.linspace(0, 1, 2 * len(rows)).reshape(-1, 2)
    points = map_points(rows, positions, Thumbnails(Path()))
    assert points["identities"] == ["ada", "bo", "cy", "nobody"]
    assert points["domains"] == ["film", "flat", "line", "photo"]
    x, y, thumbnail, identity, domain, path = points["points"][2]
    assert (x, y) == pytest.approx(positions[2], abs=1e-4) and path == "test/q3.jpg"
    assert points["identities"][identity] == "bo" and points["domains"][domain] == "film"
    assert thumbnail == 0, "the rows of this test have one content"


def test_shades_compare_distances_outside_the_diagonal() -> None:
    shades = [[shade for _, shade in row] for row in with_shades(np.array([[0, 1.0], [3.0, 0]]))]
    assert shades == [[1.0, 1.0], [0.0, 1.0]]
    assert with_shades(np.zeros((1, 1))) == [[(0.0, 1.0)]]


def test_box_plots_are_of_the_widest_identities() -> None:
    rows = np.deg2rad([0, 1, 90, 120, 50])
    spreads = measure_spreads(np.column_stack([np.cos(rows), np.sin(rows)]), list("aabbc"))
    assert list(widest_spreads(spreads)) == ["b", "a"], "one picture has no distances"
