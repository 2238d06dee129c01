"""The scorer against an independent oracle, and every defect of a file as a sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval

from lookalike.core.errors import UserError
from lookalike.evaluation.metrics import interval, measure
from lookalike.evaluation.scoring import Labels, check_names, judge, read_labels, score
from lookalike.evaluation.submissions import Ranked, read_submission
from tests.conftest import SHARED, Program

LABELS = Labels(
    {"q1.jpg": "ada", "q2.jpg": "bo", "q3.jpg": "cy"},
    {"a1.jpg": "ada", "a2.jpg": "ada", "b1.jpg": "bo", "x.jpg": "dee", "y.jpg": "dee"},
)
GOOD: Ranked = {"q1.jpg": ["a1.jpg", "x.jpg", "a2.jpg"], "q2.jpg": ["x.jpg", "b1.jpg", "a1.jpg"]}


def random_test(rng: np.random.Generator) -> tuple[Ranked, Labels]:
    """A random test of 1 to 6 people with a random submission of ten names or fewer."""
    people = [f"person{i}" for i in range(rng.integers(1, 7))]
    gallery = {f"g{i:02}.jpg": str(rng.choice(people)) for i in range(rng.integers(10, 40))}
    present = sorted(set(gallery.values()))
    queries = {f"q{i}.jpg": str(rng.choice(present)) for i in range(rng.integers(1, 8))}
    length = int(rng.integers(1, 11))
    ranked = {q: rng.permutation(sorted(gallery))[:length].tolist() for q in queries}
    return ranked, Labels(queries, gallery)


def trec(ranked: Ranked, labels: Labels) -> dict[str, dict[str, float]]:
    qrels = {
        query: {name: int(of == identity) for name, of in labels.gallery.items()}
        for query, identity in labels.query.items()
    }
    # Strictly falling scores: pytrec_eval orders equal ones by a rule of its own.
    runs = {q: {name: 100.0 - i for i, name in enumerate(names)} for q, names in ranked.items()}
    wanted = {"success.1,5,10", "map", "map_cut.10"}
    return dict(pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(runs))


def plain_hits_map(hits: np.ndarray) -> float:
    """AP over the hits of the list, as a loop would have it."""
    precisions = [hits[: i + 1].mean() for i in range(len(hits)) if hits[i]]
    return float(np.mean(precisions)) if precisions else 0.0


def test_the_measures_equal_pytrec_eval_on_1000_random_runs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        ranked, labels = random_test(rng)
        judged = judge(ranked, labels)
        ours = measure(judged.hits, judged.relevant)
        oracle = trec(ranked, labels)
        for i, query in enumerate(judged.queries):
            theirs, relevant = oracle[query], judged.relevant[i]
            for k in (1, 5, 10):
                assert ours[f"recall@{k}"][i] == pytest.approx(theirs[f"success_{k}"], abs=1e-9)
            assert ours["map"][i] == pytest.approx(theirs["map"], abs=1e-9)
            bounded = theirs["map_cut_10"] * relevant / min(relevant, 10)
            assert ours["map@10"][i] == pytest.approx(bounded, abs=1e-9)
            loop = plain_hits_map(judged.hits[i, :10])
            assert ours["map@10_hits"][i] == pytest.approx(loop, abs=1e-9)
            weighted = 600 * theirs["success_1"] + 300 * theirs["success_5"]
            assert ours["score"][i] == pytest.approx(weighted + 100 * theirs["success_10"])


def test_names_with_folders_score_as_bare_ones_do() -> None:
    """Bare names without a defect are taken all at once, others one by one."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        ranked, labels = random_test(rng)
        ranked.pop(next(iter(ranked)))  # a query that is missing
        short = {q: names[: rng.integers(len(names) + 1)] for q, names in ranked.items()}
        foldered = {f"test/query/{q}": [f"g\\{n}" for n in names] for q, names in short.items()}
        (quick, judged), (careful, same) = score(short, labels), score(foldered, labels)
        assert quick == careful
        assert judged.hits.tolist() == same.hits.tolist() and judged.missing == same.missing


def test_hits_of_long_lists_are_measured_as_a_loop_would() -> None:
    hits = np.random.default_rng(2).random((20, 300)) < 0.1
    relevant = hits.sum(1) + 5
    ours = measure(hits, relevant, ks=(50,))
    for k, name in ((300, "map"), (50, "map@50")):
        sums = [plain_hits_map(row[:k]) * row[:k].sum() for row in hits]
        below = relevant if k == 300 else np.minimum(relevant, k)
        assert ours[name] == pytest.approx(np.array(sums) / below, abs=1e-12)


