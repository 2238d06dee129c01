"""How fast each part learns: the optimizer's parameter groups, and warm-up with cosine decay."""

import math
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lookalike.core.settings import TrainSettings
from lookalike.training.trainable import TrainableEmbedder


def parameter_groups(
    trainable: TrainableEmbedder, objective: nn.Module, settings: TrainSettings
) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups, with a learning rate that falls with depth.

    The projection and what the objective learns have --lr, the last block --backbone-lr-scale of
    it, and each block before --layer-decay of the next one's. Norms and biases, which have one
    dimension, do not decay. Changes by LoRA, which start at 0 like a projection, have --lr.
    """
    layers = [(settings.lr, trainable.projection), (settings.lr, objective)]
    for depth, block in enumerate(reversed(trainable.blocks)):
        scale = 1.0 if settings.lora else settings.backbone_lr_scale * settings.layer_decay**depth
        layers.append((settings.lr * scale, block))
    groups = []
    for lr, layer in layers:
        for decays in (True, False):
            learned = [p for p in layer.parameters() if p.requires_grad]
            parameters = [p for p in learned if (p.ndim > 1) == decays]
            if parameters:
                decay = settings.weight_decay if decays else 0.0
                groups.append({"params": parameters, "lr": lr, "weight_decay": decay})
    return groups


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """Return the share of the learning rate at a step.

    It rises on a straight line over the first `warmup` of all steps and then falls to 0 along half
    a cosine (Loshchilov and Hutter, SGDR, 2017).

    Args:
        step: From 0.
        steps: Steps in the whole training.
        warmup: Share of the steps, from 0 to 1.

    >>> [round(lr_factor(step, 10, warmup=0.2), 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def warmup_cosine(optimizer: Optimizer, steps: int, warmup: float) -> LambdaLR:
    """Return a schedule that multiplies the learning rates by `lr_factor`.

    The closed formula, and not a `SequentialLR` of `LinearLR` and `CosineAnnealingLR`: these
    multiply the rate of the step before, so that rounding errors add up, and a warm-up of no step,
    or of one, would be a case of its own.
    """
    return LambdaLR(optimizer, lambda step: lr_factor(step, steps, warmup))
