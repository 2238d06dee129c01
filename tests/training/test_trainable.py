"""A backbone divides into a frozen front and a trained rear that together are the backbone."""

import pytest
import torch
from torch import nn

from lookalike.core.errors import UserError
from lookalike.core.settings import TrainSettings
from lookalike.models.embedder import Embedder, load_embedder
from lookalike.training.schedules import Average, parameter_groups, rate_at
from lookalike.training.trainable import TrainableEmbedder, Unfreeze, blocks_of

BACKBONES = ("test_efficientnet", "test_vit", "test_resnet", "mobilenet_v2", "sface")


def embedder(name: str = "test_efficientnet", dim: int | None = None) -> Embedder:
    made = load_embedder(name, "none")
    made.set_projection(dim)
    return made


@pytest.mark.parametrize("name", BACKBONES)
def test_front_and_rear_together_are_the_backbone(name: str) -> None:
    whole = embedder(name)
    pictures = torch.rand(2, 3, whole.image_size, whole.image_size)
    trainable = TrainableEmbedder(whole, 2).eval()
    assert trainable.frozen is not None
    with torch.inference_mode():
        maps = trainable.frozen.features(pictures)
        assert torch.allclose(trainable(maps), whole.features(pictures), atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_weight_belongs_to_one_block(name: str) -> None:
    whole = embedder(name)
    blocks = blocks_of(whole.backbone, whole.image_size)
    held = [id(p) for block in blocks for p in block.parameters()]
    assert sorted(held) == sorted(id(p) for p in whole.backbone.parameters())
    assert len(blocks) > 4


@pytest.mark.parametrize("unfreeze", [0, 1, "all"])
def test_a_step_changes_what_is_trained_and_nothing_else(unfreeze: Unfreeze) -> None:
    whole = embedder(dim=4)
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    trainable, settings = TrainableEmbedder(whole, unfreeze), TrainSettings(lr=0.1)
    trainable.train()
    maps = torch.randn(4, *trainable.shape).flatten(1)
    optimizer = torch.optim.AdamW(parameter_groups(trainable, nn.Identity(), settings))
    trainable(maps).square().sum().backward()
    optimizer.step()
    own = whole.state_dict(keep_vars=True)
    trained = {id(tensor) for tensor in trainable.state_dict(keep_vars=True).values()}
    for name, tensor in own.items():
        learns = id(tensor) in trained and isinstance(tensor, nn.Parameter)
        assert learns != torch.equal(tensor, before[name]), name


def test_statistics_are_learnt_only_from_scratch() -> None:
    for learns in (False, True):
        trainable = TrainableEmbedder(embedder(), "all", learns_statistics=learns).train()
        norms = [part for part in trainable.modules() if isinstance(part, nn.BatchNorm2d)]
        assert norms and all(norm.training == learns for norm in norms)


def test_rates_fall_with_depth_and_norms_do_not_decay() -> None:
    settings = TrainSettings(lr=1.0, backbone_lr_scale=0.1, layer_decay=0.5, weight_decay=0.3)
    groups = parameter_groups(TrainableEmbedder(embedder(dim=4), 2), nn.Linear(4, 2), settings)
    assert sorted({group["lr"] for group in groups}) == pytest.approx([0.05, 0.1, 1.0])
    for group in groups:
        wide = {parameter.ndim > 1 for parameter in group["params"]}
        assert wide == {group["weight_decay"] == 0.3}


def test_the_rate_rises_and_falls() -> None:
    rates = [rate_at(step, 100, 0.1) for step in range(100)]
    assert rates.index(max(rates)) == 9 and rates[9] == 1
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001 and min(rate_at(step, 3, 0.0) for step in range(3)) > 0


def test_the_average_moves_by_its_decay() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0)
    average = Average(layer, 0.9)
    layer.weight.data.fill_(1)
    average.update(layer)
    assert float(average.state["weight"]) == pytest.approx(0.1)


def test_more_blocks_than_there_are_is_an_error_that_says_how_many() -> None:
    with pytest.raises(UserError, match="divides into 7 blocks"):
        TrainableEmbedder(embedder(), 99)
