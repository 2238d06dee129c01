"""The command `lookalike model`, which is model.py: print what a backbone costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from lookalike.core.checks import check_bounds
from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse
from lookalike.core.settings import ImageSize


@dataclass
class ModelCommand:
    """Options of model.py, which is also `lookalike model`."""

    backbone: tyro.conf.Positional[str]
    """efficientnet_lite0, sface, resnet50, vit_b16, any timm name, torchvision:NAME, onnx:FILE."""
    image_size: ImageSize | None = None
    """Height and width of the input, in pixels. Default: the backbone's own."""
    cache: Path = Path("cache")
    """Folder of the embedding cache, which keeps compiled backbones too."""


def show(command: ModelCommand) -> None:
    """Measure the backbone and print the result."""
    check_bounds(command)
    from lookalike.features.costs import measure_costs

    costs = measure_costs(command.backbone, command.cache, command.image_size)
    print(f"input        {costs.image_size} × {costs.image_size} pixels")
    print(f"dimension    {costs.dim}")
    print(f"parameters   {in_units(costs.parameters, 1e6, 'million')}")
    print(f"FLOPs        {in_units(costs.flops, 1e9, 'billion a picture')}")
    print(f"speed here   {in_units(costs.pictures_per_second, 1, 'pictures a second')}")


def in_units(value: float | None, unit: float, name: str) -> str:
    """Return a number in a unit; "unknown" for None."""
    return "unknown" if value is None else f"{value / unit:.2f} {name}"


def main(arguments: Sequence[str]) -> int:
    """Print what a backbone costs.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        The exit code: 0, 1 for a mistake or bad input, 130 for Ctrl-C.
    """
    command = parse(arguments, "model.py", ModelCommand, "What does a backbone cost?")
    log_to(None)
    return exit_code(lambda: show(command))
