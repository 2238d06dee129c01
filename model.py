"""A name -> an Embedder: a batch of picture tensors -> unit vectors.

    embedder = load_embedder("efficientnet_lite0")
    rows = embedder(embedder.transform(image)[None])   # (1, 1280), of length 1

Names: `efficientnet_lite0` to `lite2`, `mobilenet_v2` and `sface` need no model hub;
`efficientnet_b0`, `resnet50`, `vit_b16` and every other timm name are loaded from timm's hub,
`torchvision:NAME` from torchvision's; `inception_resnet_v1` and `onnx:FILE` from a file.
"""

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from timm.layers import SelectAdaptivePool2d
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from config import EmbedSettings, UserError
from face_models import InceptionResnetV1, SFace, sface_state
from faces import WHOLE, Crop, Face, crop_face, crop_kind, crop_middle
from onnx_models import OnnxBackbone
from runs import log, whole_file
from small_models import NN1, NN2, SmallCnn
from weights import CARRIERS, carried_file, fingerprint, load_into, load_state, look_for_hub

# Names of the toolkit for what timm calls otherwise; timm has the hub's names too.
TIMM_NAMES = {
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "efficientnet_lite1": "tf_efficientnet_lite1",
    "efficientnet_lite2": "tf_efficientnet_lite2",
    "vit_b16": "vit_base_patch16_224",
}


# --normalization: (mean, deviation) of each channel, for values from 0 to 1.
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((0.0,) * 3, (1.0,) * 3),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "fixed": ((127.5 / 255,) * 3, (128 / 255,) * 3),
    "whitening": ((0.0,) * 3, (1 / 255,) * 3),
}


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone wants to see: all of the picture, squeezed into a square, or a face of it;
    and normalised.

    The transforms that ImageNet models are published with cut the borders off, which suits an
    object in the middle; a face loses its chin. On the caricature set's training people, photograph
    to drawing, the whole picture scores 333 and the published crop 292
    (`python -m benchmarks.transforms`).

    side: height and width in pixels. interpolation: bilinear or bicubic. mean, std: of each
    channel, for values from 0 to 1. crop: what of the picture. whitening: whether each picture is
    whitened too (see `whiten`).
    """

    side: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: Crop = WHOLE
    whitening: bool = False

    def take(self, pixels: np.ndarray, face: Face | None = None, scale: float = 1.0) -> np.ndarray:
        """The part of a picture that the backbone sees, shown `scale` times as large; both are
        (height, width, 3) uint8."""
        if face is not None:
            return crop_face(pixels, face, self.crop.scaled(scale), self.side)
        return pixels if scale == 1 else crop_middle(pixels, scale)

    def resize(self, pixels: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 -> (side, side, 3) uint8.

        By PyTorch, which works on bytes as Pillow does, a third of its time, and differs by 2 of
        255 at most (`python -m benchmarks.decoding`).
        """
        pixels = np.ascontiguousarray(pixels)
        if pixels.shape[:2] == (self.side, self.side):
            return pixels
        with torch.inference_mode():
            whole = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
            size, how = (self.side, self.side), self.interpolation
            small = interpolate(whole, size, mode=how, antialias=True)
        resized: np.ndarray = small[0].permute(1, 2, 0).contiguous().numpy()
        return resized

    def normalise(self, pixels: Tensor) -> Tensor:
        """(N, side, side, 3) uint8 -> (N, 3, side, side) float32, channels last in memory."""
        mean, std = (torch.tensor(v, device=pixels.device) for v in (self.mean, self.std))
        pictures = pixels.float().div(255).sub(mean).div(std).permute(0, 3, 1, 2)
        return whiten(pictures) if self.whitening else pictures

    def normalised_by(self, name: str) -> "Preprocessing":
        """The same with one of NORMALIZATIONS."""
        mean, std = NORMALIZATIONS[name]
        return replace(self, mean=mean, std=std, whitening=name == "whitening")


def whiten(pictures: Tensor) -> Tensor:
    """(N, C, H, W), values from 0 to 255 -> each picture with mean 0 and deviation 1.

    (x - mean) / max(std, 1 / √n) over the n values of a picture: FaceNet's pre-whitening
    (Sandberg, facenet, 2017), after TensorFlow's per_image_standardization.

    >>> whiten(torch.tensor([0.0, 255.0]).view(1, 1, 1, 2)).flatten().tolist()
    [-1.0, 1.0]
    """
    values = pictures.flatten(1)
    least = values.shape[1] ** -0.5
    mean = values.mean(1)[:, None, None, None]
    std = values.std(1, correction=0).clamp(min=least)[:, None, None, None]
    return (pictures - mean) / std


