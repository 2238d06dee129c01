"""TODO lookalike.models.backbones."""

import difflib
from pathlib import Path

import timm
import torchvision
from torch import nn

from lookalike.core.errors import UserError
from lookalike.core.numeric import seeded
from lookalike.core.weights import CARRIERS, carried_file, load_into, load_state, look_for_hub
from lookalike.models.face_models import InceptionResnetV1, SFace, sface_state
from lookalike.models.onnx_models import OnnxBackbone
from lookalike.models.preprocessing import Preprocessing
from lookalike.models.small_models import NN1, NN2, SmallCnn

# Names of the toolkit for what timm calls otherwise; timm has the hub's names too.
TIMM_NAMES = {
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "efficientnet_lite1": "tf_efficientnet_lite1",
    "efficientnet_lite2": "tf_efficientnet_lite2",
    "vit_b16": "vit_base_patch16_224",
}


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
    model, image_size, normalization = OWN_MODELS[name]
    return model(), Preprocessing(image_size, "bilinear", (), ()).normalized_by(normalization)


def _build_onnx(name: str, from_hub: bool) -> tuple[nn.Module, Preprocessing]:
    backbone = OnnxBackbone(Path(name.removeprefix("onnx:")))
    return backbone, Preprocessing(backbone.image_size, "bilinear", backbone.mean, backbone.std)


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
