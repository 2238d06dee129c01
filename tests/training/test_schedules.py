"""Learning rates: lower with depth, and over the steps a rise and a fall."""

import pytest
import torch
from torch import nn

from lookalike.core.settings import TrainSettings
from lookalike.models.embedder import load_embedder
from lookalike.training.schedules import lr_factor, parameter_groups, warmup_cosine
from lookalike.training.trainable import divide_embedder


def test_rates_fall_with_depth_and_norms_do_not_decay() -> None:
    settings = TrainSettings(lr=1.0, backbone_lr_scale=0.1, layer_decay=0.5, weight_decay=0.3)
    embedder = load_embedder("test_efficientnet", "none")
    embedder.set_projection(4)
    _, trainable = divide_embedder(embedder, 2)
    groups = parameter_groups(trainable, nn.Linear(4, 2), settings)
    assert sorted({group["lr"] for group in groups}) == pytest.approx([0.05, 0.1, 1.0])
    for group in groups:
        wide = {parameter.ndim > 1 for parameter in group["params"]}
        assert wide == {group["weight_decay"] == 0.3}


def test_the_rate_rises_and_falls() -> None:
    rates = [lr_factor(step, 100, 0.1) for step in range(100)]
    assert rates.index(max(rates)) == 9 and rates[9] == 1
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001 and min(lr_factor(step, 3, 0.0) for step in range(3)) > 0


def test_the_schedule_multiplies_the_rates_of_all_groups() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [
        {"params": [weight], "lr": lr} for weight, lr in zip(weights, (1.0, 0.1), strict=True)
    ]
    optimizer = torch.optim.SGD(groups)
    schedule = warmup_cosine(optimizer, 10, 0.2)
    for step in range(10):
        assert schedule.get_last_lr() == [lr * lr_factor(step, 10, 0.2) for lr in (1.0, 0.1)]
        optimizer.step()
        schedule.step()
