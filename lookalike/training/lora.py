"""LoRA: train a network's linear layers by the product of two narrow matrices each.

    add_lora(trainable.blocks, rank=8)     # before training
    merge_lora(trainable.blocks)           # after it: layers as they were, with the sums as weights

A layer's weight W becomes W + B A; W, and everything else in the blocks, stays as it was. Hu et
al., LoRA: Low-Rank Adaptation of Large Language Models (2022). What is learned of a vision
transformer is then a hundredth of its weights, so that few pictures do not overwrite what it knows.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lookalike.core.errors import UserError


class LowRank(nn.Module):
    """A weight plus a product of two matrices, which is 0 at first.

    Args:
        out: Rows of the weight.
        width: Columns of the weight.
        rank: Width of the product.
    """

    def __init__(self, out: int, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, width))
        self.up = nn.Parameter(torch.zeros(out, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the sum, of the weight's shape."""
        return weight + self.up @ self.down


def add_lora(blocks: nn.Module, rank: int) -> None:
    """Let only low-rank changes of the linear layers be trained.

    Args:
        blocks: Changed in place; what they compute stays the same.
        rank: Of the changes.

    Raises:
        UserError: They have no linear layer.

    >>> layer = nn.Sequential(nn.Linear(6, 4))
    >>> add_lora(layer, 2)
    >>> sum(p.numel() for p in layer.parameters() if p.requires_grad)  # 2 * (6 + 4)
    20
    """
    layers = [part for part in blocks.modules() if isinstance(part, nn.Linear)]
    if not layers:
        raise UserError(
            f"--lora {rank}: the blocks that --unfreeze trains have no linear layers; it is for "
            "transformers (--backbone vit_b16)"
        )
    blocks.requires_grad_(False)
    for layer in layers:
        change = LowRank(layer.out_features, layer.in_features, rank)
        parametrize.register_parametrization(layer, "weight", change.to(layer.weight.device))


def merge_lora(blocks: nn.Module) -> None:
    """Add the changes to the weights; the layers are then as they were before `add_lora`."""
    for layer in blocks.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
