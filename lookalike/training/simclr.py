"""The command `lookalike simclr`: learn a backbone without labels, for --weights.

    python main.py --stage split crop --run runs/x --backbone resnet18 --weights none
    lookalike simclr runs/x --epochs 100
    python main.py --stage all --run runs/y --weights runs/x/simclr/epoch_100.safetensors …

Only the training pictures of a run are seen; what comes on top, a linear head or a triplet
objective, is left to the stage train. A run that was killed is resumed by the same command after
its last whole epoch. The training itself is in `contrastive`, which is imported when it starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Literal

import tyro
from annotated_types import Interval

from lookalike.core.checks import check_bounds
from lookalike.core.files import only_process
from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse
from lookalike.core.runs import open_run
from lookalike.core.settings import Positive


@dataclass
class SimclrSettings:
    """Learn a backbone without labels; backbone, weights, crop and image size are the run's."""

    run: tyro.conf.Positional[Path]
    """Run folder whose pictures are split (and cropped, where the backbone needs faces)."""
    epochs: Positive = 100
    """Passes over the training pictures."""
    batch_size: Annotated[int, Interval(ge=2, le=1_000_000)] = 64
    """Pictures in a step; each is seen in two views."""
    lr: Annotated[float, Interval(gt=0, le=1000)] = 1e-3
    """Learning rate of AdamW."""
    temperature: Annotated[float, Interval(gt=0, le=100)] = 0.1
    """Divisor of the cosines."""
    views: Literal["two", "one"] = "two"
    """Two augmented views of each picture, or one beside the picture as it is."""
    width: Positive = 128
    """Width of the projection that the loss sees; the backbone's own features are saved."""


def main(arguments: Sequence[str]) -> int:
    """Learn from one run's pictures.

    Returns:
        The exit code: 0, 1 for bad input, 130 for Ctrl-C.
    """
    what = "Learn a backbone without labels."
    settings = parse(list(arguments), "lookalike simclr", SimclrSettings, what)
    log_to(None)

    def work() -> None:
        check_bounds(settings)
        run = open_run(settings.run)
        with only_process(run.path(".lock"), str(run.folder)):
            log_to(run.folder)
            print(resolve_name("lookalike.training.contrastive:pretrain")(run, settings))

    return exit_code(work)
