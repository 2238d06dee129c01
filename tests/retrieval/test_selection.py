"""--auto: a choice stays only if its gain is significant, and what is chosen is a recipe."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lookalike import pipeline as runner
from lookalike.core.numeric import unit
from lookalike.core.readers import read_json
from lookalike.core.settings import EmbedSettings, RetrieveSettings, RunSettings, Settings
from lookalike.retrieval import selection
from lookalike.retrieval.labeled_tasks import LabeledTask, LabeledTasks, TaskScores
from lookalike.retrieval.selection import (
    Trial,
    add_steps,
    change_embedding,
    choose,
    gain_p_values,
    record_round,
    record_unseen,
    step_choices,
    thresholds,
)
from tests.conftest import FAST
from tests.retrieval.tasks import clustered, tasks_of

DOMAINS = ("--domain-pattern", "(?P<domain>photo|drawing)_")


def scores_of(score: np.ndarray, each: int = 4) -> TaskScores:
    """The scores of queries of identities with `each` pictures."""
    identities = [f"p{i // each}" for i in range(len(score))]
    return TaskScores({"score": score.astype(float)}, identities)


def p_value(after: np.ndarray, before: np.ndarray) -> float:
    return float(gain_p_values([scores_of(after)], scores_of(before))[0])


def test_a_gain_for_all_is_significant_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    before = rng.choice([0.0, 600.0, 1000.0], size=80)
    assert p_value(before + 5, before) < 0.001
    assert p_value(before, before) == 1
    assert p_value(before - 5, before) == 1
    one_identity = before.copy()
    one_identity[:4] += 400
    assert p_value(one_identity, before) == pytest.approx(0.5, abs=0.02)
    assert 0.05 < p_value(rng.permutation(before), before) < 0.99


@pytest.mark.parametrize("winners", [1, 2, 3, 4, 5])
def test_a_few_winners_have_the_p_value_of_the_sign_test(winners: int) -> None:
    before = np.zeros(4 * winners)
    assert p_value(before + 100, before) == pytest.approx(0.5**winners)


def test_choices_without_an_effect_stay_as_seldom_as_stated() -> None:
    rng = np.random.default_rng(1)
    stayed = []
    for _ in range(200):
        before = scores_of(np.repeat(rng.normal(500, 200, 20), 4))
        results = [
            scores_of(before.values["score"] + np.repeat(rng.normal(0, 40, 20), 4))
            for _ in range(16)
        ]
        stayed.append(record_round([], ["x"] * 16, with_measures(before), map_measures(results)))
    assert np.mean([number is not None for number in stayed]) < 0.08


def with_measures(scores: TaskScores) -> TaskScores:
    """The same scores, with the other measures of a trial's row."""
    values = dict.fromkeys(("score", "recall@1", "map"), scores.values["score"])
    return scores._replace(values=values)


def map_measures(results: list[TaskScores]) -> list[TaskScores]:
    return [with_measures(result) for result in results]


def test_the_best_significant_gain_stays() -> None:
    before = with_measures(TaskScores({"score": np.full(20, 0.5)}, [f"p{i}" for i in range(20)]))
    gains = (0.1, 0.2, -0.1)
    results = [
        with_measures(TaskScores({"score": before.values["score"] + gain}, before.identities))
        for gain in gains
    ]
    trials: list[Trial] = []
    assert record_round(trials, ["whiten 8", "center True", "hubs csls"], before, results) == 1
    assert [(trial.choice, trial.kept) for trial in trials] == [
        ("whiten 8", False),
        ("center True", True),
        ("hubs csls", False),
    ]
    assert record_round(trials, ["center False"], results[1], [before]) is None
    assert record_round(trials, [], before, []) is None


def test_thresholds_are_cosines_that_few_impostor_pairs_reach() -> None:
    tasks = tasks_of(clustered(12, 6, seed=6), noise=0.2)
    query, _ = thresholds(tasks, RetrieveSettings())
    names = np.array(list(tasks.tasks[0].query.values()))
    rows = tasks.stack(tasks.tasks[0].query)
    cosines = (rows @ rows.T)[names[:, None] != names]
    assert query == sorted(query) and (cosines >= query[0]).mean() == pytest.approx(0.01, abs=0.01)


def test_without_transduction_no_step_looks_at_other_queries() -> None:
    tasks = tasks_of(clustered(12, 6, seed=6), noise=0.2)
    allowed, forbidden = (
        {
            name
            for step in step_choices(tasks, RetrieveSettings(no_transductive=off))
            for name in step
        }
        for off in (False, True)
    )
    assert allowed - forbidden == {"query_neighbors", "rerank"}


