"""A name -> an Embedder: unit rows, known weights, errors that list what works."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from lookalike.core.errors import UserError
from lookalike.core.settings import EmbedSettings
from lookalike.core.weights import CARRIERS, carried_file, load_state
from lookalike.models.checkpoints import load_model, save_model
from lookalike.models.embedder import Embedder, embedder_of, load_embedder, project_rows
from lookalike.models.preprocessing import Preprocessing

SMALL = "test_efficientnet"


@pytest.fixture(scope="module")
def lite() -> Embedder:
    return load_embedder("efficientnet_lite0")


def test_embeddings_are_unit_rows(lite: Embedder) -> None:
    pictures = torch.stack([lite.transform(Image.new("RGB", (50, 80), c)) for c in ("red", "blue")])
    assert pictures.shape == (2, 3, lite.image_size, lite.image_size)
    with torch.inference_mode():
        rows = lite(pictures)
    assert rows.shape == (2, lite.dim) == (2, 1280)
    assert torch.allclose(rows.norm(dim=1), torch.ones(2), atol=1e-6)


def test_lite0_has_the_packages_weights_and_recognises(lite: Embedder) -> None:
    """The same tensors under timm's names; a wrong order would see noise, not a ball."""
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


def test_the_whole_picture_is_seen(lite: Embedder) -> None:
    """The published transforms cut an eighth off: a frame there would go unseen."""
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[:8] = 255
    assert float(lite.transform(Image.fromarray(pixels)).max()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["efficientnet_lite2", "torchvision:mobilenet_v3_small", SMALL])
def test_every_kind_of_name_gives_an_embedder(name: str) -> None:
    embedder = load_embedder(name, "none" if name not in CARRIERS else None)
    with torch.inference_mode():
        rows = embedder(torch.rand(2, 3, embedder.image_size, embedder.image_size))
    assert rows.shape == (2, embedder.dim)


def test_random_weights_are_always_the_same() -> None:
    one, two = (load_embedder(SMALL, "none").weights_id for _ in range(2))
    assert one == two


def test_own_weights_are_loaded_from_a_file(tmp_path: Path) -> None:
    state = timm.create_model(SMALL).state_dict()
    save_file(state, tmp_path / "own.safetensors")
    embedder = load_embedder(SMALL, str(tmp_path / "own.safetensors"))
    own = embedder.backbone.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("efficientnet_b00", "Did you mean efficientnet_b0"),
        ("torchvision:resnet51", "resnet50"),
        ("no such thing", "there are efficientnet_lite0"),
    ],
)
def test_an_unknown_name_is_answered_with_known_ones(name: str, said: str) -> None:
    with pytest.raises(UserError, match="unknown") as error:
        load_embedder(name)
    assert said in str(error.value)


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


def test_a_model_is_stored_without_its_frozen_backbone(tmp_path: Path) -> None:
    path, settings = tmp_path / "model.safetensors", EmbedSettings(SMALL, "none")
    embedder = load_embedder(SMALL, "none")
    embedder.set_projection(8)
    save_model(path, embedder, {"projection": embedder.projection}, embed_dim=8)
    assert path.stat().st_size < 20_000
    again = load_model(path, settings, tmp_path)
    features = np.random.default_rng(0).normal(size=(3, embedder.features_dim)).astype(np.float32)
    assert np.array_equal(project_rows(again, features), project_rows(embedder, features))
    with pytest.raises(UserError, match="was made with backbone test_efficientnet"):
        load_model(path, EmbedSettings("test_resnet", "none"), tmp_path)
    path.write_bytes(b"broken")
    with pytest.raises(UserError, match="--stage train makes it anew"):
        load_model(path, settings, tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="make it with --stage train"):
        load_model(path, settings, tmp_path)


@pytest.mark.parametrize("value", [None, 77])
def test_whitening_is_each_pictures_own_standardisation(value: int | None) -> None:
    """Against the formula in numpy; in a flat picture 1/√n stands for the deviation."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    if value is not None:
        pixels[1] = value
    preprocessing = Preprocessing(16, "bilinear", (), ()).normalized_by("whitening")
    made = preprocessing.normalize(torch.from_numpy(pixels)).permute(0, 2, 3, 1).numpy()
    for x, whitened in zip(pixels.astype(float), made, strict=True):
        expected = (x - x.mean()) / max(x.std(), 1 / np.sqrt(x.size))
        assert np.allclose(whitened, expected, atol=2e-3 if value else 1e-4)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("none", 0, 1), ("fixed", -127.5 / 128, 127.5 / 128)]
)
def test_a_normalization_can_be_chosen_by_name(name: str, low: float, high: float) -> None:
    embedder = load_embedder(SMALL, "none", normalization=name)
    made = embedder.transform(Image.fromarray(np.array([[[0] * 3, [255] * 3]], np.uint8)))
    assert float(made.min()) == pytest.approx(low) and float(made.max()) == pytest.approx(high)
    assert load_embedder(SMALL, "none").preprocessing != embedder.preprocessing


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        ("avg", lambda maps: maps.mean((2, 3))),
        ("max", lambda maps: maps.amax((2, 3))),
        ("gem", lambda maps: (maps.clamp(min=1e-6) ** 3).mean((2, 3)) ** (1 / 3)),
    ],
)
def test_a_cnn_pools_as_asked(pooling: str, pooled: Callable[[Tensor], Tensor]) -> None:
    pictures = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    plain, other = (load_embedder(SMALL, "none", pooling=p) for p in ("auto", pooling))
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
        (SMALL, "cls", "auto, avg, max, gem"),
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


def test_a_model_goes_with_its_pooling(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    settings = EmbedSettings(SMALL, "none", pooling="gem")
    save_model(path, embedder_of(settings, tmp_path), {}, embed_dim=None)
    load_model(path, settings, tmp_path)
    with pytest.raises(UserError, match="was made with other weights or pooling"):
        load_model(path, EmbedSettings(SMALL, "none"), tmp_path)


def test_a_model_goes_with_what_its_backbone_saw(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    embedder = embedder_of(EmbedSettings(SMALL, "none", crop="face"), tmp_path)
    save_model(path, embedder, {}, embed_dim=None)
    load_model(path, EmbedSettings(SMALL, "none", crop="face"), tmp_path)
    face = {"crop": "face"}
    for other in (
        {"crop": "aligned"},
        face | {"crop_margin": 0.3},
        {"crop": "none"},
        face | {"image_size": 64},
    ):
        with pytest.raises(UserError, match="was made with another crop, margin, side or norm"):
            load_model(path, EmbedSettings(SMALL, "none", **other), tmp_path)
