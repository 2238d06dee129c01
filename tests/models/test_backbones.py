"""Backbones by name: the right weights, and errors that list what works."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image

from lookalike.core.carriers import CARRIERS, carried_file
from lookalike.core.errors import UserError
from lookalike.core.weights import load_state
from lookalike.models.backbones import OWN_MODELS, build_backbone
from lookalike.models.embedder import load_embedder

TINY = "test_efficientnet"


def test_lite0_has_the_packages_weights_and_recognizes() -> None:
    """The same tensors under timm's names; a wrong order would see noise, not a ball."""
    lite = load_embedder("efficientnet_lite0")
    state = load_state(carried_file(CARRIERS["efficientnet_lite0"], Path("cache")))
    classifier = timm.create_model("tf_efficientnet_lite0")
    classifier.load_state_dict(dict(zip(classifier.state_dict(), state.values(), strict=True)))
    assert torch.equal(lite.backbone.conv_stem.weight, next(iter(state.values())))  # type: ignore[union-attr,arg-type]
    disc = np.zeros((224, 224, 3), np.uint8)
    y, x = np.mgrid[:224, :224]
    disc[:] = (90, 140, 60)
    disc[(y - 112) ** 2 + (x - 112) ** 2 < 80**2] = (240, 150, 30)
    with torch.inference_mode():
        logits = classifier.eval()(lite.transform(Image.fromarray(disc))[None])[0]
    ping_pong_ball = 722
    assert logits.argmax() == ping_pong_ball


@pytest.mark.parametrize("name", ["efficientnet_lite2", "torchvision:mobilenet_v3_small", TINY])
def test_every_kind_of_name_gives_an_embedder(name: str) -> None:
    embedder = load_embedder(name, None if name in CARRIERS else "none")
    with torch.inference_mode():
        rows = embedder(torch.rand(2, 3, embedder.image_size, embedder.image_size))
    assert rows.shape == (2, embedder.dim) and embedder.dim != 1000, "without the classifier"


@pytest.mark.parametrize("name", [TINY, "small_cnn", "torchvision:mobilenet_v3_small"])
def test_random_weights_are_always_the_same(name: str) -> None:
    torch.manual_seed(7)
    one, _ = build_backbone(name, from_hub=False)
    torch.manual_seed(8)
    two, _ = build_backbone(name, from_hub=False)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_own_networks_have_no_weights_on_a_hub() -> None:
    for name in OWN_MODELS:
        with pytest.raises(UserError, match="--weights"):
            build_backbone(name, from_hub=True)


def test_a_network_without_a_linear_layer_has_no_classifier_to_remove() -> None:
    with pytest.raises(UserError, match="no linear classifier"):
        build_backbone("torchvision:squeezenet1_1", from_hub=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_b00", "Did you mean efficientnet_b0"),
        ("torchvision:resnet51", "resnet50"),
        ("no such thing", "there are efficientnet_lite0"),
    ],
)
def test_an_unknown_name_is_answered_with_known_ones(name: str, message: str) -> None:
    with pytest.raises(UserError, match="unknown") as error:
        load_embedder(name)
    assert message in str(error.value)


def test_a_hub_out_of_reach_is_an_error_that_lists_what_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"efficientnet_lite0.*mobilenet_v2, sface; or --weights FILE"
    ):
        load_embedder("test_vit")
