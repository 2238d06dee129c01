"""Several processes that train together, as `torchrun` starts them; one alone is the usual case.

    torchrun --nproc-per-node 2 main.py --stage train --run runs/x

Each embeds its share of a batch; the embeddings are gathered, so that the loss sees the whole
batch, and the gradients are summed: the numbers are those of one process with the same batch, but
for rounding. The first process does all else; the others wait for its call.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(hours=24)  # of the others, while the first one prepares or judges


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def number() -> int:
    """This process's number; the first is 0."""
    return int(os.environ.get("RANK", 0)) if count() > 1 else 0


def join() -> None:
    """Meets the other processes, where there are any."""
    if count() > 1 and not dist.is_initialized():
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)


def leave() -> None:
    """Parts from the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def agree(value: float) -> float:
    """The first process's number, in all of them: also how they wait for each other."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    if torch.cuda.is_available():
        shared = shared.cuda()
    dist.broadcast(shared, 0)
    return float(shared)


@contextmanager
def first_one_first() -> Iterator[None]:
    """The first process does it, then the others: they find in the cache what it has made."""
    if number() > 0:
        agree(0)
    yield
    if number() == 0:
        agree(0)


def share(rows: np.ndarray) -> slice:
    """This process's part of a batch."""
    ends = np.cumsum([0, *map(len, np.array_split(rows, count()))])
    return slice(int(ends[number()]), int(ends[number() + 1]))


def gather(rows: Tensor, total: int) -> Tensor:
    """(n, D) embeddings of this process's share -> (total, D) of the whole batch, in its order.

    Only the own ones carry a gradient."""
    if not dist.is_initialized():
        return rows
    sizes = [len(part) for part in np.array_split(np.arange(total), count())]
    padded = rows.new_zeros(max(sizes), rows.shape[1])
    padded[: len(rows)] = rows.detach()
    parts = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    kept = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    kept[number()] = rows
    return torch.cat(kept)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Each process knows the gradient through its own share: the sum is the whole batch's."""
    if not dist.is_initialized():
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
