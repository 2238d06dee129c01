"""TODO lookalike.models.checkpoints."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.log import log
from lookalike.core.settings import EmbedSettings
from lookalike.core.weights import load_into
from lookalike.models.embedder import Embedder, embedder_of


def save_model(path: Path, embedder: Embedder, parts: dict[str, nn.Module], **about: Any) -> None:
    """Writes what was trained beside a frozen backbone; see save_tensors.

    parts: {name: trained module}.
    """
    tensors = {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    save_tensors(path, embedder, tensors, **about)


def save_tensors(path: Path, embedder: Embedder, tensors: dict[str, Tensor], **about: Any) -> None:
    """Writes what was trained as safetensors; the untrained backbone is only named, by its hash.

    tensors: by name, those of the backbone as `backbone.NAME`; about: what else to remember, as
    JSON values.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as beside:
        save_file(held, beside, {"about": json.dumps(_identity(embedder) | about)})


def load_model(path: Path, settings: EmbedSettings, cache: Path) -> Embedder:
    """The embedder of a run: its backbone, with the blocks and the projection that were trained.

    Raises:
        UserError: the file is missing or broken, or was made with another backbone.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: make it with --stage train")
    try:
        with safe_open(path, "pt") as stored:
            about = json.loads(stored.metadata()["about"])
            state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except Exception as error:
        raise UserError(f"{path} cannot be read ({error}): --stage train makes it anew") from error
    embedder = embedder_of(settings, cache)
    other = [what for what, value in _identity(embedder).items() if about[what] != value]
    if other:
        made_with = f"{other[0]} {about[other[0]]}" if other[0] == "backbone" else OTHER[other[0]]
        raise UserError(
            f"{path} was made with {made_with}: run --stage train index retrieve, or name what "
            "it was made with"
        )
    embedder.set_projection(about["embed_dim"])
    load_into(embedder.projection, _part(state, "projection"), str(path))
    blocks = _part(state, "backbone")
    if blocks:
        load_into(embedder.backbone, embedder.backbone.state_dict() | blocks, str(path))
        embedder.identify()
    log.info("model: %s, %d numbers an embedding", embedder.name, embedder.dim)
    return embedder


def _part(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, by their names in it."""
    prefix = f"{part}."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


OTHER = {
    "weights": "other weights or pooling",
    "preprocessing": "another crop, margin, side or normalization",
}


def _identity(embedder: Embedder) -> dict[str, str]:
    """What the trained parts of a model go with, and nothing else."""
    return {
        "backbone": embedder.name,
        "weights": embedder.weights_id,
        "preprocessing": embedder.preprocessing.key,
    }
