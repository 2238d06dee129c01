"""history.csv: a row for each epoch, read again only where it is whole."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lookalike.core.errors import UserError
from lookalike.training.history import read_history, write_history
from lookalike.training.trainer import Epoch
from tests.conftest import ROOT, files_up_to

PROBE = [
    Epoch(1, 0.5, {"holdout_loss": 0.6, "holdout_accuracy": 0.7}),
    Epoch(2, 0.4, {"holdout_loss": 0.5, "holdout_accuracy": 0.8}),
]
FINETUNE = [
    Epoch(0, float("nan"), {"score": 1.0, "spread": 1.0}),
    Epoch(1, 0.5, {"score": 2.0, "spread": 1.0}, 0.1, 3.0),
]


def test_the_history_is_a_row_an_epoch(tmp_path: Path) -> None:
    history = [Epoch(0, float("nan"), {"score": 1.0}), Epoch(1, 0.5, {"score": 2.0}, 0.1, 3.0)]
    write_history(tmp_path / "x.csv", history)
    table = pd.read_csv(tmp_path / "x.csv")
    assert list(table) == ["epoch", "train_loss", "score", "lr", "minutes"]
    assert table.iloc[1].tolist() == [1, 0.5, 2.0, 0.1, 3.0]
    write_history(tmp_path / "x.csv", [], ["epoch", "score"])
    assert (tmp_path / "x.csv").read_text() == "epoch,score\n"


@pytest.mark.parametrize("history", [PROBE, FINETUNE], ids=["probe", "finetune"])
def test_a_history_is_read_as_it_was_written(history: list[Epoch], tmp_path: Path) -> None:
    written = write_history(tmp_path / "history.csv", history)
    read = read_history(tmp_path / "history.csv")
    assert len(read.columns) == 4
    pd.testing.assert_frame_equal(read, written[list(read)], check_dtype=False)


def test_a_history_without_epochs_is_empty(tmp_path: Path) -> None:
    columns = ("epoch", "train_loss", "holdout_loss", "holdout_accuracy")
    write_history(tmp_path / "history.csv", [], columns)
    assert read_history(tmp_path / "history.csv").empty


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch,train_loss\n1,0.5\n", "has no column holdout_loss, holdout_accuracy"),
        ("epoch,train_loss,score,lr\n0,,1,0\n", "lacks the values of an epoch"),
        ("epoch,train_loss,score,lr\n1,0.5,,0\n", "lacks the values of an epoch"),
        ("epoch,train_loss,score,lr\n1,inf,2,0\n", "lacks the values of an epoch"),
    ],
)
def test_a_damaged_history_is_an_error_in_words(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(UserError, match=rf"history\.csv: {said}; make it anew with --stage train"):
        read_history(tmp_path / "history.csv")


def test_a_history_that_does_not_fit_on_the_disk_is_a_sentence(tmp_path: Path) -> None:
    with files_up_to(10), pytest.raises(UserError, match=r"history\.csv: the disk is full"):
        write_history(tmp_path / "history.csv", PROBE)
    assert not list(tmp_path.iterdir())


def test_reading_a_history_does_not_load_torch() -> None:
    code = "import sys, lookalike.training.history; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
