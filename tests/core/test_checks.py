"""Checks: bounds of every settings dataclass, and what goes together."""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import import_module
from pkgutil import walk_packages
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Interval

import lookalike
from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.options import parse_settings
from lookalike.core.settings import Settings


@dataclass
class Group:
    share: Annotated[float, Interval(gt=0, le=1)] | None = None
    weights: tuple[Annotated[float, Interval(ge=0)], ...] = ()


@dataclass
class Command:
    count: Annotated[int, Interval(ge=1)] = 1
    below: Annotated[float, Interval(lt=2)] = 0
    group: Group = field(default_factory=Group)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Command(count=0), "--count 0: must be at least 1"),
        (Command(below=2), "--below 2: must be below 2"),
        (Command(group=Group(share=0)), "--share 0: must be above 0 and at most 1"),
        (Command(group=Group(share=math.nan)), "--share nan: must be above 0"),
        (Command(group=Group(weights=(1, -1))), "--weights -1: must be at least 0"),
    ],
)
def test_a_number_out_of_bounds_is_refused(settings: Command, said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        check_bounds(settings)


def test_numbers_within_bounds_and_none_are_allowed() -> None:
    check_bounds(Command())
    check_bounds(Command(1, -5, Group(1, (0, math.inf))))


@pytest.mark.parametrize(
    "words",
    [
        "--epochs -1",
        "--lr 0",
        "--batch-size 0",
        "--seed -1",
        "--lr nan",
        "--stage",
        "--scales",
        "--scales 0",
        "--scales 1 1",
        "--scales nan",
        "--unfreeze -1",
        "--warmup 2",
        "--ema 1",
        "--margin 3",
        "--clip-grad-norm 0",
        "--samples-per-class 1",
        "--memory-size 8",
        "--max-minutes 0",
        "--layer-decay 1.1",
        "--weight-decay nan",
        "--expand 0",
        "--whiten 0",
        "--perplexity 1",
        "--timeout 0",
        "--ensemble a",
        "--ensemble a b --ensemble-weights 1",
        "--ensemble a b --ensemble-weights 1 0",
    ],
)
def test_values_without_a_meaning_are_refused(words: str) -> None:
    with pytest.raises(UserError, match=r"must|name at least|name one|different numbers"):
        parse_settings(words.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--objective arcface", "nothing to train"),
        ("--objective triplet --embed-dim 8 --memory-size 64 --sampler pairs", "--sampler pk"),
        ("--refit", "name another --objective"),
        ("--train-image-size 64", "--unfreeze all"),
        ("--source-path x.zip", "--source archive"),
    ],
)
def test_settings_that_do_not_go_together_say_what_to_change(words: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_settings(words.split())


def test_blocks_to_train_are_a_number_or_all() -> None:
    assert parse_settings(["--unfreeze", "3"]).train.unfreeze == 3
    assert parse_settings(["--unfreeze", "all"]).train.unfreeze == "all"


# ---- every setting of every command -------------------------------------------------------------


def settings_classes() -> set[type]:
    """The dataclasses that command lines are parsed into."""
    modules = [
        import_module(module.name)
        for module in walk_packages(lookalike.__path__, "lookalike.")
        if not module.name.endswith("__main__")
    ]
    found = {v for module in modules for v in vars(module).values() if isinstance(v, type)}
    named = ("Settings", "Command")
    return {cls for cls in found if is_dataclass(cls) and cls.__name__.endswith(named)}


def numbers_without_bounds(kind: Any, bounded: bool = False) -> bool:
    """Whether a type has an int or float that no interval bounds on both sides."""
    if get_origin(kind) is Annotated:
        ends = [note for note in kind.__metadata__ if isinstance(note, Interval)]
        bounded = bounded or any(
            (note.ge, note.gt) != (None, None) and (note.le, note.lt) != (None, None)
            for note in ends
        )
    if kind in (int, float):
        return not bounded
    return any(numbers_without_bounds(part, bounded) for part in get_args(kind))


@pytest.mark.slow  # it imports the whole package
def test_every_number_of_every_command_is_bounded_on_both_sides() -> None:
    classes = settings_classes()
    assert {"RunSettings", "ServeSettings", "SiameseSettings"} <= {cls.__name__ for cls in classes}
    for cls in classes:
        for name, kind in get_type_hints(cls, include_extras=True).items():
            assert not numbers_without_bounds(kind), f"{cls.__name__}.{name}"


@pytest.mark.parametrize("value", [10**30, -(10**30), 2**64, -1, math.nan, math.inf, -math.inf])
def test_no_setting_takes_a_number_beyond_all_measure(value: float) -> None:
    for group in fields(Settings):
        cls = get_type_hints(Settings)[group.name]
        for name, kind in get_type_hints(cls, include_extras=True).items():
            if int in get_args(kind) or float in get_args(kind) or "Interval" in str(kind):
                values = (value,) if "tuple" in str(kind) else value
                with pytest.raises(UserError, match=rf"--{name.replace('_', '-')} "):
                    check_bounds(cls(**{name: values}))
