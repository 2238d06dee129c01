"""Small architectures to train from scratch: a custom CNN, and FaceNet's NN1 and NN2.

    network = NN2()
    features = network.eval()(torch.zeros(1, 3, 224, 224))   # (1, 128)

None has pretrained weights: `--backbone nn2 --weights none --unfreeze all`. FaceNet's are of
Schroff, Kalenichenko and Philbin, "FaceNet: A Unified Embedding for Face Recognition and
Clustering" (2015), tables 1 and 2, with batch normalisation in place of their local response
normalisation and L2 pooling as they are; the embedding is brought to length 1 outside, as all are.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

EMBEDDING = 128


class SmallCnn(nn.Sequential):
    """Five halvings by 3×3 convolutions: (N, 3, side, side) -> (N, 128), of any length.

    >>> SmallCnn().eval()(torch.zeros(2, 3, 96, 96)).shape
    torch.Size([2, 128])
    """

    WIDTHS = (32, 64, 128, 192, 256)

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for width, channels in zip((3, *self.WIDTHS), self.WIDTHS, strict=False):
            layers += [convolution(width, channels, 3), nn.MaxPool2d(2)]
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.WIDTHS[-1], EMBEDDING)]
        super().__init__(*layers, *pooled)


class NN1(nn.Sequential):
    """Zeiler and Fergus' network with 1×1 convolutions: (N, 3, 220, 220) -> (N, 128).

    140 million parameters, most of them in the two fully connected layers.
    """

    def __init__(self) -> None:
        super().__init__(
            convolution(3, 64, 7, stride=2),
            nn.MaxPool2d(3, 2, padding=1),
            convolution(64, 64, 1),
            convolution(64, 192, 3),
            nn.MaxPool2d(3, 2, padding=1),
            convolution(192, 192, 1),
            convolution(192, 384, 3),
            nn.MaxPool2d(3, 2, padding=1),
            convolution(384, 384, 1),
            convolution(384, 256, 3),
            convolution(256, 256, 1),
            convolution(256, 256, 3),
            convolution(256, 256, 1),
            convolution(256, 256, 3),
            nn.MaxPool2d(3, 2, padding=1),
            nn.Flatten(),
            Maxout(256 * 7 * 7, 32 * 128),
            Maxout(32 * 128, 32 * 128),
            nn.Linear(32 * 128, EMBEDDING),
        )


class Maxout(nn.Module):
    """The greater of two linear layers (Goodfellow et al., 2013): (N, width) -> (N, out)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * out)

    def forward(self, x: Tensor) -> Tensor:
        """See above."""
        both: Tensor = self.linear(x).unflatten(1, (2, -1))
        return both.amax(1)


class Inception(NamedTuple):
    """A row of FaceNet's table 2. one: channels of the 1×1 branch; three, five: (reduced, channels)
    of the others; pool: max or l2; projected: its channels, 0 for all of them as they are. stride:
    2 halves height and width."""

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
    """FaceNet's Inception network: (N, 3, 224, 224) -> (N, 128), of any length; 7.5 million
    parameters.

    >>> NN2().eval()(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 128])
    """

    def __init__(self) -> None:
        layers: list[nn.Module] = [
            convolution(3, 64, 7, stride=2),
            nn.MaxPool2d(3, 2, padding=1),
            convolution(64, 64, 1),
            convolution(64, 192, 3),
            nn.MaxPool2d(3, 2, padding=1),
        ]
        width = 192
        for row in NN2_ROWS:
            block = InceptionBlock(width, row)
            layers.append(block)
            width = block.width
        last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, EMBEDDING)]
        super().__init__(*layers, *last)


class InceptionBlock(nn.Module):
    """One row of the table: branches side by side, stacked as channels. width: how many."""

    def __init__(self, width: int, row: Inception) -> None:
        super().__init__()
        branches = OrderedDict[str, nn.Module]()
        if row.one:
            branches["one"] = convolution(width, row.one, 1)
        for name, side, channels in (("three", 3, row.three), ("five", 5, row.five)):
            reduced = convolution(width, channels[0], 1)
            branches[name] = nn.Sequential(reduced, convolution(*channels, side, row.stride))
        l2 = nn.Sequential(nn.ZeroPad2d(1), nn.LPPool2d(2, 3, row.stride))
        pool = l2 if row.pool == "l2" else nn.MaxPool2d(3, row.stride, padding=1)
        projection = convolution(width, row.projected, 1) if row.projected else nn.Identity()
        branches["pool"] = nn.Sequential(pool, projection)
        self.branches = nn.ModuleDict(branches)
        outs = [row.one, row.three[1], row.five[1], row.projected or width]
        self.width = sum(outs)

    def forward(self, x: Tensor) -> Tensor:
        """See above."""
        return torch.cat([branch(x) for branch in self.branches.values()], 1)


def convolution(width: int, channels: int, side: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, or halves it, batch normalisation and ReLU."""
    conv = nn.Conv2d(width, channels, side, stride, side // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())
