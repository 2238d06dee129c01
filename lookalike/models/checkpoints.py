"""Trained models on disk: `model.safetensors` holds what was trained, and names the rest.

    save_model(path, embedder, {"projection": embedder.projection}, embed_dim=128)
    embedder = load_model(path, settings, Path("cache"))

A frozen backbone is not stored: the file's metadata names it, with the hash of its weights and the
preprocessing, and `load_model` refuses settings that would build another one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.log import log
from lookalike.core.readers import parse_json
from lookalike.core.settings import EmbedSettings
from lookalike.core.weights import load_into
from lookalike.models.embedder import Embedder, embedder_of

# Entries of `_identity` whose values say nothing to a reader, in words.
MISMATCHES = {
    "weights": "other weights or pooling",
    "preprocessing": "another crop, margin, image size or normalization",
}


class ModelAbout(TypedDict):
    """What the metadata of a model file must say."""

    backbone: str
    weights: str
    preprocessing: str
    embed_dim: int | None


def save_model(path: Path, embedder: Embedder, parts: dict[str, nn.Module], **about: Any) -> None:
    """Write trained modules as a safetensors file.

    Args:
        path: The file.
        embedder: The embedder that they belong to.
        parts: {name: trained module}; its tensors are stored as `name.TENSOR`.
        about: Other facts to remember, as JSON values; `load_model` needs `embed_dim`.
    """
    tensors = {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    save_tensors(path, embedder, tensors, **about)


def save_tensors(path: Path, embedder: Embedder, tensors: dict[str, Tensor], **about: Any) -> None:
    """Write trained tensors as a safetensors file.

    Args:
        path: The file.
        embedder: The embedder that they belong to, with its backbone as it was before training: its
            hash is stored.
        tensors: {name: tensor}; those of the backbone are called `backbone.TENSOR`.
        about: Other facts to remember, as JSON values; `load_model` needs `embed_dim`.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as beside:
        save_file(on_cpu, beside, {"about": json.dumps(_identity(embedder) | about)})


def load_model(path: Path, settings: EmbedSettings, cache: Path) -> Embedder:
    """Load a run's trained embedder: its backbone, trained blocks and projection.

    Args:
        path: The file that `save_model` or `save_tensors` wrote.
        settings: Those that it was trained with.
        cache: Folder of pretrained weights.

    Raises:
        UserError: The file is missing or broken, or was made with another backbone, other weights
            or another preprocessing.
    """
    about, state = _read_model(path)
    embedder = embedder_of(settings, cache)
    _check_identity(path, about, embedder)
    embedder.set_projection(about["embed_dim"])
    load_into(embedder.projection, _tensors_of(state, "projection"), str(path))
    blocks = _tensors_of(state, "backbone")
    if blocks:
        load_into(embedder.backbone, embedder.backbone.state_dict() | blocks, str(path))
        embedder.identify()
    log.info("model: %s, %d-dimensional embeddings", embedder.name, embedder.dim)
    return embedder


def check_untrained(path: Path, embedders: Sequence[Embedder]) -> None:
    """Check that a model file is of these backbones, of which nothing was trained.

    Args:
        path: The file that `save_untrained` wrote.
        embedders: What the settings choose.

    Raises:
        UserError: The file is missing or broken, or was made with other embedders.
    """
    about, _ = _read_model(path)
    _check_identity(path, about, *embedders)


def save_untrained(path: Path, embedders: Sequence[Embedder]) -> None:
    """Write a model file that names several backbones, of which nothing is trained."""
    with whole_file(path) as beside:
        about = _identity(*embedders) | {"embed_dim": None}
        save_file({}, beside, {"about": json.dumps(about)})


def _read_model(path: Path) -> tuple[ModelAbout, dict[str, Tensor]]:
    """Read the metadata and the tensors of a model file."""
    if not path.is_file():
        raise UserError(f"{path} is missing: make it with --stage train")
    try:
        with safe_open(path, "pt") as stored:
            about = parse_json(stored.metadata()["about"], str(path), ModelAbout)
            return about, {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except MemoryError:
        raise
    except Exception as error:  # a broken file can fail in many ways
        raise UserError(f"{path} cannot be read ({error}): --stage train makes it anew") from error


def _check_identity(path: Path, about: ModelAbout, *embedders: Embedder) -> None:
    """Raise UserError where a model file was made with other embedders than these."""
    for name, value in _identity(*embedders).items():
        if about[name] != value:  # type: ignore[literal-required]
            made_with = MISMATCHES.get(name, f"{name} {about[name]}")  # type: ignore[literal-required]
            raise UserError(
                f"{path} was made with {made_with}: run --stage train index retrieve, or restore "
                "the settings it was made with"
            )


def _identity(*embedders: Embedder) -> dict[str, str]:
    """Return what the trained parts of a model depend on."""
    return {
        "backbone": "+".join(embedder.name for embedder in embedders),
        "weights": "+".join(embedder.weights_id for embedder in embedders),
        "preprocessing": "+".join(embedder.preprocessing.key for embedder in embedders),
    }


def _tensors_of(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of one part, by their names within it."""
    prefix = f"{part}."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
