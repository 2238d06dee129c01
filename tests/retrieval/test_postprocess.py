"""Each step does what its paper says, and none is transductive that says it is not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from lookalike.core.numeric import first_of_equal, unit
from lookalike.core.settings import RetrieveSettings
from lookalike.retrieval import postprocess
from lookalike.retrieval.postprocess import (
    Embeddings,
    add_neighbors,
    apply,
    average_with_cluster,
    average_with_neighbors,
    center,
    csls,
    expand_queries,
    have_neighbors,
    inverted_softmax,
    score_all,
    whiten,
)


def make_rows(count: int = 12, each: int = 5, noise: float = 0.6, seed: int = 0) -> np.ndarray:
    """(count * each, 16) unit rows, those of an identity one after another."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(count, 16))
    return unit(np.repeat(centers, each, axis=0) + noise * rng.normal(size=(count * each, 16)))


def embeddings() -> Embeddings:
    return Embeddings(make_rows(seed=1), make_rows(seed=2), make_rows(seed=3), make_rows(seed=4))


# ---- embeddings to embeddings -------------------------------------------------------------------


def test_centering_takes_away_what_a_domain_shares() -> None:
    """Photographs lean one way, drawings another: some drawings are then near to everything."""
    rng = np.random.default_rng(3)
    identities, photo, drawing = (rng.normal(size=(n, 16)) for n in (40, 1, 1))
    queries = unit(identities + 3 * photo + 0.3 * rng.normal(size=identities.shape))
    plain = Embeddings(queries, unit(identities + 3 * drawing), queries[:0], queries[:0])

    def right(sides: Embeddings) -> float:
        return float(((sides.queries @ sides.gallery.T).argmax(1) == np.arange(40)).mean())

    centered = center(plain)
    assert centered.gallery.dtype == np.float32
    assert np.allclose(np.linalg.norm(centered.gallery, axis=1), 1, atol=1e-6)
    assert right(centered) > 0.9 > right(plain)


def test_centering_without_the_test_uses_the_trainings_means() -> None:
    sides = embeddings()
    moved = center(sides, transductive=False)
    expected = unit(sides.queries - sides.labeled_queries.mean(0))
    assert np.allclose(moved.queries, expected, atol=1e-6)
    expected = unit(sides.gallery - sides.labeled_gallery.mean(0))
    assert np.allclose(moved.gallery, expected, atol=1e-6)


def test_a_single_picture_is_not_its_own_mean() -> None:
    one = np.ones((1, 4), np.float32) / 2
    assert np.array_equal(center(Embeddings(one, one, one[:0], one[:0])).queries, one)


def test_whitening_is_scikit_learns() -> None:
    sides = embeddings()
    labeled = np.concatenate([sides.labeled_queries, sides.labeled_gallery])
    pca = PCA(6, whiten=True, svd_solver="full").fit(labeled)
    expected, result = unit(pca.transform(sides.queries)), whiten(sides, 6).queries
    signs = np.sign((expected * result).sum(0))  # a direction's sign is free
    assert np.allclose(result * signs, expected, atol=1e-3)
    few = replace(sides, labeled_queries=labeled[:0], labeled_gallery=labeled[:3])
    assert whiten(few, 6).queries is sides.queries


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_neighbors_are_summed_by_their_cosines(
    alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postprocess, "CHUNK", 7)  # the edge of a chunk is no edge
    rows = make_rows()
    expected = []
    for i, row in enumerate(rows):
        total = row.astype(float)
        for j, other in enumerate(rows):
            cosine = float(row @ other)
            if j != i and cosine >= 0.5:
                total = total + cosine**alpha * other
        expected.append(total / np.linalg.norm(total))
    assert np.allclose(add_neighbors(rows, 0.5, alpha), expected, atol=1e-5)


def test_a_picture_without_neighbors_stays_as_it_is() -> None:
    rows = np.eye(4, dtype=np.float32)
    assert np.array_equal(add_neighbors(rows, 0.3, 1.0), rows)
    assert np.array_equal(expand_queries(rows[:2], rows[2:], 0.3), rows[:2])


def test_expansion_pulls_a_query_to_its_gallery_pictures() -> None:
    sides = embeddings()
    wide = expand_queries(sides.queries, sides.gallery, 0.5)
    own = np.einsum("ij,ij->i", wide, sides.gallery)  # the same identity has the same row number
    assert own.mean() > np.einsum("ij,ij->i", sides.queries, sides.gallery).mean()


# ---- embeddings to scores -----------------------------------------------------------------------


def test_the_inverted_softmax_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    scores, bank_scores, weights = rng.normal(size=(3, 5)), rng.normal(size=(4, 5)), rng.random(4)
    total = (weights[:, None] * np.exp(postprocess.INVERSE_TEMPERATURE * bank_scores)).sum(0)
    expected = np.exp(postprocess.INVERSE_TEMPERATURE * scores) / total
    result = inverted_softmax(scores, bank_scores, weights)
    assert np.allclose(np.exp(postprocess.INVERSE_TEMPERATURE * result), expected, rtol=1e-4)


def test_csls_takes_off_the_ten_nearest_of_the_bank() -> None:
    rng = np.random.default_rng(0)
    scores, bank_scores = rng.normal(size=(3, 5)), rng.normal(size=(30, 5))
    hubness = np.sort(bank_scores, axis=0)[-10:].mean(0)
    assert np.allclose(csls(scores, bank_scores, np.ones(30)), 2 * scores - hubness, atol=1e-6)
    weights = rng.random(30)
    near = np.argsort(-bank_scores, axis=0)[:10]
    hubness = [
        np.average(bank_scores[rows, column], weights=weights[rows])
        for column, rows in enumerate(near.T)
    ]
    assert np.allclose(csls(scores, bank_scores, weights), 2 * scores - hubness, atol=1e-6)


