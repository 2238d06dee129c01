"""Confusions and scores of groups, on a ranking small enough to count by hand."""

import pandas as pd

from lookalike.report.errors import (
    confusions,
    detection_groups,
    domain_groups,
    recall_by_domain,
    relevant_groups,
    score_groups,
)
from tests.report.ranked import make_part


def test_confusions_at_rank_1_are_counted() -> None:
    rows = confusions(make_part()).to_dict("records")
    assert rows == [
        {"identity": "ada", "retrieved": "bo", "queries": 1, "of": 2},
        {"identity": "bo", "retrieved": "cy", "queries": 1, "of": 1},
    ]


def test_groups_are_scored_without_queries_that_have_no_relevant_picture() -> None:
    part = make_part()
    table = score_groups(part, domain_groups(part)).set_index("group")
    assert table.queries.to_dict() == {"film": 1, "photo": 2}
    assert table.score.to_dict() == {"film": 400, "photo": 700}
    assert table["recall@1"].to_dict() == {"film": 0, "photo": 0.5}


def test_queries_are_grouped_by_detection_and_by_relevant_pictures() -> None:
    part = make_part()
    faces = pd.DataFrame({"path": ["test/q1.jpg", "test/q3.jpg"], "found": ["padded", "at once"]})
    assert detection_groups(part, faces) == {"q3": "at once", "q1": "padded"}
    assert relevant_groups(part) == {"q3": "1", "q1": "2 to 3", "q2": "2 to 3"}


def test_relevant_pictures_in_the_top_ten_are_counted_by_domain() -> None:
    table = recall_by_domain(make_part()).set_index("group")
    assert table.relevant.to_dict() == {"flat": 3, "line": 2}
    assert (table.share == 1).all()


def test_without_labels_there_are_no_tables() -> None:
    part = make_part(labels=None)
    assert confusions(part).empty and recall_by_domain(part).empty
    assert score_groups(part, domain_groups(part)).empty and relevant_groups(part) == {}
