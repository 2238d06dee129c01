"""Face networks that neither timm nor torchvision has: InceptionResnetV1 (FaceNet) and SFace.

    network = InceptionResnetV1()
    load_into(network, load_state(Path("20180402-114759-vggface2.pt")), "FaceNet")
    features = network.eval()(faces)   # (N, 3, 160, 160) -> (N, 512)

Their state dicts have the names of the public weights, which load as they are.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

Size = int | tuple[int, int]
# The branches of a block: (channels, kernel height, kernel width) of each convolution, in order.
# The blocks have the paper's names.
Branches = tuple[tuple[tuple[int, int, int], ...], ...]

INCEPTION_A: Branches = (
    ((32, 1, 1),),
    ((32, 1, 1), (32, 3, 3)),
    ((32, 1, 1), (32, 3, 3), (32, 3, 3)),
)
INCEPTION_B: Branches = (
    ((128, 1, 1),),
    ((128, 1, 1), (128, 1, 7), (128, 7, 1)),
)
INCEPTION_C: Branches = (
    ((192, 1, 1),),
    ((192, 1, 1), (192, 1, 3), (192, 3, 1)),
)
REDUCTION_A: Branches = (
    ((384, 3, 3),),
    ((192, 1, 1), (192, 3, 3), (256, 3, 3)),
)
REDUCTION_B: Branches = (
    ((256, 1, 1), (384, 3, 3)),
    ((256, 1, 1), (256, 3, 3)),
    ((256, 1, 1), (256, 3, 3), (256, 3, 3)),
)


class InceptionResnetV1(nn.Sequential):
    """FaceNet's network: (N, 3, 160, 160), values of about -1 to 1, to (N, 512) features.

    Inception-ResNet-v1: Szegedy, Ioffe, Vanhoucke and Alemi, "Inception-v4, Inception-ResNet and
    the Impact of Residual Connections on Learning" (2016). Trained to embed faces: Schroff,
    Kalenichenko and Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering"
    (2015). Widths and scales are those of David Sandberg's `facenet`, whose weights were trained on
    pictures normalized as (x - 127.5) / 128. The state dict has the names of the facenet-pytorch
    package, without its classifier `logits`.

    Args:
        dropout: Share of the pooled channels that is dropped in training.

    >>> InceptionResnetV1().eval()(torch.zeros(2, 3, 160, 160)).shape
    torch.Size([2, 512])
    """

    def __init__(self, dropout: float = 0.6) -> None:
        layers = OrderedDict[str, nn.Module](
            conv2d_1a=_convolution(3, 32, 3, stride=2),
            conv2d_2a=_convolution(32, 32, 3),
            conv2d_2b=_convolution(32, 64, 3, padding=1),
            maxpool_3a=nn.MaxPool2d(3, stride=2),
            conv2d_3b=_convolution(64, 80, 1),
            conv2d_4a=_convolution(80, 192, 3),
            conv2d_4b=_convolution(192, 256, 3, stride=2),
            repeat_1=nn.Sequential(*(_Residual(256, INCEPTION_A, 0.17) for _ in range(5))),
            mixed_6a=_Reduction(256, REDUCTION_A),
            repeat_2=nn.Sequential(*(_Residual(896, INCEPTION_B, 0.10) for _ in range(10))),
            mixed_7a=_Reduction(896, REDUCTION_B),
            repeat_3=nn.Sequential(*(_Residual(1792, INCEPTION_C, 0.20) for _ in range(5))),
            block8=_Residual(1792, INCEPTION_C, 1.0, last=nn.Identity()),
            avgpool_1a=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(dropout),
            last_linear=nn.Linear(1792, 512, bias=False),
            last_bn=nn.BatchNorm1d(512, eps=1e-3),
        )
        super().__init__(layers)


class _Branches(nn.Module):
    """Parallel branches of convolutions over the same input."""

    def __init__(self, channels: int, branches: Branches, halve: bool) -> None:
        super().__init__()
        self.names = [f"branch{i}" for i in range(len(branches))]
        for name, steps in zip(self.names, branches, strict=True):
            self.add_module(name, _branch(channels, steps, halve))

    def stacked(self, x: Tensor) -> Tensor:
        """Concatenate the outputs of all branches along the channels."""
        return torch.cat([self.get_submodule(name)(x) for name in self.names], 1)


class _Residual(_Branches):
    """A residual block: last(x + scale * conv(branches(x)))."""

    def __init__(
        self, channels: int, branches: Branches, scale: float, last: nn.Module | None = None
    ) -> None:
        super().__init__(channels, branches, halve=False)
        self.conv2d = nn.Conv2d(sum(steps[-1][0] for steps in branches), channels, 1)
        self.scale = scale
        self.last = last or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(x + self.scale * self.conv2d(self.stacked(x)))
        return out


class _Reduction(_Branches):
    """A block that halves height and width: the branches, with a max pooling as one more."""

    def __init__(self, channels: int, branches: Branches) -> None:
        super().__init__(channels, branches, halve=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.stacked(x), max_pool2d(x, 3, stride=2)], 1)


def _branch(channels: int, steps: tuple[tuple[int, int, int], ...], halve: bool) -> nn.Module:
    """Chain convolutions, padded to keep the size; with `halve` the last one halves it."""
    layers = []
    for i, (out, height, width) in enumerate(steps):
        if halve and i == len(steps) - 1:
            layers.append(_convolution(channels, out, (height, width), stride=2))
        else:
            padding = (height // 2, width // 2)
            layers.append(_convolution(channels, out, (height, width), padding=padding))
        channels = out
    # The public weights call a single convolution branch0.conv, not branch0.0.conv.
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def _convolution(
    channels: int, out: int, kernel: Size, stride: int = 1, padding: Size = 0
) -> nn.Sequential:
    """Build a convolution without bias, batch normalization and ReLU."""
    conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
    bn = nn.BatchNorm2d(out, eps=1e-3)
    return nn.Sequential(OrderedDict(conv=conv, bn=bn, relu=nn.ReLU()))


class SFace(nn.Module):
    """SFace, a MobileNetV1 with PReLU: (N, 3, 112, 112) aligned RGB faces to (N, 128) features.

    Zhong et al., SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition (2021).
    The network and its weights are those of OpenCV Zoo (Apache 2.0).

    >>> SFace().eval()(torch.zeros(2, 3, 112, 112)).shape
    torch.Size([2, 128])
    """

    # Channels of each pointwise convolution, and stride of the depthwise one before it.
    CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential()
        self.trunk.add_module("conv_1", _step(3, 32, 3, 1, 1))
        width = 32
        for number, (channels, stride) in enumerate(
            zip(self.CHANNELS, self.STRIDES, strict=True), 2
        ):
            depthwise = _step(width, width, 3, stride, width)
            self.trunk.add_module(f"conv_{number}_dw", depthwise)
            self.trunk.add_module(f"conv_{number}", _step(width, channels, 1, 1, 1))
            width = channels
        self.bn1 = nn.BatchNorm2d(width, eps=2e-5)
        self.flatten = nn.Flatten()
        self.pre_fc1 = nn.Linear(width * 7 * 7, 128)
        self.fc1 = nn.BatchNorm1d(128, eps=2e-5)

    def forward(self, faces: Tensor) -> Tensor:
        """Map (N, 3, 112, 112) RGB faces, normalized as (x - 127.5) / 128, to (N, 128) features."""
        rows: Tensor = self.fc1(self.pre_fc1(self.flatten(self.bn1(self.trunk(faces)))))
        return rows


def _step(width: int, channels: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    """Build a convolution without bias, batch normalization and PReLU."""
    conv = nn.Conv2d(width, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    batchnorm = nn.BatchNorm2d(channels, eps=1e-3)
    return nn.Sequential(OrderedDict(conv2d=conv, batchnorm=batchnorm, relu=nn.PReLU(channels)))


# (the file's name, PyTorch's name), as regular expressions.
SFACE_NAMES = (
    (r"_(conv2d|batchnorm|relu)_", r".\1."),
    (r"^(bn1|pre_fc1|fc1)_", r"\1."),
    (r"^conv_", "trunk.conv_"),
    (r"moving_mean$", "running_mean"),
    (r"moving_var$", "running_var"),
    (r"gamma$", "weight"),
    (r"beta$", "bias"),
)


def sface_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of OpenCV Zoo's SFace file as SFace's state dict has them.

    A state dict of SFace itself stays as it is.

    >>> [*sface_state({"conv_2_dw_relu_gamma": torch.zeros(32, 1, 1), "bn1_beta": torch.zeros(2)})]
    ['trunk.conv_2_dw.relu.weight', 'bn1.bias']
    """
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in SFACE_NAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.flatten() if name.endswith("relu.weight") else tensor
    return state