def test_pictures_of_a_cluster_come_up_together() -> None:
    gallery = unit(np.array([[1, 0, 0], [0.95, 0.3, 0], [0, 0, 1]]))
    scores = average_with_cluster(np.array([[0.9, 0.1, 0.4]]), gallery, 0.8)
    assert np.allclose(scores, [[0.9, 0.5, 0.4]])
    assert np.array_equal(average_with_cluster(scores[:, :1], gallery[:1], 0.8), scores[:, :1])


def test_summed_scores_rank_as_summed_queries_do() -> None:
    sides = embeddings()
    by_row = add_neighbors(sides.queries, 0.4, postprocess.QUERY_ALPHA) @ sides.gallery.T
    by_score = average_with_neighbors(sides.queries @ sides.gallery.T, sides.queries, 0.4)
    assert np.array_equal(by_row.argsort(1)[:, -5:], by_score.argsort(1)[:, -5:])


# ---- all of them --------------------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {
    "center": True,
    "whiten": 10,
    "query_neighbors": 0.4,
    "gallery_neighbors": 0.4,
    "expand": 0.4,
    "gallery_clusters": 0.5,
    "rerank": "reciprocal",
}


@pytest.mark.parametrize("hubs", ["none", "csls", "softmax"])
def test_without_transduction_a_query_is_answered_alone(hubs: Any) -> None:
    """The same scores whether the other queries are there or not, with every step on."""
    settings = RetrieveSettings(**EVERYTHING, hubs=hubs, no_transductive=True)
    sides = embeddings()
    together = score_all(apply(sides, settings), settings)
    for i in (0, 17, 59):
        alone = replace(sides, queries=sides.queries[i : i + 1])
        assert np.allclose(score_all(apply(alone, settings), settings)[0], together[i], atol=1e-5)
    allowed = replace(settings, no_transductive=False)
    assert not np.allclose(score_all(apply(sides, allowed), allowed), together, atol=1e-2)


@pytest.mark.parametrize("step", [{name: value} for name, value in EVERYTHING.items()])
def test_no_step_breaks_an_easy_task(step: dict[str, Any]) -> None:
    settings = RetrieveSettings(**step)
    sides = embeddings()
    scores = score_all(apply(sides, settings), settings)
    identity = np.repeat(np.arange(12), 5)
    assert (identity[scores.argmax(1)] == identity).mean() > 0.9


def test_a_bank_of_queries_counts_identities_not_pictures() -> None:
    """Ninety photographs of one identity count as one: the drawing of another keeps its rank."""
    rows = np.eye(3, dtype=np.float32)
    crowd = np.concatenate([np.repeat(rows[:1], 90, axis=0), rows[1:]])
    gallery = unit(np.array([[1, 0, 0], [0.35, 1, 0], [0, 0, 1]]))
    settings = RetrieveSettings(hubs="softmax", query_neighbors=0.9)
    sides = Embeddings(crowd, gallery, rows[:0], rows[:0])
    assert score_all(sides, settings)[[0, 90, 91]].argmax(1).tolist() == [0, 1, 2]
    unweighted = score_all(sides, replace(settings, query_neighbors=None))
    weighted = score_all(sides, settings)
    assert unweighted[90, 1] - unweighted[90, 0] > weighted[90, 1] - weighted[90, 0]


def test_re_ranking_changes_nothing_where_every_query_is_another_identity() -> None:
    """Strangers are no neighbors: the plain ranking, to the last score."""
    rng = np.random.default_rng(8)
    none = np.zeros((0, 64), np.float32)
    rows = [unit(rng.normal(size=(count, 64))) for count in (30, 90)]
    alone = Embeddings(rows[0], rows[1], none, none)
    settings = RetrieveSettings(rerank="reciprocal")
    assert np.array_equal(score_all(alone, settings), alone.queries @ alone.gallery.T)
    assert have_neighbors(make_rows(noise=0.3)).all()


# ---- copies of a picture ------------------------------------------------------------------------

STEPS: list[dict[str, Any]] = [
    {},
    {"center": True},
    {"whiten": 12},
    {"gallery_neighbors": 0.4},
    {"query_neighbors": 0.4},
    {"expand": 0.4},
    {"hubs": "csls"},
    {"hubs": "softmax"},
    {"gallery_clusters": 0.5},
    {"rerank": "reciprocal"},
    {"center": True, "gallery_neighbors": 0.4, "query_neighbors": 0.3, "hubs": "softmax"},
]


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_copies_of_a_picture_have_equal_scores_by_every_step(steps: dict[str, Any]) -> None:
    """A product of matrices rounds a row by its place in a block: copies stand in odd places."""
    settings = RetrieveSettings(**steps)
    for count in (61, 203):
        rng = np.random.default_rng(count)
        sides = embeddings()
        copied = rng.integers(len(sides.gallery), size=count)
        asked = rng.integers(len(sides.queries), size=count // 2)
        sides = replace(sides, gallery=sides.gallery[copied], queries=sides.queries[asked])
        scores = score_all(apply(sides, settings), settings)
        assert np.array_equal(scores, scores[:, first_of_equal(copied[:, None])])
        assert np.array_equal(scores, scores[first_of_equal(asked[:, None])])
