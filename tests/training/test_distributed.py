"""Batches are shared among processes, and several processes learn what one does."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from lookalike import pipeline
from lookalike.core.errors import UserError
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
    assert pipeline.main(["--stage", "auto", "--source", "demo"]) == 1
    assert "--stage auto chooses in one process" in capsys.readouterr().err


def both_ranks(tmp_path: Path, work: Callable[[int], object]) -> list[object]:
    """Return what two processes that gloo connects make of `work`."""
    queue = mp.get_context("spawn").SimpleQueue()
    mp.spawn(_one_rank, (str(tmp_path / "meet"), work, queue), nprocs=2)
    return [value for _, value in sorted(queue.get() for _ in range(2))]


def _one_rank(rank: int, meet: str, work: Callable[[int], object], queue: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    torch.distributed.init_process_group("gloo", f"file://{meet}", rank=rank, world_size=2)
    queue.put((rank, work(rank)))
    torch.distributed.destroy_process_group()


def train_a_picture(rank: int) -> list[float]:
    """Take a step on a batch of one picture: rank 1 has none; the ranks start unlike."""
    torch.manual_seed(rank)
    weights = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    embed, loss = weights
    distributed.broadcast_state(embed, None, loss)
    own = torch.ones(1, 2)[distributed.own_share(1)]
    rows = embed(own) if len(own) else torch.zeros(0, 2, requires_grad=True)
    loss(distributed.gather(rows, 1)).sum().backward()
    distributed.sum_gradients(embed.parameters())
    distributed.average_gradients(loss.parameters())
    values = [value for part in weights for value in (part.weight, part.weight.grad)]
    return [number for value in values if value is not None for number in value.flatten().tolist()]


@pytest.mark.slow
def test_a_rank_without_pictures_ends_with_the_same_weights(tmp_path: Path) -> None:
    first, second = both_ranks(tmp_path, train_a_picture)
    assert first == second
    embed, grad, loss, loss_grad = torch.tensor(first).split([4, 4, 2, 2])
    assert torch.allclose(grad.view(2, 2), loss[:, None].expand(2, 2))
    assert torch.allclose(loss_grad, embed.view(2, 2).sum(1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_probe_is_trained_beside_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = draw_competition(tmp_path / "tiny")
    stages = ["--stage", "split", "train", "index", "retrieve"]
    assert pipeline.main(["--data", str(data), *stages, *FAST, *TRAIN, "--run", "one"]) == 0
    assert (tmp_path / "one/submission.json").is_file()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match="this machine has 1"), distributed.process_group():
        pass


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="each process needs a GPU of its own")
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
