"""Each metric by its name equals an independent oracle, and runs are scored by the named one."""

import json
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from sklearn.metrics import f1_score

from lookalike.core.errors import UserError
from lookalike.evaluation.evaluate import main as evaluate
from lookalike.evaluation.metrics import (
    MEASURES,
    SCORE,
    measure_queries,
    over_identities,
    parse_metric,
)
from lookalike.evaluation.scoring import Labels, find_hits, score, summarize

NAMES = [
    form.replace("@k", f"@{k}") for form in MEASURES for k in ((3, 20) if "@k" in form else (0,))
]


def random_queries(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hits in lists of 30 names, and the number of relevant pictures: some more than 30."""
    rng = np.random.default_rng(seed)
    hits = rng.random((200, 30)) < rng.random((200, 1)) ** 2
    return hits, np.maximum(1, hits.sum(1) + rng.integers(0, 20, 200))


def plain(name: str, hits: list[bool], relevant: int) -> float:
    """A measure of one query as its definition reads, in plain loops."""
    kind, _, rest = name.partition("@")
    k = int(rest.split("_")[0]) if rest[:1].isdigit() else len(hits)
    first = hits[:k]
    precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
    total = sum(p for p, hit in zip(precisions, first, strict=False) if hit)
    to_relevant = hits[:relevant]
    if name == "r-precision":
        return sum(to_relevant) / relevant
    if name == "map@r":
        return sum(p for p, hit in zip(precisions, to_relevant, strict=False) if hit) / relevant
    if kind == "mrr":
        return next((1 / (i + 1) for i, hit in enumerate(first) if hit), 0.0)
    if name == "f1":
        precision, recall = sum(hits) / len(hits), sum(hits) / relevant
        return 2 * precision * recall / (precision + recall) if sum(hits) else 0.0
    counts = {
        "recall": float(any(first)),
        "precision": sum(first) / k,
        "mp": sum(hits[: min(relevant, k)]) / min(relevant, k),
        "map": total / relevant,
    }
    if kind == "map" and rest and not rest.endswith("_all"):
        return total / (max(sum(first), 1) if rest.endswith("_hits") else min(relevant, k))
    return counts[kind]


@pytest.mark.parametrize("name", NAMES)
def test_every_measure_equals_its_definition_as_a_loop(name: str) -> None:
    hits, relevant = random_queries()
    ours = measure_queries(hits, relevant, parse_metric(name))["score"]
    loops = [plain(name, row.tolist(), int(n)) for row, n in zip(hits, relevant, strict=True)]
    assert ours == pytest.approx(loops, abs=1e-12)
    assert ours.min() >= 0 and ours.mean() > 0 and ours.max() <= 1


def test_the_measures_equal_those_of_trec_eval() -> None:
    hits, relevant = random_queries(1)
    theirs = {"precision@5": "P_5", "precision@20": "P_20", "r-precision": "Rprec"}
    theirs |= {"mrr": "recip_rank", "map": "map", "map@5_all": "map_cut_5"}
    values = measure_queries(hits, relevant, also=theirs)
    qrels, runs = {}, {}
    for i, row in enumerate(hits):
        unseen = {f"unseen{j}": 1 for j in range(relevant[i] - row.sum())}
        qrels[str(i)] = {f"g{j}": int(hit) for j, hit in enumerate(row)} | unseen
        runs[str(i)] = {f"g{j}": 100.0 - j for j in range(len(row))}
    measures = {"P.5,20", "Rprec", "recip_rank", "map", "map_cut.5"}
    found = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(runs)
    for name, their_name in theirs.items():
        oracle = [found[str(i)][their_name] for i in range(len(hits))]
        assert values[name] == pytest.approx(oracle, abs=1e-9), name


def test_f1_is_that_of_scikit_learn() -> None:
    hits, relevant = random_queries(2)
    lengths = np.random.default_rng(3).integers(1, 31, len(hits))
    hits &= np.arange(30) < lengths[:, None]
    ours = measure_queries(hits, relevant, parse_metric("f1"), lengths=lengths)["score"]
    for i, row in enumerate(hits):
        listed = row[: lengths[i]].tolist()
        missed = int(relevant[i] - row.sum())
        truth, said = [*listed, *[True] * missed], [*[True] * len(listed), *[False] * missed]
        assert ours[i] == pytest.approx(f1_score(truth, said, zero_division=0))


def test_map_at_r_and_r_precision_are_those_of_pytorch_metric_learning() -> None:
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    rng = np.random.default_rng(4)
    identities = np.repeat(np.arange(12), 6)
    rows = rng.normal(size=(72, 8)) + 2 * np.eye(12, 8)[identities % 12]
    wanted = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(include=wanted, k="max_bin_count", device=torch.device("cpu"))
    theirs = calculator.get_accuracy(
        torch.tensor(rows, dtype=torch.float32), torch.tensor(identities)
    )
    distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    order = distances.argsort(1)[:, :-1]
    hits, relevant = identities[order] == identities[:, None], np.full(72, 5)
    ours = measure_queries(hits, relevant, also=["r-precision", "map@r"])
    for name, their_name in zip(("recall@1", "r-precision", "map@r"), wanted, strict=True):
        assert ours[name].mean() == pytest.approx(theirs[their_name], abs=1e-6)


def test_hit_rate_precision_and_reciprocal_rank_are_those_of_torchmetrics() -> None:
    reason = "pip install torchmetrics compares with it"
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval", reason=reason)
    import torch

    hits, _ = random_queries(5)
    relevant = np.maximum(hits.sum(1), 1)  # it knows no picture outside of the list
    names = {"recall@5": "hit_rate", "precision@5": "precision", "mrr@5": "reciprocal_rank"}
    names |= {"map@5_hits": "average_precision", "r-precision": "r_precision"}
    ours = measure_queries(hits, relevant, also=names)
    for name, their_name in names.items():
        measure = getattr(retrieval, f"retrieval_{their_name}")
        top = {} if name == "r-precision" else {"top_k": 5}
        for i in np.flatnonzero(hits.any(1)):
            falling = torch.arange(30, 0, -1, dtype=torch.float32)
            theirs = float(measure(falling, torch.tensor(hits[i]), **top))
            assert ours[name][i] == pytest.approx(theirs, abs=1e-6), name


def test_the_measures_equal_those_of_ranx() -> None:
    ranx = pytest.importorskip("ranx", reason="pip install ranx compares with it")
    hits, relevant = random_queries(6)
    qrels, runs = {}, {}
    for i, row in enumerate(hits):
        unseen = {f"unseen{j}": 1 for j in range(relevant[i] - row.sum())}
        qrels[str(i)] = {f"g{j}": 1 for j in np.flatnonzero(row)} | unseen
        runs[str(i)] = {f"g{j}": 100.0 - j for j in range(len(row))}
    names = {"recall@5": "hit_rate@5", "precision@5": "precision@5", "r-precision": "r-precision"}
    names |= {"mrr": "mrr", "map": "map", "map@5_all": "map@5"}
    ours = measure_queries(hits, relevant, also=names)
    theirs = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(runs), list(names.values()))
    for name, their_name in names.items():
        assert ours[name].mean() == pytest.approx(theirs[their_name], abs=1e-9), name


def test_a_sum_is_weighted_and_the_default_is_the_score_of_the_first_competition() -> None:
    hits, relevant = random_queries(7)
    values = measure_queries(hits, relevant, parse_metric("0.25*map@20 + 0.75*mrr@5"))
    expected = 0.25 * values["map@20"] + 0.75 * values["mrr@5"]
    assert values["score"] == pytest.approx(expected)
    default = measure_queries(hits, relevant)
    weights = {"recall@1": 600, "recall@5": 300, "recall@10": 100}
    assert default["score"] == pytest.approx(sum(w * default[n] for n, w in weights.items()))
    assert parse_metric("score").terms == SCORE.terms and SCORE.highest == 1000


def test_a_balanced_measure_counts_identities_alike_also_in_its_interval() -> None:
    identities = ["ada"] * 90 + [f"person{i}" for i in range(10)]
    hits = np.array([[True]] * 90 + [[False]] * 10)
    values = measure_queries(
        hits, np.ones(100, int), parse_metric("balanced-recall@1"), (), identities
    )
    assert values["recall@1"].mean() == 0.9
    assert values["score"].mean() == pytest.approx(1 / 11)
    means, names = over_identities(values["score"], identities)
    assert means.tolist() == pytest.approx([1.0] + [0.0] * 10) and len(names) == 11
    labels = Labels(
        {f"q{i}": name for i, name in enumerate(identities)}, {n: n for n in set(identities)}
    )
    found = find_hits({f"q{i}": ["ada"] for i in range(100)}, labels)
    low, high = summarize(found, parse_metric("balanced-recall@1"))["ci95"]["score"]
    assert low < 1 / 11 < high < 0.5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("recal@5", "'recal@5' is unknown; known are recall@k"),
        ("recall@0", "'recall@0' is unknown"),
        ("recall@k", "unknown"),
        ("0*map", "'0' is no weight above 0"),
        ("x*map", "'x' is no weight"),
        ("map+balanced-map", "all parts of a sum are balanced-"),
        ("", "unknown"),
    ],
)
def test_an_unknown_metric_is_refused_with_those_that_are_known(name: str, said: str) -> None:
    with pytest.raises(UserError, match="metric") as error:
        parse_metric(name)
    assert said in str(error.value)


def test_the_lists_are_as_long_as_the_metric_looks() -> None:
    lengths = {"map@100": 100, "recall@5": 10, "map@r": 100, "0.5*map@5+0.5*recall@20": 20}
    assert {name: parse_metric(name).length for name in lengths} == lengths
    assert parse_metric("map@100", 50).length == 50


def test_evaluate_prints_several_metrics_and_takes_lists_as_long_as_they_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = {f"g{i:02}.jpg": "ada" if i % 3 else "bo" for i in range(40)}
    (tmp_path / "labels.json").write_text(
        json.dumps({"query": {"q.jpg": "bo"}, "gallery": gallery})
    )
    names = sorted(gallery)[:20]
    (tmp_path / "submission.json").write_text(json.dumps({"q.jpg": names}))
    metrics = ["--metric", "map@20", "2*mrr+recall@1", "precision@20"]
    assert evaluate([str(tmp_path / "submission.json"), *metrics, "--json"]) == 0
    block = json.loads(capsys.readouterr().out)
    relevant = [name in names and gallery[name] == "bo" for name in names]
    assert block["score"] == pytest.approx(plain("map@20", relevant, 14))
    assert block["metric"] == "map@20"
    assert (
        evaluate([str(tmp_path / "submission.json"), "--metric", "map@20", "score", "--json"]) == 0
    )
    both = json.loads(capsys.readouterr().out)
    assert both["score"] == block["score"] and both[SCORE.name] == 1000
    assert block["2*mrr+recall@1"] == 3 and block["precision@20"] == 7 / 20
    assert evaluate([str(tmp_path / "submission.json")]) == 1, "the default takes ten names"
    assert "more than 10" in capsys.readouterr().err
    assert score(tmp_path / "submission.json", tmp_path / "labels.json", metric="mrr", k=20)[
        "score"
    ] == pytest.approx(1.0)


def test_public_and_private_scores_stand_beside_the_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["image,identity,split,Usage"]
    rows += [f"g{i}.jpg,p{i},gallery," for i in range(4)]
    rows += [f"q{i}.jpg,p{i},query,{'Public' if i < 1 else 'Private'}" for i in range(4)]
    (tmp_path / "solution.csv").write_text("\n".join(rows) + "\n")
    right = {"q0.jpg": ["g0.jpg"], "q1.jpg": ["g1.jpg"]}
    wrong = {"q2.jpg": ["g1.jpg"], "q3.jpg": ["g1.jpg"]}
    (tmp_path / "submission.json").write_text(json.dumps(right | wrong))
    words = [str(tmp_path / "submission.json"), "--labels", str(tmp_path / "solution.csv")]
    words += ["--metric", "recall@1"]
    assert evaluate([*words, "--json"]) == 0
    block = json.loads(capsys.readouterr().out)
    assert block["score"] == 0.5
    scores = {usage: part["score"] for usage, part in block["usage"].items()}
    assert scores == {"Public": 1.0, "Private": pytest.approx(1 / 3)}
    assert evaluate(words) == 0
    shown = capsys.readouterr().out
    assert "score, Public   1.0000" in shown and "score, Private  0.3333" in shown
