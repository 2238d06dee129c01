"""Measures of a verifier: accuracy by folds, AUC, equal error rate, TAR at FAR, and calibration.

    measures = measure_pairs(scores, same, folds)     # {"accuracy": 0.94, "auc": 0.98, …}
    calibration = fit_calibration(scores, same)       # thresholds by false accepts, probability

A verifier gives each pair a score, higher for more alike, and calls the pair "same" where the score
reaches a threshold. A score of NaN stands for a pair with an unreadable picture. It counts as
answered wrong, so that no verifier gains by leaving pairs out.
"""

from collections.abc import Mapping
from typing import TypedDict, cast

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve

from lookalike.core.errors import UserError
from lookalike.core.readers import Count, Finite
from lookalike.evaluation.metrics import threshold_at


class FoldMeasures(TypedDict):
    """A fold's row in metrics.json."""

    fold: int
    accuracy: Finite
    threshold: Finite


# In this notation because names with @ cannot be written as attributes of a class.
PairMeasures = TypedDict(
    "PairMeasures",
    {
        "accuracy": Finite,
        "accuracy_sd": Finite,
        "auc": Finite,
        "eer": Finite,
        "tar@far=0.01": Finite,
        "tar@far=0.001": Finite,
        "pairs": Count,
        "same": Count,
        "unanswered": Count,
        "by_fold": list[FoldMeasures],
    },
)


class Calibration(TypedDict):
    """The content of calibration.json, see `fit_calibration`."""

    slope: Finite
    intercept: Finite
    thresholds: dict[str, Finite]
    pairs: Count
    same: Count


FALSE_ACCEPTS = (0.1, 0.01, 0.001)  # rates for which a calibration holds thresholds


