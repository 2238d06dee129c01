"""Learning without labels takes real steps, and a kill changes nothing."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lookalike.core.numeric import one_thread
from lookalike.models.embedder import load_embedder
from lookalike.training import simclr
from lookalike.training.simclr import precision_at_9
from tests.conftest import FAST, Program

WORDS = ("--epochs", "2", "--batch-size", "8")


@pytest.fixture
def split_run(competition: Path, run_program: Program) -> Path:
    where = ("--data", competition, "--run", "runs/x")
    assert run_program("main.py", "--stage", "split", "crop", *where, *FAST).returncode == 0
    return Path("runs/x")


def learnt(run: Path, name: str = "epoch_002") -> dict[str, torch.Tensor]:
    return load_file(run / "simclr" / f"{name}.safetensors")


def test_a_backbone_is_learnt_and_a_kill_changes_nothing(
    split_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with one_thread():
        assert simclr.main([str(split_run), *WORDS]) == 0
        whole = learnt(split_run)
        assert "P@9" in capsys.readouterr().out
        assert list(pd.read_csv(split_run / "simclr" / "history.csv").epoch) == [0, 1, 2]
        embedder = load_embedder(FAST[1], str(split_run / "simclr" / "epoch_002.safetensors"))
        assert embedder.weights_id != load_embedder(FAST[1], "none").weights_id
        (split_run / "simclr" / "training.pt").unlink()
        (split_run / "simclr" / "epoch_002.safetensors").unlink()

        calls, two_views = iter(range(100)), simclr.two_views

        def die(*arguments: Any) -> torch.Tensor:
            if next(calls) == 5:
                raise KeyboardInterrupt
            return two_views(*arguments)

        monkeypatch.setattr(simclr, "two_views", die)
        assert simclr.main([str(split_run), *WORDS]) == 130
        assert simclr.main([str(split_run), *WORDS]) == 0
    again = learnt(split_run)
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_one_view_leaves_the_other_as_it_is(split_run: Path) -> None:
    run = simclr.open_run(split_run)
    pictures, _ = simclr.pictures_of(run, load_embedder(FAST[1], "none"), epochs=2)
    indices = np.arange(3)
    plain = pictures.take(indices, np.zeros_like(indices))
    assert torch.equal(simclr.two_views(pictures, indices, 1, "one")[:3], plain)
    views = [simclr.two_views(pictures, indices, epoch, "two") for epoch in (1, 2)]
    seen = [plain, *(half for both in views for half in both.chunk(2))]
    assert not any(torch.equal(a, b) for a, b in combinations(seen, 2)), "all are other views"


def test_p9_counts_the_nine_nearest_others() -> None:
    rows = np.eye(3, dtype=np.float32)[np.repeat([0, 1, 2], [10, 10, 4])]
    names = ["ada"] * 10 + ["bob"] * 10 + ["cyd"] * 4
    assert precision_at_9(rows, names) == pytest.approx((20 * 1 + 4 * 3 / 9) / 24)


def test_a_batch_larger_than_the_data_is_an_error(
    split_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert simclr.main([str(split_run), "--batch-size", "5000"]) == 1
    assert "lower it" in (split_run / "log.txt").read_text()
