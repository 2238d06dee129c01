"""Measures agree with scikit-learn; a fold never chooses its own threshold."""

import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import det_curve, roc_auc_score, roc_curve

from lookalike.core.errors import UserError
from lookalike.verification.metrics import (
    best_threshold,
    equal_error_rate,
    evaluate_folds,
    fill_missing_scores,
    fit_calibration,
    log_odds,
    measure_pairs,
    probability,
    true_accepts_at,
)


def random_pairs(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(20, 400))
    same = rng.permutation(count) < rng.integers(5, count - 5)
    scores = rng.normal(same * rng.uniform(0, 3), 1)
    return (scores.round(1) if ties else scores), same


@pytest.mark.parametrize("ties", [False, True])
def test_auc_and_equal_error_rate_are_scikit_learns(ties: bool) -> None:
    for seed in range(50):
        scores, same = random_pairs(seed, ties)
        folds = np.arange(len(same)) % 3
        found = measure_pairs(scores, same, folds, dict.fromkeys(range(3), 0.5))
        assert found["auc"] == roc_auc_score(same, scores)
        false_accepts, true_accepts, _ = roc_curve(same, scores)
        curve = interp1d(false_accepts, true_accepts)
        crossing = brentq(lambda x, curve=curve: 1 - x - curve(x), 0, 1)
        assert found["eer"] == pytest.approx(crossing, abs=1e-9)


def test_equal_error_rate_lies_where_the_det_curve_crosses() -> None:
    scores, same = random_pairs(7, ties=False)
    accepted, refused, _ = det_curve(same, scores)
    near = np.abs(accepted - refused).argmin()
    low, high = sorted((accepted[near], refused[near]))
    assert low <= equal_error_rate(scores, same) <= high


def test_a_perfect_and_a_useless_verifier() -> None:
    same = np.array([True, True, False, False])
    folds = np.array([1, 2, 1, 2])
    perfect = measure_pairs(np.array([0.9, 0.8, 0.2, 0.1]), same, folds)
    assert (perfect["accuracy"], perfect["auc"], perfect["eer"]) == (1, 1, 0)
    assert perfect["tar@far=0.001"] == 1
    useless = measure_pairs(np.zeros(4), same, folds)
    assert (useless["accuracy"], useless["auc"], useless["eer"]) == (0.5, 0.5, 0.5)
    assert useless["tar@far=0.01"] == 0


# ---- folds --------------------------------------------------------------------------------------


