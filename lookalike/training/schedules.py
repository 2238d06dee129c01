"""TODO lookalike.training.schedules."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lookalike.core.settings import TrainSettings
from lookalike.training.trainable import TrainableEmbedder


def parameter_groups(
    trainable: TrainableEmbedder, objective: nn.Module, settings: TrainSettings
) -> list[dict[str, Any]]:
    """AdamW's groups: the projection and what the objective learns at --lr, the last block at
    --backbone-lr-scale of it, each one before at --layer-decay of the next. Norms and biases, which
    have one dimension, do not decay."""
    layers = [(settings.lr, trainable.projection), (settings.lr, objective)]
    for depth, block in enumerate(reversed(trainable.blocks)):
        layers.append(
            (settings.lr * settings.backbone_lr_scale * settings.layer_decay**depth, block)
        )
    groups = []
    for lr, layer in layers:
        parameters = list(layer.parameters())
        for decays in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == decays]
            if chosen:
                decay = settings.weight_decay if decays else 0.0
                groups.append({"params": chosen, "lr": lr, "weight_decay": decay})
    return groups


def rate_at(step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate at a step: a straight rise over the first `warmup` of all
    steps, then half a cosine down to 0 (Loshchilov and Hutter, SGDR, 2017).

    >>> [round(rate_at(step, 10, warmup=0.2), 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def schedule_of(
    optimizer: torch.optim.Optimizer, steps: int, warmup: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """The same as PyTorch's schedule."""
    factor: Callable[[int], float] = lambda step: rate_at(step, steps, warmup)  # noqa: E731
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class Average:
    """An exponential moving average of a module's state: each step moves it by 1 - decay."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def update(self, module: nn.Module) -> None:
        """Takes a step's weights in."""
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - self.decay)
            else:
                self.state[name].copy_(tensor)
