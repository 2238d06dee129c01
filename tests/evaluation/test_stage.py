"""The stage: which labels count, and what metrics.json holds with and without them."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lookalike.core.errors import UserError
from lookalike.core.files import write_json
from lookalike.core.runs import Run
from lookalike.core.settings import Settings
from lookalike.data.catalogue import COLUMNS, write_catalogue
from lookalike.data.splits import RetrievalTask, Split
from lookalike.evaluation.scoring import score
from lookalike.evaluation.stage import labels_path, labels_state, run_evaluate
from tests.evaluation.test_scoring import GOOD, LABELS

VALIDATION = RetrievalTask({"ada/1.jpg": "ada"}, {"ada/2.jpg": "ada", "bo/1.jpg": "bo"})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a submission and a validation; its data set has an empty test and no labels."""
    data = tmp_path / "data"
    for part in ("query", "gallery"):
        (data / "test" / part).mkdir(parents=True)
    run = Run(tmp_path / "run", data, Settings())
    write_json(run.path("split.json"), Split("disjoint", False, {}, {}, VALIDATION).as_json())
    write_json(run.path("submission.json"), GOOD)
    test = dict.fromkeys(COLUMNS, "") | {"path": "test/query/q.jpg", "part": "query"}
    write_catalogue(run.path("test.csv"), pd.DataFrame([test]))
    write_json(run.path("validation.json"), {"ada/1.jpg": ["ada/2.jpg", "bo/1.jpg"]})
    return run


def metrics_of(run: Run) -> dict[str, dict[str, object]]:
    metrics: dict[str, dict[str, object]] = json.loads(run.path("metrics.json").read_text())
    return metrics


def test_test_and_validation_are_scored_where_the_labels_are_known(run: Run) -> None:
    write_json(run.data / "labels.json", LABELS.as_json())
    assert run_evaluate(run) == "score: test 700.0, validation 1000.0"
    metrics = metrics_of(run)
    assert metrics == {
        "test": score(GOOD, LABELS),
        "validation": score(run.path("validation.json"), VALIDATION),
    }
    assert json.loads(run.path("labels.json").read_text()) == LABELS.as_json()


def test_without_labels_only_the_validation_is_scored_and_the_forecast_is_added(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "is_current", lambda run, stage: stage == "forecast")
    write_json(run.path("labels.json"), LABELS.as_json())
    write_json(run.path("forecast.json"), {"score": 900.0, "ci95": {"score": [800, 950]}})
    assert run_evaluate(run) == "score: validation 1000.0"
    assert list(metrics_of(run)) == ["validation", "forecast"]
    assert not run.path("labels.json").exists(), "labels of an earlier run"


def test_a_run_that_trained_on_everything_has_no_validation(run: Run) -> None:
    settings = replace(run.settings, train=replace(run.settings.train, refit=True))
    assert run_evaluate(replace(run, settings=settings)) == "score: nothing to score against"


def test_labels_of_the_settings_come_before_those_of_the_data_set(run: Run) -> None:
    assert labels_path(run) is None and labels_state(run) == ""
    ours, named = run.data / "labels.json", run.data / "named.json"
    write_json(ours, LABELS.as_json())
    assert labels_path(run) == ours
    before = labels_state(run)
    write_json(ours, LABELS._replace(query={}).as_json())
    assert labels_state(run) != before
    run.settings.evaluate.labels = named
    assert labels_path(run) == named


def test_labels_without_a_data_set_have_to_be_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data set there, and no --labels"):
        labels_path(replace(run, data=tmp_path / "nowhere"))