def test_a_fold_is_evaluated_at_the_threshold_of_the_others() -> None:
    """By hand: fold 1 alone would choose 0.3, the others choose 0.7 (between 0.6 and 0.8)."""
    scores = np.array([0.4, 0.5, 0.2, 0.1, 0.9, 0.8, 0.6, 0.5, 0.8, 0.8, 0.6, 0.6])
    same = np.array([True, True, False, False] * 3)
    folds = np.repeat([1, 2, 3], 4)
    by_fold = evaluate_folds(scores, same, folds).set_index("fold")
    assert by_fold.threshold[1] == pytest.approx(0.7)
    assert by_fold.accuracy[1] == 0.5, "both same pairs of the fold lie below"
    # Fold 2 sees folds 1 and 3: 0.7 and 0.3 are wrong twice each; the higher one is taken.
    assert by_fold.threshold[2] == pytest.approx(0.7) and by_fold.accuracy[2] == 1
    found = measure_pairs(scores, same, folds)
    assert found["accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert found["accuracy_sd"] == pytest.approx(np.std([0.5, 1, 1], ddof=1))


def test_the_best_threshold_is_found_by_trying_all() -> None:
    for seed in range(30):
        scores, same = random_pairs(seed, ties=seed % 2 == 0)
        levels = np.unique(scores)
        middles = [levels[0] - 1, *((levels[1:] + levels[:-1]) / 2), levels[-1] + 1]
        right = [((scores >= level) == same).sum() for level in middles]
        chosen = best_threshold(scores, same)
        assert ((scores >= chosen) == same).sum() == max(right)
        highest = [
            level for level, number in zip(middles, right, strict=True) if number == max(right)
        ]
        assert ((scores >= chosen) == (scores >= highest[-1])).all(), "of equal ones the highest"


def test_a_threshold_can_be_given_and_one_fold_needs_one() -> None:
    scores, same, folds = np.array([0.9, 0.1]), np.array([True, False]), np.array([4, 4])
    assert evaluate_folds(scores, same, folds, {4: 0.95}).accuracy.tolist() == [0.5]
    assert measure_pairs(scores, same, folds, {4: 0.5})["accuracy_sd"] == 0
    with pytest.raises(UserError, match="one fold alone"):
        evaluate_folds(scores, same, folds)


# ---- pairs that could not be compared -----------------------------------------------------------


def test_a_pair_that_could_not_be_compared_is_answered_wrong() -> None:
    rng = np.random.default_rng(0)
    same = np.arange(40) % 2 == 0
    scores, folds = same + rng.normal(0, 0.01, 40), np.arange(40) // 4
    whole = measure_pairs(scores, same, folds)
    scores[[0, 1]] = np.nan  # one that is the same, one that is not
    found = measure_pairs(scores, same, folds)
    assert whole["accuracy"] == 1 and found["unanswered"] == 2
    assert found["by_fold"][0]["accuracy"] == 0.5
    assert found["accuracy"] == pytest.approx(1 - 2 / 40)
    assert found["auc"] < whole["auc"] and found["eer"] == pytest.approx(1 / 20)
    with pytest.raises(UserError, match="none of the pairs"):
        fill_missing_scores(np.full(3, np.nan), np.array([True, False, True]))


# ---- true accepts, calibration ------------------------------------------------------------------


def test_true_accepts_stay_within_the_false_accepts() -> None:
    strangers, mine = np.arange(100) / 100, np.array([0.985, 0.975, 2.0, 0.2])
    scores, same = np.concatenate([strangers, mine]), np.arange(104) >= 100
    assert true_accepts_at(scores, same, 0.01) == 0.5, "a threshold above 0.98 accepts one in 100"
    assert true_accepts_at(scores, same, 0.02) == 0.75
    assert true_accepts_at(scores, same, 0.009) == 0.25


def test_calibration_gives_the_promised_rates_and_odds() -> None:
    rng = np.random.default_rng(1)
    same = np.arange(40_000) % 2 == 0
    scores = rng.normal(same * 2.0, 1)
    calibration = fit_calibration(scores, same)
    # Of two normal distributions of deviation 1, 2 apart, the log-odds are 2 x - 2.
    assert calibration["slope"] == pytest.approx(2, abs=0.1)
    assert calibration["intercept"] == pytest.approx(-2, abs=0.1)
    assert probability(calibration, 1.0) == pytest.approx(0.5, abs=0.02)
    for far in (0.1, 0.01, 0.001):
        assert (scores[~same] >= calibration["thresholds"][str(far)]).mean() == pytest.approx(far)
    stretched = fit_calibration(1000 * scores, same)
    assert stretched["slope"] == pytest.approx(calibration["slope"] / 1000, rel=1e-3)


def test_calibration_leaves_out_pairs_without_a_score() -> None:
    scores, same = np.array([0.9, 0.8, 0.1, np.nan]), np.array([True, True, False, False])
    calibration = fit_calibration(scores, same)
    assert (calibration["pairs"], calibration["same"]) == (3, 2)
    assert np.isnan(log_odds(calibration, scores)[3]) and probability(calibration, -1e9) == 0
    with pytest.raises(UserError, match="pairs that are not"):
        fit_calibration(np.array([0.9, np.nan]), np.array([True, False]))


@pytest.mark.parametrize("same", [True, False])
def test_pairs_of_one_kind_cannot_be_measured(same: bool) -> None:
    with pytest.raises(UserError, match="measuring needs pairs that are the same, and pairs"):
        measure_pairs(np.array([0.9, 0.1]), np.full(2, same), np.array([1, 2]))
