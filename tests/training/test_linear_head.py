"""The head learns, the best epoch is kept, and the seed decides everything."""

import numpy as np
import pytest
import torch
from torch import nn

from lookalike.core.errors import UserError
from lookalike.core.settings import TrainSettings
from lookalike.training.linear_head import Examples, LinearHead, evaluate_head, fit_head
from lookalike.training.trainer import Epoch


def examples(count: int, seed: int, noise: float = 0.5) -> Examples:
    """Three classes of features around three centers."""
    centers = np.random.default_rng(0).normal(size=(3, 8))
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 3
    features = centers[targets] + rng.normal(0, noise, (count, 8))
    return Examples(torch.tensor(features[None], dtype=torch.float32), torch.tensor(targets))


def trained(
    settings: TrainSettings, seed: int = 0, **data: Examples
) -> tuple[LinearHead, list[Epoch]]:
    torch.manual_seed(seed)
    head = LinearHead(nn.Linear(8, 4), 4, 3)
    train, holdout = data.get("train", examples(300, 1)), data.get("holdout", examples(90, 2))
    return head, fit_head(head, train, holdout, settings, seed).history


def evaluate(head: LinearHead, examples: Examples) -> tuple[float, float]:
    return evaluate_head(head.eval(), examples)


def test_the_head_learns() -> None:
    head, history = trained(TrainSettings(lr=0.01, epochs=5))
    assert history[-1].train_loss < history[0].train_loss
    assert evaluate(head, examples(300, 3))[1] > 0.9


def test_the_best_epoch_is_kept_and_training_stops_early() -> None:
    noise = Examples(torch.randn(1, 30, 8), torch.randint(3, (30,)))
    settings = TrainSettings(lr=0.1, epochs=50, patience=3)
    head, history = trained(settings, holdout=noise)
    best = min(epoch.metrics["holdout_loss"] for epoch in history)
    assert evaluate(head, noise)[0] == pytest.approx(best)
    assert len(history) < 50
    assert [epoch.metrics["holdout_loss"] for epoch in history].index(best) == len(history) - 1 - 3


def test_the_same_seed_trains_the_same_head() -> None:
    one, same, other = (trained(TrainSettings(), seed)[0].state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["projection.weight"], other["projection.weight"])


def test_where_nothing_is_held_out_the_training_examples_evaluate() -> None:
    none = Examples(torch.zeros(1, 0, 8), torch.zeros(0, dtype=torch.long))
    _, history = trained(TrainSettings(epochs=2), holdout=none)
    assert all(np.isfinite(epoch.metrics["holdout_loss"]) for epoch in history)


def test_a_loss_out_of_bounds_is_an_error_that_names_the_remedy() -> None:
    with pytest.raises(UserError, match="lower --lr"):
        trained(TrainSettings(lr=1e30))


def test_the_mean_loss_is_that_of_the_pictures() -> None:
    """With a rate of almost 0, all batches see the same head: 7 pictures in batches of 3, 3, 1."""
    data = examples(7, 1)
    settings = TrainSettings(lr=1e-12, epochs=1, batch_size=3)
    torch.manual_seed(0)
    head = LinearHead(nn.Linear(8, 4), 4, 3)
    head.classifier = nn.Sequential(nn.Linear(4, 3))  # without dropout
    (epoch,) = fit_head(head, data, data, settings, 0).history
    assert epoch.train_loss == pytest.approx(epoch.metrics["holdout_loss"], rel=1e-5)


def test_every_view_is_trained_on() -> None:
    """Views that disagree with the first one: a head that saw only that would call them wrong."""
    first, second = examples(300, 1), examples(300, 1)
    second.features.neg_()
    views = Examples(torch.cat([first.features, second.features]), first.targets)
    head, _ = trained(TrainSettings(lr=0.01, epochs=10), train=views, holdout=first)
    only, _ = trained(TrainSettings(lr=0.01, epochs=10), train=first, holdout=first)
    assert evaluate(head, second)[0] < evaluate(only, second)[0]
