"""Training in folds: how pictures are divided, and the mean of the weights."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from lookalike.core.errors import UserError
from lookalike.data.splits import Split, make_split
from lookalike.training.folds import Fold, folds_of, mean_state


def labeled(identities: int = 12, pictures: int = 9, session: int = 1) -> pd.DataFrame:
    """Return a catalogue; so many pictures in a row are of one session."""
    return pd.DataFrame(
        {
            "path": [
                f"training/{i:02}/{n}.jpg" for i in range(identities) for n in range(pictures)
            ],
            "identity": [f"{i:02}" for i in range(identities) for _ in range(pictures)],
            "domain": "",
            "part": "training",
            "problem": "",
            "session": [
                f"{i} {n // session}" if session > 1 else ""
                for i in range(identities)
                for n in range(pictures)
            ],
        }
    )


def left_out(fold: Fold) -> dict[str, str]:
    """Return the pictures of a fold's task."""
    assert fold.task is not None
    return fold.task.query | fold.task.gallery


def split_of(catalogue: pd.DataFrame, kind: str) -> Split:
    """Divide a catalogue."""
    return make_split(catalogue, kind, "photo", seed=0)


@pytest.mark.parametrize("kind", ["disjoint", "stratified"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_each_picture_is_left_out_once(kind: str, count: int) -> None:
    """The tasks of all folds are the labeled pictures, and none is trained on by its own fold."""
    catalogue = labeled()
    folds = folds_of(split_of(catalogue, kind), catalogue, count, seed=0)
    assert sorted(path for fold in folds for path in left_out(fold)) == sorted(catalogue.path)
    for fold in folds:
        inside = set(left_out(fold))
        assert inside.isdisjoint(fold.train)
        assert len(inside) + len(fold.train) == len(catalogue)


def test_unseen_identities_are_left_out_whole() -> None:
    """Where the validation is of unseen identities, each fold's is, too."""
    catalogue = labeled()
    for fold in folds_of(split_of(catalogue, "disjoint"), catalogue, 4, seed=0):
        inside = set(left_out(fold).values())
        assert len(inside) == 3
        assert inside.isdisjoint(fold.train.values())


def test_known_identities_are_left_out_in_part() -> None:
    """Where the validation is of known identities, each fold has a share of each."""
    catalogue = labeled()
    for fold in folds_of(split_of(catalogue, "stratified"), catalogue, 3, seed=0):
        assert set(Counter(fold.train.values()).values()) == {6}


def test_a_session_is_not_divided() -> None:
    """Pictures of one session are left out together."""
    catalogue = labeled(pictures=12, session=2)
    session = dict(zip(catalogue.path, catalogue.session, strict=True))
    for fold in folds_of(split_of(catalogue, "stratified"), catalogue, 3, seed=0):
        inside = {session[path] for path in left_out(fold)}
        assert inside.isdisjoint(session[path] for path in fold.train)


def test_the_seed_decides() -> None:
    """The same seed gives the same folds, another one others."""
    catalogue = labeled()
    split = split_of(catalogue, "disjoint")
    first, again, other = (folds_of(split, catalogue, 3, seed) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("kind", ["disjoint", "stratified"])
def test_too_many_folds_are_refused(kind: str) -> None:
    """A fold without a picture is an error."""
    catalogue = labeled(6, 4)
    with pytest.raises(UserError, match="--folds 30"):
        folds_of(split_of(catalogue, kind), catalogue, 30, seed=0)


def test_a_fold_that_has_no_answer_is_not_scored() -> None:
    """Each identity has one picture in a fold, or no fold has the queries' domain."""
    catalogue = labeled(6, 4)
    folds = folds_of(split_of(catalogue, "stratified"), catalogue, 4, seed=0)
    assert [fold.task for fold in folds] == [None] * 4
    catalogue = labeled(12, 8).assign(domain=["drawing"] * 7 * 8 + ["photo"] * 5 * 8)
    folds = folds_of(split_of(catalogue, "disjoint"), catalogue, 12, seed=0)
    assert all(fold.task is None for fold in folds)
    assert {len(fold.train) for fold in folds} == {88}


def test_the_mean_is_that_of_numpy() -> None:
    """Weights are averaged in double precision; counts are the first's."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(7, 5, 3)).astype(np.float32)
    states = [{"w": torch.from_numpy(row), "n": torch.tensor(n)} for n, row in enumerate(rows)]
    mean = mean_state(states)
    assert mean["n"] == 0
    np.testing.assert_array_equal(mean["w"], rows.astype(float).mean(0).astype(np.float32))


def test_copies_stay_together() -> None:
    """Copies of a picture are a session of their own."""
    catalogue = labeled()
    catalogue["content"] = catalogue.path
    catalogue.loc[[0, 1, 2], "content"] = "same"
    split = split_of(catalogue, "stratified")
    copies = set(catalogue.path[:3])
    for fold in folds_of(split, catalogue, 3, seed=0):
        assert len(copies & set(fold.train)) in (0, 3)
