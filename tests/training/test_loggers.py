"""Every tracker is told the same; one that is not installed says what to install."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lookalike.core.errors import UserError
from lookalike.training.loggers import MODULES, track


def test_none_takes_everything_and_keeps_nothing(tmp_path: Path) -> None:
    with track("none", "p", "n", {}, tmp_path) as tell:
        tell({"loss": 1.0}, 1)
    assert list(tmp_path.iterdir()) == []


def test_wandb_and_tensorboard_are_told_numbers_and_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Writer:
        def __init__(self, folder: Path) -> None:
            told.append(folder)

        def __enter__(self) -> "Writer":
            return self

        def __exit__(self, *error: object) -> None:
            told.append("closed")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, value, step))

    run = SimpleNamespace(
        log=lambda numbers, step: told.append((numbers, step)),
        finish=lambda exit_code: told.append(exit_code),
    )
    wandb = SimpleNamespace(init=lambda project, name, config: run)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, MODULES["tensorboard"], SimpleNamespace(SummaryWriter=Writer))
    for tool in ("wandb", "tensorboard"):
        with track(tool, "p", "n", {}, tmp_path) as tell:
            tell({"loss": 0.5}, 3)
    assert told == [({"loss": 0.5}, 3), 0, tmp_path / "tensorboard", ("loss", 0.5, 3), "closed"]


def test_a_tracker_that_is_not_installed_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with (
        pytest.raises(UserError, match="pip install mlflow"),
        track("mlflow", "p", "n", {}, tmp_path),
    ):
        pass