def fill_missing_scores(scores: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Replace each NaN by a score that is wrong at every threshold.

    Args:
        scores: (N,) scores; NaN where there is none.
        same: (N,) bool.

    Returns:
        (N,) float64: for a missing score of a same pair a value below, of a different pair a value
        above all others.

    Raises:
        UserError: All scores are missing.

    >>> fill_missing_scores(np.array([0.5, np.nan, np.nan]), np.array([True, True, False])).tolist()
    [0.5, -0.5, 1.5]
    """
    scores = scores.astype(float)
    valid = scores[~np.isnan(scores)]
    if not len(valid):
        raise UserError("none of the pairs could be compared: their pictures cannot be read")
    return np.where(np.isnan(scores), np.where(same, valid.min() - 1, valid.max() + 1), scores)


# ---- accuracy -----------------------------------------------------------------------------------


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """Return the threshold with the highest accuracy.

    Candidates lie midway between two neighboring scores, or just outside of all. Of several equally
    accurate ones the highest is taken, which has the fewest false accepts.

    Args:
        scores: (N,) without NaN.
        same: (N,) bool with both values present.

    >>> best_threshold(np.array([0.9, 0.7, 0.3, 0.1]), np.array([True, True, False, False]))
    0.5
    """
    false_accepts, true_accepts, levels = roc_curve(same, scores, drop_intermediate=False)
    correct = np.rint(true_accepts * same.sum()) - np.rint(false_accepts * (~same).sum())
    levels = np.append(levels, np.nextafter(levels[-1], -np.inf))
    levels[0] = np.nextafter(levels[1], np.inf)  # scikit-learn has infinity: nothing is accepted
    best = int(correct.argmax())
    return float(levels[0]) if best == 0 else float((levels[best] + levels[best + 1]) / 2)


def evaluate_folds(
    scores: np.ndarray,
    same: np.ndarray,
    folds: np.ndarray,
    thresholds: Mapping[int, float] | None = None,
) -> pd.DataFrame:
    """Return the accuracy of each fold at a threshold that was chosen without the fold.

    Args:
        scores: (N,) without NaN.
        same: (N,) bool.
        folds: (N,) int.
        thresholds: Threshold by fold. Default: the best threshold on all other folds.

    Returns:
        One row per fold with the columns `fold`, `accuracy` (share of correct answers) and
        `threshold`.

    Raises:
        UserError: There is a single fold and no threshold for it.
    """
    rows = []
    for fold in sorted(set(folds.tolist())):
        test = folds == fold
        if thresholds is None and test.all():
            raise UserError("one fold alone has no others to choose its threshold on")
        chosen = thresholds[fold] if thresholds else best_threshold(scores[~test], same[~test])
        accuracy = float(((scores[test] >= chosen) == same[test]).mean())
        rows.append((fold, accuracy, chosen))
    return pd.DataFrame(rows, columns=["fold", "accuracy", "threshold"])


# ---- the ROC ------------------------------------------------------------------------------------


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> float:
    """Return the rate at which false accepts and false rejects are equal.

    It is interpolated linearly between the two neighboring points of the ROC.

    Args:
        scores: (N,) without NaN.
        same: (N,) bool with both values present.

    >>> equal_error_rate(np.array([0.9, 0.4, 0.6, 0.1]), np.array([True, True, False, False]))
    0.5
    """
    false_accepts, true_accepts, _ = roc_curve(same, scores, drop_intermediate=False)
    # False rejects less false accepts fall from 1 to -1 along the curve: where do they cross zero?
    gap = 1 - true_accepts - false_accepts
    after = int(np.argmax(gap <= 0))
    before = after - 1
    share = gap[before] / (gap[before] - gap[after])
    return float(false_accepts[before] + share * (false_accepts[after] - false_accepts[before]))


def true_accepts_at(scores: np.ndarray, same: np.ndarray, false_accept: float) -> float:
    """Return the true accept rate at a false accept rate (TAR at FAR).

    It is a step of the ROC, not interpolated.

    Args:
        scores: (N,) without NaN.
        same: (N,) bool with both values present.
        false_accept: The maximum share of different pairs that are accepted, from 0 to 1.
    """
    false_accepts, true_accepts, _ = roc_curve(same, scores, drop_intermediate=False)
    return float(true_accepts[false_accepts <= false_accept].max())


def measure_pairs(
    scores: np.ndarray,
    same: np.ndarray,
    folds: np.ndarray,
    thresholds: Mapping[int, float] | None = None,
) -> PairMeasures:
    """Compute all measures of a verifier, the content of its metrics.json.

    Args:
        scores: (N,); NaN for a pair that could not be compared.
        same: (N,) bool.
        folds: (N,) int.
        thresholds: Threshold by fold. Default: each fold's is chosen on all other folds.

    Returns:
        Rates from 0 to 1 and counts. `accuracy` is the mean over folds and `accuracy_sd` their
        sample standard deviation (0 for a single fold). `auc` (area under the ROC), `eer` (equal
        error rate) and `tar@far=…` are of the pairs of all folds together. `by_fold` has one row
        per fold.

    Raises:
        UserError: No pair has a score, all pairs are of one kind, or a single fold has no
            threshold.
    """
    _check_both_kinds(same, "measuring")
    unanswered = int(np.isnan(scores).sum())
    scores = fill_missing_scores(scores, same)
    by_fold = evaluate_folds(scores, same, folds, thresholds)
    spread = float(by_fold.accuracy.std()) if len(by_fold) > 1 else 0.0
    return {
        "accuracy": float(by_fold.accuracy.mean()),
        "accuracy_sd": spread,
        "auc": float(roc_auc_score(same, scores)),
        "eer": equal_error_rate(scores, same),
        "tar@far=0.01": true_accepts_at(scores, same, 0.01),
        "tar@far=0.001": true_accepts_at(scores, same, 0.001),
        "pairs": len(scores),
        "same": int(same.sum()),
        "unanswered": unanswered,
        "by_fold": cast(list[FoldMeasures], by_fold.to_dict("records")),
    }


# ---- calibration --------------------------------------------------------------------------------


def fit_calibration(scores: np.ndarray, same: np.ndarray) -> Calibration:
    """Fit what turns a score into a probability and a decision.

    The probability is 1 / (1 + exp(-(slope · score + intercept))), fitted by logistic regression
    (Platt, Probabilistic outputs for support vector machines, 1999). It holds where as many pairs
    are the same as here, in protocols half of them.

    Args:
        scores: (N,); pairs with NaN are left out.
        same: (N,) bool.

    Returns:
        {"slope", "intercept", "thresholds", "pairs", "same"}. `thresholds` maps a false accept rate
        such as "0.01" to the lowest score that at most this share of different pairs reaches.

    Raises:
        UserError: No pair of one of the two kinds has a score.
    """
    valid = ~np.isnan(scores)
    scores, same = scores[valid].astype(float), same[valid]
    _check_both_kinds(same, "calibration")
    # Of deviation 1, so that any unit of the score is fitted as well.
    unit = float(scores.std()) or 1.0
    model = LogisticRegression(C=1e6).fit(scores[:, None] / unit, same)
    return {
        "slope": float(model.coef_[0, 0]) / unit,
        "intercept": float(model.intercept_[0]),
        "thresholds": {str(far): threshold_at(scores[~same], far) for far in FALSE_ACCEPTS},
        "pairs": len(scores),
        "same": int(same.sum()),
    }


def _check_both_kinds(same: np.ndarray, what: str) -> None:
    """Raise UserError unless some pairs are the same, and some are not."""
    if same.all() or not same.any():
        raise UserError(f"{what} needs pairs that are the same, and pairs that are not")


def log_odds(calibration: Calibration, scores: np.ndarray) -> np.ndarray:
    """Convert scores to natural logarithms of the odds that a pair is the same; NaN stays NaN."""
    return calibration["slope"] * scores.astype(float) + calibration["intercept"]


def probability(calibration: Calibration, score: float) -> float:
    """Return the probability, from 0 to 1, that a pair with this score is the same.

    >>> counts = {"thresholds": {}, "pairs": 2, "same": 1}
    >>> probability({"slope": 2.0, "intercept": -1.0, **counts}, 0.5)
    0.5
    """
    odds = log_odds(calibration, np.array([score]))[0]
    return float(np.exp(-np.logaddexp(0, -odds)))
