"""Divide an embedder into a frozen part, which runs once a picture, and a part that is trained.

    frozen, trainable = divide_embedder(embedder, unfreeze=2)   # the last two blocks are trained
    embeddings = trainable(frozen.features(pictures))           # of any length

The frozen part makes the same feature maps in every epoch: they are computed once, by the engine
that embeds, and cached. Only the trained part runs in every step.
"""

from typing import Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torchvision.models import MobileNetV2

from lookalike.core.errors import UserError
from lookalike.models.embedder import Embedder

Unfreeze = int | Literal["all"]
# What goes with the layer before it: freezing a convolution but not its normalization makes no
# sense.
VIT_TAIL = ("norm", "attn_pool", "fc_norm", "head_drop", "head", "head_dist")  # behind its blocks
ATTACHED = (_NormBase, nn.LayerNorm, nn.PReLU)


class TrainableEmbedder(nn.Module):
    """The part of an embedder that is trained: feature maps or pictures to embeddings.

    Args:
        blocks: The backbone's blocks that are trained, the last one last.
        projection: The embedder's.
        shape: Of one input: of the frozen part's feature maps, or of a picture.
        dim: Width of the embeddings.
        learns_statistics: Whether batch normalization learns its mean and deviation anew, as
            weights from scratch need; pretrained ones keep theirs, which a small batch estimates
            badly.
    """

    def __init__(
        self,
        blocks: list[nn.Sequential],
        projection: nn.Module,
        shape: torch.Size,
        dim: int,
        learns_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.blocks, self.projection = nn.ModuleList(blocks), projection
        self.shape, self.dim, self.learns_statistics = shape, dim, learns_statistics

    def features(self, maps: Tensor) -> Tensor:
        """Map (N, ...) inputs of `shape`, flat or not, to the backbone's (N, features_dim)."""
        x = maps.unflatten(1, self.shape) if maps.ndim == 2 else maps
        for block in self.blocks:
            x = block(x)
        return x.flatten(1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, ...) inputs of `shape`, flat or not, to (N, dim) embeddings of any length."""
        embeddings: Tensor = self.projection(self.features(maps))
        return embeddings

    def train(self, mode: bool = True) -> "TrainableEmbedder":
        """Switch between training and evaluation; see `learns_statistics`."""
        super().train(mode)
        for part in self.modules():
            if isinstance(part, _NormBase) and not self.learns_statistics:
                part.eval()
        return self


def divide_embedder(
    embedder: Embedder, unfreeze: Unfreeze, learns_statistics: bool = False
) -> tuple[Embedder | None, TrainableEmbedder]:
    """Divide an embedder into what stays frozen and what is trained.

    Both share the embedder's weights: training changes the embedder itself.

    Args:
        embedder: Of whole pictures, with its projection.
        unfreeze: How many of the backbone's last blocks are trained, or "all"; 0: the projection.
        learns_statistics: See `TrainableEmbedder`.

    Returns:
        The frozen part, as an embedder whose features are feature maps, each as a row, or None
        where nothing is frozen; and the part that is trained.

    Raises:
        UserError: The backbone has fewer blocks, or nothing that can be trained.
    """
    stem, learning = _divide_blocks(embedder, unfreeze)
    frozen, shape = None, torch.Size([3, embedder.image_size, embedder.image_size])
    if not learning:
        frozen, shape = embedder, torch.Size([embedder.features_dim])
    elif stem:
        part = FrozenPart(stem, embedder.image_size)
        frozen, shape = Embedder(embedder.name, part, embedder.preprocessing), part.shape
    else:  # pictures come channels last, and convolutions learn faster so on a CPU
        embedder.backbone.to(memory_format=torch.channels_last)
    trainable = TrainableEmbedder(
        learning, embedder.projection, shape, embedder.dim, learns_statistics
    )
    embedder.requires_grad_(False)
    trainable.requires_grad_(True)
    return frozen, trainable


class FrozenPart(nn.Module):
    """Frozen blocks: (N, 3, side, side) pictures to feature maps, each as a row.

    Args:
        blocks: In their order.
        image_size: Height and width of the pictures, in pixels.

    Attributes:
        shape: Of one picture's feature maps.
    """

    def __init__(self, blocks: list[nn.Sequential], image_size: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks).eval()
        with torch.inference_mode():
            self.shape = self.blocks(torch.zeros(1, 3, image_size, image_size)).shape[1:]

    def forward(self, pictures: Tensor) -> Tensor:
        """Map (N, 3, side, side) pictures to (N, values) rows."""
        rows: Tensor = self.blocks(pictures).flatten(1)
        return rows


def _divide_blocks(
    embedder: Embedder, unfreeze: Unfreeze
) -> tuple[list[nn.Sequential], list[nn.Sequential]]:
    """Return the blocks that stay frozen, and those that are trained."""
    if unfreeze == 0:
        return [], []
    if not any(True for _ in embedder.backbone.parameters()):
        raise UserError(f"--unfreeze {unfreeze}: --backbone {embedder.name} cannot be trained here")
    blocks = blocks_of(embedder.backbone, embedder.image_size)
    count = len(blocks) if unfreeze == "all" else unfreeze
    if count > len(blocks):
        raise UserError(
            f"--unfreeze {unfreeze}: --backbone {embedder.name} divides into {len(blocks)} blocks; "
            "name at most so many, or all"
        )
    return blocks[: len(blocks) - count], blocks[len(blocks) - count :]


def blocks_of(backbone: nn.Module, image_size: int) -> list[nn.Sequential]:
    """Return a backbone as blocks that run one after another; one where it does not divide.

    The parts are found by their order of definition; whether they do make the backbone is tried on
    noise. (timm's `group_matcher` would name the parameters of each block, but not run a part of
    the network, and its `forward_intermediates` not a part from the middle.)

    Args:
        backbone: A network of (N, 3, side, side) pictures.
        image_size: The side, in pixels.
    """
    backbone = backbone.eval()
    blocks: list[nn.Sequential] = []
    for part in _parts_of(backbone):
        bare = isinstance(part, ATTACHED) or not any(True for _ in part.parameters())
        if bare and blocks:
            blocks[-1].append(part)
        else:
            blocks.append(nn.Sequential(part))
    noise = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            same = torch.allclose(nn.Sequential(*blocks)(noise), backbone(noise), atol=1e-4)
    except Exception:  # parts that do not fit raise what they like
        same = False
    return blocks if same else [nn.Sequential(backbone)]


def _parts_of(module: nn.Module) -> list[nn.Module]:
    """Return layers and blocks in the order of their definition, mostly that of their use."""
    if isinstance(module, VisionTransformer):
        return [VitStem(module), *module.blocks, VitTail(module)]
    if isinstance(module, MobileNetV2):
        return [*module.features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), module.classifier]
    parts: list[nn.Module] = []
    for child in module.children():
        parts += _parts_of(child) if type(child) is nn.Sequential else [child]
    return parts


class VitStem(nn.Module):
    """What a timm ViT does before its blocks: (N, 3, side, side) to (N, tokens, width).

    timm has no public function for that: `forward_intermediates` stops after the first block at
    the earliest. Should the private one that adds the positions change, `blocks_of` finds out and
    does not divide the network.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = [vit]  # in a list: the blocks are not this module's
        own = {**dict(vit.named_children()), **dict(vit.named_parameters(recurse=False))}
        for name in own.keys() - {"blocks", *VIT_TAIL}:
            setattr(self, name, own[name])

    def forward(self, pictures: Tensor) -> Tensor:
        """Map (N, 3, side, side) to (N, tokens, width)."""
        (vit,) = self.vit
        tokens: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(pictures))))
        return tokens


class VitTail(nn.Module):
    """What a timm ViT does after its blocks: (N, tokens, width) to (N, features)."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = [vit]
        for name, part in vit.named_children():
            if name in VIT_TAIL:
                setattr(self, name, part)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, tokens, width) to (N, features)."""
        features: Tensor = self.vit[0].forward_head(self.vit[0].norm(tokens))
        return features
