"""Pooling: how a timm backbone turns its feature map, or its tokens, into one vector."""

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from lookalike.core.errors import UserError

# timm's name for each --pooling, where it has another. GeM replaces the average that timm builds.
TIMM_POOLINGS = {"gem": "avg", "avg+gem": "avg", "cls": "token", "mean": "avg"}


class Gem(nn.Module):
    """Generalized mean pooling of each channel: (mean of x^p)^(1/p).

    Between the average (p = 1) and the maximum (p → ∞). Radenovic, Tolias and Chum, Fine-tuning CNN
    image retrieval with no human annotation (2018).

    Args:
        average: The layer that computes the plain mean, in whatever layout the backbone has.
        p: The exponent.
    """

    def __init__(self, average: nn.Module, p: float = 3.0) -> None:
        super().__init__()
        self.average, self.p = average, p

    def forward(self, x: Tensor) -> Tensor:
        """Pool a feature map; values below 1e-6 count as 1e-6."""
        mean: Tensor = self.average(x.clamp(min=1e-6).pow(self.p))
        return mean.pow(1 / self.p)


class AvgAndGem(nn.Module):
    """The average and GeM of one feature map beside each other, each scaled to length 1.

    The cosine of two pictures is then the mean of the cosines by either pooling.

    Args:
        average: The layer that computes the plain mean of (N, C, H, W); the result has 2·C columns.
    """

    def __init__(self, average: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList([average, Gem(average)])

    def forward(self, x: Tensor) -> Tensor:
        """Pool a feature map."""
        return torch.cat([normalize(part(x), dim=1) for part in self.parts], 1)


OWN_POOLINGS = {"gem": Gem, "avg+gem": AvgAndGem}


def set_pooling(backbone: nn.Module, pooling: str, name: str) -> None:
    """Change how a timm backbone without a classifier pools.

    Args:
        backbone: Changed in place.
        pooling: One of `poolings(backbone)`.
        name: The backbone's name, for the error.

    Raises:
        UserError: It has no such pooling (only timm's CNNs and ViTs have any); its own are named.
    """
    choices = poolings(backbone)
    if pooling not in choices:
        others = ", ".join(("auto", *choices))
        raise UserError(f"--pooling {pooling}: --backbone {name} has no such choice, only {others}")
    backbone.reset_classifier(0, TIMM_POOLINGS.get(pooling, pooling))  # type: ignore[operator]
    if pooling in OWN_POOLINGS:
        (layer,) = _pooling_layers(backbone)
        parent, _, child = layer.rpartition(".")
        own = OWN_POOLINGS[pooling](backbone.get_submodule(layer))
        setattr(backbone.get_submodule(parent), child, own)


def poolings(backbone: nn.Module) -> tuple[str, ...]:
    """Return the values of --pooling that a backbone takes, besides `auto`."""
    if len(_pooling_layers(backbone)) == 1:
        return "avg", "max", "gem", "avg+gem"
    if isinstance(backbone, VisionTransformerDistilled):  # its head takes two tokens, always
        return ()
    if isinstance(backbone, VisionTransformer | Eva):
        return ("cls", "mean") if backbone.cls_token is not None else ("mean",)
    return ()


def _pooling_layers(backbone: nn.Module) -> list[str]:
    """Return the names of timm's pooling layers in a backbone."""
    return [k for k, part in backbone.named_modules() if isinstance(part, SelectAdaptivePool2d)]
