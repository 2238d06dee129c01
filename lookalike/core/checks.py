"""Checks of settings: bounds of single values, which their fields declare, and rules among several.

Bounds stand on the field, `lr: Annotated[float, Interval(gt=0, le=1000)]`; `check_bounds` enforces
them for the settings of any command.
"""

import math
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Interval

from lookalike.core.errors import UserError
from lookalike.core.settings import (
    EmbedSettings,
    ExtractSettings,
    RetrieveSettings,
    Settings,
    TrainSettings,
)

# Settings of the embedding that are about a network and what it sees of a picture.
NETWORK_SETTINGS = (
    *("weights", "crop", "image_size", "normalization", "flip", "scales", "resolutions", "pooling"),
)


def check(settings: Settings) -> None:
    """Check all settings of a run.

    Raises:
        UserError: A value is out of bounds, or settings do not go together.
    """
    check_bounds(settings)
    check_extract(settings.extract)
    check_scales(settings.embed.scales)
    check_detector(settings.embed)
    _check_backbones(settings)
    _check_ensemble(settings.retrieve)
    _check_training(settings.train)
    if not settings.general.stage:
        raise UserError("--stage: name at least one, or all")


def check_bounds(settings: Any) -> None:
    """Check the numbers of a settings dataclass, and of the groups in it, against their bounds.

    None is allowed where the type allows it; of a tuple every element is checked; not-a-number is
    out of all bounds.

    Raises:
        UserError: A number is out of the bounds that its field's type declares.

    >>> from lookalike.core.settings import TrainSettings
    >>> check_bounds(TrainSettings(epochs=-1))
    Traceback (most recent call last):
    lookalike.core.errors.UserError: --epochs -1: must be at least 0 and at most 1000000
    """
    for name, kind in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if is_dataclass(value):
            check_bounds(value)
            continue
        values = value if isinstance(value, tuple) else (value,)
        numbers = [v for v in values if isinstance(v, int | float)]
        for bound in _bounds(kind):
            for number in numbers:
                if not _within(number, bound):
                    raise UserError(f"{option(name)} {number}: must be {_in_words(bound)}")


def _bounds(kind: Any) -> Iterator[Interval]:
    """Yield the intervals that annotate a type, or a part of it."""
    if get_origin(kind) is Annotated:
        yield from (note for note in kind.__metadata__ if isinstance(note, Interval))
    for part in get_args(kind):
        yield from _bounds(part)


def _within(number: float, bound: Interval) -> bool:
    """Return whether a number lies in an interval; not-a-number lies in none."""
    return (
        (bound.ge is None or number >= bound.ge)  # type: ignore[operator]
        and (bound.gt is None or number > bound.gt)  # type: ignore[operator]
        and (bound.le is None or number <= bound.le)  # type: ignore[operator]
        and (bound.lt is None or number < bound.lt)  # type: ignore[operator]
    )


def _in_words(bound: Interval) -> str:
    """Return an interval in words.

    >>> _in_words(Interval(gt=0, le=5))
    'above 0 and at most 5'
    """
    words = {"at least": bound.ge, "above": bound.gt, "at most": bound.le, "below": bound.lt}
    return " and ".join(f"{word} {end}" for word, end in words.items() if end is not None)


def option(name: str) -> str:
    """Return the command-line option of a setting.

    >>> option("embed_dim")
    '--embed-dim'
    """
    return "--" + name.replace("_", "-")


def check_extract(extract: ExtractSettings) -> None:
    """Check what goes together in the settings of extract.

    Raises:
        UserError: An option that only counts with a --source, without one.
    """
    if extract.source_path is not None and extract.source is None:
        raise UserError("--source-path is used with --source archive, folder or imdb: add it")
    if extract.metadata is not None and extract.source is None:
        raise UserError("--metadata is used with --source imdb: add it")


def check_scales(scales: tuple[float, ...]) -> None:
    """Check that --scales holds one or more different numbers.

    Raises:
        UserError: None, or a repeated one.
    """
    if not scales or len(set(scales)) < len(scales):
        named = " ".join(map(str, scales)) or "nothing"
        raise UserError(f"--scales {named}: one or more different numbers from 0.1 to 10")


def check_detector(embed: EmbedSettings) -> None:
    """Check that a detector of one's own is not asked for what it does not know.

    Raises:
        UserError: Faces are to be aligned, by points that it does not find.
    """
    if embed.detector_file is not None and embed.crop == "aligned":
        raise UserError(
            f"--crop aligned: --detector {embed.detector} finds boxes and no points; leave --crop "
            "out, or align by --detector yunet"
        )


