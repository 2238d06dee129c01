"""Every variant of the network takes pairs, learns, and scores a pair the same in both orders."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lookalike.core.errors import UserError
from lookalike.data.catalogue import outside_pictures
from lookalike.features.extractor import FeatureExtractor
from lookalike.models.embedder import Embedder, load_embedder
from lookalike.verification.settings import SiameseSettings, check_siamese
from lookalike.verification.siamese import (
    Siamese,
    load_network,
    make_inputs,
    make_network,
    score_pairs,
)
from tests.conftest import draw


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    embedder = load_embedder("test_efficientnet", weights="none")
    embedder.set_image_size(32)
    return embedder


VARIANTS = [
    SiameseSettings(head="two"),
    SiameseSettings(head="one"),
    SiameseSettings(head="two", branch_dim=8),
    SiameseSettings(head="cosine", branch_dim=8),
    SiameseSettings(head="cosine", layers="all"),
    SiameseSettings(head="one", layers="half"),
    SiameseSettings(head="two", layers="all", branch_dim=8),
]


@pytest.mark.parametrize("settings", VARIANTS, ids=lambda v: f"{v.head}-{v.layers}-{v.branch_dim}")
def test_one_real_step_of_every_variant(embedder: Embedder, settings: SiameseSettings) -> None:
    torch.manual_seed(0)
    network = make_network(embedder, settings)
    wide = (8, embedder.features_dim) if settings.layers == "none" else (8, 3, 32, 32)
    inputs, same = torch.rand(wide), torch.tensor([True, False, True, False])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD([w for w in network.parameters() if w.requires_grad], lr=0.1)
    network.train()
    first, second = network.embed(inputs).chunk(2)
    loss = network.loss(first, second, same)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    after = network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    backbone = {name for name in changed if name.startswith("backbone")}
    assert changed - backbone or (settings.head == "cosine" and settings.branch_dim is None)
    assert bool(backbone) == (settings.layers != "none")
    if settings.layers == "half":
        assert "backbone.conv_stem.weight" not in backbone, "its first layers are frozen"
        assert "backbone.bn1.running_mean" not in backbone, "and so are their statistics"
        assert "backbone.conv_head.weight" in backbone
    original = embedder.backbone.state_dict()
    assert all(
        torch.equal(original[n], before[f"backbone.{n}"])
        for n in original
        if settings.layers != "none"
    )


@pytest.mark.parametrize("head", ["two", "one", "cosine"])
def test_a_pair_has_one_score_in_both_orders(embedder: Embedder, head: str) -> None:
    network = Siamese(torch.nn.Identity(), 6, SiameseSettings(head=head, branch_dim=4)).eval()  # type: ignore[arg-type]
    first, second = network.embed(torch.rand(5, 6)), network.embed(torch.rand(5, 6))
    assert network.score(first, second).shape == (5,)
    assert torch.allclose(network.score(first, second), network.score(second, first))


def test_the_cosine_loss_is_torchs_own() -> None:
    first, second = torch.rand(4, 6), torch.rand(4, 6)
    same = torch.tensor([True, False, False, True])
    cosine = Siamese(torch.nn.Identity(), 6, SiameseSettings(head="cosine", margin=0.3))
    expected = torch.nn.functional.cosine_embedding_loss(
        first, second, torch.tensor([1, -1, -1, 1]), margin=0.3
    )
    assert torch.allclose(cosine.loss(first, second, same), expected)


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_half_of_the_layers_are_trained_the_last_ones(name: str) -> None:
    settings = SiameseSettings(head="cosine", layers="half")
    network = make_network(load_embedder(name, "none"), settings)
    learns = [weight.requires_grad for weight in network.backbone.parameters()]
    assert 0.3 < np.mean(learns) < 0.7 and learns[-1] and not learns[0]


@pytest.mark.parametrize("prefix", ["network.backbone.", "network.trunk."])
def test_a_network_is_loaded_from_its_file_also_by_its_earlier_names(
    embedder: Embedder, tmp_path: Path, prefix: str
) -> None:
    settings = SiameseSettings(head="cosine", layers="all")
    network = make_network(embedder, settings)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1)
    state = network.backbone.state_dict()
    save_file(
        {prefix + name: tensor.contiguous() for name, tensor in state.items()},
        tmp_path / "x.safetensors",
    )
    loaded = load_network(tmp_path / "x.safetensors", embedder, settings).backbone.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in state.items())


# ---- its inputs ---------------------------------------------------------------------------------


@pytest.fixture
def extractor(embedder: Embedder, tmp_path: Path) -> FeatureExtractor:
    for person in range(3):
        draw(tmp_path / f"{person}.jpg", person, 0)
    return FeatureExtractor(embedder, tmp_path, tmp_path / "cache", "off")


@pytest.mark.parametrize("layers", ["none", "all"])
@pytest.mark.parametrize("augment", [False, True])
def test_inputs_are_the_pictures_or_random_views_of_them(
    extractor: FeatureExtractor, layers: str, augment: bool
) -> None:
    settings = SiameseSettings(layers=layers, augment=augment, head="cosine", branch_dim=4)  # type: ignore[arg-type]
    rows = outside_pictures([extractor.root / f"{i}.jpg" for i in range(3)])
    inputs = make_inputs(extractor, rows, settings, seed=0)
    indices = np.array([2, 0, 2])
    plain = inputs.plain(indices)
    augmented = inputs.augmented(indices, np.random.default_rng(0))
    assert plain.shape == augmented.shape and torch.equal(plain[0], plain[2])
    assert torch.equal(plain, augmented) != augment
    again = inputs.augmented(indices, np.random.default_rng(0))
    assert torch.equal(augmented, again)
    if layers == "none":
        assert plain.shape == (3, extractor.embedder.features_dim)
    network = make_network(extractor.embedder, settings)
    first, second = np.array([0, 1, 0]), np.array([1, 0, 0])
    scores = score_pairs(network, inputs, first, second)
    assert scores[0] == pytest.approx(scores[1]) and scores[2] == pytest.approx(1)


def test_a_size_that_a_backbone_cannot_see_is_an_error() -> None:
    sface = load_embedder("sface", weights=None)
    with pytest.raises(
        UserError, match="--train-image-size 64: --backbone sface takes only its own 112"
    ):
        sface.set_image_size(64)
    assert sface.image_size == 112


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lr": 0.0}, "--lr 0.0: must be above 0"),
        ({"margin": 2.0}, "--margin 2.0: must be at least -1 and at most 1"),
        ({"max_minutes": 0.0}, "--max-minutes 0.0: must be above 0"),
        ({"batch_size": 1}, "--batch-size 1: must be at least 2"),
        ({"head": "cosine"}, "--head cosine with --layers none trains nothing"),
    ],
)
def test_settings_without_a_meaning_are_errors(changed: dict, said: str) -> None:
    check_siamese(SiameseSettings())
    with pytest.raises(UserError, match=said):
        check_siamese(replace(SiameseSettings(), **changed))
