"""TODO lookalike.models.pooling."""

from timm.layers import SelectAdaptivePool2d
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lookalike.core.errors import UserError


class Gem(nn.Module):
    """Generalised mean of each channel over the picture's places, (mean of x^p)^(1/p) with p = 3:
    between the average (p = 1) and the maximum.

    Radenovic, Tolias and Chum, Fine-tuning CNN image retrieval with no human annotation (2018).
    average: the layer that pools by the plain mean, whatever layout the backbone has.
    """

    def __init__(self, average: nn.Module, p: float = 3.0) -> None:
        super().__init__()
        self.average, self.p = average, p

    def forward(self, x: Tensor) -> Tensor:
        """What `average` takes -> what it gives; values below 1e-6 count as that."""
        mean: Tensor = self.average(x.clamp(min=1e-6).pow(self.p))
        return mean.pow(1 / self.p)


TIMM_POOLINGS = {"gem": "avg", "cls": "token", "mean": "avg"}  # what timm calls them, or builds on


def set_pooling(backbone: nn.Module, pooling: str, name: str) -> None:
    """Has a timm backbone without a classifier pool in another way than its own.

    Raises:
        UserError: it has no such choice (only timm's CNNs and ViTs have any); its own are named.
    """
    choices = poolings(backbone)
    if pooling not in choices:
        others = ", ".join(("auto", *choices))
        raise UserError(f"--pooling {pooling}: --backbone {name} has no such choice, only {others}")
    backbone.reset_classifier(0, TIMM_POOLINGS.get(pooling, pooling))  # type: ignore[operator]
    if pooling == "gem":
        (place,) = _pooling_layers(backbone)
        parent, _, child = place.rpartition(".")
        gem = Gem(backbone.get_submodule(place))
        setattr(backbone.get_submodule(parent), child, gem)


def poolings(backbone: nn.Module) -> tuple[str, ...]:
    """The values of --pooling that a backbone can have, beside `auto`."""
    if len(_pooling_layers(backbone)) == 1:
        return "avg", "max", "gem"
    if isinstance(backbone, VisionTransformer | Eva):
        return ("cls", "mean") if backbone.cls_token is not None else ("mean",)
    return ()


def _pooling_layers(backbone: nn.Module) -> list[str]:
    return [k for k, part in backbone.named_modules() if isinstance(part, SelectAdaptivePool2d)]
