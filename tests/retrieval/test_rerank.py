"""k-reciprocal re-ranking is the paper's algorithm."""

import numpy as np
import pytest

from lookalike.core.numeric import unit
from lookalike.retrieval.rerank import k_reciprocal


def make_rows(count: int = 12, each: int = 5, noise: float = 0.6, seed: int = 0) -> np.ndarray:
    """(count * each, 16) unit rows, those of an identity one after another."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(count, 16))
    return unit(np.repeat(centers, each, axis=0) + noise * rng.normal(size=(count * each, 16)))


def reciprocal_by_hand(
    queries: np.ndarray, gallery: np.ndarray, k1: int, k2: int, share: float
) -> np.ndarray:
    """The paper's algorithm with sets and dense vectors."""
    rows = np.concatenate([queries, gallery]).astype(float)
    cosines = rows @ rows.T
    near = np.argsort(-cosines, axis=1, kind="stable")

    def mutual(i: int, k: int) -> set[int]:
        return {int(j) for j in near[i, : k + 1] if i in near[j, : k + 1]}

    encoded = np.zeros_like(cosines)
    for i in range(len(rows)):
        members = mutual(i, k1)
        for j in mutual(i, k1):
            others = mutual(j, k1 // 2)
            if len(others & mutual(i, k1)) > 2 / 3 * len(others):
                members |= others
        chosen = sorted(members)
        weights = np.exp(-(2 - 2 * cosines[i, chosen]))
        encoded[i, chosen] = weights / weights.sum()
    encoded = np.stack([encoded[near[i, :k2]].mean(0) for i in range(len(rows))])
    count = len(queries)
    smaller = np.minimum(encoded[:count, None], encoded[None, count:]).sum(2)
    return (1 - share) * smaller / (2 - smaller) + share * cosines[:count, count:]


@pytest.mark.parametrize(("k1", "k2", "share"), [(20, 6, 0.5), (6, 3, 0.3), (4, 1, 0.0)])
def test_reciprocal_re_ranking_is_the_papers(k1: int, k2: int, share: float) -> None:
    queries, gallery = make_rows(seed=5), make_rows(seed=6)
    expected = reciprocal_by_hand(queries, gallery, k1, k2, share)
    assert np.allclose(k_reciprocal(queries, gallery, k1, k2, share), expected, atol=1e-4)


def test_reciprocal_re_ranking_of_very_few_pictures() -> None:
    rows = make_rows(2, 1)
    assert np.isfinite(k_reciprocal(rows[:1], rows[1:])).all()
