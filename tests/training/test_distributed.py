"""Batches are shared among processes, and several processes learn what one does."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lookalike import pipeline
from lookalike.core.readers import read_json
from lookalike.training import distributed
from tests.conftest import FAST, ROOT, draw_competition

TRAIN = ("--embed-dim", "16", "--lr", "0.1", "--epochs", "3", "--patience", "9")
OBJECTIVE = ("--objective", "arcface+triplet", "--batch-size", "9", "--samples-per-class", "2")


def test_one_process_has_rank_zero_and_the_whole_batch() -> None:
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert distributed.own_share(5) == slice(0, 5)
    rows = torch.rand(5, 2)
    assert distributed.gather(rows, 5) is rows
    assert distributed.broadcast({"score": 1.0}) == {"score": 1.0}
    layer = nn.Linear(1, 1)
    distributed.sum_gradients(layer.parameters())
    assert layer.weight.grad is None


def test_the_shares_of_all_ranks_are_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        assert distributed.rank() == rank
        shares.append(np.arange(7)[distributed.own_share(7)])
    assert [len(share) for share in shares] == distributed.share_sizes(7) == [3, 2, 2]
    assert np.concatenate(shares).tolist() == list(range(7))


def test_auto_needs_a_single_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert pipeline.main(["--auto", "--source", "demo"]) == 1
    assert "--auto chooses in one process" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["objective", "probe"])
def test_two_processes_learn_what_one_does(tmp_path: Path, name: str) -> None:
    """Batches of 9, in shares of 5 and 4, and a last one that is smaller; a probe is rank 0's."""
    data = draw_competition(tmp_path / "tiny")
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--"]
    words = ["--data", str(data), "--stage", "split", "train", *FAST, *TRAIN]
    words += OBJECTIVE if name == "objective" else []
    tables = []
    for run, start in (("one", []), ("two", torchrun)):
        command = [sys.executable, *start, str(ROOT / "main.py"), *words, "--run", run]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        tables.append(pd.read_csv(tmp_path / run / "history.csv"))
        assert {"split", "train"} <= read_json(tmp_path / run / "stages.json", "").keys()
    # Each epoch's loss and metrics come from the weights that all epochs before have made.
    columns = ["train_loss", "spread"] if name == "objective" else ["train_loss", "holdout_loss"]
    one, two = (table[table.epoch > 0][columns] for table in tables)
    assert np.allclose(one, two, rtol=1e-4) and len(one) == 3
    assert not (tmp_path / "two" / "training.pt").exists()
    if name == "probe":
        return
    # Once more: rank 0 finds that all is done, and the other rank does not wait for it.
    again = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert again.returncode == 0 and "train: inputs unchanged" in again.stderr, again.stderr