def test_left_out_and_missing_queries_are_counted() -> None:
    ranked = {"q1.jpg": GOOD["q1.jpg"]}
    block, judged = score(ranked, LABELS)
    assert (block["queries"], block["missing"], block["left_out"]) == (2, 1, 1)
    assert judged.left_out == ["q3.jpg"] and judged.missing == ["q2.jpg"]
    assert block["recall@1"] == 0.5, "the missing query counts as 0"


def test_other_lengths_add_measures() -> None:
    block, _ = score(GOOD, LABELS, k=3)
    assert block["recall@3"] == 1.0
    assert block["map@3"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert set(block) >= {"recall@1", "recall@5", "recall@10", "map@10", "map@3_hits"}
    assert list(block["ci95"]) == [
        name for name in block if "@" in name or name in ("score", "map")
    ]


def test_query_and_gallery_are_two_folders_unless_declared_one() -> None:
    labels = Labels({"1.jpg": "ada", "2.jpg": "ada"}, {"1.jpg": "ada", "2.jpg": "ada"})
    ranked = {"1.jpg": ["1.jpg", "2.jpg"], "2.jpg": ["1.jpg"]}
    block, _ = score(ranked, labels, k=2)
    assert block["map"] == pytest.approx((1.0 + 0.5) / 2)
    block, judged = score(ranked, labels, k=2, leave_one_out=True)
    assert judged.relevant.tolist() == [1, 1]
    assert block["map"] == 1.0


def test_intervals_hold_the_mean_and_shrink_with_the_number_of_people() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for people in (10, 1000):
        values = rng.random((people * 3, 1))
        low, high = interval(values, [f"p{i // 3}" for i in range(people * 3)])[:, 0]
        assert low < values.mean() < high
        widths.append(high - low)
    # The standard error of a mean of n: ten times narrower for a hundred times the people.
    assert widths[1] < widths[0] / 5


def test_a_bootstrap_over_queries_would_be_too_narrow() -> None:
    values = np.repeat(np.random.default_rng(0).random(20), 50)[:, None]
    people = np.repeat([f"p{i}" for i in range(20)], 50).tolist()
    low, high = interval(values, people)[:, 0]
    naive_low, naive_high = interval(values, [str(i) for i in range(1000)])[:, 0]
    assert high - low > 3 * (naive_high - naive_low)


# ---- forms --------------------------------------------------------------------------------------

FORMS: dict[str, Any] = {
    "mapping.json": GOOD,
    "groupname.json": {"groupname": "us", "images": GOOD},
    "gallery_images.json": [{"filename": q, "gallery_images": g} for q, g in GOOD.items()],
    "samples.json": [{"filename": q, "samples": g} for q, g in GOOD.items()],
    "neighbors.json": [{"query": q, "neighbors": g} for q, g in GOOD.items()],
    "folders.json": {
        f"test/query/{q}": [f"test\\gallery\\{n}" for n in g] for q, g in GOOD.items()
    },
}


@pytest.mark.parametrize("name", FORMS)
def test_every_json_form_is_the_same_submission(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(FORMS[name]))
    assert check_names(read_submission(tmp_path / name), LABELS, 3) == GOOD


def test_the_csv_form_is_the_same_submission(tmp_path: Path) -> None:
    rows = [f"{query},{' '.join(names)}" for query, names in GOOD.items()]
    (tmp_path / "s.csv").write_text("\ufeff" + "\n".join(["id,images", *rows]), encoding="utf-8")
    assert check_names(read_submission(tmp_path / "s.csv"), LABELS, 3) == GOOD


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("s.json", '{"q1.jpg": ["a1.jpg"', "not valid JSON"),
        ("s.json", "3", "must hold"),
        ("s.json", '{"q1.jpg": "a1.jpg"}', "'q1.jpg' has no list"),
        ("s.json", '{"q1.jpg": [1]}', "'q1.jpg' has no list"),
        ("s.json", '{"q1.jpg": ["a1.jpg"], "q1.jpg": []}', "'q1.jpg' stands there twice"),
        ("s.json", '[{"filename": "q1.jpg"}]', "entry 0 must have one of"),
        ("s.json", '[{"query": "q", "neighbors": []}, 7]', "entry 1 must have one of"),
        ("s.csv", "query,names\n1,2\n", "columns id,images"),
        ("s.csv", "", "no CSV"),
        ("s.csv", "id,images\nq1.jpg,a,b\n", "row 2: 3 columns"),
        ("s.json", "[" * 100_000, "not valid JSON"),
        ("s.csv", "id,images\nq1.jpg,a\nq1.jpg,b\n", "'q1.jpg' stands there twice"),
    ],
)
def test_a_file_of_no_known_form_is_refused(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        read_submission(tmp_path / name)
    assert said in str(error.value) and name in str(error.value)


@pytest.mark.parametrize(
    ("ranked", "said"),
    [
        ({"q9.jpg": ["a1.jpg"]}, "query 'q9.jpg' is not among the test's queries"),
        ({"q1.jpg": ["a1.jpg", "a1.jpg"]}, "query 'q1.jpg' names 'a1.jpg' more than once"),
        ({"q1.jpg": ["a1.jpg", "d/a1.jpg"]}, "query 'q1.jpg' names 'a1.jpg' more than once"),
        ({"q1.jpg": ["zz.jpg"]}, "query 'q1.jpg' names 'zz.jpg', which is not in the gallery"),
        ({"q1.jpg": ["a1.jpg", "a2.jpg", "b1.jpg", "x.jpg"]}, "'q1.jpg' has 4 gallery pictures"),
        ({"q1.jpg": [], "query/q1.jpg": []}, "query 'q1.jpg' stands there twice"),
    ],
)
def test_defects_name_their_query(ranked: Ranked, said: str) -> None:
    with pytest.raises(UserError) as error:
        check_names(ranked, LABELS, 3)
    assert said in str(error.value)


def test_all_defects_are_told_at_once() -> None:
    with pytest.raises(UserError) as error:
        check_names({"q9.jpg": ["a1.jpg"], "q1.jpg": ["zz.jpg"]}, LABELS, 10)
    assert "q9.jpg" in str(error.value) and "zz.jpg" in str(error.value)


def test_one_folder_blames_the_name_that_is_wrong() -> None:
    labels = Labels({"a": "ada", "b": "ada"}, {"a": "ada", "b": "ada"})
    with pytest.raises(UserError, match="names 'zzz', which"):
        check_names({"a": ["a", "zzz", "b"]}, labels, 10, leave_one_out=True)


@pytest.mark.parametrize("text", ["[]", '{"query": {}}', '{"query": {"q": 1}, "gallery": {}}'])
def test_labels_of_another_form_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(UserError, match="labels must have the form"):
        read_labels(tmp_path / "labels.json")


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(UserError, match="nothing to score"):
        score({}, Labels({"q": "ada"}, {"g": "bo"}))


# ---- the program --------------------------------------------------------------------------------


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    (tmp_path / "labels.json").write_text(json.dumps(LABELS._asdict()))
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(GOOD))
    return path


