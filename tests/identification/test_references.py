"""Each method names the nearest people; no more strangers get a name than asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.data.splits import RetrievalTask, Split
from lookalike.evaluation.metrics import threshold_at
from lookalike.identification.references import (
    METHODS,
    Guess,
    Naming,
    calibrate,
    choose_strangers,
    make_references,
    name_rows,
    rates,
)


def at(*degrees: float) -> np.ndarray:
    """Unit rows in the plane, at these angles."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def naming(method: Any, **options: Any) -> Naming:
    return Naming(Path("runs/none"), method=method, **options)


def named(rows: np.ndarray, people: dict[str, np.ndarray], how: Naming) -> list[list[str]]:
    """The names of the guesses for each row."""
    identities = [name for name, own in people.items() for _ in own]
    known = make_references(np.concatenate(list(people.values())), identities, how, seed=0)
    return [[guess.identity for guess in guesses] for guesses in name_rows(rows, known, how)]


# ---- methods ------------------------------------------------------------------------------------


def test_the_medoid_is_the_picture_in_the_middle() -> None:
    known = make_references(at(0, 10, 70, 90, 95), list("aaabb"), naming("medoid"), 0)
    assert known.identities == ["a", "b"]
    np.testing.assert_allclose(known.rows, at(10, 90), atol=1e-6)


def test_the_centroid_is_the_mean_direction() -> None:
    known = make_references(at(0, 90, 40, 60), list("abba"), naming("centroid"), 0)
    assert known.identities == ["a", "b"]
    np.testing.assert_allclose(known.rows, at(30, 65), atol=1e-6)


def test_k_means_finds_both_looks_of_a_person() -> None:
    """Halfway between the two looks stands somebody else, whom the centroid mistakes for them."""
    people = {"ada": at(0, 2, 88, 90), "bob": at(30, 32)}
    settings = at(1, 89, 31)
    assert [names[0] for names in named(settings, people, naming("kmeans", representatives=2))] == [
        "ada",
        "ada",
        "bob",
    ]
    assert [names[0] for names in named(settings, people, naming("centroid"))] == [
        "bob",
        "ada",
        "bob",
    ]


def test_k_means_takes_fewer_where_there_are_fewer_different_pictures() -> None:
    rows = at(0, 0, 0, 50, 60)
    known = make_references(rows, list("aaabb"), naming("kmeans", representatives=3), 0)
    assert known.identities == ["a", "b", "b"]


def test_the_neighbors_vote_by_their_similarity() -> None:
    people = {"ada": at(1), "bob": at(5, 6), "cleo": at(170, 175)}
    assert named(at(0), people, naming("knn", neighbors=1)) == [["ada"]]
    assert named(at(0), people, naming("knn", neighbors=3)) == [["bob", "ada"]]
    # What points the other way has no vote, however many of it there are.
    assert named(at(0), people, naming("knn", neighbors=9))[0][:2] == ["bob", "ada"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_names_the_nearest_and_the_next(method: Any) -> None:
    people = {"ada": at(0, 1, 2), "bob": at(20, 21, 22), "cleo": at(100, 101, 102)}
    how = naming(method)
    near, far = named(at(3, 19), people, how)
    assert (near[0], far[0]) == ("ada", "bob")
    assert near[1:2] in (["bob"], []) and far[1:2] in (["ada"], [])
    assert named(at(50), {"ada": at(0, 1)}, how) == [["ada"]], "there is nobody else"
    assert named(np.zeros((0, 2), np.float32), people, how) == []


# ---- the threshold ------------------------------------------------------------------------------


@pytest.mark.parametrize("false_accept", [0.0, 0.01, 0.1, 0.29, 0.5])
def test_no_more_strangers_are_accepted_than_asked_for(false_accept: float) -> None:
    scores = np.random.default_rng(0).normal(size=100)
    accepted = (scores >= threshold_at(scores, false_accept)).mean()
    assert accepted == pytest.approx(false_accept)
    ties = np.repeat([0.1, 0.2], 50)
    assert (ties >= threshold_at(ties, false_accept)).mean() <= false_accept


def test_the_rates_are_those_of_the_scores() -> None:
    genuine = [Guess("ada", 0.9), Guess("bob", 0.6), Guess("ada", 0.3), Guess("ada", 0.8)]
    strangers = [Guess("ada", score) for score in (0.1, 0.2, 0.4, 0.5)]
    found = rates(genuine, ["ada", "ada", "ada", "ada"], strangers, 0.25)
    assert 0.4 < found.pop("threshold") < 0.5
    assert found == {"false_accept": 0.25, "false_reject": 0.25, "misnamed": 0.25}


def split_of(train: str, holdout: str, validation: str) -> Split:
    """A split in which each letter is a person's picture."""

    def part(name: str, people: str) -> dict[str, str]:
        return {f"{name}/{i}": person for i, person in enumerate(people)}

    task = RetrievalTask(part("query", validation[::2]), part("gallery", validation[1::2]))
    return Split("disjoint", False, part("train", train), part("holdout", holdout), task)


def test_strangers_are_whom_training_never_saw() -> None:
    assert choose_strangers(split_of("aabb", "ab", "ccdd"), 0) == {"c", "d"}
    closed = split_of("abcdefghij" * 2, "abcdefghij", "abcdefghij")
    drawn = choose_strangers(closed, 0)
    assert len(drawn) == 2 and drawn < set("abcdefghij")
    assert drawn == choose_strangers(closed, 0)
    assert any(drawn != choose_strangers(closed, seed) for seed in range(1, 6))
    assert choose_strangers(split_of("aa", "a", ""), 0) == set()


def test_calibration_tells_people_from_strangers() -> None:
    split = split_of("aabb", "ab", "ccdd")
    angle = {"a": 0.0, "b": 90.0, "c": 45.0, "d": 180.0}
    pictures = {**split.train, **split.holdout}
    pictures |= {**split.validation.query, **split.validation.gallery}
    rows = {path: at(angle[person] + i)[0] for i, (path, person) in enumerate(pictures.items())}
    found = calibrate(rows, split, naming("centroid"), 0.0, seed=0)
    assert np.cos(np.deg2rad(45)) < found["threshold"] < np.cos(np.deg2rad(10))
    assert found["false_accept"] == found["false_reject"] == found["misnamed"] == 0
    assert found["known"] == "2 pictures of 2 people"
    assert found["strangers"] == "4 pictures of 2 people"


@pytest.mark.parametrize("parts", [("aa", "a", ""), ("", "", ""), ("aabb", "", "cc")])
def test_too_little_to_calibrate_on_gives_no_threshold(parts: tuple[str, str, str]) -> None:
    split = split_of(*parts)
    rows = {path: at(0)[0] for path in split.train}
    assert calibrate(rows, split, naming("knn"), 0.01, 0) == {"threshold": None}
