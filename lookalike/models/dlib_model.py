"""dlib's face network, and a reader of the one file that holds its weights.

network = DlibFace()
network.load_state_dict(dlib_state(Path("dlib_face_recognition_resnet_model_v1.dat")))
features = network.eval()(faces)   # (N, 3, 150, 150) -> (N, 128)
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, pad, relu

from lookalike.core.errors import UserError
from lookalike.core.readers import read_bytes

WIDTHS = (32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256, 256, 256)  # of each block
HALVING = (3, 7, 10, 13)  # numbers of the blocks that halve height and width
# (mean, deviation) of each channel that its inputs are normalized by, for values from 0 to 1.
MEAN = (122.782 / 255, 117.001 / 255, 104.298 / 255)
DEVIATION = (256 / 255,) * 3
# Where its training's faces have the middles of the eyes, the tip of the nose and the corners of
# the mouth: of the mean face that dlib aligns to, of which 0 to 1 is a square that holds it.
MEAN_FACE = (
    *((0.2255, 0.2160), (0.7548, 0.2160), (0.4901, 0.5156)),
    *((0.2541, 0.7802), (0.7261, 0.7802)),
)
PADDING = 0.25  # around that square, as a share of its side
TEMPLATE = tuple(
    ((x + PADDING) / (1 + 2 * PADDING), (y + PADDING) / (1 + 2 * PADDING)) for x, y in MEAN_FACE
)


class DlibFace(nn.Module):
    """dlib's face network: (N, 3, 150, 150) aligned RGB faces to (N, 128) features.

    A ResNet of 29 convolutions (Davis King, "High Quality Face Recognition with Deep Metric
    Learning", 2017); network and weights are in the public domain (CC0). The affine layers, which
    dlib made of batch normalizations, are part of the convolutions here.

    >>> DlibFace().eval()(torch.zeros(2, 3, 150, 150)).shape
    torch.Size([2, 128])
    """

    template = TEMPLATE  # where the five points of an aligned face lie

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 7, stride=2)
        widths = zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)
        self.blocks = nn.Sequential(
            *(_Block(before, width, i in HALVING) for i, (before, width) in enumerate(widths))
        )
        self.head = nn.Linear(WIDTHS[-1], 128, bias=False)

    def forward(self, faces: Tensor) -> Tensor:
        """Map (N, 3, 150, 150) RGB faces, normalized by MEAN and DEVIATION, to (N, 128)."""
        maps = self.blocks(max_pool2d(relu(self.stem(faces)), 3, stride=2))
        features: Tensor = self.head(maps.mean((2, 3)))
        return features


class _Block(nn.Module):
    """A residual block; what is smaller, or has fewer channels, is filled up with zeros."""

    def __init__(self, before: int, width: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.first = nn.Conv2d(before, width, 3, stride=2) if halve else _same(before, width)
        self.second = _same(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(relu(self.first(x)))
        skip = avg_pool2d(x, 2, stride=2) if self.halve else x
        shape = [max(a, b) for a, b in zip(out.shape[1:], skip.shape[1:], strict=True)]
        return relu(_filled(out, shape) + _filled(skip, shape))


def _same(before: int, width: int) -> nn.Conv2d:
    """Build a convolution that keeps the size."""
    return nn.Conv2d(before, width, 3, padding=1)


def _filled(x: Tensor, shape: list[int]) -> Tensor:
    """Fill (N, C, H, W) up with zeros to a shape (C, H, W), behind what is there."""
    channels, height, width = (want - have for want, have in zip(shape, x.shape[1:], strict=True))
    return pad(x, (0, width, 0, height, 0, channels)) if channels + height + width else x


def dlib_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict of DlibFace from dlib's file.

    The file is a walk through the network: of each convolution the weights and biases, then the
    factors and summands of the affine layer behind it. What stands between them (learning rates,
    empty gradients) is skipped: a tensor is found by the header of its size.

    Args:
        path: dlib_face_recognition_resnet_model_v1.dat.

    Raises:
        UserError: A tensor is missing.
    """
    network, raw = DlibFace(), read_bytes(path)
    convolutions = {k: m for k, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    counts = [
        count
        for conv in convolutions.values()
        for count in (conv.weight.numel() + conv.out_channels, 2 * conv.out_channels)
    ]
    head = network.head.weight
    try:
        tensors = _tensors(raw, [(count, 1) for count in counts] + [(head.shape[1], len(head))])
        state: dict[str, Tensor] = {}
        for name, conv in convolutions.items():
            weights, affine = next(tensors), next(tensors)
            scale, shift = affine.view(2, -1)
            kernel = weights[: conv.weight.numel()].view_as(conv.weight)
            state[f"{name}.weight"] = kernel * scale[:, None, None, None]
            state[f"{name}.bias"] = weights[conv.weight.numel() :] * scale + shift
        state["head.weight"] = next(tensors).view(head.shape[1], -1).T.contiguous()
    except ValueError as error:
        raise UserError(f"{path}: not the file of dlib's face network") from error
    return state


def _tensors(raw: bytes, shapes: list[tuple[int, int]]) -> Iterator[Tensor]:
    """Yield the tensors of these shapes, one behind the other; ValueError where one is missing."""
    start = 0
    for shape in shapes:
        header = b"".join(map(_packed, (2, *shape, 1, 1)))  # the form's version, four sizes
        start = raw.index(header, start) + len(header)
        values = np.frombuffer(raw, "<f4", shape[0] * shape[1], start)
        start += values.nbytes
        yield torch.from_numpy(values.copy())


def _packed(number: int) -> bytes:
    r"""Return an integer as dlib writes it: how many bytes, and these, the lowest first.

    >>> _packed(4736)
    b'\x02\x80\x12'
    """
    length = max(1, (number.bit_length() + 7) // 8)
    return bytes([length]) + number.to_bytes(length, "little")
