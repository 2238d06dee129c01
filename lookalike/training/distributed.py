"""Train with several processes, as `torchrun` starts them; one process alone is the usual case.

    torchrun --nproc-per-node 2 main.py --stage train --run runs/x

Every rank embeds its share of a batch. The embeddings are gathered, so that the loss sees the whole
batch, and the gradients are summed: the numbers are those of one process with the same batch, but
for rounding. Rank 0 evaluates and writes.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lookalike.core.errors import UserError

TIMEOUT = timedelta(hours=24)  # how long the other ranks wait while rank 0 embeds or evaluates
T = TypeVar("T")


def world_size() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


@contextmanager
def process_group() -> Iterator[None]:
    """Connect the processes that `torchrun` has started, and part them at the end.

    Raises:
        UserError: If this machine has fewer GPUs than processes.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        local_rank, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local_rank >= gpus:
            raise UserError(
                f"more processes than GPUs: each process needs its own, and this machine has "
                f"{gpus}. Start torchrun with --nproc-per-node {gpus}"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def broadcast(value: T) -> T:
    """Return the value of rank 0 on every rank, each of which waits for it.

    Args:
        value: Anything that can be pickled; only that of rank 0 counts.
    """
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait for all ranks."""
    broadcast(None)


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Let rank 0 do the work before the others, which find its results in the cache."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def broadcast_state(*modules: nn.Module | None) -> None:
    """Give all ranks the weights and buffers of rank 0, in place; None is skipped."""
    if not dist.is_initialized():
        return
    for module in modules:
        for tensor in () if module is None else (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)


def share_sizes(count: int) -> list[int]:
    """Return how many of a batch's `count` rows each rank takes, as even as possible."""
    return [len(share) for share in np.array_split(np.arange(count), world_size())]


def own_share(count: int) -> slice:
    """Return the rows of a batch of `count` rows that this rank takes."""
    ends = np.cumsum([0, *share_sizes(count)])
    return slice(int(ends[rank()]), int(ends[rank() + 1]))


def gather(rows: Tensor, count: int) -> Tensor:
    """Return the embeddings of a whole batch, in its order.

    Args:
        rows: (n, D) embeddings of this rank's share; only these carry a gradient.
        count: Rows in the batch.

    Returns:
        (count, D).
    """
    if not dist.is_initialized():
        return rows
    sizes = share_sizes(count)
    padded = rows.new_zeros(max(sizes), rows.shape[1])
    padded[: len(rows)] = rows.detach()
    gathered = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    shares = [part[:size] for part, size in zip(gathered, sizes, strict=True)]
    shares[rank()] = rows
    return torch.cat(shares)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients of all ranks in place.

    Each rank has the gradient through its own share: the sum is that of the whole batch.
    """
    if not dist.is_initialized():
        return
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of all ranks in place.

    For what sees the whole batch on each rank, as a loss with weights does: they are the same but
    for rounding, and stay the same for ever where all ranks step by their mean.
    """
    parameters = list(parameters)
    sum_gradients(parameters)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= world_size()
