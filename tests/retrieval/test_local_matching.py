from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.core.settings import RetrieveSettings
from lookalike.data.pictures import picture_rows
from lookalike.features.local import LocalPoints, local_points
from lookalike.retrieval import local_matching
from lookalike.retrieval.embeddings import Embeddings
from lookalike.retrieval.labeled_tasks import LabeledTask, LabeledTasks, score_task
from lookalike.retrieval.local_matching import FLOOR, NEIGHBORS, PictureMatcher, match
from lookalike.retrieval.postprocess import score_all
from lookalike.retrieval.ranking import rank
from tests.features.test_local import texture

COUNT = 6


def seen_again(pixels: np.ndarray) -> np.ndarray:
    """Return a picture as another photograph shows it: smaller, darker, from another side."""
    image = Image.fromarray(pixels).rotate(8, Image.Resampling.BICUBIC, fillcolor=(90, 90, 90))
    image = image.crop((10, 6, 90, 92)).resize((110, 100), Image.Resampling.BICUBIC)
    return (np.array(image) * 0.8).astype(np.uint8)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalPoints, LocalPoints]:
    folder = tmp_path_factory.mktemp("points")
    gallery = [texture(seed) for seed in range(COUNT)]
    queries = [seen_again(pixels) for pixels in gallery]
    one, other = (
        local_points(picture_rows(side, folder), folder, folder) for side in (queries, gallery)
    )
    return one, other


def scores_of(queries: LocalPoints, gallery: LocalPoints) -> np.ndarray:
    return match([queries], gallery, queries.pictures)


def test_a_picture_is_found_by_the_points_it_shares(
    sides: tuple[LocalPoints, LocalPoints], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = scores_of(*sides)
    assert scores.shape == (COUNT, COUNT) and scores.dtype == np.float32
    assert scores.argmax(axis=1).tolist() == list(range(COUNT))
    assert np.isclose(scores.min(), np.log(FLOOR)), "strangers share nothing"
    assert np.array_equal(scores, scores_of(*sides)), "the same every time"
    monkeypatch.setattr(local_matching, "EXACT", 0)
    assert scores_of(*sides).argmax(axis=1).tolist() == list(range(COUNT)), "by lists, too"


def plain_votes(queries: LocalPoints, gallery: LocalPoints) -> np.ndarray:
    """Return (Q, G) sums of votes, by the book: a loop over points."""
    votes = np.zeros((queries.pictures, gallery.pictures))
    for row, place, owner in zip(*queries[:3], strict=True):
        squares = ((gallery.descriptors - row) ** 2).sum(axis=1)
        nearest = np.argsort(squares, kind="stable")[:NEIGHBORS]
        voted = set()
        for number in nearest:
            picture = int(gallery.owners[number])
            if picture in voted:
                continue
            voted.add(picture)
            turn = abs(place[3] - gallery.places[number, 3])
            alike = min(turn, 360 - turn) < local_matching.ANGLE
            alike &= abs(place[2] - gallery.places[number, 2]) < local_matching.OCTAVES
            if alike:
                share = 1 - squares[number] / squares[nearest[-1]]
                votes[owner, picture] += max(share, 0) ** local_matching.POWER
    return votes


def test_votes_are_those_of_the_paper(sides: tuple[LocalPoints, LocalPoints]) -> None:
    queries, gallery = sides
    index = local_matching._index(gallery.descriptors)
    matches = local_matching._matches(queries, gallery, index)
    sums = np.bincount(matches.pairs, matches.votes, COUNT * COUNT).reshape(COUNT, COUNT)
    assert np.allclose(sums, plain_votes(queries, gallery), atol=1e-4)
    assert (np.exp(scores_of(*sides)) - FLOOR <= sums + 1e-4).all(), "verified ones are a part"


def test_pictures_without_points_share_nothing(sides: tuple[LocalPoints, LocalPoints]) -> None:
    queries, gallery = sides
    none = LocalPoints(
        np.zeros((0, 128), np.float32), np.zeros((0, 4), np.float32), np.zeros(0, int), 3
    )
    for one, other in ((none, gallery), (queries, none), (none, none)):
        scores = scores_of(one, other)
        assert scores.shape == (one.pictures, other.pictures)
        assert np.allclose(scores, np.log(FLOOR))


@pytest.fixture
def matcher(tmp_path: Path) -> PictureMatcher:
    for number in range(COUNT):
        Image.fromarray(texture(number)).save(tmp_path / f"g{number}.png")
        Image.fromarray(seen_again(texture(number))).save(tmp_path / f"q{number}.png")
    return PictureMatcher(tmp_path, tmp_path / "cache")


def rows(matcher: PictureMatcher, side: str, numbers: range) -> pd.DataFrame:
    return picture_rows(pd.DataFrame({"path": [f"{side}{n}.png" for n in numbers]}), matcher.root)


def test_scores_are_kept(matcher: PictureMatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    task = rows(matcher, "q", range(COUNT)), rows(matcher, "g", range(COUNT))
    monkeypatch.setattr(local_matching, "QUERIES", COUNT - 1)
    scores = matcher.scores(*task)
    assert scores.argmax(axis=1).tolist() == list(range(COUNT)), "also of the second block"
    monkeypatch.setattr(local_matching, "match", lambda *sides: pytest.fail("matched again"))
    assert matcher.scores(*task) is scores


def test_a_part_of_a_task_has_the_scores_of_the_whole(matcher: PictureMatcher) -> None:
    catalogue = pd.concat([rows(matcher, side, range(COUNT)) for side in "qg"], ignore_index=True)
    catalogue["domain"] = ""
    query, gallery = ({f"{side}{n}.png": f"p{n}" for n in range(COUNT)} for side in "qg")
    strangers = dict(zip(catalogue.path, np.eye(2 * COUNT, dtype=np.float32), strict=True))
    whole = LabeledTask(query, gallery, {})
    tasks = LabeledTasks(catalogue, "", [whole], strangers, matcher=matcher)
    local = tasks.embeddings(whole).local
    assert local is not None
    part = LabeledTask(
        {"q4.png": "p4", "q1.png": "p1"}, {"g5.png": "p5", "g1.png": "p1", "g4.png": "p4"}, {}
    )
    of_part = tasks.embeddings(part).local
    assert of_part is not None
    assert np.array_equal(of_part(), local()[np.ix_([4, 1], [5, 1, 4])])
    settings = RetrieveSettings(local_weight=1.0)
    found = score_task(tasks.embeddings(part), part, settings)
    assert found.mean("recall@1") == 1, "the embeddings know nothing"


def test_both_scores_count_by_the_weight() -> None:
    none = np.zeros((0, 2), np.float32)
    queries, gallery = (
        np.array([[1, 0]], np.float32),
        np.array([[1, 0], [0, 1], [-1, 0]], np.float32),
    )
    found = np.array([[0, 1, 5]], np.float32)
    for weight, first in ((0.1, 0), (10.0, 2)):
        task = Embeddings(queries, gallery, none, none, local=lambda: found)
        scores = score_all(task, RetrieveSettings(local_weight=weight))
        assert scores[0].argmax() == first


def test_embeddings_alone_have_no_points() -> None:
    with pytest.raises(UserError, match="local_weight: needs pictures"):
        rank(np.eye(2), np.eye(2), RetrieveSettings(local_weight=1.0))
