"""history.csv: a row for each epoch of a training.

    write_history(run / "history.csv", trainer.history)
    read_history(run / "history.csv").train_loss

This module does not import torch: a sweep, which reads the histories of its rows, must stay small.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.readers import read_table

if TYPE_CHECKING:
    from lookalike.training.trainer import Epoch

EPOCHS = {"epoch": float, "train_loss": float}
BY_HOLDOUT = {"holdout_loss": float, "holdout_accuracy": float}  # of a linear probe
BY_RETRIEVAL = {"score": float, "lr": float}  # of every other objective


def write_history(
    path: Path, history: Sequence["Epoch"], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Write a row for each epoch as CSV, and return the table.

    Args:
        path: The file.
        history: The epochs.
        columns: Those that are written. Default: all.
    """
    rows = [epoch.row() for epoch in history]
    table = pd.DataFrame(rows, columns=list(columns) if columns else None)
    with whole_file(path) as beside:
        table.to_csv(beside, index=False)
    return table


def read_history(path: Path) -> pd.DataFrame:
    """Read a history.csv of the stage train.

    Returns:
        The columns EPOCHS, with BY_RETRIEVAL where there is a `score`, else BY_HOLDOUT.

    Raises:
        UserError: The file is missing or damaged.
    """
    table: pd.DataFrame = read_table(path, "--stage train", EPOCHS)
    measured = BY_RETRIEVAL if "score" in table else BY_HOLDOUT
    columns = EPOCHS | measured
    table = read_table(path, "--stage train", columns)[list(columns)]
    trained = table[table.epoch > 0]  # the untrained epoch 0 has no loss
    if len(table) and (trained.empty or not np.isfinite(trained).all(axis=None)):
        raise UserError(f"{path}: lacks the values of an epoch; make it anew with --stage train")
    return table
