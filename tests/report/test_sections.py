"""The sections of the report: what is shown, how much of it, and what is left out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lookalike.core.settings import ReportSettings
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


def test_every_block_with_a_score_has_a_card() -> None:
    block = {"score": 612.5, "map": 0.5, "ci95": {"score": [500.0, 700.0]}}
    [card] = score_cards({"forecast": block, "timing": {"split": 1.0}, "note": "none"})
    assert (card["name"], card["score"], card["interval"]) == ("forecast", 612.5, [500.0, 700.0])
    assert card["measures"] == [("mAP", 0.5, None)] and card["left_out"] == 0


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


def test_without_a_history_there_are_no_curves(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    assert training_curves(path) is None
    path.write_text("epoch,train_loss\n")
    assert training_curves(path) is None


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
