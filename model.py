"""Print a backbone's input size, dimension, parameters, FLOPs and speed on this machine.

    python model.py efficientnet_lite0
    python model.py vit_b16 --image-size 112

The first compiles it for the CPU, if there is no GPU, and prints

    input        224 × 224 pixels
    dimension    1280
    parameters   3.37 million
    FLOPs        0.77 billion a picture
    speed here   185.20 pictures a second

with the speed of this machine. The weights are random: they change none of these numbers, and no
model hub is needed. Backbones are in lookalike/models, engines and costs in lookalike/features.
"""

import sys
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
    """Options of model.py."""

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
    """Run the program and return its exit code."""
    command = parse(arguments, "model.py", ModelCommand, "What does a backbone cost?")
    log_to(None)
    return exit_code(lambda: show(command))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
