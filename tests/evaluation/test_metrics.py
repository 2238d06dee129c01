"""The measures equal those of an independent oracle, and intervals draw identities, not queries."""

import numpy as np
import pytest
import pytrec_eval
import scipy.stats

from lookalike.evaluation.intervals import clustered_interval
from lookalike.evaluation.metrics import measure_queries, threshold_at
from lookalike.evaluation.scoring import Labels, find_hits
from lookalike.evaluation.submissions import Submission


def random_test(rng: np.random.Generator) -> tuple[Submission, Labels]:
    """A random test of 1 to 6 identities with a random submission of ten names or fewer."""
    identities = [f"person{i}" for i in range(rng.integers(1, 7))]
    gallery = {f"g{i:02}.jpg": str(rng.choice(identities)) for i in range(rng.integers(10, 40))}
    present = sorted(set(gallery.values()))
    queries = {f"q{i}.jpg": str(rng.choice(present)) for i in range(rng.integers(1, 8))}
    length = int(rng.integers(1, 11))
    submission = {q: rng.permutation(sorted(gallery))[:length].tolist() for q in queries}
    return submission, Labels(queries, gallery)


def trec(submission: Submission, labels: Labels) -> dict[str, dict[str, float]]:
    qrels = {
        query: {name: int(other == identity) for name, other in labels.gallery.items()}
        for query, identity in labels.query.items()
    }
    # Strictly falling scores: pytrec_eval orders equal ones by a rule of its own.
    runs = {q: {name: 100.0 - i for i, name in enumerate(n)} for q, n in submission.items()}
    measures = {"success.1,5,10", "map", "map_cut.10"}
    return dict(pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(runs))


def average_precision_of_hits(hits: np.ndarray) -> float:
    """AP over the hits of the list, as a loop would compute it."""
    precisions = [hits[: i + 1].mean() for i in range(len(hits)) if hits[i]]
    return float(np.mean(precisions)) if precisions else 0.0


def test_the_measures_equal_pytrec_eval_on_1000_random_runs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        submission, labels = random_test(rng)
        found = find_hits(submission, labels)
        ours = measure_queries(found.hits, found.relevant)
        oracle = trec(submission, labels)
        for i, query in enumerate(found.queries):
            theirs, relevant = oracle[query], found.relevant[i]
            for k in (1, 5, 10):
                assert ours[f"recall@{k}"][i] == pytest.approx(theirs[f"success_{k}"], abs=1e-9)
            assert ours["map"][i] == pytest.approx(theirs["map"], abs=1e-9)
            bounded = theirs["map_cut_10"] * relevant / min(relevant, 10)
            assert ours["map@10"][i] == pytest.approx(bounded, abs=1e-9)
            loop = average_precision_of_hits(found.hits[i, :10])
            assert ours["map@10_hits"][i] == pytest.approx(loop, abs=1e-9)
            weighted = 600 * theirs["success_1"] + 300 * theirs["success_5"]
            assert ours["score"][i] == pytest.approx(weighted + 100 * theirs["success_10"])


def test_hits_of_long_lists_are_measured_as_a_loop_would() -> None:
    hits = np.random.default_rng(2).random((20, 300)) < 0.1
    relevant = hits.sum(1) + 5
    ours = measure_queries(hits, relevant, also=["map@50"])
    for k, name in ((300, "map"), (50, "map@50")):
        sums = [average_precision_of_hits(row[:k]) * row[:k].sum() for row in hits]
        denominator = relevant if k == 300 else np.minimum(relevant, k)
        assert ours[name] == pytest.approx(np.array(sums) / denominator, abs=1e-12)


def test_a_query_without_hits_measures_zero() -> None:
    values = measure_queries(np.zeros((2, 10), bool), np.array([1, 20]))
    assert all((column == 0).all() for column in values.values())


def test_intervals_hold_the_mean_and_shrink_with_the_number_of_identities() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (10, 1000):
        values = rng.random((count * 3, 1))
        low, high = clustered_interval(values, [f"p{i // 3}" for i in range(count * 3)])[:, 0]
        assert low < values.mean() < high
        widths.append(high - low)
    # The standard error of a mean of n: ten times narrower for a hundred times the identities.
    assert widths[1] < widths[0] / 5


def test_intervals_over_queries_would_be_too_narrow() -> None:
    values = np.repeat(np.random.default_rng(0).random(20), 50)[:, None]
    identities = np.repeat([f"p{i}" for i in range(20)], 50).tolist()
    low, high = clustered_interval(values, identities)[:, 0]
    naive_low, naive_high = clustered_interval(values, [str(i) for i in range(1000)])[:, 0]
    assert high - low > 3 * (naive_high - naive_low)


def test_equal_identities_that_are_right_or_wrong_have_the_interval_of_clopper_and_pearson() -> (
    None
):
    values = np.array([1.0] * 15 + [0.0] * 5)[:, None]
    low, high = clustered_interval(values, [str(i) for i in range(20)])[:, 0]
    number = 20 * (scipy.stats.norm.ppf(0.975) / scipy.stats.t.ppf(0.975, 19)) ** 2
    # The variance is estimated with 19 degrees of freedom and drawn to that of yes-or-no results.
    informative = 4 * 20 * 0.75 * 0.25
    number /= (informative * 20 / 19 + 2) / (informative + 2)
    right = 0.75 * number
    assert low == pytest.approx(scipy.stats.beta.ppf(0.025, right, number - right + 1))
    assert high == pytest.approx(scipy.stats.beta.ppf(0.975, right + 1, number - right))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_interval_is_never_of_zero_width(value: float) -> None:
    values = np.full((40, 1), 1000 * value)
    low, high = clustered_interval(values, [str(i // 2) for i in range(40)], 1000)[:, 0]
    assert min(abs(low - 1000 * value), abs(high - 1000 * value)) < 0.01
    assert 150 < high - low < 250, "one in twenty wrong would not surprise"
    low, high = clustered_interval(values, ["ada"] * 40, 1000)[:, 0]
    assert (low, high) == (0, 1000), "a single identity says nothing about others"


@pytest.mark.parametrize("mean", [0.3, 0.9, 0.98])
@pytest.mark.parametrize("identities", [10, 20])
def test_the_truth_is_inside_as_often_as_stated(mean: float, identities: int) -> None:
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(300):
        ability = rng.beta(2 * mean, 2 * (1 - mean), identities)
        values = rng.random((identities, 5)) < ability[:, None]
        names = np.repeat(np.arange(identities), 5).astype(str).tolist()
        low, high = clustered_interval(values.reshape(-1, 1) * 1.0, names)[:, 0]
        inside.append(low <= mean <= high)
    assert np.mean(inside) >= 0.93


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.29, 0.5])
def test_a_threshold_accepts_as_many_impostors_as_it_may_and_no_more(rate: float) -> None:
    scores = np.random.default_rng(0).random(100)
    assert (scores >= threshold_at(scores, rate)).mean() == pytest.approx(rate)
    ties = np.repeat([0.1, 0.5, 0.9], 10)
    assert (ties >= threshold_at(ties, rate)).mean() <= rate
