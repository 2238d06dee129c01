"""Settings of the `lookalike verify` commands.

This module imports neither torch nor pandas, so that `--help` answers at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from annotated_types import Interval

from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.settings import EmbedSettings, Positive, Seed

MADE_BY = "lookalike verify score or train"


@dataclass
class PairSettings:
    """Which pairs of pictures are compared."""

    data: Path
    """Folder of the pictures."""
    protocol: Literal["cfp", "lfw", "csv"] = "cfp"
    """Celebrities in Frontal-Profile, LFW's pairs.txt (View 2), or a CSV file with the columns a, b
    (paths in --data), same (1 or 0), and optionally fold."""
    kind: Literal["FF", "FP"] = "FP"
    """`cfp`: frontal against frontal pictures, or against profiles."""
    pairs: Path | None = None
    """The file of the pairs, for `lfw` (default: pairs.txt in --data) and `csv`."""
    missing: Literal["error", "wrong"] = "error"
    """What to do about a missing picture: refuse the protocol, or score all its pairs as wrong."""


@dataclass
class SiameseSettings:
    """The trained verifier."""

    head: Literal["two", "one", "cosine"] = "two"
    """A decision network with two outputs and cross-entropy, or with one and binary cross-entropy;
    or no network: the cosine, with the cosine-embedding loss."""
    branch_dim: Positive | None = None
    """Width of a linear layer at the end of both branches. Default: none; `cosine` on a frozen
    backbone needs one, since nothing else would be trained."""
    layers: Literal["none", "half", "all"] = "none"
    """How much of the backbone is trained: nothing, the second half of its layers, or all."""
    augment: bool = False
    """Train with random crops, mirror images and colors."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or stochastic gradient descent with momentum 0.9."""
    lr: Annotated[float, Interval(gt=0, le=1000)] = 1e-3
    """Learning rate; 1e-4 suits a backbone that is trained by Adam."""
    margin: Annotated[float, Interval(ge=-1, le=1)] = 0.0
    """`cosine`: pairs of different people are pushed apart down to this cosine."""
    epochs: Positive = 10
    """Maximum number of epochs."""
    patience: Positive = 3
    """Epochs without a better validation before training stops early."""
    epoch_pairs: Annotated[int, Interval(ge=2, le=10_000_000)] = 4000
    """Pairs drawn for an epoch, half of them of the same person."""
    batch_size: Annotated[int, Interval(ge=2, le=1_000_000)] = 32
    """Pairs in a training step."""
    max_minutes: Annotated[float, Interval(gt=0, le=1_000_000)] | None = None
    """Stop the training of a fold after this time. The result then depends on the machine."""


@dataclass
class ScoreCommand:
    """Score a protocol's pairs by an embedder as it is."""

    pairs: PairSettings
    embed: EmbedSettings
    run: Path = Path("runs/pairs")
    """Run folder, for all results."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """How two pictures are compared: by the cosine of their embeddings, or by the Euclidean
    distance of the unnormalized features. (Of embeddings, which have length 1, the Euclidean
    distance would give the same order as the cosine.)"""
    cache: Path = Path("cache")
    """Folder of the embedding cache."""


@dataclass
class TrainCommand:
    """Train a Siamese network for each fold, and score the fold's pairs."""

    pairs: PairSettings
    embed: EmbedSettings
    siamese: SiameseSettings
    run: Path = Path("runs/siamese")
    """Run folder, for all results."""
    folds: tuple[Annotated[int, Interval(ge=1, le=1000)], ...] = ()
    """Folds to test, each by a network of its own. Default: all."""
    seed: Seed = 0
    """Seed of every random choice."""
    cache: Path = Path("cache")
    """Folder of the embedding cache."""


@dataclass
class PairCommand:
    """Decide by a finished run whether two pictures show the same person."""

    picture: tyro.conf.Positional[tuple[Path, Path]]
    """The two pictures."""
    run: Path = Path("runs/pairs")
    """Folder of a run of `score` or `train`."""
    false_accept: Annotated[float, Interval(ge=0, le=1)] = 0.01
    """Share of pairs of different people that may be called the same: 0.1, 0.01 or 0.001."""
    cache: Path = Path("cache")
    """Folder of the embedding cache."""
    json: bool = False
    """Print one JSON object and nothing else on standard output."""


@dataclass
class FillCommand:
    """Write the similarity of each pair of a competition's sample submission."""

    sample: tyro.conf.Positional[Path]
    """The sample: two columns of pictures, or one of joined names, and one for the similarity."""
    data: Path
    """Folder that the pictures lie in."""
    embed: EmbedSettings
    output: Path = Path("submission.csv")
    """The file to write."""
    cache: Path = Path("cache")
    """Folder of the embedding cache."""


@dataclass
class TableCommand:
    """Print the measures of finished runs side by side."""

    run: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""


@dataclass
class VerifyProgram:
    """One of the commands of `lookalike verify`."""

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[ScoreCommand, tyro.conf.subcommand("score")]
        | Annotated[TrainCommand, tyro.conf.subcommand("train")]
        | Annotated[PairCommand, tyro.conf.subcommand("pair")]
        | Annotated[FillCommand, tyro.conf.subcommand("fill")]
        | Annotated[TableCommand, tyro.conf.subcommand("table")]
    ]


def check_siamese(settings: SiameseSettings) -> None:
    """Check the settings of a network.

    Raises:
        UserError: A value is out of its bounds, or nothing would be trained.
    """
    check_bounds(settings)
    if settings.head == "cosine" and settings.layers == "none" and settings.branch_dim is None:
        raise UserError("--head cosine with --layers none trains nothing: add --branch-dim")


def check_train(command: TrainCommand) -> None:
    """Check the settings of a training.

    Raises:
        UserError: A value is out of its bounds, or settings do not go together.
    """
    check_bounds(command)
    check_siamese(command.siamese)
    if command.embed.flip == "on" or command.embed.scales != (1.0,):
        raise UserError("a trained network sees one view: --flip on and --scales are for score")
    if command.embed.files and command.siamese.layers != "none":
        raise UserError(f"--backbone {command.embed.backbone} cannot be trained: --layers none")
