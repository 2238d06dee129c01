"""A forecast simulates tests of the test's size, and is as uncertain as few identities are."""

import numpy as np
import pytest

from lookalike.core.settings import RetrieveSettings
from lookalike.retrieval.forecast import (
    Part,
    TaskSizes,
    count_identities,
    draw_test,
    extrapolate,
    forecast_score,
    forecast_test,
    largest_share,
    number_of_identity,
)
from lookalike.retrieval.labeled_tasks import LabeledTasks, TaskScores, score_task
from tests.retrieval.tasks import clustered, tasks_of

SETTINGS = RetrieveSettings()
NONE = np.zeros((0, 4), np.float32)
LEARNED = RetrieveSettings(whiten=4)


def rows_of(count: int, each: int, seed: int) -> np.ndarray:
    return np.array([row for _, row in clustered(count, each, seed).values()])


def sizes_of(count: int, each: int = 3) -> TaskSizes:
    return TaskSizes(count, each * count, each * count, each * count)


def forecast_of(
    tasks: LabeledTasks, settings: RetrieveSettings, sizes: TaskSizes, seed: int
) -> tuple[float, tuple[float, float]]:
    return forecast_score([Part(tasks, settings, NONE)], sizes, seed)


def learning_from_itself(tasks: LabeledTasks) -> LabeledTasks:
    """The same task, whose steps may learn from its own pictures, as with a frozen backbone."""
    (task,) = tasks.tasks
    return LabeledTasks(
        tasks.catalogue,
        tasks.query_domain,
        [task._replace(seen=task.query | task.gallery)],
        tasks.rows,
    )


# ---- the number of identities -------------------------------------------------------------------


def test_identities_are_counted_by_how_alike_labeled_ones_are() -> None:
    labeled = rows_of(20, 6, seed=1)
    assert count_identities(labeled, 20, rows_of(33, 4, seed=2)) == pytest.approx(33, abs=3)
    alone = rows_of(15, 1, seed=3)
    assert count_identities(labeled, 20, alone) == pytest.approx(15, abs=2)
    assert count_identities(labeled, 20, alone[:1]) == 1


def test_pictures_that_are_all_alike_show_one_identity() -> None:
    alike = np.repeat(rows_of(1, 1, seed=1), 12, axis=0)
    assert count_identities(rows_of(20, 6, seed=1), 20, alike) == 1
    assert count_identities(alike, 1, alike) == 1


# ---- simulated tests ----------------------------------------------------------------------------


def test_a_simulated_test_has_the_size_of_the_test() -> None:
    (task,) = tasks_of(clustered(10, 8, seed=5), noise=0.1).tasks
    sizes = TaskSizes(identities=4, queries=9, gallery=25, relevant=12)
    drawn = draw_test(task, SETTINGS, sizes, np.random.default_rng(0))
    searched = set(drawn.query.values())
    assert len(searched) == 4 and len(drawn.query) == 9 and len(drawn.gallery) == 25
    relevant = [name for name in drawn.gallery.values() if name in searched]
    assert len(relevant) == 12, "the others are pictures without a query"


def test_steps_learn_from_no_identity_that_a_simulated_test_shows() -> None:
    (task,) = learning_from_itself(tasks_of(clustered(12, 4, seed=5), noise=0.1)).tasks
    for settings in (SETTINGS, LEARNED):
        for number in range(5):
            sizes = TaskSizes(3, 6, 10, 6)
            drawn = draw_test(task, settings, sizes, np.random.default_rng(number))
            shown = {*drawn.query.values(), *drawn.gallery.values()}
            assert not shown & {*drawn.seen.values()}
    assert len({*drawn.seen.values()}) >= 6, "half of the identities are left to learn from"


def test_a_simulated_test_has_a_query_that_can_be_answered() -> None:
    (task,) = tasks_of(clustered(8, 4, seed=5), noise=0.1).tasks
    for number in range(50):
        drawn = draw_test(task, SETTINGS, TaskSizes(6, 2, 6, 2), np.random.default_rng(number))
        assert {*drawn.query.values()} & {*drawn.gallery.values()}, number
        assert len(drawn.gallery) == 6


def test_the_labeled_pictures_may_not_suffice_for_the_whole_test() -> None:
    tasks = learning_from_itself(tasks_of(clustered(20, 4, seed=5), noise=0.1))
    (task,) = tasks.tasks
    assert largest_share(task, SETTINGS, TaskSizes(10, 20, 40, 20)) == 1
    assert largest_share(task, SETTINGS, TaskSizes(40, 80, 40, 40)) == 0.5
    assert largest_share(task, SETTINGS, TaskSizes(10, 20, 400, 20)) == 0.1
    assert largest_share(task, LEARNED, TaskSizes(20, 40, 20, 20)) == 0.5


# ---- the score ----------------------------------------------------------------------------------


def test_more_identities_are_harder_and_the_forecast_knows() -> None:
    tasks = tasks_of(clustered(24, 6, seed=4), noise=0.5)
    few, many = (forecast_of(tasks, SETTINGS, sizes_of(count), 0) for count in (6, 200))
    measured = tasks.score(SETTINGS).mean("score")
    assert few[0] > measured > many[0]
    for expected, (low, high) in (few, many):
        assert 0 <= low <= expected <= high <= 1000


def test_pictures_without_a_query_make_a_test_harder() -> None:
    tasks = tasks_of(clustered(24, 6, seed=4), noise=0.5)
    plain, _ = forecast_of(tasks, SETTINGS, TaskSizes(6, 18, 18, 18), 0)
    filled, _ = forecast_of(tasks, SETTINGS, TaskSizes(6, 18, 60, 18), 0)
    assert filled < plain - 50


