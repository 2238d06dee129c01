"""A run folder shows what a verifier said, its worst errors first."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.core.files import read_json
from lookalike.verification.protocols import PairSettings, read_pairs, read_pictures
from lookalike.verification.results import (
    Answers,
    result_line,
    results_table,
    worst_errors,
    write_results,
)
from tests.conftest import draw_cfp


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    settings = PairSettings(draw_cfp(tmp_path / "cfp"))
    pairs = read_pairs(settings)
    table = pairs.table
    scores = table.same + np.linspace(0, 0.3, len(table))
    scores[5], scores[8] = 1.2, 0.1  # one stranger accepted, one refused who should not be
    return Answers(settings.data, read_pictures(settings, pairs), table, scores.to_numpy())


def test_a_run_folder_holds_every_score_and_the_measures(answers: Answers, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    measures = write_results(folder, answers)
    assert measures == read_json(folder / "metrics.json", "")
    assert measures["accuracy"] == pytest.approx(1 - 2 / 32)
    kept = pd.read_csv(folder / "pairs.csv")
    assert kept.score.tolist() == pytest.approx(answers.scores.tolist())
    assert kept[~kept.right].index.tolist() == [5, 8]
    assert kept["where"][0].endswith("same.txt:1")
    assert read_json(folder / "calibration.json", "")["pairs"] == 32
    assert all(Image.open(folder / name).width > 100 for name in ("roc.png", "errors.jpg"))


def test_errors_come_worst_first_and_only_errors() -> None:
    judged = pd.DataFrame(
        {
            "same": [False, False, False, True, True, True],
            "beyond": [0.1, 0.5, -0.2, -0.3, -0.1, np.nan],
            "right": [False, False, True, False, False, False],
        }
    )
    assert worst_errors(judged, same=False).index.tolist() == [1, 0]
    assert worst_errors(judged, same=True).index.tolist() == [3, 4], "the broken one is no picture"


def test_no_errors_are_drawn_too(answers: Answers, tmp_path: Path) -> None:
    perfect = answers._replace(scores=answers.table.same.to_numpy().astype(float))
    assert write_results(tmp_path / "run", perfect)["accuracy"] == 1
    assert Image.open(tmp_path / "run" / "errors.jpg").width > 100


def test_broken_pictures_are_counted(
    answers: Answers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores = answers.scores.copy()
    scores[0] = np.nan
    measures = write_results(tmp_path / "run", answers._replace(scores=scores))
    assert measures["unanswered"] == 1 and measures["accuracy"] == pytest.approx(1 - 3 / 32)
    assert "1 of 32 pairs have a picture that cannot be read: answered wrong" in caplog.text


def test_runs_stand_side_by_side(answers: Answers, tmp_path: Path) -> None:
    measures = write_results(tmp_path / "one", answers)
    assert result_line("one", measures)[:4] == ["one", "32", "4", "0.9375 ± 0.0722"]
    table = results_table([tmp_path / "one", tmp_path / "one"])
    assert table.count("0.9375 ± 0.0722") == 2
    with pytest.raises(UserError, match=r"metrics\.json is missing: make it with lookalike verify"):
        results_table([tmp_path / "two"])
