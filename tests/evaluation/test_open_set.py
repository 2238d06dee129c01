"""Measures of open-set identification against plain loops and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from lookalike.evaluation.open_set import measure_names

KNOWN = ["a", "b", "c", "d"]


def draw_case(seed: int) -> tuple[dict[str, list[str]], dict[str, str], dict[str, float]]:
    rng = np.random.default_rng(seed)
    pictures = [f"{n}.jpg" for n in range(60)]
    truth = {p: str(rng.choice([*KNOWN, "x", "y"])) for p in pictures}
    named = {p: rng.permutation([*KNOWN, "new"])[:3].tolist() for p in pictures}
    return named, truth, dict(zip(pictures, rng.random(60).tolist(), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_every_measure_is_that_of_its_definition(seed: int) -> None:
    named, truth, confidence = draw_case(seed)
    values = measure_names(named, truth, KNOWN, "new", confidence)
    right = {p: name if name in KNOWN else "new" for p, name in truth.items()}
    total = 0.0
    for picture, names in named.items():
        for rank, name in enumerate(names, 1):
            if name == right[picture]:
                total += 1 / rank
    assert values["map@3"] == pytest.approx(total / 60)
    first = {p: names[0] for p, names in named.items()}
    assert values["accuracy"] == pytest.approx(np.mean([first[p] == right[p] for p in truth]))
    known = [p for p in truth if truth[p] in KNOWN]
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        baks = balanced_accuracy_score([truth[p] for p in known], [first[p] for p in known])
    assert values["baks"] == pytest.approx(baks)
    shares = [np.mean([first[p] == "new" for p in truth if truth[p] == n]) for n in ("x", "y")]
    assert values["baus"] == pytest.approx(np.mean(shares))
    assert values["balanced"] == pytest.approx((baks * np.mean(shares)) ** 0.5)
    given = [p for p in truth if first[p] != "new"]
    correct = [first[p] == truth[p] for p in given]
    precision = average_precision_score(correct, [confidence[p] for p in given])
    assert values["gap"] == pytest.approx(precision * sum(correct) / len(known))


def test_what_is_not_named_scores_nothing_and_what_nobody_shows_is_left_out() -> None:
    values = measure_names(
        {"a.jpg": ["a"]}, {"a.jpg": "a", "b.jpg": "b"}, KNOWN, "new", {"a.jpg": 1}
    )
    assert values == {"map@1": 0.5, "accuracy": 0.5, "baks": 0.5, "gap": 0.5}
