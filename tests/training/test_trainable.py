"""A backbone divides into a frozen and a trained part that together are the backbone."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lookalike.core.errors import UserError
from lookalike.core.settings import TrainSettings
from lookalike.models.embedder import Embedder, load_embedder
from lookalike.models.preprocessing import Preprocessing
from lookalike.training.schedules import parameter_groups
from lookalike.training.trainable import Unfreeze, blocks_of, divide_embedder

SMALL_VIT: dict[str, Any] = {
    **{"img_size": 32, "patch_size": 8, "embed_dim": 32},
    **{"depth": 2, "num_heads": 2, "num_classes": 0},
}
BACKBONES = ("test_efficientnet", "test_vit", "test_resnet", "mobilenet_v2", "sface")


def embedder(name: str = "test_efficientnet", dim: int | None = None) -> Embedder:
    loaded = load_embedder(name, "none")
    loaded.set_projection(dim)
    return loaded


@pytest.mark.parametrize("name", BACKBONES)
def test_both_parts_together_are_the_backbone(name: str) -> None:
    whole = embedder(name)
    pictures = torch.rand(2, 3, whole.image_size, whole.image_size)
    frozen, trainable = divide_embedder(whole, 2)
    assert frozen is not None
    with torch.inference_mode():
        maps = frozen.features(pictures)
        assert torch.allclose(trainable.eval()(maps), whole.features(pictures), atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_weight_belongs_to_one_block(name: str) -> None:
    whole = embedder(name)
    blocks = blocks_of(whole.backbone, whole.image_size)
    held = [id(p) for block in blocks for p in block.parameters()]
    assert sorted(held) == sorted(id(p) for p in whole.backbone.parameters())
    assert len(blocks) > 4


def test_a_backbone_that_does_not_divide_is_one_block() -> None:
    class Reversed(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in reversed(self):
                x = layer(x)
            return x

    layers = (nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    assert len(blocks_of(Reversed(*layers), 8)) == 1


def test_a_copy_of_a_divided_vit_has_weights_of_its_own() -> None:
    """A moving average of the weights is kept in such a copy."""
    _, trainable = divide_embedder(embedder("test_vit"), "all")
    copied = deepcopy(trainable.eval())
    pictures = torch.rand(1, *trainable.shape)
    with torch.no_grad():
        assert torch.equal(copied(pictures), trainable(pictures))
        for weight in copied.parameters():
            weight.add_(1)
        assert not torch.equal(copied(pictures), trainable(pictures))


@pytest.mark.parametrize("unfreeze", [0, 1, "all"])
def test_a_step_changes_what_is_trained_and_nothing_else(unfreeze: Unfreeze) -> None:
    whole = embedder(dim=4)
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    frozen, trainable = divide_embedder(whole, unfreeze)
    assert (frozen is None) == (unfreeze == "all")
    trainable.train()
    maps = torch.randn(4, *trainable.shape).flatten(1)
    groups = parameter_groups(trainable, nn.Identity(), TrainSettings(lr=0.1))
    optimizer = torch.optim.AdamW(groups)
    trainable(maps).square().sum().backward()
    optimizer.step()
    own = whole.state_dict(keep_vars=True)
    trained = {id(tensor) for tensor in trainable.state_dict(keep_vars=True).values()}
    for name, tensor in own.items():
        learns = id(tensor) in trained and isinstance(tensor, nn.Parameter)
        assert learns != torch.equal(tensor, before[name]), name


def test_statistics_are_learned_only_from_scratch() -> None:
    for learns in (False, True):
        _, trainable = divide_embedder(embedder(), "all", learns_statistics=learns)
        norms = [part for part in trainable.train().modules() if isinstance(part, nn.BatchNorm2d)]
        assert norms and all(norm.training == learns for norm in norms)


def test_more_blocks_than_there_are_is_an_error_that_says_how_many() -> None:
    with pytest.raises(UserError, match="divides into 7 blocks"):
        divide_embedder(embedder(), 99)


def test_a_backbone_without_weights_cannot_be_trained() -> None:
    whole = embedder()
    whole.backbone.requires_grad_(False)
    whole.backbone = nn.AdaptiveAvgPool2d(1)
    with pytest.raises(UserError, match="cannot be trained here"):
        divide_embedder(whole, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: VisionTransformer(**SMALL_VIT, global_pool="map"),
        lambda: VisionTransformer(**SMALL_VIT, global_pool="avg", fc_norm=True),
        lambda: VisionTransformer(**SMALL_VIT, reg_tokens=2),
        lambda: VisionTransformerDistilled(**SMALL_VIT),
    ],
    ids=["attention pooling", "average", "registers", "distilled"],
)
def test_all_of_a_vit_is_trained_where_nothing_is_frozen(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    embedder = Embedder("vit", make(), Preprocessing(32, "bilinear", (0.5,) * 3, (0.5,) * 3))
    _, trainable = divide_embedder(embedder, "all")
    frozen = [n for n, p in embedder.backbone.named_parameters() if not p.requires_grad]
    assert not frozen
    pictures = torch.rand(2, 3, 32, 32)
    trained = {id(parameter) for parameter in trainable.parameters()}
    assert {id(parameter) for parameter in embedder.backbone.parameters()} <= trained
    with torch.inference_mode():
        assert torch.allclose(trainable.features(pictures), embedder.features(pictures), atol=1e-5)
