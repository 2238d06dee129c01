"""Pairs are drawn fairly, no identity is both trained on and tested, and a seed decides all."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lookalike.core.errors import UserError
from lookalike.verification.protocols import read_pairs
from lookalike.verification.settings import PairSettings, SiameseSettings
from lookalike.verification.siamese import AugmentedInputs
from lookalike.verification.training import (
    FoldSetup,
    PairSampler,
    split_pairs,
    train_fold,
    training_identities,
)
from tests.conftest import draw_cfp

# ---- drawing ------------------------------------------------------------------------------------


def test_every_pair_of_an_identity_has_the_same_chance() -> None:
    identities = ["a"] * 4 + ["b"] * 3 + ["c"]
    sampler = PairSampler(identities, np.arange(10, 18))
    rng = np.random.default_rng(0)
    seen: Counter[tuple[int, int]] = Counter()
    for _ in range(3000):
        pairs, same = sampler.draw(6, rng)
        seen.update(tuple(sorted(pair)) for pair in pairs[same].tolist())
    assert len(seen) == 6 + 3, "4 pictures have 6 pairs, 3 have 3"
    assert min(seen.values()) > 0.85 * 1000 and max(seen.values()) < 1.15 * 1000


def test_negative_pairs_are_of_two_identities_each_as_often() -> None:
    identities = ["a"] * 4 + ["b"] * 2 + ["c"]
    sampler = PairSampler(identities, np.arange(7))
    pairs, same = sampler.draw(6000, np.random.default_rng(0))
    assert same.sum() == 3000
    shown = np.array(identities)[pairs]
    assert ((shown[:, 0] == shown[:, 1]) == same).all() and (pairs[:, 0] != pairs[:, 1]).all()
    counts = Counter(shown[~same].ravel().tolist())
    assert min(counts.values()) > 0.9 * 2000, "though a has four pictures and c one"
    assert abs((pairs[:, 0] < pairs[:, 1]).mean() - 0.5) < 0.05, "either picture comes first"


def test_an_epoch_repeats_no_pair_while_there_are_enough() -> None:
    sampler = PairSampler(["a"] * 5 + ["b"] * 5, np.arange(10))
    pairs, same = sampler.draw(40, np.random.default_rng(0))
    assert len({tuple(sorted(pair)) for pair in pairs[same].tolist()}) == 20


def test_too_few_identities_are_an_error() -> None:
    for identities in (["a", "a"], ["a", "b"]):
        with pytest.raises(UserError, match="two identities, and one of them with two pictures"):
            PairSampler(identities, np.arange(2))


def test_a_last_batch_of_a_single_pair_is_left_out() -> None:
    pairs, same = np.arange(14).reshape(7, 2), np.arange(7) > 3
    assert [len(batch) for batch, _ in split_pairs(pairs, same, 3)] == [3, 3]
    assert [len(batch) for batch, _ in split_pairs(pairs, same, 5)] == [5, 2]


# ---- which identities are trained on ------------------------------------------------------------


def test_no_identity_of_the_test_or_the_validation_is_trained_on(tmp_path: Path) -> None:
    pairs = read_pairs(PairSettings(draw_cfp(tmp_path / "cfp")))
    table = pairs.table
    assert training_identities(table, pairs.identities, 1) == {"005", "006", "007", "008"}
    assert training_identities(table, pairs.identities, 4) == {"003", "004", "005", "006"}
    # An identity of the tested fold that occurs in another one too is left out there.
    more = pd.DataFrame([(3, table.a[0], table.a[20], False, "")], columns=table.columns)
    shared = pd.concat([table, more], ignore_index=True)
    assert training_identities(shared, pairs.identities, 1) == {"005", "006", "007", "008"}
    assert "001" not in training_identities(shared, pairs.identities, 1)


# ---- a fold -------------------------------------------------------------------------------------


@pytest.fixture
def setup(tmp_path: Path) -> FoldSetup:
    """Features that show who it is; the folds of the tiny CFP."""
    pairs = read_pairs(PairSettings(draw_cfp(tmp_path / "cfp")))
    rows = pd.DataFrame({"path": sorted(pairs.identities)})
    rows["identity"] = rows.path.map(pairs.identities)
    rng = np.random.default_rng(0)
    centers = {name: rng.normal(size=16) for name in sorted(set(rows.identity))}
    noisy = [centers[name] + rng.normal(0, 0.1, 16) for name in rows.identity]
    features = torch.tensor(np.array(noisy), dtype=torch.float32)
    inputs = AugmentedInputs(
        lambda indices: features[indices], lambda indices, rng: features[indices]
    )

    class Stub:
        features_dim = 16

    settings = SiameseSettings(head="cosine", branch_dim=8, epochs=3, epoch_pairs=40, batch_size=8)
    return FoldSetup(Stub(), inputs, rows, pairs.identities, pairs.table, settings, 0)  # type: ignore[arg-type]


def test_a_trained_network_tells_unseen_identities_apart(setup: FoldSetup) -> None:
    trained = train_fold(setup, 1)
    tested = setup.table[setup.table.fold == 1]
    assert len(trained.scores) == len(tested) == 8
    assert ((trained.scores >= trained.threshold) == tested.same).mean() >= 0.75
    assert [epoch.number for epoch in trained.history] == list(range(1, len(trained.history) + 1))


def test_the_same_seed_gives_the_same_weights(setup: FoldSetup) -> None:
    first, again, other = (
        train_fold(setup._replace(seed=seed), 2).network.state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_test_fold_decides_nothing(setup: FoldSetup) -> None:
    """Other answers in the tested fold change neither the network nor its threshold."""
    flipped = setup.table.copy()
    flipped.loc[flipped.fold == 1, "same"] = ~flipped.same[flipped.fold == 1]
    trained, other = train_fold(setup, 1), train_fold(setup._replace(table=flipped), 1)
    assert trained.threshold == other.threshold and (trained.scores == other.scores).all()
    state, twin = trained.network.state_dict(), other.network.state_dict()
    assert all(torch.equal(state[name], twin[name]) for name in state)


def test_the_best_epoch_of_the_validation_is_kept(setup: FoldSetup) -> None:
    """A rate that destroys what an epoch has learned stops the training, and does no harm."""
    settings = replace(setup.settings, epochs=8, patience=2, lr=0.5)
    history = train_fold(setup._replace(settings=settings), 1).history
    best = max(range(len(history)), key=lambda i: history[i].metrics["validation_auc"])
    assert len(history) == min(8, best + 1 + 2)


def test_a_loss_that_is_not_finite_is_an_error(setup: FoldSetup) -> None:
    broken = AugmentedInputs(
        setup.inputs.plain, lambda indices, rng: setup.inputs.plain(indices) * float("nan")
    )
    with pytest.raises(UserError, match="the loss of epoch 1, step 1 is not finite: lower --lr"):
        train_fold(setup._replace(inputs=broken), 1)


def test_a_limit_of_time_ends_training(setup: FoldSetup, caplog: pytest.LogCaptureFixture) -> None:
    settings = replace(setup.settings, max_minutes=1e-9)
    assert len(train_fold(setup._replace(settings=settings), 1).history) == 1
    assert "training stopped in epoch 1 by --max-minutes" in caplog.text
