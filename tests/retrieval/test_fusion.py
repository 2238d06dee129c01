"""Fused embeddings, scores and ranks are those of the formulas, in any order of the members."""

from itertools import permutations

import numpy as np
import pytest

from lookalike.core.numeric import unit
from lookalike.retrieval.fusion import (
    SHRINKAGE,
    concatenate,
    fuse_ranks,
    fuse_scores,
    learn_weights,
)


def some_scores(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(count, 5, 20)))


@pytest.mark.parametrize("weights", [(), (3.0, 1.0)])
def test_concatenated_cosines_are_the_weighted_mean_of_cosines(weights: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    queries, gallery = ([unit(rng.normal(size=(n, d))) for d in (8, 32)] for n in (5, 20))
    one, two = (weights[0] / 4, weights[1] / 4) if weights else (0.5, 0.5)
    expected = one * queries[0] @ gallery[0].T + two * queries[1] @ gallery[1].T
    rows = concatenate(queries, weights)
    assert np.allclose(rows @ concatenate(gallery, weights).T, expected, atol=1e-6)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_fused_scores_are_the_weighted_mean_of_standard_scores() -> None:
    one, two = some_scores(2)
    fused = fuse_scores([one, 1000 * two + 7], (3, 1))
    for q in range(5):
        a, b = ((x[q] - x[q].mean()) / x[q].std() for x in (one, two))
        assert np.allclose(fused[q], (3 * a + b) / 4)
    flat = np.ones((5, 20))
    assert np.allclose(fuse_scores([one, flat]), fuse_scores([one, 0 * one])), "ties add nothing"


def test_fused_ranks_are_reciprocal_and_ties_keep_the_order_of_the_gallery() -> None:
    one, two = np.array([[0.9, 0.1, 0.5]]), np.array([[0.2, 0.2, 0.1]])
    ranks = ((1, 1), (3, 2), (2, 3))
    expected = [[(2 / (60 + a) + 1 / (60 + b)) / 3 for a, b in ranks]]
    assert np.allclose(fuse_ranks([one, two], (2, 1)), expected)


@pytest.mark.parametrize("fuse", [fuse_scores, fuse_ranks])
def test_the_order_of_equal_members_changes_no_bit(fuse) -> None:  # type: ignore[no-untyped-def]
    parts = some_scores(4)
    assert len({fuse(order).tobytes() for order in permutations(parts)}) == 1


# ---- learned weights ----------------------------------------------------------------------------


def models(noises: tuple[float, ...], seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the scores of models that see the truth through more or less noise, and the truth."""
    rng = np.random.default_rng(seed)
    same = rng.permuted(np.tile(np.arange(30) < 2, (200, 1)), axis=1)
    return [same + noise * rng.normal(size=same.shape) for noise in noises], same


def plain_loss(scores: list[np.ndarray], same: np.ndarray, weights: tuple[float, ...]) -> float:
    """Return what learned weights minimize, query by query."""
    total = 0.0
    for q in range(len(same)):
        row = sum(
            w * (s[q] - s[q].mean()) / s[q].std() for w, s in zip(weights, scores, strict=True)
        )
        total -= np.log(np.exp(row)[same[q]].sum() / np.exp(row).sum()) / len(same)
    return float(total + SHRINKAGE * np.var(weights) / np.mean(weights) ** 2)


def test_learned_weights_are_the_likeliest_of_all() -> None:
    scores, same = models((0.4, 0.8))
    found = learn_weights(scores, same)
    assert np.isclose(found.sum(), 1) and found[0] > found[1] > 0
    best = min(
        (plain_loss(scores, same, (w * scale, (1 - w) * scale)), w)
        for w in np.linspace(0.3, 1, 36)
        for scale in np.linspace(0.5, 6, 23)
    )
    assert abs(found[0] - best[1]) < 0.03


def test_a_model_that_knows_nothing_is_left_out_and_equals_share() -> None:
    scores, same = models((0.4, 0.4, 100.0))
    weights = learn_weights(scores, same)
    assert weights[2] < 0.05 and abs(weights[0] - weights[1]) < 0.1
    turned = learn_weights([1000 * part + 7 for part in scores[::-1]], same)
    assert np.allclose(turned[::-1], weights, atol=2e-3), "no scale and no order counts"
    fused = fuse_scores(scores, tuple(weights))
    hits = [same[np.arange(200), part.argmax(axis=1)].mean() for part in (*scores, fused)]
    assert hits[3] > max(hits[:3])


def test_without_an_answer_all_models_count_the_same() -> None:
    scores, same = models((0.4, 0.8))
    assert learn_weights(scores, np.zeros_like(same)).tolist() == [0.5, 0.5]
    assert learn_weights(scores, np.ones_like(same)).tolist() == [0.5, 0.5]
