"""The command `lookalike backbones`: list the backbones that have a short name.

python -m lookalike backbones
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse


@dataclass
class BackbonesCommand:
    """Options of `lookalike backbones`."""

    cache: Path = Path("cache")
    """Folder of the embedding cache, where downloaded weights are kept."""


def show(command: BackbonesCommand) -> None:
    """Print the table."""
    from lookalike.models.presets import backbone_table  # slow: --help needs none

    heads = ["backbone", "trained on", "pixels", "crop", "license", "weights"]
    print(tabulate(backbone_table(command.cache), heads, disable_numparse=True))
    print("\nMore: any timm name, torchvision:NAME and onnx:FILE, with --weights FILE;")
    print("embeddings of another program: embeddings:FILE")


def main(arguments: Sequence[str]) -> int:
    """Print what backbones there are.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        The exit code: 0, 1 for a mistake, 130 for Ctrl-C.
    """
    about = "Which backbones are there, and whose weights can be had now?"
    command = parse(arguments, "lookalike backbones", BackbonesCommand, about)
    log_to(None)
    return exit_code(lambda: show(command))
