"""A run folder holds every score, the measures and the worst errors of a verifier."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.core.readers import read_json
from lookalike.verification.metrics import FoldMeasures
from lookalike.verification.protocols import read_pairs, read_pictures
from lookalike.verification.results import (
    ScoredPairs,
    mark_answers,
    read_measures,
    result_row,
    results_table,
    worst_errors,
    write_results,
)
from lookalike.verification.settings import PairSettings
from tests.conftest import draw_cfp, files_up_to


@pytest.fixture
def scored(tmp_path: Path) -> ScoredPairs:
    settings = PairSettings(draw_cfp(tmp_path / "cfp"))
    pairs = read_pairs(settings)
    table = pairs.table
    scores = table.same + np.linspace(0, 0.3, len(table))
    scores[5], scores[8] = 1.2, 0.1  # one stranger accepted, one refused who should not be
    return ScoredPairs(settings.data, read_pictures(settings, pairs), table, scores.to_numpy())


def test_a_run_folder_holds_every_score_and_the_measures(
    scored: ScoredPairs, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    measures = write_results(folder, scored)
    assert measures == read_measures(folder)
    assert measures["accuracy"] == pytest.approx(1 - 2 / 32)
    pairs = pd.read_csv(folder / "pairs.csv")
    assert pairs.score.tolist() == pytest.approx(scored.scores.tolist())
    assert pairs[~pairs.right].index.tolist() == [5, 8]
    assert pairs["where"][0].endswith("same.txt:1")
    assert read_json(folder / "calibration.json", "")["pairs"] == 32
    assert all(Image.open(folder / name).width > 100 for name in ("roc.png", "errors.jpg"))


def test_answers_are_right_on_their_side_of_the_threshold() -> None:
    table = pd.DataFrame({"fold": [1, 1, 2, 2], "same": [True, False, True, False]})
    by_fold: list[FoldMeasures] = [
        {"fold": 1, "accuracy": 0.5, "threshold": 0.5},
        {"fold": 2, "accuracy": 0.0, "threshold": 0.7},
    ]
    answers = mark_answers(table, np.array([0.5, 0.6, 0.6, np.nan]), by_fold)
    assert answers.right.tolist() == [True, False, False, False], "without a score it is wrong"
    np.testing.assert_allclose(answers.beyond, [0.0, 0.1, -0.1, np.nan], atol=1e-12)


def test_only_errors_are_drawn_the_worst_first() -> None:
    answers = pd.DataFrame(
        {
            "same": [False, False, False, True, True, True],
            "beyond": [0.1, 0.5, -0.2, -0.3, -0.1, np.nan],
            "right": [False, False, True, False, False, False],
        }
    )
    assert worst_errors(answers, same=False).index.tolist() == [1, 0]
    assert worst_errors(answers, same=True).index.tolist() == [3, 4], (
        "pairs without a score are not drawn"
    )


def test_a_run_without_errors_has_a_sheet_too(scored: ScoredPairs, tmp_path: Path) -> None:
    perfect = scored._replace(scores=scored.table.same.to_numpy().astype(float))
    assert write_results(tmp_path / "run", perfect)["accuracy"] == 1
    assert Image.open(tmp_path / "run" / "errors.jpg").width > 100


def test_unreadable_pictures_are_counted(
    scored: ScoredPairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores = scored.scores.copy()
    scores[0] = np.nan
    measures = write_results(tmp_path / "run", scored._replace(scores=scores))
    assert measures["unanswered"] == 1 and measures["accuracy"] == pytest.approx(1 - 3 / 32)
    assert "1 of 32 pairs have a picture that cannot be read: answered wrong" in caplog.text


def test_runs_are_compared_in_a_table(scored: ScoredPairs, tmp_path: Path) -> None:
    measures = write_results(tmp_path / "one", scored)
    assert result_row("one", measures)[:4] == ["one", "32", "4", "0.9375 ± 0.0722"]
    table = results_table([tmp_path / "one", tmp_path / "one"])
    assert table.count("0.9375 ± 0.0722") == 2
    with pytest.raises(UserError, match=r"metrics\.json is missing: make it with lookalike verify"):
        results_table([tmp_path / "two"])


@pytest.mark.parametrize(("size", "name"), [(10, "pairs.csv"), (20_000, "roc.png")])
def test_results_that_do_not_fit_on_the_disk_are_a_sentence(
    size: int, name: str, scored: ScoredPairs, tmp_path: Path
) -> None:
    with files_up_to(size), pytest.raises(UserError, match=f"{name}: the disk is full"):
        write_results(tmp_path / "run", scored)
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "Expected `object`, got `array`"),
        ('{"test": {}}', "not a run of lookalike verify"),
        ('{"by_fold": []}', "missing required field"),
        ("{", "make it anew with lookalike verify"),
    ],
)
def test_damaged_measures_are_an_error_in_words(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=said):
        results_table([tmp_path])


def test_a_changed_measure_is_noticed(scored: ScoredPairs, tmp_path: Path) -> None:
    write_results(tmp_path, scored)
    path = tmp_path / "metrics.json"
    path.write_text(path.read_text().replace('"accuracy": 0.9', '"accuracy": 0.8', 1))
    with pytest.raises(UserError, match=r"metrics\.json: was changed"):
        results_table([tmp_path])
