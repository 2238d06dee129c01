"""Average precision against its definition, computed in another way."""

import numpy as np
import pytest

from lookalike.evaluation.average_precision import Found, average_precision, matches, measure


def boxes(*lefts: float) -> np.ndarray:
    """Squares of 10 pixels at these places."""
    return np.array([[left, 0.0, 10.0, 10.0] for left in lefts]).reshape(-1, 4)


def by_definition(right: list[bool], total: int) -> float:
    """The mean over the true boxes of the best precision at which that many are found."""
    precisions = []
    for wanted in range(1, total + 1):
        at = [sum(right[:n]) / n for n in range(1, len(right) + 1) if sum(right[:n]) >= wanted]
        precisions.append(max(at, default=0.0))
    return sum(precisions) / total


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_mean_of_the_best_precisions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pictures, flags = [], []
    for _ in range(5):
        truth = boxes(*(100.0 * np.arange(rng.integers(0, 5))))
        hit = rng.random(6) < 0.5
        places = [100.0 * i + 2 if hit[i] else 100.0 * i + 60 for i in range(6)]
        scores = rng.random(6)
        pictures.append(Found(boxes(*places), scores, truth))
        flags += [(-score, bool(hit[i] and i < len(truth))) for i, score in enumerate(scores)]
    total = sum(len(picture.truth) for picture in pictures)
    right = [flag for _, flag in sorted(flags)]
    assert average_precision(pictures) == pytest.approx(by_definition(right, total))


def test_a_true_box_counts_once_for_the_surest() -> None:
    twice = Found(boxes(1.0, 0.0), np.array([0.6, 0.7]), boxes(0.0))
    assert matches(twice).tolist() == [False, True]


def test_an_overlap_of_less_than_half_is_wrong() -> None:
    # Squares of 10 that are 4 apart share 60 of 140 pixels; 3 apart, 70 of 130.
    assert matches(Found(boxes(4.0), np.ones(1), boxes(0.0))).tolist() == [False]
    assert matches(Found(boxes(3.0), np.ones(1), boxes(0.0))).tolist() == [True]


def test_nothing_to_find_has_no_precision_and_nothing_found_has_none() -> None:
    assert np.isnan(average_precision([Found(boxes(0.0), np.ones(1), boxes())]))
    assert average_precision([Found(boxes(), np.ones(0), boxes(0.0))]) == 0.0


def test_recall_and_what_is_right_count_confident_boxes_only() -> None:
    found = Found(boxes(0.0, 100.0, 300.0), np.array([0.9, 0.5, 0.8]), boxes(0.0, 100.0))
    measures = measure([found], 0.6)
    assert (measures.recall, measures.right, measures.boxes) == (0.5, 0.5, 2)
    # by confidence: right, wrong, right, so that precision is 1 and then 2/3
    assert measures.precision == pytest.approx((1 + 2 / 3) / 2)
