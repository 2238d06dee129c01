"""A model file holds what was trained, and is loaded only with what it was trained with."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lookalike.core.errors import UserError
from lookalike.core.settings import EmbedSettings
from lookalike.models.checkpoints import load_model, save_model, save_tensors
from lookalike.models.embedder import embedder_of, load_embedder, project_rows

TINY = "test_efficientnet"


def test_a_model_is_stored_without_its_frozen_backbone(tmp_path: Path) -> None:
    path, settings = tmp_path / "model.safetensors", EmbedSettings(TINY, "none")
    embedder = load_embedder(TINY, "none")
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


def test_trained_blocks_of_the_backbone_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    embedder = load_embedder(TINY, "none")
    state = embedder.backbone.state_dict()
    name = next(iter(state))
    save_tensors(path, embedder, {f"backbone.{name}": state[name] + 1}, embed_dim=None)
    again = load_model(path, EmbedSettings(TINY, "none"), tmp_path)
    for key, tensor in again.backbone.state_dict().items():
        assert torch.equal(tensor, state[key] + 1 if key == name else state[key]), key
    assert again.weights_id != embedder.weights_id


def test_a_model_goes_with_its_pooling(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    settings = EmbedSettings(TINY, "none", pooling="gem")
    save_model(path, embedder_of(settings, tmp_path), {}, embed_dim=None)
    load_model(path, settings, tmp_path)
    with pytest.raises(UserError, match="was made with other weights or pooling"):
        load_model(path, EmbedSettings(TINY, "none"), tmp_path)


def test_a_model_goes_with_what_its_backbone_saw(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    embedder = embedder_of(EmbedSettings(TINY, "none", crop="face"), tmp_path)
    save_model(path, embedder, {}, embed_dim=None)
    load_model(path, EmbedSettings(TINY, "none", crop="face"), tmp_path)
    face = {"crop": "face"}
    for other in (
        {"crop": "aligned"},
        face | {"crop_margin": 0.3},
        {"crop": "none"},
        face | {"image_size": 64},
    ):
        with pytest.raises(UserError, match="was made with another crop, margin, image size or"):
            load_model(path, EmbedSettings(TINY, "none", **other), tmp_path)


def test_a_model_file_of_the_first_release_is_read(tmp_path: Path) -> None:
    """Its metadata is written out here, so that no change of names can make it unreadable."""
    path, embedder = tmp_path / "model.safetensors", load_embedder(TINY, "none")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    about = {
        "backbone": TINY,
        "weights": embedder.weights_id,
        "preprocessing": f"Preprocessing(side=160, interpolation='bicubic', mean={mean}, "
        f"std={std}, crop=none, whitening=False)",
        "embed_dim": 4,
    }
    weight = torch.eye(4, embedder.features_dim)
    tensors = {"projection.weight": weight, "projection.bias": torch.zeros(4)}
    save_file(tensors, path, {"about": json.dumps(about)})
    loaded = load_model(path, EmbedSettings(TINY, "none"), tmp_path)
    assert loaded.dim == 4 and torch.equal(loaded.projection.weight, weight)  # type: ignore[arg-type]
    save_model(tmp_path / "again", loaded, {"projection": loaded.projection}, embed_dim=4)
    with safe_open(tmp_path / "again", "pt") as stored:
        assert json.loads(stored.metadata()["about"]) == about
