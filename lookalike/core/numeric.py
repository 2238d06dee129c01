"""Small numerical helpers: blocks of rows, rows of unit length, reproducible torch code."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

BLOCK = 8192  # rows that are processed at once


def blocks(count: int, size: int = BLOCK) -> Iterator[slice]:
    """Return the numbers from 0 to `count` in slices of at most `size`.

    >>> list(blocks(5, 3))
    [slice(0, 3, None), slice(3, 5, None)]
    """
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def unit(rows: np.ndarray) -> np.ndarray:
    """Return (N, D) rows scaled to length 1, float32; a row of zeros stays one."""
    length = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return (rows / length).astype(np.float32)


# Torch takes seconds to import, and modules that need only the functions above need none of it.


def first_of_equal(rows: np.ndarray) -> np.ndarray:
    """Return (N,) int64, for each row the number of the first row that is equal to it.

    >>> first_of_equal(np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])).tolist()
    [0, 1, 0]
    """
    if not rows.size:
        return np.arange(len(rows))
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
    _, first, of = np.unique(whole.ravel(), return_index=True, return_inverse=True)
    return np.asarray(first[of])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch draw from a seed; afterwards its generators are as they were."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread.

    A sum that several threads share depends on how they share it. What follows the backbone is
    cheap, and must give the same bytes for the same seed.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def score_text(score: float) -> str:
    """Return a score whose metric is not known in as many digits as it needs.

    >>> score_text(912.54), score_text(0.91254)
    ('912.5', '0.9125')
    """
    return f"{score:.{score_digits([score])}f}"


def score_digits(scores: Iterable[float]) -> int:
    """Return how many decimals scores need: four where none is above 1, else one.

    >>> score_digits([912.5, 0.0]), score_digits([0.9, 0.1])
    (1, 4)
    """
    highest = max(map(abs, scores), default=0.0)
    return 4 if 0 < highest <= 1 else 1
