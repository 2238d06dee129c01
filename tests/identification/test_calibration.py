"""The threshold accepts no more impostors than allowed; its error rates are those of the scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.core.errors import UserError
from lookalike.core.numeric import unit
from lookalike.core.sealed import write_sealed
from lookalike.data.splits import RetrievalTask, Split
from lookalike.evaluation.metrics import threshold_at
from lookalike.identification.calibration import (
    calibrate_threshold,
    choose_impostors,
    error_rates,
    read_calibration,
)
from lookalike.identification.references import Match
from lookalike.identification.settings import ReferenceSettings


def at(*degrees: float) -> np.ndarray:
    """Return unit rows in the plane, at these angles."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def by(method: Any) -> ReferenceSettings:
    return ReferenceSettings(Path("runs/none"), method=method)


@pytest.mark.parametrize("false_accept", [0.0, 0.01, 0.1, 0.29, 0.5])
def test_no_more_impostors_are_accepted_than_allowed(false_accept: float) -> None:
    scores = np.random.default_rng(0).normal(size=100)
    accepted = (scores >= threshold_at(scores, false_accept)).mean()
    assert accepted == pytest.approx(false_accept)
    ties = np.repeat([0.1, 0.2], 50)
    assert (ties >= threshold_at(ties, false_accept)).mean() <= false_accept


def test_the_error_rates_are_those_of_the_scores() -> None:
    genuine = [Match("ada", 0.9), Match("bob", 0.6), Match("ada", 0.3), Match("ada", 0.8)]
    impostors = [Match("ada", score) for score in (0.1, 0.2, 0.4, 0.5)]
    rates = error_rates(genuine, ["ada", "ada", "ada", "ada"], impostors, 0.25)
    assert 0.4 < rates.pop("threshold") < 0.5
    assert rates == {"false_accept": 0.25, "false_reject": 0.25, "misnamed": 0.25}


def split_of(train: str, holdout: str, validation: str) -> Split:
    """Return a split in which each letter is one picture of the identity with this name."""

    def part(name: str, identities: str) -> dict[str, str]:
        return {f"{name}/{i}": identity for i, identity in enumerate(identities)}

    task = RetrievalTask(part("query", validation[::2]), part("gallery", validation[1::2]))
    return Split("disjoint", False, part("train", train), part("holdout", holdout), task)


CLOSED = split_of("abcdefghij" * 2, "abcdefghij", "abcdefghij")


def test_impostors_are_the_identities_that_are_not_trained_on() -> None:
    for trained in (True, False):
        assert choose_impostors(split_of("aabb", "ab", "ccdd"), 0, trained) == {"c", "d"}
    drawn = choose_impostors(CLOSED, 0, trained=False)
    assert len(drawn) == 2 and drawn < set("abcdefghij")
    assert drawn == choose_impostors(CLOSED, 0, trained=False)
    assert any(drawn != choose_impostors(CLOSED, seed, trained=False) for seed in range(1, 6))
    assert choose_impostors(split_of("aa", "a", ""), 0, trained=False) == set()


def test_nothing_is_calibrated_on_identities_that_the_embedding_was_trained_on() -> None:
    assert choose_impostors(CLOSED, 0, trained=True) == set()
    assert choose_impostors(CLOSED.refitted(), 0, trained=True) == set()
    rows = {path: at(number)[0] for number, path in enumerate(CLOSED.labeled)}
    result = calibrate_threshold(rows, CLOSED, by("knn"), 0.01, seed=0, trained=True)
    assert result == {"threshold": None}


def test_the_threshold_holds_for_the_number_of_known_identities() -> None:
    """Impostors are near to random known identities: with more of these, nearer to one."""
    rng = np.random.default_rng(0)
    known = [f"k{i}" for i in range(20)]
    strangers = [f"s{i}" for i in range(600)]
    train = {f"train/{name}": name for name in known}
    holdout = {f"holdout/{name}": name for name in known}
    task = RetrievalTask({f"query/{name}": name for name in strangers}, {})
    split = Split("disjoint", False, train, holdout, task)
    rows = {path: unit(rng.normal(size=(1, 8)))[0] for path in split.labeled}
    for there in (20, 5, 200):
        result = calibrate_threshold(rows, split, by("centroid"), 0.1, seed=0, identities=there)
        gallery = unit(rng.normal(size=(there, 8)))
        others = unit(rng.normal(size=(4000, 8)))
        accepted = ((others @ gallery.T).max(axis=1) >= result["threshold"]).mean()
        assert accepted == pytest.approx(0.1, abs=0.06), there


def test_the_threshold_separates_known_from_unknown_identities() -> None:
    split = split_of("aabb", "ab", "ccdd")
    angle = {"a": 0.0, "b": 90.0, "c": 45.0, "d": 180.0}
    rows = {path: at(angle[name] + i)[0] for i, (path, name) in enumerate(split.labeled.items())}
    result = calibrate_threshold(rows, split, by("centroid"), 0.0, seed=0)
    assert np.cos(np.deg2rad(45)) < result["threshold"] < np.cos(np.deg2rad(10))
    assert result["false_accept"] == result["false_reject"] == result["misnamed"] == 0
    assert result["known"] == "2 pictures of 2 people"
    assert result["strangers"] == "4 pictures of 2 people"


@pytest.mark.parametrize("parts", [("aa", "a", ""), ("", "", ""), ("aabb", "", "cc")])
def test_without_known_or_unknown_identities_there_is_no_threshold(
    parts: tuple[str, str, str],
) -> None:
    split = split_of(*parts)
    rows = {path: at(0)[0] for path in split.train}
    assert calibrate_threshold(rows, split, by("knn"), 0.01, 0) == {"threshold": None}


STORED: dict[str, Any] = {
    "method": "knn",
    "threshold": 0.4,
    **dict.fromkeys(["false_accept", "false_reject", "misnamed"], 0.1),
    **dict.fromkeys(["known", "strangers"], "2 pictures of 2 people"),
    "made_from": {"seed": 0},
}


def test_a_stored_calibration_is_read(tmp_path: Path) -> None:
    path = tmp_path / "identify.json"
    none: dict[str, Any] = {"method": "knn", "threshold": None, "made_from": {}}
    for record in (STORED, none):
        write_sealed(path, record)
        assert read_calibration(path) == record
        path.write_text(json.dumps(record))
        assert read_calibration(path) == record, "as earlier versions wrote it"


@pytest.mark.parametrize(
    "damage", [{"threshold": "0.4"}, {"known": 2}, {"made_from": []}, {"misnamed": float("nan")}]
)
def test_a_calibration_of_another_form_is_refused(damage: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "identify.json"
    path.write_text(json.dumps(STORED | damage))
    with pytest.raises(UserError, match=r"identify\.json: Expected"):
        read_calibration(path)


def test_a_changed_threshold_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "identify.json"
    write_sealed(path, STORED)
    path.write_text(path.read_text().replace("0.4", "0.3"))
    with pytest.raises(UserError, match="was changed"):
        read_calibration(path)
