"""SimCLR takes real steps, a kill changes nothing, and P@9 counts neighbors."""

from itertools import combinations, count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lookalike.core.numeric import one_thread
from lookalike.core.runs import open_run
from lookalike.data.catalogue import load_catalogue
from lookalike.data.splits import load_split
from lookalike.features.extractor import extractor_for
from lookalike.models.embedder import load_embedder
from lookalike.training import contrastive
from lookalike.training.contrastive import precision_at_9, two_views
from lookalike.training.simclr import SimclrSettings, main
from tests.conftest import FAST, Program

WORDS = ("--epochs", "2", "--batch-size", "8")


@pytest.fixture
def split_run(competition: Path, run_program: Program) -> Path:
    where = ("--data", competition, "--run", "runs/x")
    assert run_program("main.py", "--stage", "split", "crop", *where, *FAST).returncode == 0
    return Path("runs/x")


def weights(run: Path, name: str = "epoch_002") -> dict[str, torch.Tensor]:
    return load_file(run / "simclr" / f"{name}.safetensors")


@pytest.mark.slow
def test_a_backbone_is_learned_and_a_kill_changes_nothing(
    split_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with one_thread():
        assert main([str(split_run), *WORDS]) == 0
        whole = weights(split_run)
        assert "P@9" in capsys.readouterr().out
        assert list(pd.read_csv(split_run / "simclr" / "history.csv").epoch) == [0, 1, 2]
        embedder = load_embedder(FAST[1], str(split_run / "simclr" / "epoch_002.safetensors"))
        assert embedder.weights_id != load_embedder(FAST[1], "none").weights_id
        (split_run / "simclr" / "training.pt").unlink()
        (split_run / "simclr" / "epoch_002.safetensors").unlink()

        calls = count()

        def die(*arguments: Any) -> torch.Tensor:
            if next(calls) == 5:
                raise KeyboardInterrupt
            return two_views(*arguments)

        monkeypatch.setattr(contrastive, "two_views", die)
        assert main([str(split_run), *WORDS]) == 130
        assert main([str(split_run), *WORDS]) == 0
    again = weights(split_run)
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_one_view_leaves_the_other_as_it_is(split_run: Path) -> None:
    run = open_run(split_run)
    extractor = extractor_for(run, load_embedder(FAST[1], "none"))
    catalogue, split = load_catalogue(run.path("training.csv")), load_split(run.path("split.json"))
    settings = SimclrSettings(split_run, epochs=2, batch_size=8)
    pictures = contrastive.prepare(extractor, catalogue, split, settings, 0, True).pictures
    indices = np.arange(3)
    plain = pictures.take(indices, np.zeros_like(indices))
    assert torch.equal(two_views(pictures, indices, 1, "one")[:3], plain)
    views = [two_views(pictures, indices, epoch, "two") for epoch in (1, 2)]
    seen = [plain, *(half for both in views for half in both.chunk(2))]
    assert not any(torch.equal(a, b) for a, b in combinations(seen, 2)), "all are other views"


def test_p9_counts_the_nine_nearest_others() -> None:
    rows = np.eye(3, dtype=np.float32)[np.repeat([0, 1, 2], [10, 10, 4])]
    names = ["ada"] * 10 + ["bob"] * 10 + ["cyd"] * 4
    assert precision_at_9(rows, names) == pytest.approx((20 * 1 + 4 * 3 / 9) / 24)


def test_a_batch_larger_than_the_data_is_an_error(split_run: Path) -> None:
    assert main([str(split_run), "--batch-size", "5000"]) == 1
    assert "lower it" in (split_run / "log.txt").read_text()
