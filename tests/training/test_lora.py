"""LoRA: little is trained, nothing else changes, and the merged network is an ordinary one."""

import copy

import pytest
import torch
from torch import nn

from lookalike.core.checks import check
from lookalike.core.errors import UserError
from lookalike.core.settings import Settings, TrainSettings
from lookalike.models.embedder import load_embedder
from lookalike.training.lora import add_lora, merge_lora
from lookalike.training.schedules import parameter_groups
from lookalike.training.trainable import TrainableEmbedder, divide_embedder

PICTURES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def vit(unfreeze: int = 2) -> TrainableEmbedder:
    embedder = load_embedder("test_vit", "none")
    embedder.set_image_size(64)
    return divide_embedder(embedder, "all" if unfreeze < 0 else unfreeze)[1]


def steps(trainable: TrainableEmbedder, settings: TrainSettings) -> None:
    """Two steps of the optimizer on a loss without meaning."""
    optimizer = torch.optim.AdamW(parameter_groups(trainable, nn.Identity(), settings))
    maps = torch.rand(4, *trainable.shape, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        optimizer.zero_grad()
        trainable.features(maps).square().sum().backward()
        optimizer.step()


def test_training_changes_linear_layers_by_the_rank_and_nothing_else() -> None:
    trainable = vit()
    before = {name: t.clone() for name, t in trainable.state_dict().items()}
    maps = torch.rand(2, *trainable.shape, generator=torch.Generator().manual_seed(2))
    untouched = trainable.features(maps)
    add_lora(trainable.blocks, 2)
    assert torch.equal(trainable.features(maps), untouched), "no change at first"
    steps(trainable, TrainSettings(lora=2, lr=0.01))
    trained = trainable.features(maps)
    assert not torch.allclose(trained, untouched)
    merge_lora(trainable.blocks)
    torch.testing.assert_close(trainable.features(maps), trained)
    after = trainable.state_dict()
    assert after.keys() == before.keys()
    linear = [f"{name}.weight" for name, p in trainable.named_modules() if isinstance(p, nn.Linear)]
    for name, tensor in after.items():
        change = tensor - before[name]
        if name in linear:
            assert 1 <= torch.linalg.matrix_rank(change, rtol=1e-4) <= 2, name
        else:
            assert not change.any(), name


def test_changes_learn_at_the_full_rate_and_the_frozen_rest_is_no_parameter() -> None:
    trainable = vit()
    whole = sum(p.numel() for p in trainable.blocks.parameters())
    add_lora(trainable.blocks, 1)
    groups = parameter_groups(trainable, nn.Identity(), TrainSettings(lora=1, lr=0.5))
    assert {group["lr"] for group in groups} == {0.5}
    learned = sum(p.numel() for group in groups for p in group["params"])
    assert learned < whole / 20


def test_a_copy_of_the_network_learns_for_itself() -> None:
    """As a moving average of the weights needs it."""
    trainable = vit()
    add_lora(trainable.blocks, 2)
    other = copy.deepcopy(trainable)
    maps = torch.rand(2, *trainable.shape)
    before = other.features(maps)
    steps(trainable, TrainSettings(lora=2, lr=0.01))
    assert torch.equal(other.features(maps), before)


def test_blocks_without_linear_layers_are_an_error() -> None:
    embedder = load_embedder("test_efficientnet", "none")
    trainable = divide_embedder(embedder, 2)[1]
    with pytest.raises(UserError, match="have no linear layers"):
        add_lora(trainable.blocks, 4)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"embed_dim": 8}, "--lora 4: of which blocks"),
        ({"unfreeze": 2, "refit": True, "folds": 3}, "leave out --lora or --folds"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, int], error: str) -> None:
    train = TrainSettings(objective="arcface", lora=4, **changes)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=error):
        check(Settings(train=train))
