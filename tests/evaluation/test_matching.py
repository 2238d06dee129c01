"""One list of defects: the scorer takes what it can make out, a leaderboard only what is exact."""

import numpy as np
import pytest

from lookalike.core.errors import UserError
from lookalike.evaluation.matching import DefectKind, errors, match, refusals
from lookalike.evaluation.scoring import Labels, find_hits, score
from lookalike.evaluation.submissions import Submission
from tests.evaluation.test_metrics import random_test

QUERIES, GALLERY = ["q1.jpg", "q2.jpg"], ["a1.jpg", "a2.jpg", "b1.jpg", "x.jpg"]


def test_names_with_folders_score_as_bare_ones_do() -> None:
    """Bare names without a defect are matched all at once, others one by one."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        submission, labels = random_test(rng)
        submission.pop(next(iter(submission)))  # a query that is missing
        short = {q: names[: rng.integers(len(names) + 1)] for q, names in submission.items()}
        foldered = {f"test/query/{q}": [f"g\\{n}" for n in names] for q, names in short.items()}
        assert score(short, labels) == score(foldered, labels)
        exact, by_name = find_hits(short, labels), find_hits(foldered, labels)
        assert exact.hits.tolist() == by_name.hits.tolist() and exact.missing == by_name.missing


@pytest.mark.parametrize(
    ("submission", "message"),
    [
        ({"q9.jpg": ["a1.jpg"]}, "query 'q9.jpg' is not among the test's queries"),
        ({"q1.jpg": ["a1.jpg", "a1.jpg"]}, "query 'q1.jpg' names 'a1.jpg' more than once"),
        ({"q1.jpg": ["a1.jpg", "d/a1.jpg"]}, "query 'q1.jpg' names 'a1.jpg' more than once"),
        ({"q1.jpg": ["zz.jpg"]}, "query 'q1.jpg' names 'zz.jpg', which is not in the gallery"),
        ({"q1.jpg": GALLERY}, "query 'q1.jpg' has 4 gallery pictures, more than 3"),
        ({"q1.jpg": [], "query/q1.jpg": []}, "query 'q1.jpg' appears twice"),
    ],
)
def test_errors_name_their_query(submission: Submission, message: str) -> None:
    (error,) = errors(match(submission, QUERIES, GALLERY, k=3))
    assert message in error


def test_names_that_can_be_made_out_short_lists_and_missing_queries_are_no_errors() -> None:
    matched = match({"query/q1.jpg": ["test\\x.jpg", "a1.jpg"]}, QUERIES, GALLERY, k=3)
    assert errors(matched) == []
    assert matched.submission == {"q1.jpg": ["x.jpg", "a1.jpg"]}
    assert matched.indices.tolist() == [[3, 0], [-1, -1]]
    assert [(defect.kind, defect.query) for defect in matched.defects] == [
        (DefectKind.MISSING_QUERY, "q2.jpg"),
        (DefectKind.QUERY_FOLDER, "query/q1.jpg"),
        (DefectKind.SHORT_LIST, "query/q1.jpg"),
        (DefectKind.NAME_FOLDER, "query/q1.jpg"),
    ]


def test_all_errors_are_told_at_once_and_many_are_counted() -> None:
    labels = Labels({"q1.jpg": "ada"}, {"a1.jpg": "ada"})
    with pytest.raises(UserError) as error:
        find_hits({"q9.jpg": ["a1.jpg"], "q1.jpg": ["zz.jpg"]}, labels)
    assert "q9.jpg" in str(error.value) and "zz.jpg" in str(error.value)
    with pytest.raises(UserError, match="and 5 more") as error:
        find_hits({f"{i}.jpg": [] for i in range(25)}, labels)
    assert len(str(error.value).splitlines()) == 22


def test_one_folder_blames_the_name_that_is_wrong() -> None:
    matched = match({"a": ["a", "zzz", "b"]}, ["a", "b"], ["a", "b"], k=10, leave_one_out=True)
    assert errors(matched) == ["query 'a' names 'zzz', which is not in the gallery"]
    assert matched.submission == {"a": ["b"]}


def test_a_leaderboard_refuses_all_that_is_not_exact() -> None:
    submission: Submission = {
        "test/q1.jpg": ["a1.jpg", "a2.jpg"],
        "q9.jpg": ["a1.jpg", "a1.jpg", "g/b1.jpg", "zz.jpg"],
    }
    assert refusals(match(submission, QUERIES, GALLERY)) == [
        "queries that are missing (1): 'q2.jpg'",
        "query names with a folder in front (1): 'test/q1.jpg'",
        "queries that the test does not have (1): 'q9.jpg'",
        "queries without exactly 4 gallery names (1): 'test/q1.jpg'",
        "queries that name a picture more than once (1): 'q9.jpg'",
        "gallery names with a folder in front (1): 'g/b1.jpg'",
        "names that the gallery does not have (1): 'zz.jpg'",
    ]


def test_many_refusals_are_counted_and_a_small_gallery_is_named_whole() -> None:
    (line,) = refusals(match({}, [f"{i}.jpg" for i in range(900)], ["a", "b"]))
    assert line.startswith("queries that are missing (900): '0.jpg'")
    assert line.endswith("and 890 more") and len(line) < 300
    assert refusals(match({"q": ["b", "a"]}, ["q"], ["a", "b"])) == []
    assert refusals(match({"q": ["a"]}, ["q"], ["a", "b"])) == [
        "queries without exactly 2 gallery names (1): 'q'"
    ]


def test_one_long_list_does_not_make_every_row_as_long() -> None:
    submission: Submission = {f"{i}": [] for i in range(1000)}
    matched = match(submission | {"q1.jpg": ["x.jpg"] * 100_000}, QUERIES, GALLERY)
    assert matched.indices.shape == (1002, 4)
