"""Spreads and overlaps against sums done by hand; maps keep similar pictures together."""

import sys

import numpy as np
import pytest

from lookalike.core.errors import UserError
from lookalike.core.settings import ReportSettings
from lookalike.report.embedding_space import measure_spreads, project_to_plane, rank_overlaps


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def at(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def distance(degrees: float) -> float:
    return 1 - float(np.cos(np.deg2rad(degrees)))


def test_medoids_spreads_and_distances_by_hand() -> None:
    spreads = measure_spreads(at(0, 10, 90, 30, 100), ["ada", "ada", "bo", "ada", "bo"])
    assert list(spreads.within) == ["ada", "bo"]
    assert spreads.within["ada"] == pytest.approx(
        [distance(10), distance(30), distance(20)], abs=1e-6
    )
    assert spreads.medoids.tolist() == [1, 2]
    assert spreads.spread == pytest.approx(
        [(distance(10) + distance(20)) / 3, distance(10) / 2], abs=1e-6
    )
    assert spreads.between[0, 1] == pytest.approx(distance(80), abs=1e-6)
    pairs = rank_overlaps(spreads)
    assert pairs.overlap[0] == pytest.approx(float(spreads.spread.sum()) / distance(80), abs=1e-5)


def test_the_pair_that_overlaps_most_comes_first() -> None:
    names = [name for name in ("ada", "bo", "cy") for _ in range(2)]
    pairs = rank_overlaps(measure_spreads(at(0, 20, 15, 35, 120, 121), names))
    assert (pairs.one[0], pairs.two[0]) == ("ada", "bo") and pairs.overlap.is_monotonic_decreasing


def test_one_picture_has_no_pairs_and_one_identity_no_neighbors() -> None:
    spreads = measure_spreads(at(5), ["ada"])
    assert spreads.within["ada"].size == 0 and rank_overlaps(spreads).empty


def test_of_many_pictures_of_one_identity_some_are_compared() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(300, 4)))
    assert len(measure_spreads(rows, ["ada"] * 300).within["ada"]) == 200 * 199 / 2


@pytest.fixture
def clusters() -> np.ndarray:
    rng = np.random.default_rng(0)
    centers = np.eye(3, 60)
    return unit(np.concatenate([c + rng.normal(0, 0.02, (15, 60)) for c in centers]))


def test_the_map_keeps_similar_pictures_together_and_is_reproducible(clusters: np.ndarray) -> None:
    # The perplexity is lowered for 45 pictures.
    positions = project_to_plane(clusters, ReportSettings(), seed=0)
    assert positions.min() >= 0 and positions.max() == 1
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(1) // 15 == np.arange(45) // 15).all()
    assert (positions == project_to_plane(clusters, ReportSettings(), seed=0)).all()


def test_too_few_pictures_have_no_map(clusters: np.ndarray) -> None:
    assert len(project_to_plane(clusters[:4], ReportSettings(), seed=0)) == 0
    assert len(project_to_plane(clusters[:5], ReportSettings(), seed=0)) == 5


def test_a_missing_umap_is_an_error_in_words(
    clusters: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UserError, match="pip install umap-learn"):
        project_to_plane(clusters, ReportSettings(projection="umap"), seed=0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("perplexity", [1.01, 30, 10_000])
@pytest.mark.parametrize("count", [5, 6, 60])
def test_any_number_of_pictures_has_a_map_at_any_perplexity(count: int, perplexity: float) -> None:
    rows = unit(np.random.default_rng(0).normal(size=(count, 64)))
    settings = ReportSettings(perplexity=perplexity, iterations=250)
    positions = project_to_plane(rows, settings, seed=0)
    assert positions.min() == 0 and positions.max() == 1
    alike = project_to_plane(np.repeat(rows[:1], count, axis=0), settings, seed=0)
    assert (alike == 0.5).all(), "pictures that are alike lie on each other"