def test_a_learned_step_is_not_judged_by_what_it_learned_from() -> None:
    tasks = learning_from_itself(tasks_of(clustered(24, 4, seed=4), noise=0.6))
    (task,) = tasks.tasks
    whole = score_task(tasks.embeddings(task), task, LEARNED).mean("score")
    others = tasks_of(clustered(12, 4, seed=99), noise=0.6)
    (other,) = others.tasks
    fresh = LabeledTasks(
        tasks.catalogue,
        tasks.query_domain,
        [],
        tasks.rows | {f"x{path}": row for path, row in others.rows.items()},
    )
    test = other._replace(
        query={f"x{p}": n for p, n in other.query.items()},
        gallery={f"x{p}": n for p, n in other.gallery.items()},
        seen=task.seen,
    )
    truth = score_task(fresh.embeddings(test), test, LEARNED).mean("score")
    expected, (low, high) = forecast_of(tasks, LEARNED, sizes_of(12, each=2), 0)
    assert low <= truth <= high
    assert abs(expected - truth) < abs(whole - truth) + 100


def test_twelve_identities_that_are_all_right_do_not_promise_perfection() -> None:
    tasks = tasks_of(clustered(12, 6, seed=4), noise=0.0)
    assert tasks.score(SETTINGS).mean("score") == 1000, "or the test shows nothing"
    expected, (low, high) = forecast_of(tasks, SETTINGS, sizes_of(12), 0)
    assert (expected, high) == (pytest.approx(1000), pytest.approx(1000)) and low < 850


def test_an_interval_is_wider_for_fewer_identities_of_the_test() -> None:
    tasks = tasks_of(clustered(24, 6, seed=4), noise=0.5)
    widths = []
    for count in (4, 8, 24):
        _, (low, high) = forecast_of(tasks, SETTINGS, sizes_of(count), 0)
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]


def test_simulated_tests_are_held_as_often_as_stated() -> None:
    pictures = clustered(40, 4, seed=8)
    tasks = tasks_of(pictures, noise=0.6)
    (task,) = tasks.tasks
    inside = []
    for number in range(30):
        order = np.random.default_rng(number).permutation(sorted({*task.query.values()}))
        aside = set(order[:8].tolist())
        parts = [
            task._replace(
                query={p: n for p, n in task.query.items() if (n in aside) is within},
                gallery={p: n for p, n in task.gallery.items() if (n in aside) is within},
            )
            for within in (True, False)
        ]
        truth = score_task(tasks.embeddings(parts[0]), parts[0], SETTINGS).mean("score")
        rest = LabeledTasks(tasks.catalogue, tasks.query_domain, [parts[1]], tasks.rows)
        _, (low, high) = forecast_of(rest, SETTINGS, sizes_of(8, each=2), number)
        inside.append(low <= truth <= high)
    assert np.mean(inside) >= 0.93


def test_the_forecast_of_the_test_spans_both_estimates_of_its_identities() -> None:
    tasks = tasks_of(clustered(24, 6, seed=4), noise=0.5)
    queries, gallery = rows_of(40, 3, seed=9), 240
    forecast = forecast_test([Part(tasks, SETTINGS, queries)], gallery, seed=0)
    assert forecast["labelled_people"] == 24 and 240 / 3 in forecast["people"]
    parts = [
        forecast_of(
            tasks,
            SETTINGS,
            TaskSizes(n, len(queries), gallery, min(gallery, 3 * n)),
            0,
        )
        for n in forecast["people"]
    ]
    assert forecast["score"] == pytest.approx(np.mean([expected for expected, _ in parts]))
    low, high = forecast["ci95"]["score"]
    assert low == min(ends[0] for _, ends in parts) and high == max(ends[1] for _, ends in parts)
    assert forecast == forecast_test([Part(tasks, SETTINGS, queries)], gallery, seed=0)


# ---- extrapolation ------------------------------------------------------------------------------


def test_what_is_simulated_whole_is_not_extrapolated() -> None:
    assert extrapolate([1], [np.array([0.7, 0.9])]) == pytest.approx((0.8, 0.8, 0.8))


def test_scores_lie_on_a_line_of_logits() -> None:
    def mean(share: float) -> np.ndarray:
        return np.array([1 / (1 + np.exp(-1.5 + 0.8 * np.log(share)))])

    shares = [0.2, 0.05, 0.1, 0.15]
    expected, low, high = extrapolate(shares, [mean(share) for share in shares])
    assert expected == pytest.approx(mean(1).item()) == pytest.approx(low) == pytest.approx(high)


def test_a_line_that_does_not_fit_says_so() -> None:
    shares = [0.2, 0.05, 0.1, 0.15]
    means = [np.array([m]) for m in (0.5, 0.9, 0.6, 0.8)]
    expected, low, high = extrapolate(shares, means)
    assert 0 < low < expected < high < 1 and high - low > 0.2


def test_an_identity_is_worth_one_result_at_least_where_its_queries_are_alike() -> None:
    alike = TaskScores(
        {"score": np.repeat([0.0, 1000.0] * 20, 5)}, [str(i // 5) for i in range(200)]
    )
    mixed = TaskScores({"score": np.tile([0.0, 1000.0], 100)}, alike.identities)
    assert number_of_identity([alike]) == pytest.approx(1, abs=0.15)
    assert number_of_identity([mixed]) > 3
