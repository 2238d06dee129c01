"""TODO lookalike.core.numeric."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

BLOCK = 8192  # rows that are worked on at once


def blocks(count: int, size: int = BLOCK) -> Iterator[slice]:
    """The numbers from 0 to `count` in slices of at most `size`.

    >>> list(blocks(5, 3))
    [slice(0, 3, None), slice(3, 5, None)]
    """
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Has PyTorch draw from this seed, and leaves its own generators as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Has PyTorch work with one thread. A sum that several share depends on how they share it; what
    comes after the backbone is cheap, and must be the same bytes for the same seed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def unit(rows: np.ndarray) -> np.ndarray:
    """(N, D) rows brought to length 1, float32; a row of zeros stays one."""
    length = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return (rows / length).astype(np.float32)
