"""Backbones by name: the right weights, and errors that list what works."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from PIL import Image
from torch import Tensor

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
        UserError, match=r"efficientnet_lite0.*mobilenet_v2, sface, dlib; or --weights FILE"
    ):
        load_embedder("test_vit")


# ---- torchvision's own weights, a stand-in in the place of the download --------------------------


def published(name: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Tensor]:
    """Make random tensors the published weights of a torchvision model, under their old names."""
    state = torchvision.models.get_model(name, **options).state_dict()
    if name.startswith("densenet"):
        state = {
            re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): tensor
            for key, tensor in state.items()
            if not key.endswith("num_batches_tracked")  # younger than the files
        }

    def download(self: Any, *values: Any, **named: Any) -> dict[str, Tensor]:
        return dict(state)

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", download)
    return state


def test_a_densenet_reads_the_old_names_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    state = published("densenet121", monkeypatch)
    assert any(".norm.1." in name for name in state), "or the test shows nothing"
    backbone, _ = build_backbone("torchvision:densenet121", from_hub=True)
    assert torch.equal(
        backbone.state_dict()["features.conv0.weight"], state["features.conv0.weight"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("from_hub", [True, False])
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_network_with_two_classifiers_transforms_its_input(
    name: str, from_hub: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(name, monkeypatch, init_weights=False)
    backbone, preprocessing = build_backbone(f"torchvision:{name}", from_hub=from_hub)
    assert backbone.transform_input is True
    assert preprocessing.image_size == (299 if name == "inception_v3" else 224)
    for mode in (True, False):
        assert backbone.train(mode)(torch.zeros(2, 3, 299, 299)).shape[0] == 2


def test_the_largest_vit_has_the_input_of_its_weights() -> None:
    with torch.device("meta"):  # of 632 million weights, no content
        backbone, preprocessing = build_backbone("torchvision:vit_h_14", from_hub=False)
    assert preprocessing.image_size == backbone.image_size == 518


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "vit_b_16"])
def test_the_preprocessing_is_that_of_the_weights(name: str) -> None:
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    with torch.device("meta"):
        _, preprocessing = build_backbone(f"torchvision:{name}", from_hub=False)
    assert preprocessing.image_size == preset.crop_size[0]
    assert (list(preprocessing.mean), list(preprocessing.std)) == (preset.mean, preset.std)
    assert preprocessing.interpolation == preset.interpolation.value
