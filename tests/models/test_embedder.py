"""Every backbone becomes an embedder: unit rows, known weights, any size that it takes."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from lookalike.core.errors import UserError
from lookalike.core.settings import EmbedSettings
from lookalike.models.embedder import Embedder, embedder_of, load_embedder, project_rows

TINY = "test_efficientnet"


@pytest.fixture
def tiny() -> Embedder:
    return load_embedder(TINY, "none")


def test_embeddings_are_unit_rows(tiny: Embedder) -> None:
    pictures = torch.stack([tiny.transform(Image.new("RGB", (50, 80), c)) for c in ("red", "blue")])
    assert pictures.shape == (2, 3, tiny.image_size, tiny.image_size)
    with torch.inference_mode():
        rows = tiny(pictures)
    assert rows.shape == (2, tiny.dim) == (2, 256)
    assert torch.allclose(rows.norm(dim=1), torch.ones(2), atol=1e-6)


def test_a_projection_is_the_embedding(tiny: Embedder) -> None:
    tiny.set_projection(8)
    features = np.random.default_rng(0).normal(size=(5, tiny.features_dim)).astype(np.float32)
    rows = project_rows(tiny, features)
    assert (tiny.dim, rows.shape, rows.dtype) == (8, (5, 8), np.float32)
    weight, bias = (p.detach().numpy() for p in tiny.projection.parameters())
    expected = features @ weight.T + bias
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(rows, expected, atol=1e-6)
    assert project_rows(tiny, features[:0]).shape == (0, 8)
    tiny.set_projection(None)
    assert tiny.dim == tiny.features_dim


def test_another_image_size_keeps_the_width(tiny: Embedder) -> None:
    own = tiny.preprocessing
    tiny.set_image_size(64)
    assert tiny.transform(Image.new("RGB", (50, 80))).shape == (3, 64, 64)
    assert tiny.preprocessing_at(None) is tiny.preprocessing != own
    with pytest.raises(UserError, match="--backbone sface takes only its own 112"):
        embedder_of(EmbedSettings("sface", "none", image_size=64), Path())


def test_equal_weights_have_equal_ids_and_changed_ones_others(tiny: Embedder) -> None:
    before = tiny.weights_id
    assert load_embedder(TINY, "none").weights_id == before
    with torch.no_grad():
        next(tiny.backbone.parameters()).add_(1)
    tiny.identify()
    assert tiny.weights_id != before
    assert load_embedder(TINY, "none", pooling="gem").weights_id == f"{before}-gem"


def test_own_weights_are_loaded_from_a_file(tmp_path: Path) -> None:
    state = timm.create_model(TINY).state_dict()
    save_file(state, tmp_path / "own.safetensors")
    embedder = load_embedder(TINY, str(tmp_path / "own.safetensors"))
    own = embedder.backbone.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own)


def test_a_projection_may_lie_on_another_device_than_the_backbone(tiny: Embedder) -> None:
    """As after a training on a GPU of a projection alone: the backbone never moved."""
    tiny.set_projection(4)
    tiny.backbone.to("meta")
    assert project_rows(tiny, np.ones((2, tiny.features_dim), np.float32)).shape == (2, 4)
