"""What training changes of an embedder, its last blocks and its projection; and how fast.

    trunk = Trunk(embedder, unfreeze=2)   # the last two blocks; "all" for the whole backbone
    front = trunk.front                   # an Embedder of the blocks that stay frozen; None for all
    rows = trunk(maps)                    # the front's feature maps -> embeddings of any length

A frozen front makes the same feature maps in every epoch: they are made once, by the engine that
embeds, and cached. Only the rear runs, and learns, in every step.
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
# What goes with the layer before it: freezing a convolution but not its normalisation makes no
# sense.
ATTACHED = (_NormBase, nn.LayerNorm, nn.PReLU)


class TrainableEmbedder(nn.Module):
    """An embedder's part that is trained: (N, ...) feature maps or pictures -> (N, dim) rows.

    front: the part that stays frozen, as an embedder whose features are the maps, each a row; None
    where nothing is frozen. blocks: those that are trained, the last one last. Training changes the
    embedder itself: they share their weights.
    learns_statistics: whether batch normalisation learns its mean and deviation anew, as weights
    from scratch need; pretrained ones keep theirs, which a small batch tells badly.
    """

    def __init__(
        self, embedder: Embedder, unfreeze: Unfreeze, learns_statistics: bool = False
    ) -> None:
        super().__init__()
        stem, learning = divided(embedder, unfreeze)
        self.blocks = nn.ModuleList(learning)
        self.projection = embedder.projection
        self.dim, self.learns_statistics = embedder.dim, learns_statistics
        self.shape = torch.Size([3, embedder.image_size, embedder.image_size])
        self._frozen: list[Embedder] = []  # in a list: it is no part of what is trained
        if not learning:
            self.shape, self._frozen = torch.Size([embedder.features_dim]), [embedder]
        elif stem:
            frozen = FrozenPart(stem, embedder.image_size)
            self.shape = frozen.shape
            self._frozen = [Embedder(embedder.name, frozen, embedder.preprocessing)]
        else:  # pictures come channels last, and convolutions learn faster so on a CPU
            embedder.backbone.to(memory_format=torch.channels_last)
        embedder.requires_grad_(False)
        self.requires_grad_(True)

    @property
    def frozen(self) -> Embedder | None:
        """See above."""
        return self._frozen[0] if self._frozen else None

    def features(self, maps: Tensor) -> Tensor:
        """(N, ...) values of `shape`, flat or not -> (N, features_dim) of the backbone."""
        x = maps.unflatten(1, self.shape) if maps.ndim == 2 else maps
        for block in self.blocks:
            x = block(x)
        return x.flatten(1)

    def forward(self, maps: Tensor) -> Tensor:
        """The same -> (N, dim) embeddings of any length."""
        rows: Tensor = self.projection(self.features(maps))
        return rows

    def train(self, mode: bool = True) -> "TrainableEmbedder":
        """Training or evaluation; see learns_statistics."""
        super().train(mode)
        for part in self.modules():
            if isinstance(part, _NormBase) and not self.learns_statistics:
                part.eval()
        return self


class FrozenPart(nn.Module):
    """The frozen blocks: (N, 3, side, side) -> feature maps of `shape`, each as a row."""

    def __init__(self, blocks: list[nn.Sequential], image_size: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks).eval()
        with torch.inference_mode():
            self.shape = self.blocks(torch.zeros(1, 3, image_size, image_size)).shape[1:]

    def forward(self, pictures: Tensor) -> Tensor:
        """See above."""
        rows: Tensor = self.blocks(pictures).flatten(1)
        return rows


def divided(
    embedder: Embedder, unfreeze: Unfreeze
) -> tuple[list[nn.Sequential], list[nn.Sequential]]:
    """The blocks that stay frozen, and those that are trained.

    Raises:
        UserError: the backbone has not so many blocks, or nothing that can be trained.
    """
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
    """A backbone as blocks that run one after another; a single one where it does not divide.

    Whether its parts do make the backbone one after another is tried, not believed.
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
    """Layers and blocks in the order of their definition, which is mostly that of their use."""
    if isinstance(module, VisionTransformer):
        return [VitStem(module), *module.blocks, VitTail(module)]
    if isinstance(module, MobileNetV2):
        return [*module.features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), module.classifier]
    parts: list[nn.Module] = []
    for child in module.children():
        parts += _parts_of(child) if type(child) is nn.Sequential else [child]
    return parts


class VitStem(nn.Module):
    """What a timm ViT does before its blocks: pictures -> tokens."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = [vit]  # in a list: the blocks are not this module's
        for name in ("patch_embed", "cls_token", "reg_token", "pos_embed", "norm_pre"):
            setattr(self, name, getattr(vit, name, None))

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, side, side) -> (N, tokens, width)."""
        (vit,) = self.vit
        tokens: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(pictures))))
        return tokens


class VitTail(nn.Module):
    """What a timm ViT does after its blocks: tokens -> features."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = [vit]
        self.norm, self.fc_norm = vit.norm, vit.fc_norm

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, tokens, width) -> (N, features)."""
        features: Tensor = self.vit[0].forward_head(self.norm(tokens))
        return features