class Embedder(nn.Module):
    """A backbone, an optional projection, and length 1.

    name: the backbone's name, as the command line knows it.
    preprocessing: how pictures become its input; side: height and width of that in pixels.
    features_dim, dim: width of the backbone's features and of the embedding.
    weights_id: hash of the backbone's weights, and how it pools where that is not its own way:
        the same weights_id and preprocessing make the same features.
    """

    def __init__(
        self, name: str, backbone: nn.Module, preprocessing: Preprocessing, pooling: str = "auto"
    ) -> None:
        super().__init__()
        if pooling != "auto":
            set_pooling(backbone, pooling, name)
        self.name, self.preprocessing = name, preprocessing
        self.backbone = backbone.eval()
        self.projection: nn.Module = nn.Identity()
        with torch.inference_mode():
            self.features_dim = int(self.features(torch.zeros(1, 3, self.side, self.side)).shape[1])
        self.dim = self.features_dim
        self.pooling = pooling
        self.identify()

    @property
    def side(self) -> int:
        """Height and width in pixels of what it sees."""
        return self.preprocessing.side

    def identify(self) -> None:
        """Takes the hash of the backbone's weights as they are now."""
        own = "" if self.pooling == "auto" else f"-{self.pooling}"
        self.weights_id = fingerprint(self.backbone) + own

    def transform(self, image: Image.Image) -> Tensor:
        """An RGB picture, cropped already -> (3, side, side) float32, as the backbone wants it."""
        pixels = torch.from_numpy(self.preprocessing.resize(np.array(image)))
        return self.preprocessing.normalise(pixels[None])[0]

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

    def preprocessing_at(self, side: int | None) -> Preprocessing:
        """What it sees at another size of pictures; None for its own.

        Raises:
            UserError: the backbone takes only its own size.
        """
        if side in (None, self.side):
            return self.preprocessing
        try:
            with torch.inference_mode():
                width = self.features(torch.zeros(1, 3, side, side)).shape[1]
        except Exception:  # a backbone, or its runtime, raises what it likes
            width = 0
        if width != self.features_dim:
            raise UserError(
                f"--side or --train-side {side}: --backbone {self.name} takes only its own "
                f"{self.side}, or needs a larger picture"
            )
        return replace(self.preprocessing, side=side)

    def set_side(self, side: int | None) -> None:
        """Has it see pictures of another size, None for its own; the features keep their width.

        Raises: see preprocessing_at.
        """
        self.preprocessing = self.preprocessing_at(side)


def load_embedder(
    name: str,
    weights: str | None = None,
    cache: Path = Path("cache"),
    crop: Crop = WHOLE,
    normalization: str = "auto",
    pooling: str = "auto",
) -> Embedder:
    """Builds a backbone and loads its weights.

    weights: a file, "none" for random ones (always the same), or None for the pretrained ones.
    cache: folder where weights that a package carries are kept.
    crop: what of a picture it sees. normalization, pooling: see config.EmbedSettings.

    Raises:
        UserError: an unknown name, weights that do not fit, a hub that cannot be reached, or a
            pooling that the backbone does not have.
    """
    from_hub = weights is None and name not in CARRIERS
    backbone, preprocessing = build_backbone(name, from_hub)
    if weights is None and name in CARRIERS:
        _load_carried(backbone, name, cache)
    elif weights is not None and weights != "none":
        state = load_state(Path(weights))
        load_into(backbone, sface_state(state) if name == "sface" else state, weights)
    if crop.kind == "aligned" and isinstance(backbone, OnnxBackbone):
        crop = replace(crop, template=backbone.template)
    preprocessing = replace(preprocessing, crop=crop)
    if normalization != "auto":
        preprocessing = preprocessing.normalised_by(normalization)
    return Embedder(name, backbone, preprocessing, pooling)


def embedder_of(settings: EmbedSettings, cache: Path) -> Embedder:
    """The untrained embedder that the settings ask for. Raises: see load_embedder, set_side."""
    crop = Crop(crop_kind(settings), settings.crop_margin)
    embedder = load_embedder(
        settings.backbone, settings.weights, cache, crop, settings.normalization, settings.pooling
    )
    embedder.set_side(settings.side)
    return embedder


def build_backbone(name: str, from_hub: bool) -> tuple[nn.Module, Preprocessing]:
    """(backbone without a classifier, what it wants to see)."""
    build = _build_timm
    if name == "mobilenet_v2" or name.startswith("torchvision:"):
        build = _build_torchvision
    elif name in OWN_MODELS:
        build = _build_own
    elif name.startswith("onnx:"):
        build = _build_onnx
    with seeded(0):
        return build(name.removeprefix("torchvision:"), from_hub)


def _build_timm(name: str, from_hub: bool) -> tuple[nn.Module, Preprocessing]:
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
    return backbone, Preprocessing(
        config["input_size"][-1], config["interpolation"], config["mean"], config["std"]
    )


def _build_torchvision(name: str, from_hub: bool) -> tuple[nn.Module, Preprocessing]:
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
    how, mean, std = preset.interpolation.value, tuple(preset.mean), tuple(preset.std)
    return backbone, Preprocessing(preset.crop_size[0], how, mean, std)


