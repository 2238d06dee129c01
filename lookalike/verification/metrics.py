"""How good is a verifier? Accuracy by folds, AUC, equal error rate, true accepts, calibration.

    measures = measure(scores, same, folds)      # {"accuracy": 0.94, "auc": 0.98, …}
    made = calibrate(scores, same)               # thresholds by false accepts, and a probability

A verifier gives a pair a score, higher for more alike, and says "same" where the score is at least
a threshold. A score of NaN stands for a pair that could not be looked at, since a picture of it is
broken: it counts as answered wrong. A verifier has to answer, and none gains by refusing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve

from lookalike.core.errors import UserError
from lookalike.evaluation.metrics import threshold_at

FALSE_ACCEPTS = (0.1, 0.01, 0.001)  # that a calibration keeps thresholds for


def answered(scores: np.ndarray, same: np.ndarray) -> np.ndarray:
    """The scores as float64, a NaN replaced by the most wrong of all: below every other score of a
    same pair, above every other score of one that is not.

    >>> answered(np.array([0.5, np.nan, np.nan]), np.array([True, True, False])).tolist()
    [0.5, -0.5, 1.5]
    """
    scores = scores.astype(float)
    known = scores[~np.isnan(scores)]
    if not len(known):
        raise UserError("not one of the pairs could be looked at")
    return np.where(np.isnan(scores), np.where(same, known.min() - 1, known.max() + 1), scores)


# ---- accuracy -----------------------------------------------------------------------------------


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The threshold with the most right answers: midway between two neighboring scores, or just
    outside of all. Of several equally good ones, the highest, which accepts fewest strangers.

    scores: (N,) without NaN. same: (N,) bool, both kinds present.

    >>> best_threshold(np.array([0.9, 0.7, 0.3, 0.1]), np.array([True, True, False, False]))
    0.5
    """
    false_accepts, true_accepts, levels = roc_curve(same, scores, drop_intermediate=False)
    right = np.rint(true_accepts * same.sum()) - np.rint(false_accepts * (~same).sum())
    levels = np.append(levels, np.nextafter(levels[-1], -np.inf))
    levels[0] = np.nextafter(levels[1], np.inf)  # scikit-learn has infinity: nothing is accepted
    best = int(right.argmax())
    return float(levels[0]) if best == 0 else float((levels[best] + levels[best + 1]) / 2)


def judge_folds(
    scores: np.ndarray,
    same: np.ndarray,
    folds: np.ndarray,
    thresholds: Mapping[int, float] | None = None,
) -> pd.DataFrame:
    """Columns `fold`, `accuracy` (share of right answers) and `threshold`, a row a fold.

    A fold's threshold is the best of all other folds, or the one given: a fold never chooses its
    own. scores: (N,) without NaN.

    Raises:
        UserError: a single fold, and no threshold given.
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
    """The error at which as many strangers are accepted as same pairs are refused (in shares),
    linearly interpolated between the two neighboring points of the ROC.

    >>> equal_error_rate(np.array([0.9, 0.4, 0.6, 0.1]), np.array([True, True, False, False]))
    0.5
    """
    false_accepts, true_accepts, _ = roc_curve(same, scores, drop_intermediate=False)
    # Refusals less accepts fall from 1 to -1 along the curve: where do they cross zero?
    gap = 1 - true_accepts - false_accepts
    after = int(np.argmax(gap <= 0))
    before = after - 1
    share = gap[before] / (gap[before] - gap[after])
    return float(false_accepts[before] + share * (false_accepts[after] - false_accepts[before]))


def true_accepts_at(scores: np.ndarray, same: np.ndarray, false_accept: float) -> float:
    """The largest share of same pairs accepted by a threshold that accepts at most this share of
    the others (TAR at FAR; a step of the ROC, not interpolated)."""
    false_accepts, true_accepts, _ = roc_curve(same, scores, drop_intermediate=False)
    return float(true_accepts[false_accepts <= false_accept].max())


def measure(
    scores: np.ndarray,
    same: np.ndarray,
    folds: np.ndarray,
    thresholds: Mapping[int, float] | None = None,
) -> dict[str, Any]:
    """All measures, from 0 to 1, of (N,) scores, answers and folds.

    `accuracy` is the mean over folds (see `judge_folds`) and `accuracy_sd` their sample standard
    deviation (0 for a single fold). `auc` (area under the ROC), `eer` (equal error rate) and
    `tar@far=…` are of the pairs of all folds together. `by_fold` has a row a fold.
    """
    unanswered = int(np.isnan(scores).sum())
    scores = answered(scores, same)
    by_fold = judge_folds(scores, same, folds, thresholds)
    spread = float(by_fold.accuracy.std()) if len(by_fold) > 1 else 0.0
    return {
        "accuracy": float(by_fold.accuracy.mean()),
        "accuracy_sd": spread,
        "auc": float(roc_auc_score(same, scores)),
        "eer": equal_error_rate(scores, same),
        **{f"tar@far={far}": true_accepts_at(scores, same, far) for far in (0.01, 0.001)},
        "pairs": len(scores),
        "same": int(same.sum()),
        "unanswered": unanswered,
        "by_fold": by_fold.to_dict("records"),
    }


# ---- calibration --------------------------------------------------------------------------------


def calibrate(scores: np.ndarray, same: np.ndarray) -> dict[str, Any]:
    """What turns a score into a probability and a verdict, learnt on pairs that were looked at.

    Returns {"slope", "intercept", "thresholds": {"0.01": least score that at most 1 % of the
    strangers reach, …}, "pairs", "same"}. The probability is 1 / (1 + exp(-(slope · score +
    intercept))), by logistic regression (Platt, Probabilistic outputs for support vector machines,
    1999). It holds where as many pairs are the same as here, in protocols half of them.

    Raises:
        UserError: no pair of one of the two kinds could be looked at.
    """
    known = ~np.isnan(scores)
    scores, same = scores[known].astype(float), same[known]
    if same.all() or not same.any():
        raise UserError("calibration needs pairs that are the same, and pairs that are not")
    # Of deviation 1, so that any unit of the score is fitted as well.
    unit = float(scores.std()) or 1.0
    fitted = LogisticRegression(C=1e6).fit(scores[:, None] / unit, same)
    return {
        "slope": float(fitted.coef_[0, 0]) / unit,
        "intercept": float(fitted.intercept_[0]),
        "thresholds": {str(far): threshold_at(scores[~same], far) for far in FALSE_ACCEPTS},
        "pairs": len(scores),
        "same": int(same.sum()),
    }


def log_odds(calibration: Mapping[str, Any], scores: np.ndarray) -> np.ndarray:
    """Scores -> natural logarithms of the odds that a pair is the same; NaN stays NaN."""
    odds: np.ndarray = calibration["slope"] * scores.astype(float) + calibration["intercept"]
    return odds


def probability(calibration: Mapping[str, Any], score: float) -> float:
    """The probability from 0 to 1 that a pair of this score is the same.

    >>> probability({"slope": 2.0, "intercept": -1.0}, 0.5)
    0.5
    """
    odds = log_odds(calibration, np.array([score]))[0]
    return float(np.exp(-np.logaddexp(0, -odds)))