def test_json_is_all_that_is_printed(run_program: Program, submission: Path) -> None:
    done = run_program("evaluate.py", submission, "--json")
    block = json.loads(done.stdout)
    assert done.returncode == 0
    assert block == score(GOOD, LABELS)[0]
    assert "fewer than 10" in done.stderr and "q1.jpg" in done.stderr
    assert "left out: q3.jpg" in done.stderr


def test_the_table_shows_measures_intervals_and_queries(
    run_program: Program, submission: Path
) -> None:
    done = run_program("evaluate.py", submission, "--per-query", "--k", "3")
    assert "recall@3" in done.stdout and "map@10_hits" in done.stdout and "95 %" in done.stdout
    assert "2 queries, 0 missing, 1 left out" in done.stdout
    assert "q1.jpg" in done.stdout and "first hit at" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.json", "--labels", "labels.json"], "nowhere.json: cannot be read"),
        (["submission.json", "--labels", "nowhere.json"], "nowhere.json: no such file"),
        (["submission.json", "--k", "2"], "'q1.jpg' has 3 gallery pictures, more than 2"),
        (["submission.json", "--k", "0"], "must be at least 1"),
    ],
)
def test_mistakes_exit_1_without_a_traceback(
    run_program: Program, submission: Path, words: list[str], said: str
) -> None:
    done = run_program("evaluate.py", *words)
    assert done.returncode == 1 and done.stdout == ""
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not on this machine")
def test_the_caricature_answer_sheet_scores_itself_1000() -> None:
    labels = read_labels(SHARED / "caricature" / "test_labels.json")
    of: dict[str, list[str]] = {}
    for name, identity in sorted(labels.gallery.items()):
        of.setdefault(identity, []).append(name)
    block, _ = score({q: of.get(i, [])[:10] for q, i in labels.query.items()}, labels)
    assert block["score"] == 1000.0 and block["queries"] + block["left_out"] == 902
