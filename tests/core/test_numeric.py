"""Numerical helpers: unit rows, blocks, and torch's state left as it was."""

import numpy as np
import torch

from lookalike.core.numeric import blocks, one_thread, seeded, unit


def test_rows_get_length_one_and_zeros_stay() -> None:
    rows = unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]])


def test_blocks_cover_every_row_once() -> None:
    for count in (0, 1, 7, 8, 9):
        rows = [row for block in blocks(count, 4) for row in range(count)[block]]
        assert rows == list(range(count))


def test_seeded_draws_are_the_same_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(1):
            draws.append(torch.rand(3).tolist())
    assert draws[0] == draws[1]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_one_thread_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
