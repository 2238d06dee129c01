"""CLIP's vision tower with weights in transformers' names: the same numbers as transformers."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lookalike.core.errors import UserError
from lookalike.core.weights import load_into
from lookalike.models import backbones, presets
from lookalike.models.backbones import OWN_MODELS, hub_file, read_state
from lookalike.models.clip_model import clip_state

WIDTH, INNER, LAYERS, SHARED = 32, 64, 2, 24


def small_tower() -> VisionTransformer:
    """timm's network, of CLIP's form and a small size."""
    return VisionTransformer(
        img_size=28,
        patch_size=14,
        num_classes=SHARED,
        embed_dim=WIDTH,
        depth=LAYERS,
        num_heads=2,
        mlp_ratio=INNER / WIDTH,
        pre_norm=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
        act_layer="quick_gelu",
    ).eval()


def their_state() -> dict[str, Tensor]:
    """Random tensors by the names that transformers gives them, and one of a text tower."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (WIDTH,),
        "embeddings.patch_embedding.weight": (WIDTH, 3, 14, 14),
        "embeddings.position_embedding.weight": (5, WIDTH),
    }
    norms = ["pre_layrnorm", "post_layernorm"]
    for n in range(LAYERS):
        layer = f"encoder.layers.{n}"
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
        linear = {f"self_attn.{p}_proj": (WIDTH, WIDTH) for p in ("q", "k", "v", "out")}
        linear |= {"mlp.fc1": (INNER, WIDTH), "mlp.fc2": (WIDTH, INNER)}
        for name, shape in linear.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    generator = torch.Generator().manual_seed(0)
    named = {f"vision_model.{name}": shape for name, shape in shapes.items()}
    named |= {"visual_projection.weight": (SHARED, WIDTH), "text_model.final.weight": (3,)}
    return {n: torch.randn(shape, generator=generator) * 0.1 for n, shape in named.items()}


def test_every_tensor_of_the_network_is_found() -> None:
    network = small_tower()
    state = clip_state(their_state())
    assert state.keys() == network.state_dict().keys()
    load_into(network, state, "theirs")
    assert network(torch.zeros(1, 3, 28, 28)).shape == (1, SHARED)


def test_the_features_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        projection_dim=SHARED,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        hidden_act="quick_gelu",
    )
    theirs = transformers.CLIPVisionModelWithProjection(config).eval()
    state = their_state()
    theirs.load_state_dict({n: t for n, t in state.items() if not n.startswith("text_model.")})
    ours = small_tower()
    load_into(ours, clip_state(state), "theirs")
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs(pixel_values=pixels).image_embeds
        torch.testing.assert_close(ours(pixels), expected, atol=1e-5, rtol=1e-5)


def test_other_names_stay_as_they_are() -> None:
    state = {"conv_stem.weight": torch.zeros(1)}
    assert clip_state(state) == state


def test_styleid_is_read_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        save_file(their_state(), tmp_path / file)
        return str(tmp_path / file)

    monkeypatch.setattr(backbones, "look_for_hub", lambda: None)
    monkeypatch.setattr(backbones, "hf_hub_download", download)
    state = read_state(hub_file("styleid"), "styleid")
    assert asked == [("kwanY/styleid", "model.safetensors")]
    assert state.keys() == small_tower().state_dict().keys()
    preprocessing = OWN_MODELS["styleid"][1]
    assert preprocessing.image_size == 224 and preprocessing.mean[0] == pytest.approx(
        0.4814, abs=1e-4
    )


def test_a_hub_that_cannot_be_reached_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, file: str) -> str:
        raise OSError("no route")

    monkeypatch.setattr(backbones, "look_for_hub", lambda: None)
    monkeypatch.setattr(backbones, "hf_hub_download", download)
    with pytest.raises(UserError, match=r"--backbone styleid: its pretrained weights cannot be"):
        hub_file("styleid")


def test_the_clients_cache_says_whether_it_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "try_to_load_from_cache", lambda repository, file: "a path")
    assert presets.state("styleid", Path("cache"), hub=False, github=False) == "here"
    monkeypatch.setattr(presets, "try_to_load_from_cache", lambda repository, file: None)
    absent = presets.state("styleid", Path("cache"), hub=False, github=False)
    assert absent == "the hub is not reachable"
