"""A forecast knows that more identities are harder, and how little a few of them say."""

import numpy as np
import pytest

from lookalike.core.settings import RetrieveSettings
from lookalike.retrieval.forecast import (
    count_identities,
    draw_subset,
    extrapolate,
    forecast_score,
    forecast_test,
    half_width,
    subset_scores,
)
from lookalike.retrieval.labeled_tasks import TaskScores
from tests.retrieval.tasks import clustered, tasks_of

SETTINGS = RetrieveSettings()


def rows_of(count: int, each: int, seed: int) -> np.ndarray:
    return np.array([row for _, row in clustered(count, each, seed).values()])


def test_identities_are_counted_by_how_alike_labeled_ones_are() -> None:
    labeled = rows_of(20, 6, seed=1)
    assert count_identities(labeled, 20, rows_of(33, 4, seed=2)) == pytest.approx(33, abs=3)
    alone = rows_of(15, 1, seed=3)
    assert count_identities(labeled, 20, alone) == pytest.approx(15, abs=2)
    assert count_identities(labeled, 20, alone[:1]) == 1


def test_more_identities_are_harder_and_the_forecast_knows() -> None:
    tasks = tasks_of(clustered(24, 6, seed=4), noise=0.5)
    few, many = (
        forecast_score(tasks, SETTINGS, count, {"query": 3 * count, "gallery": 3 * count}, 0)
        for count in (6, 200)
    )
    measured = tasks.score(SETTINGS).mean("score")
    assert few[0] > measured > many[0]
    for expected, (low, high) in (few, many):
        assert 0 <= low <= expected <= high <= 1000


def test_the_forecast_of_the_test_spans_both_estimates_of_its_identities() -> None:
    tasks = tasks_of(clustered(24, 6, seed=4), noise=0.5)
    queries, gallery = rows_of(40, 3, seed=9), 240
    forecast = forecast_test(tasks, SETTINGS, queries, gallery, seed=0)
    assert forecast["labelled_people"] == 24 and 240 / 3 in forecast["people"]
    sizes = {"query": len(queries), "gallery": gallery}
    parts = [forecast_score(tasks, SETTINGS, count, sizes, 0) for count in forecast["people"]]
    assert forecast["score"] == pytest.approx(np.mean([expected for expected, _ in parts]))
    low, high = forecast["ci95"]["score"]
    assert low == min(ends[0] for _, ends in parts) and high == max(ends[1] for _, ends in parts)
    assert forecast == forecast_test(tasks, SETTINGS, queries, gallery, seed=0)


def test_a_subset_has_as_many_pictures_per_identity_as_the_test() -> None:
    tasks = tasks_of(clustered(10, 8, seed=5), noise=0.1)
    chosen = {"1", "2", "3", "4"}
    sizes = {"query": 2, "gallery": 99}
    part = draw_subset(tasks.tasks[0], chosen, sizes, np.random.default_rng(0))
    assert len(part.query) == 8 and len(part.gallery) == 16
    assert {*part.query.values(), *part.gallery.values()} <= chosen


def test_subsets_are_quarters_of_the_labeled_identities() -> None:
    tasks = tasks_of(clustered(16, 4, seed=6), noise=0.5)
    levels, means = subset_scores(tasks, SETTINGS, {"query": 2, "gallery": 2}, seed=0)
    assert levels == [4, 8, 12, 16] and means[0] > means[-1]
    assert means[-1] == pytest.approx(tasks.score(SETTINGS).mean("score")), "all of them"


def test_between_subsets_a_score_is_interpolated_and_beyond_them_it_is_on_a_line() -> None:
    levels, means = [10, 100], [900.0, 700.0]
    assert extrapolate(levels, means, 10) == pytest.approx(900)
    assert extrapolate(levels, means, round(10**1.5)) == pytest.approx(800, abs=2)
    assert extrapolate(levels, means, 1000) == pytest.approx(500)
    assert extrapolate(levels, means, 10**9) == 0, "no score is below 0"
    assert extrapolate([10], [900.0], 1000) == pytest.approx(900), "one size has no slope"


def test_an_interval_is_wider_for_fewer_identities_of_the_test() -> None:
    values = np.random.default_rng(0).choice([0.0, 1000.0], size=200)
    scores = TaskScores({"score": values}, [f"p{i // 4}" for i in range(200)])
    few, many = (half_width(scores, 50, count) for count in (5, 5000))
    assert few == pytest.approx(many * np.sqrt((1 + 10) / (1 + 0.01)))
