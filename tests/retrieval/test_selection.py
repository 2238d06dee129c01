"""What is chosen is chosen for a reason, and a forecast is honest about what it does not know."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lookalike import pipeline as runner
from lookalike.core.files import read_json
from lookalike.core.numeric import unit
from lookalike.core.runs import Run
from lookalike.core.settings import RetrieveSettings, Settings, TrainSettings
from lookalike.data.splits import load_split, run_split
from lookalike.retrieval.forecast import count_people, extrapolate, subset
from lookalike.retrieval.labelled_tasks import Judged, LabelledTask, People, labelled_people
from lookalike.retrieval.selection import chance_of_none, thresholds
from tests.conftest import FAST

DOMAINS = ("--domain-pattern", "(?P<domain>photo|drawing)_")


def judged(score: np.ndarray, each: int = 4) -> Judged:
    """Queries of people with `each` pictures."""
    names = [f"p{i // each}" for i in range(len(score))]
    return Judged({"score": score.astype(float)}, names)


def test_a_gain_for_everybody_is_believed_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    before = rng.choice([0.0, 600.0, 1000.0], size=80)
    assert chance_of_none(judged(before + 5), judged(before)) == 0
    assert chance_of_none(judged(before), judged(before)) == 1
    assert chance_of_none(judged(before - 5), judged(before)) == 1
    one_person = before.copy()
    one_person[:4] += 400
    assert chance_of_none(judged(one_person), judged(before)) > 0.2
    assert 0.2 < chance_of_none(judged(rng.permutation(before)), judged(before)) < 0.99


@pytest.fixture
def run(competition: Path, tmp_path: Path) -> Run:
    settings = Settings()
    settings.split.domain_pattern = DOMAINS[1]
    run = Run(tmp_path / "run", competition, settings)
    run_split(run)
    return run


def test_the_halves_learn_nothing_from_each_other(run: Run) -> None:
    tasks = labelled_people(run, parts=2).tasks
    people = [{*task.query.values(), *task.gallery.values()} for task in tasks]
    assert len(people[0]) == len(people[1]) == 5 and not people[0] & people[1]
    for task, own in zip(tasks, people, strict=True):
        assert not set(task.seen.values()) & own
        assert all("photo" in path for path in task.query)
        assert all("drawing" in path for path in task.gallery)


def test_with_a_trained_projection_only_the_validation_is_unseen(run: Run) -> None:
    trained = replace(run, settings=replace(run.settings, train=TrainSettings(embed_dim=8)))
    split = load_split(run.path("split.json"))
    (task,) = labelled_people(trained, parts=2).tasks
    assert task.query == split.validation.query
    assert set(task.seen) == {*split.train, *split.holdout}


def clustered(
    count: int, each: int, seed: int, prefix: str = ""
) -> dict[str, tuple[str, np.ndarray]]:
    """{path: (identity, row)} of people as far apart as 16 dimensions allow."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 16))
    rows = unit(np.repeat(centres, each, axis=0) + 0.3 * rng.normal(size=(count * each, 16)))
    return {f"{prefix}{i}": (f"{prefix}{i // each}", row) for i, row in enumerate(rows)}


def test_people_are_counted_by_how_alike_labelled_ones_are() -> None:
    known = clustered(20, 6, seed=1)
    task = LabelledTask({path: name for path, (name, _) in known.items()}, {}, {})
    rows = np.array([row for _, row in known.values()])
    unknown = np.array([row for _, row in clustered(33, 4, seed=2).values()])
    assert count_people(rows, task, unknown) == pytest.approx(33, abs=3)
    alone = np.array([row for _, row in clustered(15, 1, seed=3).values()])
    assert count_people(rows, task, alone) == pytest.approx(15, abs=2)
    assert count_people(rows, task, alone[:1]) == 1


