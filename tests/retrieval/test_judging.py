"""A choice stays only if its gain is significant, corrected for all that were tried with it."""

import numpy as np
import pytest

from lookalike.retrieval.judging import Trial, gain_p_values, record_round
from lookalike.retrieval.labeled_tasks import TaskScores


def ignore(trial: Trial) -> None:
    """Record nothing."""


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
        stayed.append(
            record_round(ignore, ["x"] * 16, with_measures(before), map_measures(results))
        )
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
    assert (
        record_round(trials.append, ["whiten 8", "center True", "hubs csls"], before, results) == 1
    )
    assert [(trial.choice, trial.kept) for trial in trials] == [
        ("whiten 8", False),
        ("center True", True),
        ("hubs csls", False),
    ]
    assert record_round(trials.append, ["center False"], results[1], [before]) is None
    assert record_round(trials.append, [], before, []) is None


def test_a_part_of_the_prior_recipe_stays_unless_it_is_worse() -> None:
    before = with_measures(scores_of(np.full(20, 500.0)))
    better, worse = (with_measures(scores_of(np.full(20, score))) for score in (500.1, 499.9))
    one = with_measures(scores_of(np.r_[np.full(19, 500.0), 600.0]))
    assert record_round(ignore, ["x"], before, [one]) is None
    assert record_round(ignore, ["x"], before, [one], trusted=True) == 0
    assert record_round(ignore, ["x", "y"], before, [worse, better], trusted=True) == 1
    assert record_round(ignore, ["x"], before, [worse], trusted=True) is None
