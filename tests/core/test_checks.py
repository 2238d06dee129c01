"""Checks: bounds of every settings dataclass, and what goes together."""

import math
from dataclasses import dataclass, field
from typing import Annotated

import pytest
from annotated_types import Interval

from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.options import parse_settings


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
