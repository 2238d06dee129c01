"""Every tracker gets the same numbers; one that is not installed says what to install."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lookalike.core.errors import UserError
from lookalike.training.loggers import MODULES, track


def test_without_a_tracker_nothing_is_written(tmp_path: Path) -> None:
    with track("none", "p", "n", {}, tmp_path) as log_metrics:
        log_metrics({"loss": 1.0}, 1)
    assert list(tmp_path.iterdir()) == []


def test_wandb_and_tensorboard_get_numbers_and_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[Any] = []

    class Writer:
        def __init__(self, folder: Path) -> None:
            received.append(folder)

        def __enter__(self) -> "Writer":
            return self

        def __exit__(self, *error: object) -> None:
            received.append("closed")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            received.append((name, value, step))

    run = SimpleNamespace(
        log=lambda numbers, step: received.append((numbers, step)),
        finish=lambda exit_code: received.append(exit_code),
    )
    wandb = SimpleNamespace(init=lambda project, name, config: run)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, MODULES["tensorboard"], SimpleNamespace(SummaryWriter=Writer))
    for tool in ("wandb", "tensorboard"):
        with track(tool, "p", "n", {}, tmp_path) as log_metrics:
            log_metrics({"loss": 0.5}, 3)
    assert received == [({"loss": 0.5}, 3), 0, tmp_path / "tensorboard", ("loss", 0.5, 3), "closed"]


def test_a_tracker_that_is_not_installed_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with (
        pytest.raises(UserError, match="pip install mlflow"),
        track("mlflow", "p", "n", {}, tmp_path),
    ):
        pass
