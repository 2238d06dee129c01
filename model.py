"""A name -> an Embedder: a batch of picture tensors -> unit vectors.

    embedder = load_embedder("efficientnet_lite0")
    rows = embedder(torch.stack([embedder.transform(image)]))   # (1, 1280), of length 1

Names: `efficientnet_lite0` to `lite2` and `mobilenet_v2` need no model hub; `efficientnet_b0`,
`resnet50`, `vit_b16` and every other timm name are loaded from timm's hub, `torchvision:NAME` from
torchvision's.
"""

import difflib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from config import TrainSettings, UserError
from runs import log, whole_file
from weights import CARRIERS, carried_file, fingerprint, load_into, load_state, look_for_hub

Transform = Callable[[Image.Image], Tensor]

# Names of the toolkit for what timm calls otherwise; timm has the hub's names too.
TIMM_NAMES = {
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "efficientnet_lite1": "tf_efficientnet_lite1",
    "efficientnet_lite2": "tf_efficientnet_lite2",
    "vit_b16": "vit_base_patch16_224",
}


class Embedder(nn.Module):
    """A backbone, an optional projection, and length 1.

    name: the backbone's name, as the command line knows it.
    transform: an RGB picture -> float tensor (3, side, side), normalised as the backbone wants it.
    side: height and width of its input in pixels.
    features_dim, dim: width of the backbone's features and of the embedding.
    weights_id: hash of the backbone's weights.
    """

    def __init__(self, name: str, backbone: nn.Module, transform: Transform, side: int) -> None:
        super().__init__()
        self.name, self.transform, self.side = name, transform, side
        self.backbone = backbone.eval()
        self.projection: nn.Module = nn.Identity()
        with torch.inference_mode():
            self.features_dim = int(self.features(torch.zeros(1, 3, side, side)).shape[1])
        self.dim = self.features_dim
        self.weights_id = fingerprint(backbone)

    def features(self, pictures: Tensor) -> Tensor:
        """(N, 3, side, side) -> (N, features_dim): what the backbone makes, of any length."""
        features: Tensor = self.backbone(pictures)
        return features.flatten(1)

    def project(self, features: Tensor) -> Tensor:
        """(N, features_dim) -> (N, dim), rows of length 1 (a row of zeros stays one)."""
        return normalize(self.projection(features), dim=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, side, side) -> (N, dim), rows of length 1."""
        return self.project(self.features(pictures))

    def set_projection(self, dim: int | None) -> None:
        """Puts a new linear projection to `dim` numbers before the embedding; None takes it off."""
        self.projection = nn.Identity() if dim is None else nn.Linear(self.features_dim, dim)
        self.dim = dim or self.features_dim


def load_embedder(name: str, weights: str | None = None, cache: Path = Path("cache")) -> Embedder:
    """Builds a backbone and loads its weights.

    weights: a file, "none" for random ones (always the same), or None for the pretrained ones.
    cache: folder where weights that a package carries are kept.

    Raises:
        UserError: an unknown name, weights that do not fit, or a hub that cannot be reached.
    """
    from_hub = weights is None and name not in CARRIERS
    backbone, transform, side = build_backbone(name, from_hub)
    if weights is None and name in CARRIERS:
        _load_carried(backbone, name, cache)
    elif weights is not None and weights != "none":
        load_into(backbone, load_state(Path(weights)), weights)
    return Embedder(name, backbone, transform, side)


def build_backbone(name: str, from_hub: bool) -> tuple[nn.Module, Transform, int]:
    """(backbone without a classifier, its transform, side of its input in pixels)."""
    build = _build_timm
    if name == "mobilenet_v2" or name.startswith("torchvision:"):
        build = _build_torchvision
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(name.removeprefix("torchvision:"), from_hub)


def _build_timm(name: str, from_hub: bool) -> tuple[nn.Module, Transform, int]:
    name = TIMM_NAMES.get(name, name)
    if not timm.is_model(name.partition(".")[0]):
        _refuse_name(name, [*timm.list_models(), *TIMM_NAMES, *CARRIERS])
    if from_hub:
        look_for_hub()
    try:
        backbone = timm.create_model(name, pretrained=from_hub, num_classes=0)
    except Exception as error:  # hub clients raise what their HTTP library of the day raises
        _explain_hub(name, error)
    config = timm.data.resolve_model_data_config(backbone)
    side = config["input_size"][-1]
    form = InterpolationMode(config["interpolation"])
    return backbone, whole_picture(side, form, config["mean"], config["std"]), side


def _build_torchvision(name: str, from_hub: bool) -> tuple[nn.Module, Transform, int]:
    if name not in torchvision.models.list_models(module=torchvision.models):
        _refuse_name(name, torchvision.models.list_models(module=torchvision.models))
    weights = torchvision.models.get_model_weights(name)
    chosen = weights.DEFAULT
    try:
        # Its file's name holds the start of its SHA-256: download with a check.
        loaded = chosen.get_state_dict(progress=True, check_hash=True) if from_hub else None
    except Exception as error:
        _explain_hub(f"torchvision:{name}", error)
    backbone = torchvision.models.get_model(name)
    if loaded is not None:
        backbone.load_state_dict(loaded)
    _drop_classifier(backbone)
    preset = chosen.transforms()
    side = preset.crop_size[0]
    return backbone, whole_picture(side, preset.interpolation, preset.mean, preset.std), side


def whole_picture(
    side: int, interpolation: InterpolationMode, mean: Sequence[float], std: Sequence[float]
) -> Transform:
    """An RGB picture -> (3, side, side), all of it, squeezed into the square, and normalised.

    The transforms that ImageNet models are published with cut the borders off, which suits an
    object in the middle; a face loses its chin. On the caricature set's training people, photograph
    to drawing, the whole picture scores 332 and the published crop 290
    (`python benchmarks/transforms.py`).
    """
    resize = transforms.Resize((side, side), interpolation)
    return transforms.Compose([resize, transforms.ToTensor(), transforms.Normalize(mean, std)])


def _drop_classifier(backbone: nn.Module) -> None:
    """Replaces the last linear layer, which every torchvision classifier ends with."""
    linear = [name for name, part in backbone.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise UserError(f"{type(backbone).__name__} ends with no linear classifier to take off")
    parent, _, child = linear[-1].rpartition(".")
    setattr(backbone.get_submodule(parent), child, nn.Identity())


def _load_carried(backbone: nn.Module, name: str, cache: Path) -> None:
    state = load_state(carried_file(CARRIERS[name], cache))
    if name in TIMM_NAMES:
        # The package's tensors have other names but timm's order; its classifier comes last.
        state = dict(zip(backbone.state_dict(), state.values(), strict=False))
    load_into(backbone, state, name)


def _refuse_name(name: str, known: list[str]) -> None:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    offline = ", ".join(CARRIERS)
    raise UserError(f"--backbone {name}: unknown.{hint} Without a model hub there are {offline}")


def _explain_hub(name: str, error: Exception) -> None:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    raise UserError(
        f"--backbone {name}: its pretrained weights cannot be had ({reason}). "
        f"Without a model hub: {', '.join(CARRIERS)}; or --weights FILE"
    ) from error


def choose_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# ---- the trained model of a run -----------------------------------------------------------------


def save_model(path: Path, embedder: Embedder, parts: dict[str, nn.Module], **about: Any) -> None:
    """Writes what was trained as safetensors; the frozen backbone is only named, by its hash.

    parts: {name: trained module}; about: what else to remember, as JSON values.
    """
    names = {"backbone": embedder.name, "weights_id": embedder.weights_id}
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    with whole_file(path) as beside:
        save_file(tensors, beside, {"about": json.dumps(names | about)})


def load_model(path: Path, settings: TrainSettings, cache: Path) -> Embedder:
    """The embedder of a run: its backbone, with the projection that was trained for it.

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
    embedder = load_embedder(settings.backbone, settings.weights, cache)
    if (about["backbone"], about["weights_id"]) != (embedder.name, embedder.weights_id):
        raise UserError(
            f"{path} was made with {about['backbone']}, not with these weights of "
            f"{settings.backbone}: run --stage train index retrieve, or name the former"
        )
    embedder.set_projection(about["embed_dim"])
    projection = {k.removeprefix("projection."): v for k, v in state.items() if "projection." in k}
    load_into(embedder.projection, projection, str(path))
    log.info("model: %s, %d numbers an embedding", embedder.name, embedder.dim)
    return embedder


def project_rows(embedder: Embedder, features: np.ndarray) -> np.ndarray:
    """Cached features (N, features_dim) -> embeddings (N, dim), float32 rows of length 1."""
    with torch.inference_mode():
        device = next(embedder.parameters()).device
        rows = [
            embedder.project(torch.from_numpy(features[i : i + 4096]).to(device)).cpu()
            for i in range(0, len(features), 4096)
        ]
    return torch.cat(rows).numpy() if rows else np.zeros((0, embedder.dim), np.float32)
