"""The command `lookalike detector`: train a detector of one's own, for --detector, and score one.

    lookalike detector train zebras/ --boxes boxes.csv --out zebra.safetensors
    lookalike detector score zebras/ --boxes others.csv --detector zebra.safetensors
    python main.py --stage all --detector zebra.safetensors

The training itself is in `detector`, which is imported when it starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Interval

from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse
from lookalike.core.settings import DETECTORS, Seed

if TYPE_CHECKING:
    from lookalike.faces.boxes import Boxed


@dataclass
class BoxesSettings:
    """Pictures with known boxes."""

    pictures: tyro.conf.Positional[Path]
    """Folder of the pictures."""
    boxes: str = "yunet"
    """Table with the columns path, left, top, width and height, in pixels or as shares of the
    picture's size, or a detector that finds the boxes: yunet or mtcnn."""
    cache: Path = Path("cache")
    """Folder of the cache, for weights."""


@dataclass
class TrainDetector:
    """Train a detector on pictures with known boxes."""

    boxed: BoxesSettings
    out: Path = Path("detector.safetensors")
    """The file to write."""
    canvases: Annotated[int, Interval(ge=16, le=1_000_000)] = 2000
    """Number of pictures that are pasted together to train on; each takes a tenth of a second and
    a quarter of a megabyte."""
    seed: Seed = 0
    """Of all that is random."""


@dataclass
class ScoreDetector:
    """Print how well a detector finds known boxes."""

    boxed: BoxesSettings
    detector: str = "detector.safetensors"
    """The file of a trained detector, yunet or mtcnn."""


@dataclass
class DetectorProgram:
    """One of the commands of `lookalike detector`."""

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[TrainDetector, tyro.conf.subcommand("train")]
        | Annotated[ScoreDetector, tyro.conf.subcommand("score")]
    ]


def load_boxes(settings: BoxesSettings) -> "list[Boxed]":
    """Return the pictures with their boxes.

    Raises:
        UserError: The folder or the table is missing or damaged, or holds no box.
    """
    from lookalike.faces.boxes import boxes_by, read_boxes
    from lookalike.faces.detection import load_detector

    if not settings.pictures.is_dir():
        raise UserError(f"{settings.pictures}: no such folder")
    if settings.boxes in DETECTORS:
        return boxes_by(load_detector(settings.boxes, settings.cache), settings.pictures)
    return read_boxes(Path(settings.boxes), settings.pictures)


def run_command(command: TrainDetector | ScoreDetector) -> None:
    """Train or score a detector, and print how well it finds boxes.

    Raises:
        UserError: Its settings or inputs cannot be used.
    """
    from tabulate import tabulate

    from lookalike.evaluation.average_precision import measure
    from lookalike.faces.boxes import find_boxes
    from lookalike.faces.detection import CONFIDENT, load_detector
    from lookalike.faces.grid import save_detector
    from lookalike.training.detector import train_detector

    check_bounds(command)
    pictures = load_boxes(command.boxed)
    if isinstance(command, TrainDetector):
        cache = command.boxed.cache
        network, measures = train_detector(pictures, command.canvases, command.seed, cache)
        save_detector(command.out, network)
        print(f"{command.out}: use it with --detector {command.out}")
        what = "on pictures that it was not trained on, pasted together"
    else:
        detector = load_detector(command.detector, command.boxed.cache)
        measures = measure(find_boxes(detector, pictures), CONFIDENT)
        what = f"by {command.detector} on {len(pictures)} pictures"
    rows = [
        ["average precision at an overlap of 0.5", f"{measures.precision:.4f}"],
        [f"boxes found with a confidence of {CONFIDENT}", f"{measures.recall:.2%}"],
        ["of these, right", f"{measures.right:.2%}"],
        ["true boxes", str(measures.boxes)],
    ]
    print(tabulate(rows, ["", what], disable_numparse=True, colalign=("left", "right")))


def main(arguments: Sequence[str]) -> int:
    """Run `lookalike detector`.

    Args:
        arguments: The command line after `detector`.

    Returns:
        The exit code: 0, 1 for a mistake or bad input, 130 for Ctrl-C.
    """
    about = "A detector of one's own: train it on known boxes, score it."
    program: DetectorProgram = parse(arguments, "lookalike detector", DetectorProgram, about)
    log_to(None)
    return exit_code(lambda: run_command(program.command))
