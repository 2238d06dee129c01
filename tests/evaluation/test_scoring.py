"""Scores: what counts, what is left out, and what labels may look like."""

import json
from pathlib import Path

import pytest

from lookalike.core.errors import UserError
from lookalike.evaluation.scoring import Labels, find_hits, read_labels, score
from lookalike.evaluation.submissions import Submission
from tests.conftest import SHARED

LABELS = Labels(
    {"q1.jpg": "ada", "q2.jpg": "bo", "q3.jpg": "cy"},
    {"a1.jpg": "ada", "a2.jpg": "ada", "b1.jpg": "bo", "x.jpg": "dee", "y.jpg": "dee"},
)
GOOD: Submission = {
    "q1.jpg": ["a1.jpg", "x.jpg", "a2.jpg"],
    "q2.jpg": ["x.jpg", "b1.jpg", "a1.jpg"],
}


def test_paths_and_parsed_objects_score_the_same(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(GOOD))
    (tmp_path / "labels.json").write_text(json.dumps(LABELS._asdict()))
    block = score(GOOD, LABELS)
    assert score(tmp_path / "s.json", tmp_path / "labels.json") == block
    assert score(str(tmp_path / "s.json"), LABELS._asdict()) == block
    assert block["recall@1"] == 0.5 and block["recall@5"] == 1.0


def test_left_out_and_missing_queries_are_counted() -> None:
    submission = {"q1.jpg": GOOD["q1.jpg"]}
    block, found = score(submission, LABELS), find_hits(submission, LABELS)
    assert (block["queries"], block["missing"], block["left_out"]) == (2, 1, 1)
    assert found.left_out == ["q3.jpg"] and found.missing == ["q2.jpg"]
    assert found.short == {"q1.jpg": 3}
    assert block["recall@1"] == 0.5, "the missing query counts as 0"


def test_other_lengths_add_measures() -> None:
    block = score(GOOD, LABELS, k=3)
    assert block["recall@3"] == 1.0
    assert block["map@3"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert set(block) >= {"recall@1", "recall@5", "recall@10", "map@10", "map@3_hits"}
    assert list(block["ci95"]) == [
        name for name in block if "@" in name or name in ("score", "map")
    ]


def test_query_and_gallery_are_two_folders_unless_declared_one() -> None:
    labels = Labels({"1.jpg": "ada", "2.jpg": "ada"}, {"1.jpg": "ada", "2.jpg": "ada"})
    submission = {"1.jpg": ["1.jpg", "2.jpg"], "2.jpg": ["1.jpg"]}
    assert score(submission, labels, k=2)["map"] == pytest.approx((1.0 + 0.5) / 2)
    assert score(submission, labels, k=2, leave_one_out=True)["map"] == 1.0
    together = labels._replace(leave_one_out=True)
    assert find_hits(submission, together, 2).relevant.tolist() == [1, 1]


@pytest.mark.parametrize("text", ["[]", '{"query": {}}', '{"query": {"q": 1}, "gallery": {}}'])
def test_labels_of_another_form_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(UserError, match="labels must have the form"):
        read_labels(tmp_path / "labels.json")


def test_what_are_no_labels_is_named() -> None:
    with pytest.raises(TypeError, match="or a retrieval task, not list"):
        score(GOOD, ["ada"])  # type: ignore[arg-type]


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(UserError, match="nothing to score"):
        score({}, Labels({"q": "ada"}, {"g": "bo"}))


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not on this machine")
def test_the_caricature_answer_sheet_scores_itself_1000() -> None:
    labels = read_labels(SHARED / "caricature" / "test_labels.json")
    pictures: dict[str, list[str]] = {}
    for name, identity in sorted(labels.gallery.items()):
        pictures.setdefault(identity, []).append(name)
    answers = {q: pictures.get(i, [])[:10] for q, i in labels.query.items()}
    block = score(answers, labels)
    assert block["score"] == 1000.0 and block["queries"] + block["left_out"] == 902


def test_labels_may_be_a_table(tmp_path: Path) -> None:
    path = tmp_path / "solution.csv"
    rows = ["image,individual_id,split", "q.jpg,007,query", "a.jpg,007,gallery", "t.jpg,1,train"]
    path.write_text("\n".join(rows))
    assert read_labels(path) == Labels({"q.jpg": "007"}, {"a.jpg": "007"})
    path.write_text("\n".join([*rows, "a.jpg,8,Gallery"]))
    with pytest.raises(UserError, match=r"a\.jpg has two identities"):
        read_labels(path)
    path.write_text("image,individual_id\nq.jpg,1")
    with pytest.raises(UserError, match=r"such as image, identity and split .*individual_id"):
        read_labels(path)
