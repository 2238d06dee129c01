"""The order and the choice of queries to show, their panels, and thumbnails."""

import base64
import io
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.data.catalogue import outside_pictures
from lookalike.evaluation.scoring import Labels
from lookalike.report.panels import (
    THUMBNAIL,
    WITH_LABELS,
    WITHOUT_LABELS,
    Thumbnails,
    choose_queries,
    make_panels,
    order_queries,
)
from tests.conftest import draw
from tests.report.ranked import GALLERY, make_part


def test_queries_are_ordered_with_and_without_labels() -> None:
    assert order_queries(make_part()) == ["q3", "q2", "q1"]
    assert order_queries(make_part(labels=None)) == ["q4", "q3", "q2", "q1"]


def test_labels_without_a_common_identity_are_as_none() -> None:
    part = make_part(Labels({"q1": "eve"}, GALLERY))
    assert part.query_hits is None and order_queries(part)[0] == "q4"


@pytest.mark.parametrize("most", [1, 2, 3, 10, 49, 50, 60])
def test_of_many_queries_both_ends_and_a_sample_are_shown(most: int) -> None:
    chosen = choose_queries(list(map(str, range(50))), most, seed=0)
    assert len(chosen) == len(set(chosen)) == min(most, 50) and chosen == sorted(chosen)
    assert 0 in chosen and (most < 2 or 49 in chosen)


def test_a_panel_shows_hits_where_labels_are_known() -> None:
    panels = make_panels(make_part(), 10, 0, Thumbnails(Path()))
    assert (panels["name"], panels["total"], panels["order"]) == ("test", 3, WITH_LABELS)
    query, _, identity, _, top = panels["panels"][1]
    assert (query, identity) == ("q2", "ada")
    assert [(name, retrieved, hit) for name, _, _, retrieved, hit in top] == [
        ("b1", "bo", False),
        ("c1", "cy", False),
        ("a1", "ada", True),
        ("a2", "ada", True),
    ]
    assert sorted(panel[3] for panel in panels["panels"]) == [0, 1, 2], "the random order"
    unlabeled = make_panels(make_part(labels=None), 10, 0, Thumbnails(Path()))
    assert not unlabeled["known"] and unlabeled["order"] == WITHOUT_LABELS
    assert all(hit is None for panel in unlabeled["panels"] for *_, hit in panel[4])


def test_each_picture_is_drawn_once(tmp_path: Path) -> None:
    for name, person in (("a.jpg", 0), ("b.jpg", 1), ("copy.jpg", 0)):
        draw(tmp_path / name, person, 0)
    (tmp_path / "broken.jpg").write_text("no picture")
    rows = outside_pictures([tmp_path / n for n in ("a.jpg", "b.jpg", "copy.jpg", "broken.jpg")])
    thumbnails = Thumbnails(tmp_path)
    assert thumbnails.indices(rows) == [0, 1, 0, -1]
    assert thumbnails.indices(rows.iloc[[1]]) == [1] and len(thumbnails) == 2
    uris = thumbnails.draw()
    head, data = uris[0].split(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/webp;base64" and image.size == (THUMBNAIL, THUMBNAIL)
    assert len(uris) == 2 and uris[0] != uris[1]


def test_a_picture_that_has_changed_is_an_error(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg", 0, 0)
    thumbnails = Thumbnails(tmp_path)
    thumbnails.indices(outside_pictures([tmp_path / "a.jpg"]))
    draw(tmp_path / "a.jpg", 1, 0)
    with pytest.raises(UserError, match=r"a\.jpg"):
        thumbnails.draw()


def test_rows_without_a_problem_are_readable() -> None:
    rows = pd.DataFrame({"path": ["x"], "content": ["1"], "problem": ["unreadable: gone"]})
    assert Thumbnails(Path()).indices(rows) == [-1]
