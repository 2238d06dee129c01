"""Confusions and scores of groups, on a ranking small enough to count by hand."""

import pandas as pd
import pytest

from lookalike.evaluation.scoring import Labels
from lookalike.report import errors as mistakes
from lookalike.report.panels import Part, choose, order_of

GALLERY = {"a1": "ada", "a2": "ada", "b1": "bo", "c1": "cy"}
QUERIES = {"q1": "ada", "q2": "ada", "q3": "bo", "q4": "nobody"}
RANKED = {
    "q1": ["a1", "b1", "a2", "c1"],
    "q2": ["b1", "c1", "a1", "a2"],
    "q3": ["c1", "a1", "a2", "b1"],
    "q4": ["a1", "b1", "c1", "a2"],
}


def catalogue(names: dict[str, str], domains: list[str]) -> pd.DataFrame:
    rows = {
        "path": [f"test/{n}.jpg" for n in names],
        "domain": domains,
        "content": "",
        "problem": "",
    }
    return pd.DataFrame(rows, index=list(names))


def make_part(labels: Labels | None = Labels(QUERIES, GALLERY)) -> Part:  # noqa: B008
    ranked = {
        query: [(name, 0.9 - 0.1 * i - 0.01 * int(query[1])) for i, name in enumerate(names)]
        for query, names in RANKED.items()
    }
    queries = catalogue(QUERIES, ["photo", "photo", "film", "film"])
    return Part(
        "test", ranked, queries, catalogue(GALLERY, ["line", "flat", "flat", "line"]), labels
    )


def test_whom_the_first_place_shows_instead() -> None:
    rows = mistakes.confusions(make_part()).to_dict("records")
    assert rows == [
        {"asked": "ada", "shown": "bo", "queries": 1, "of": 2},
        {"asked": "bo", "shown": "cy", "queries": 1, "of": 1},
    ]


def test_scores_of_groups_and_queries_that_nothing_is_relevant_to_are_left_out() -> None:
    part = make_part()
    table = mistakes.score_by(part, mistakes.by_domain(part)).set_index("group")
    assert table.queries.to_dict() == {"film": 1, "photo": 2}
    assert table.score.to_dict() == {"film": 400, "photo": 700}
    assert table["recall@1"].to_dict() == {"film": 0, "photo": 0.5}


def test_groups_by_detection_and_by_gallery() -> None:
    part = make_part()
    faces = pd.DataFrame({"path": ["test/q1.jpg", "test/q3.jpg"], "found": ["padded", "at once"]})
    assert mistakes.by_detection(part, faces) == {"q3": "at once", "q1": "padded"}
    assert mistakes.by_gallery_size(part) == {"q3": "1", "q1": "2 to 3", "q2": "2 to 3"}


def test_how_much_of_each_domain_reaches_the_ten() -> None:
    table = mistakes.reached_by_domain(make_part()).set_index("group")
    assert table.relevant.to_dict() == {"flat": 3, "line": 2}
    assert (table.share == 1).all()


def test_the_order_of_queries_with_and_without_labels() -> None:
    assert order_of(make_part()) == ["q3", "q2", "q1"]
    assert order_of(make_part(None)) == ["q4", "q3", "q2", "q1"]
    assert mistakes.confusions(make_part(None)).empty


@pytest.mark.parametrize("most", [1, 2, 3, 10, 49, 50, 60])
def test_of_many_queries_the_ends_and_a_draw_are_shown(most: int) -> None:
    chosen = choose(list(map(str, range(50))), most, seed=0)
    assert len(chosen) == len(set(chosen)) == min(most, 50) and chosen == sorted(chosen)
    assert 0 in chosen and (most < 2 or 49 in chosen)