def _check_backbones(settings: Settings) -> None:
    """Check several backbones, or several resolutions of one."""
    embed = settings.embed
    names = embed.backbones
    if not all(names) or len(set(names)) < len(names):
        raise UserError(
            f"--backbone {embed.backbone}: different names, joined by +; the path of a file may "
            "hold neither + nor *"
        )
    if not all(0 < factor < math.inf for factor in embed.factors):
        raise UserError(f"--backbone {embed.backbone}: factors are above 0, such as sface+0.5*dlib")
    if not embed.networks:
        _check_stored(embed, settings.train)
    if len(names) == 1 and embed.factors[0] != 1:
        raise UserError(f"--backbone {embed.backbone}: a factor is for one of several")
    if not embed.resolutions or len(set(embed.resolutions)) < len(embed.resolutions):
        raise UserError("--resolutions: one or more different numbers from 0.25 to 4")
    if len(names) > 1 and embed.weights not in (None, "none"):
        raise UserError(f"--weights {embed.weights}: are those of one backbone; name a single one")
    if len(embed.members) > 1 and settings.train.changes_embedding:
        raise UserError(
            "training is of a single --backbone at a single one of --resolutions: name one, or "
            "leave out --objective, --unfreeze and --embed-dim"
        )


def _check_ensemble(settings: RetrieveSettings) -> None:
    """Check the number of an ensemble's runs and of their weights."""
    runs, weights = len(settings.ensemble), settings.ensemble_weights
    if runs == 1:
        raise UserError("--ensemble: name at least two runs")
    if runs and weights and len(weights) != runs:
        raise UserError(f"--ensemble-weights: {len(weights)} for {runs} runs; name one for each")
    if weights and settings.fusion == "learned":
        raise UserError("--ensemble-weights: --fusion learned finds them; name one of the two")


def _check_stored(embed: EmbedSettings, train: TrainSettings) -> None:
    """Check that no setting is named that embeddings of another program have nothing for."""
    default = EmbedSettings()
    idle = [name for name in NETWORK_SETTINGS if getattr(embed, name) != getattr(default, name)]
    idle += ["train_views"] if train.train_views else []
    idle += ["unfreeze"] if train.unfreeze else []
    if idle:
        raise UserError(
            f"--backbone {embed.backbone}: is no network, so that there is nothing for "
            f"{', '.join(map(option, idle))}"
        )


def _check_training(train: TrainSettings) -> None:
    """Check what goes together in the settings of training."""
    _check_memory(train)
    for name, why in {"refit": "is not validated by retrieval", "projector": "has none"}.items():
        if getattr(train, name) and train.is_linear_probe:
            raise UserError(
                f"{option(name)}: a linear probe, cross_entropy on a frozen backbone, {why}; "
                "name another --objective, or blocks of the backbone (--unfreeze 2)"
            )
    if train.folds == 1 or (train.folds and not train.refit):
        raise UserError(
            f"--folds {train.folds}: two or more models, in the place of the one of --refit, which "
            "has to be named too"
        )
    if train.train_image_size and train.unfreeze != "all":
        raise UserError(
            f"--train-image-size {train.train_image_size}: only where nothing is frozen; add "
            "--unfreeze all, or remove it with --train-image-size None"
        )
    if train.lora and train.unfreeze == 0:
        raise UserError(f"--lora {train.lora}: of which blocks? Add --unfreeze all, or a number")
    if train.lora and train.folds:
        raise UserError(
            "--folds averages weights, and the mean of low-rank changes is none: leave out --lora "
            "or --folds"
        )
    if train.unfreeze == 0 and train.embed_dim is None and train.changes_embedding:
        raise UserError(
            f"--objective {train.objective}: nothing to train, since the backbone is frozen; name "
            "a projection (--embed-dim 512) or blocks of the backbone (--unfreeze 2)"
        )


def _check_memory(train: TrainSettings) -> None:
    """Check that a cross-batch memory holds a batch, and that the sampler can use one."""
    memory, batch = train.memory_size, train.batch_size
    if memory and memory < batch:
        raise UserError(f"--memory-size {memory}: must hold a whole batch; raise it to {batch}")
    if memory and train.sampler in ("triplets", "pairs"):
        raise UserError(
            f"--memory-size goes with --sampler pk or shuffled, not with {train.sampler}"
        )
