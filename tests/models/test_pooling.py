"""A backbone pools as --pooling says, and a pooling that it lacks is refused."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor

from lookalike.core.errors import UserError
from lookalike.models.embedder import load_embedder
from lookalike.models.pooling import poolings, set_pooling

TINY = "test_efficientnet"


def gem(maps: Tensor) -> Tensor:
    return (maps.clamp(min=1e-6) ** 3).mean((2, 3)) ** (1 / 3)


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        ("avg", lambda maps: maps.mean((2, 3))),
        ("max", lambda maps: maps.amax((2, 3))),
        ("gem", lambda maps: gem(maps)),
        ("avg+gem", lambda maps: torch.cat([unit(maps.mean((2, 3))), unit(gem(maps))], 1)),
    ],
)
def test_a_cnn_pools_as_it_is_told(pooling: str, pooled: Callable[[Tensor], Tensor]) -> None:
    pictures = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    plain, other = (load_embedder(TINY, "none", pooling=p) for p in ("auto", pooling))
    with torch.inference_mode():
        expected = pooled(plain.backbone.forward_features(pictures))  # type: ignore[operator]
        assert torch.allclose(other.features(pictures), expected, atol=1e-5)


def test_a_vit_pools_by_its_class_token_or_the_mean_of_the_others() -> None:
    plain, cls, mean = (load_embedder("test_vit", "none", pooling=p) for p in ("auto", *VIT))
    pictures = torch.rand(
        2, 3, plain.image_size, plain.image_size, generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        tokens = plain.backbone.forward_features(pictures)  # type: ignore[operator]
        assert torch.allclose(cls.features(pictures), tokens[:, 0], atol=1e-6)
        assert torch.allclose(mean.features(pictures), tokens[:, 1:].mean(1), atol=1e-6)
        assert torch.equal(plain.features(pictures), cls.features(pictures))


VIT = ("cls", "mean")


@pytest.mark.parametrize(
    ("name", "pooling", "choices"),
    [
        (TINY, "cls", "auto, avg, max, gem, avg[+]gem"),
        ("test_vit", "gem", "auto, cls, mean"),
        ("sface", "avg", "auto"),
        ("torchvision:mobilenet_v3_small", "gem", "auto"),
    ],
)
def test_a_pooling_that_a_backbone_lacks_names_those_it_has(
    name: str, pooling: str, choices: str
) -> None:
    with pytest.raises(UserError, match=f"{pooling}: --backbone {name} .*, only {choices}$"):
        load_embedder(name, "none", pooling=pooling)


def test_a_distilled_vit_pools_in_its_own_way_only() -> None:
    backbone = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=0)
    assert poolings(backbone) == ()
    with pytest.raises(UserError, match="has no such choice, only auto"):
        set_pooling(backbone, "mean", "deit")


def test_a_layer_behind_the_pooling_takes_one_of_both() -> None:
    with pytest.raises(UserError, match=r"avg\+gem: --backbone mobilenetv3_small_050 has layers"):
        load_embedder("mobilenetv3_small_050", "none", pooling="avg+gem")