def test_the_step_that_gains_most_is_added_first() -> None:
    tasks = tasks_of(clustered(30, 6, seed=8), noise=0.2)
    trials: list[Trial] = []
    start = tasks.score(RetrieveSettings())
    settings, best = add_steps(RetrieveSettings(), tasks, start, trials)
    rounds = [trial for trial in trials if trial.before == start.mean("score")]
    kept = next(trial for trial in rounds if trial.kept)
    significant = [trial.after for trial in rounds if trial.chance_of_none < 0.05]
    assert kept.after == max(significant)
    assert best.mean("score") == tasks.score(settings).mean("score") > start.mean("score")


def test_what_is_said_of_a_choice_comes_from_identities_not_chosen_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 16 backbones of equal worth the best one is taken, whatever its p-value."""
    monkeypatch.setattr(selection, "SIGNIFICANCE", 1.01)
    monkeypatch.setattr(selection, "choose_steps", lambda steps, *_: steps)
    monkeypatch.setattr(
        selection,
        "embedding_choices",
        lambda settings, name, backbones: list(backbones) if name == "backbone" else [],
    )
    names = tuple(f"backbone {number}" for number in range(16))
    settings = Settings(general=RunSettings(auto_backbones=names))
    claimed, unseen = [], []
    for seed in range(8):
        tasks = in_halves(tasks_of(clustered(60, 6, seed), noise=0))
        trials: list[Trial] = []
        embed = partial(embed_with_noise, seed=seed)
        choose(settings, tasks, embed, trials)
        line = record_unseen(settings, tasks, embed, trials)
        kept, last = next(trial for trial in trials if trial.kept), trials[-1]
        claimed.append(kept.after - kept.before)
        unseen.append(last.after - last.before)
        assert f"not chosen on {last.after:.1f}, without any choice {last.before:.1f}" in line
    assert np.mean(claimed) > 40 and abs(np.mean(unseen)) < 20


def in_halves(tasks: LabeledTasks) -> LabeledTasks:
    """The same pictures as two tasks of other identities."""
    (task,) = tasks.tasks
    halves = [
        LabeledTask(*({p: n for p, n in part.items() if int(n) % 2 == odd} for part in task))
        for odd in (0, 1)
    ]
    return LabeledTasks(tasks.catalogue, tasks.query_domain, halves, tasks.rows)


TRUE_ROWS: dict[int, dict[str, np.ndarray]] = {}


def embed_with_noise(tasks: LabeledTasks, settings: EmbedSettings, seed: int) -> None:
    """Give each backbone embeddings that are as good as those of all others, with other errors."""
    rows = TRUE_ROWS.setdefault(seed, dict(tasks.rows))
    rng = np.random.default_rng([seed, *settings.backbone.encode()])
    noise = 0.35 * rng.normal(size=(len(rows), tasks.dim))
    tasks.rows = dict(zip(rows, unit(np.array([*rows.values()]) + noise), strict=True))


def test_another_backbone_has_an_image_size_of_its_own() -> None:
    settings = EmbedSettings(image_size=160)
    assert change_embedding(settings, "backbone", "sface").image_size is None
    assert change_embedding(settings, "flip", "on").image_size == 160


# ---- the stage ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_auto_chooses_writes_a_recipe_and_forecasts(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--stage", "all", "--data", str(competition), *DOMAINS]
    settings = ["--auto", *FAST, "--auto-backbones", FAST[1]]
    assert runner.main([*words, *settings]) == 0
    output = capsys.readouterr().err
    assert "auto has chosen" in output and "forecast of the test: " in output
    run = Path("runs/tiny")
    trials = pd.read_csv(run / "auto.csv")
    expected = {"crop face", "flip on", "centred, with its steps", "rerank reciprocal"}
    assert trials.choice.iloc[-1] == "chosen on one half, scored on the other"
    assert f"on identities not chosen on {trials.after.iloc[-1]:.1f}, without any choice" in output
    assert expected <= set(trials.choice)
    assert (trials.chance_of_none[trials.kept] < 0.05).all()
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


def test_without_labeled_identities_nothing_is_chosen_or_forecast(
    competition: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (competition / "training").rename(tmp_path / "elsewhere")
    stages = ["split", "auto", "train", "index", "retrieve", "forecast", "evaluate"]
    assert runner.main(["--stage", *stages, "--data", str(competition), *FAST]) == 0
    output = capsys.readouterr().err
    assert "nothing is chosen" in output
    assert "too few labeled identities to forecast" in output
    assert "forecast" not in read_json(Path("runs/tiny/metrics.json"), "")
