"""Architectures to train from scratch: a small CNN, and FaceNet's NN1 and NN2.

    network = NN2()
    features = network.eval()(torch.zeros(1, 3, 224, 224))   # (1, 128)

None has pretrained weights: `--backbone nn2 --weights none --unfreeze all`. FaceNet's two are
tables 1 and 2 of Schroff, Kalenichenko and Philbin, "FaceNet: A Unified Embedding for Face
Recognition and Clustering" (2015), with L2 pooling as published and batch normalization instead of
local response normalization. Like every backbone they return features; `Embedder` scales these to
length 1.
"""

from collections import OrderedDict
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

FEATURES = 128


class SmallCnn(nn.Sequential):
    """A CNN of five 3×3 convolutions, each halving the size: (N, 3, H, W) to (N, 128) features.

    >>> SmallCnn().eval()(torch.zeros(2, 3, 96, 96)).shape
    torch.Size([2, 128])
    """

    WIDTHS = (32, 64, 128, 192, 256)

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for width, channels in pairwise((3, *self.WIDTHS)):
            layers += [_convolution(width, channels, 3), nn.MaxPool2d(2)]
        super().__init__(*layers, *_pooled_features(self.WIDTHS[-1]))


class NN1(nn.Sequential):
    """Zeiler and Fergus' network with 1×1 convolutions: (N, 3, 220, 220) to (N, 128) features.

    It has 140 million parameters, most of them in its two fully connected layers.
    """

    def __init__(self) -> None:
        super().__init__(
            _convolution(3, 64, 7, stride=2),
            nn.MaxPool2d(3, 2, padding=1),
            _convolution(64, 64, 1),
            _convolution(64, 192, 3),
            nn.MaxPool2d(3, 2, padding=1),
            _convolution(192, 192, 1),
            _convolution(192, 384, 3),
            nn.MaxPool2d(3, 2, padding=1),
            _convolution(384, 384, 1),
            _convolution(384, 256, 3),
            _convolution(256, 256, 1),
            _convolution(256, 256, 3),
            _convolution(256, 256, 1),
            _convolution(256, 256, 3),
            nn.MaxPool2d(3, 2, padding=1),
            nn.Flatten(),
            Maxout(256 * 7 * 7, 32 * 128),
            Maxout(32 * 128, 32 * 128),
            nn.Linear(32 * 128, FEATURES),
        )


class Maxout(nn.Module):
    """The larger of two linear layers, element by element (Goodfellow et al., 2013)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width) to (N, out)."""
        both: Tensor = self.linear(x).unflatten(1, (2, -1))
        return both.amax(1)


class Inception(NamedTuple):
    """A row of FaceNet's table 2.

    Attributes:
        one: Channels of the 1×1 branch; 0 for no such branch.
        three: Channels of the 3×3 branch, (reduced, output).
        five: Channels of the 5×5 branch, (reduced, output).
        pool: How the pooling branch pools, `max` or `l2`.
        projected: Channels of the pooling branch; 0 leaves it unprojected.
        stride: 2 halves height and width.
    """

    one: int
    three: tuple[int, int]
    five: tuple[int, int]
    pool: str
    projected: int
    stride: int = 1


NN2_ROWS = (
    Inception(64, (96, 128), (16, 32), "max", 32),
    Inception(64, (96, 128), (32, 64), "l2", 64),
    Inception(0, (128, 256), (32, 64), "max", 0, stride=2),
    Inception(256, (96, 192), (32, 64), "l2", 128),
    Inception(224, (112, 224), (32, 64), "l2", 128),
    Inception(192, (128, 256), (32, 64), "l2", 128),
    Inception(160, (144, 288), (32, 64), "l2", 128),
    Inception(0, (160, 256), (64, 128), "max", 0, stride=2),
    Inception(384, (192, 384), (48, 128), "l2", 128),
    Inception(384, (192, 384), (48, 128), "max", 128),
)


class NN2(nn.Sequential):
    """FaceNet's Inception network: (N, 3, 224, 224) to (N, 128) features; 7.5 million parameters.

    >>> NN2().eval()(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 128])
    """

    def __init__(self) -> None:
        layers: list[nn.Module] = [
            _convolution(3, 64, 7, stride=2),
            nn.MaxPool2d(3, 2, padding=1),
            _convolution(64, 64, 1),
            _convolution(64, 192, 3),
            nn.MaxPool2d(3, 2, padding=1),
        ]
        width = 192
        for row in NN2_ROWS:
            block = InceptionBlock(width, row)
            layers.append(block)
            width = block.width
        super().__init__(*layers, *_pooled_features(width))


class InceptionBlock(nn.Module):
    """Parallel branches as a row of the table says, concatenated along the channels.

    Attributes:
        width: Channels of the output.
    """

    def __init__(self, width: int, row: Inception) -> None:
        super().__init__()
        branches = OrderedDict[str, nn.Module]()
        if row.one:
            branches["one"] = _convolution(width, row.one, 1)
        for name, kernel, channels in (("three", 3, row.three), ("five", 5, row.five)):
            reduced = _convolution(width, channels[0], 1)
            branches[name] = nn.Sequential(reduced, _convolution(*channels, kernel, row.stride))
        l2 = nn.Sequential(nn.ZeroPad2d(1), nn.LPPool2d(2, 3, row.stride))
        pool = l2 if row.pool == "l2" else nn.MaxPool2d(3, row.stride, padding=1)
        projection = _convolution(width, row.projected, 1) if row.projected else nn.Identity()
        branches["pool"] = nn.Sequential(pool, projection)
        self.branches = nn.ModuleDict(branches)
        self.width = row.one + row.three[1] + row.five[1] + (row.projected or width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, width, H / stride, W / stride)."""
        return torch.cat([branch(x) for branch in self.branches.values()], 1)


def _pooled_features(width: int) -> list[nn.Module]:
    """Build the last layers: the average over the picture, and a linear layer."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, FEATURES)]


def _convolution(width: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Build a convolution that keeps the size (or halves it), batch normalization and ReLU."""
    conv = nn.Conv2d(width, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())