def _drop_classifier(backbone: nn.Module) -> None:
    """Replaces the last linear layer, which every torchvision classifier ends with."""
    linear = [name for name, part in backbone.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise UserError(f"{type(backbone).__name__} ends with no linear classifier to take off")
    parent, _, child = linear[-1].rpartition(".")
    setattr(backbone.get_submodule(parent), child, nn.Identity())


# (network, side, normalisation) of what no library has, and of what is trained from scratch.
FACE_MODELS: dict[str, tuple[type[nn.Module], int, str]] = {
    "sface": (SFace, 112, "fixed"),
    "inception_resnet_v1": (InceptionResnetV1, 160, "fixed"),
}
SMALL_MODELS: dict[str, tuple[type[nn.Module], int, str]] = {
    "small_cnn": (SmallCnn, 96, "fixed"),
    "nn1": (NN1, 220, "fixed"),
    "nn2": (NN2, 224, "fixed"),
}
OWN_MODELS = FACE_MODELS | SMALL_MODELS


def _build_own(name: str, from_hub: bool) -> tuple[nn.Module, Preprocessing]:
    if from_hub and name in SMALL_MODELS:
        raise UserError(
            f"--backbone {name}: nobody has weights for it; train it from scratch (--weights none "
            "--unfreeze all), or name your own with --weights"
        )
    if from_hub:
        raise UserError(
            f"--backbone {name}: no package carries its weights; get 20180402-114759-vggface2.pt "
            "from the releases of facenet-pytorch, and name it with --weights"
        )
    model, side, normalization = OWN_MODELS[name]
    return model(), Preprocessing(side, "bilinear", (), ()).normalised_by(normalization)


def _build_onnx(name: str, from_hub: bool) -> tuple[nn.Module, Preprocessing]:
    backbone = OnnxBackbone(Path(name.removeprefix("onnx:")))
    return backbone, Preprocessing(backbone.side, "bilinear", backbone.mean, backbone.std)


def _load_carried(backbone: nn.Module, name: str, cache: Path) -> None:
    state = load_state(carried_file(CARRIERS[name], cache))
    if name == "sface":
        state = sface_state(state)
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


# ---- pooling ------------------------------------------------------------------------------------


class Gem(nn.Module):
    """Generalised mean of each channel over the picture's places, (mean of x^p)^(1/p) with p = 3:
    between the average (p = 1) and the maximum.

    Radenovic, Tolias and Chum, Fine-tuning CNN image retrieval with no human annotation (2018).
    average: the layer that pools by the plain mean, whatever layout the backbone has.
    """

    def __init__(self, average: nn.Module, p: float = 3.0) -> None:
        super().__init__()
        self.average, self.p = average, p

    def forward(self, x: Tensor) -> Tensor:
        """What `average` takes -> what it gives; values below 1e-6 count as that."""
        mean: Tensor = self.average(x.clamp(min=1e-6).pow(self.p))
        return mean.pow(1 / self.p)


TIMM_POOLINGS = {"gem": "avg", "cls": "token", "mean": "avg"}  # what timm calls them, or builds on


def set_pooling(backbone: nn.Module, pooling: str, name: str) -> None:
    """Has a timm backbone without a classifier pool in another way than its own.

    Raises:
        UserError: it has no such choice (only timm's CNNs and ViTs have any); its own are named.
    """
    choices = poolings(backbone)
    if pooling not in choices:
        others = ", ".join(("auto", *choices))
        raise UserError(f"--pooling {pooling}: --backbone {name} has no such choice, only {others}")
    backbone.reset_classifier(0, TIMM_POOLINGS.get(pooling, pooling))  # type: ignore[operator]
    if pooling == "gem":
        (place,) = _pooling_layers(backbone)
        parent, _, child = place.rpartition(".")
        gem = Gem(backbone.get_submodule(place))
        setattr(backbone.get_submodule(parent), child, gem)


def poolings(backbone: nn.Module) -> tuple[str, ...]:
    """The values of --pooling that a backbone can have, beside `auto`."""
    if len(_pooling_layers(backbone)) == 1:
        return "avg", "max", "gem"
    if isinstance(backbone, VisionTransformer | Eva):
        return ("cls", "mean") if backbone.cls_token is not None else ("mean",)
    return ()


def _pooling_layers(backbone: nn.Module) -> list[str]:
    return [k for k, part in backbone.named_modules() if isinstance(part, SelectAdaptivePool2d)]


# ---- the trained model of a run -----------------------------------------------------------------


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
        "preprocessing": str(embedder.preprocessing),
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Has PyTorch draw from this seed, and leaves its own generators as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Has PyTorch work with one thread. A sum that several share depends on how they share it; what
    comes after the backbone is cheap, and must be the same bytes for the same seed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def project_rows(embedder: Embedder, features: np.ndarray) -> np.ndarray:
    """Cached features (N, features_dim) -> embeddings (N, dim), float32 rows of length 1."""
    with torch.inference_mode(), one_thread():
        device = next(embedder.parameters()).device
        rows = [
            embedder.project(torch.from_numpy(features[i : i + 4096]).to(device)).cpu()
            for i in range(0, len(features), 4096)
        ]
    return torch.cat(rows).numpy() if rows else np.zeros((0, embedder.dim), np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    """(N, D) rows brought to length 1, float32; a row of zeros stays one."""
    length = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return (rows / length).astype(np.float32)