def people_of(known: dict[str, tuple[str, np.ndarray]], noise: float) -> People:
    """The task of finding a person's even pictures by their odd ones."""
    rng = np.random.default_rng(7)
    names = {path: name for path, (name, _) in known.items()}
    sides = [{p: n for p, n in names.items() if int(p) % 2 == odd} for odd in (1, 0)]
    rows = {p: unit((row + noise * rng.normal(size=16))[None])[0] for p, (_, row) in known.items()}
    catalogue = pd.DataFrame({"path": list(names), "domain": ""})
    return People(catalogue, "photo", [LabelledTask(sides[0], sides[1], {})], rows)


def test_more_people_are_harder_and_the_forecast_knows() -> None:
    people = people_of(clustered(24, 6, seed=4), noise=0.5)
    settings = RetrieveSettings()
    whole = people.judge(settings)
    few, many = (
        extrapolate(people, settings, whole, count, {"query": 3 * count, "gallery": 3 * count}, 0)
        for count in (6, 200)
    )
    measured = whole.mean("score")
    assert few[0] > measured > many[0]
    for expected, (low, high) in (few, many):
        assert 0 <= low <= expected <= high <= 1000


def test_a_subset_has_the_pictures_a_person_that_the_test_has() -> None:
    people = people_of(clustered(10, 8, seed=5), noise=0.1)
    chosen = {"1", "2", "3", "4"}
    part = subset(people.tasks[0], chosen, {"query": 2, "gallery": 99}, np.random.default_rng(0))
    assert len(part.query) == 8 and len(part.gallery) == 16
    assert {*part.query.values(), *part.gallery.values()} <= chosen


def test_thresholds_are_what_few_pairs_of_two_people_reach() -> None:
    people = people_of(clustered(12, 6, seed=6), noise=0.2)
    query, _ = thresholds(people, RetrieveSettings())
    names = np.array(list(people.tasks[0].query.values()))
    rows = people.stack(people.tasks[0].query)
    cosines = (rows @ rows.T)[names[:, None] != names]
    assert query == sorted(query) and (cosines >= query[0]).mean() == pytest.approx(0.01, abs=0.01)


def test_auto_chooses_writes_a_recipe_and_forecasts(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--stage", "all", "--data", str(competition), *DOMAINS]
    settings = ["--auto", *FAST, "--auto-backbones", FAST[1]]
    assert runner.main([*words, *settings]) == 0
    said = capsys.readouterr().err
    assert "auto has chosen" in said and "forecast of the test: " in said
    run = Path("runs/tiny")
    tried = pd.read_csv(run / "auto.csv")
    assert {"crop face", "flip on", "centred, with its steps", "rerank reciprocal"} <= set(
        tried.choice
    )
    assert (tried.chance_of_none[tried.kept] < 0.05).all()
    forecast = read_json(run / "metrics.json", "")["forecast"]
    low, high = forecast["ci95"]["score"]
    assert 0 <= low <= forecast["score"] <= high <= 1000
    # What was chosen is a recipe: the same submission without choosing again.
    assert runner.main([*words, "--config", str(run / "auto.json"), "--run", "runs/again"]) == 0
    assert (run / "submission.json").read_bytes() == (
        Path("runs/again/submission.json").read_bytes()
    )
    capsys.readouterr()
    assert runner.main([*words, *settings]) == 0
    assert "auto: inputs unchanged" in capsys.readouterr().err
    chosen = json.loads((run / "auto.json").read_text())
    assert read_json(run / "config.json", "")["center"] == chosen["center"]


def test_without_labelled_people_nothing_is_chosen_or_forecast(
    competition: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (competition / "training").rename(tmp_path / "elsewhere")
    assert runner.main(["--stage", "all", "--data", str(competition), "--auto", *FAST]) == 0
    said = capsys.readouterr().err
    assert "nothing is chosen" in said and "too few labelled people to forecast" in said
    assert "forecast" not in read_json(Path("runs/tiny/metrics.json"), "")
