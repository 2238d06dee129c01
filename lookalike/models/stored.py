"""Embeddings of another program in the place of a backbone: `--backbone embeddings:clip.npz`.

stored = StoredEmbeddings(Path("clip.npz"))
stored.rows_of(["test/query/ada.jpg"])      # (1, D) float32
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lookalike.core.arrays import read_named_rows
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash


class StoredEmbeddings(nn.Module):
    """The embeddings in a file, which are looked up by a picture's path.

    Args:
        file: See `lookalike.core.arrays.read_named_rows`; names are paths below the data set's
            folder, as the run's test.csv and training.csv have them.

    Attributes:
        dim: Width of the embeddings.

    Raises:
        UserError: The file cannot be used.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        names, self._rows = read_named_rows(file)
        paths = (name.replace("\\", "/").removeprefix("./") for name in names)
        self._numbers = {path: number for number, path in enumerate(paths)}
        if len(self._numbers) < len(names):
            raise UserError(f"{file}: names a picture twice, such as a.jpg and ./a.jpg")
        self.dim = self._rows.shape[1]
        # The file's hash stands for the weights where those count.
        digest = bytearray.fromhex(str(file_hash(file)))
        self.register_buffer("sha256", torch.frombuffer(digest, dtype=torch.uint8))

    def require(self, paths: Sequence[str]) -> None:
        """Check that the file has an embedding of each picture.

        Raises:
            UserError: It lacks some; how many, and the first of them.
        """
        missing = [path for path in paths if path not in self._numbers]
        if missing:
            raise UserError(
                f"{self.file}: has no embedding of {len(missing)} of {len(paths)} pictures, such "
                f"as {missing[0]!r}; its names are paths below the data set's folder, such as "
                f"{next(iter(self._numbers))!r}"
            )

    def rows_of(self, paths: Sequence[str]) -> np.ndarray:
        """Return (N, dim) float32, the embedding of each picture.

        Raises:
            KeyError: The file lacks a picture; see `require`.
        """
        return self._rows[[self._numbers[path] for path in paths]]

    def forward(self, pictures: Tensor) -> Tensor:
        """Refuse: a file can embed no picture.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"--backbone embeddings:{self.file}: is no network, and embeds no pictures but those "
            "whose embeddings it holds"
        )
