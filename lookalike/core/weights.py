"""Weights of models: state dicts read without running code, checked and loaded; the model hub.

The files that packages carry are in `lookalike.core.carriers`.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import requests
import torch
from huggingface_hub import constants
from onnx.numpy_helper import to_array
from safetensors.torch import load_file
from torch import Tensor, nn

from lookalike.core.errors import UserError
from lookalike.core.log import log

HUB_TIMEOUT = 10  # seconds
WRAPPERS = ("state_dict", "model_state_dict", "model")  # entries that hold the state dict
PREFIXES = ("module.", "_orig_mod.", "backbone.")  # of DataParallel, torch.compile, trainers
# Parts of a tensor that an ONNX file stores as integers in blocks.
PACKED = ("quantized", "scales", "zero_point", "shape")


def look_for_hub() -> None:
    """Restrict timm's hub client to its local cache where the network does not reach the hub.

    The client would retry for a minute before it failed.
    """
    if constants.HF_HUB_OFFLINE:
        return
    try:
        requests.head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except requests.RequestException:
        constants.HF_HUB_OFFLINE = True
        log.info("%s cannot be reached: only its local cache is used", constants.ENDPOINT)


def load_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors, PyTorch or ONNX file, read without running its code.

    Args:
        path: The file; a dict inside an entry of WRAPPERS is unwrapped.

    Returns:
        {name: tensor}, dense and of a type that can be computed with, without the prefixes that
        training programs add. Of two tensors that then have one name, the one with a prefix counts.

    Raises:
        UserError: No such file, it holds no state dict, or tensors without content.
    """
    if not path.is_file():
        raise UserError(f"--weights {path}: no such file")
    try:
        state: Any
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif path.suffix == ".onnx":
            state = onnx_tensors(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # both readers raise many kinds for a file that is something else
        reason = str(error).strip().splitlines()[:1]
        forms = "safetensors, a PyTorch state dict or ONNX"
        raise UserError(f"{path}: cannot be read as {forms}: {''.join(reason)}") from error
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    kinds = state.items() if isinstance(state, dict) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(v, Tensor) for name, v in kinds):
        raise UserError(f"{path}: holds no state dict (a map from names to tensors)")
    return {
        name: _plain(t, f"{path}: {name}") for name, t in _without_prefixes(state, path).items()
    }


def _without_prefixes(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Remove the prefixes that training programs add, and say so."""
    while prefix := next((p for p in PREFIXES if any(name.startswith(p) for name in state)), None):
        inside = {
            name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)
        }
        log.info("%s: %d of %d names without %r", path, len(inside), len(state), prefix)
        others = {name: t for name, t in state.items() if not name.startswith(prefix)}
        state = others | inside
    return state


def _plain(tensor: Tensor, what: str) -> Tensor:
    """Return a tensor that is dense and that every operation takes, with the same values."""
    if tensor.is_meta:
        raise UserError(f"{what} has a shape and no content (a meta tensor): get the whole file")
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        raise UserError(f"{what} holds complex numbers, which no backbone has")
    is_small = tensor.is_floating_point() and tensor.dtype.itemsize == 1
    return tensor.float() if is_small else tensor  # of 8 bits: most operations lack them


def onnx_tensors(path: Path) -> dict[str, Tensor]:
    """Return the weights in an ONNX file by name.

    Those stored as 8-bit integers in blocks are unpacked: (integer - zero point) * scale, with a
    zero point and a scale for each block of the last axis.
    """
    graph = onnx.load(path).graph
    stored = {t.name: torch.from_numpy(to_array(t).copy()) for t in graph.initializer}
    packed = {name.removesuffix("_quantized") for name in stored if name.endswith("_quantized")}
    helpers = {f"{name}_{part}" for name in packed for part in PACKED}
    state = {name: tensor for name, tensor in stored.items() if name not in helpers}
    for name in packed:
        integers, scale, zero, shape = (stored[f"{name}_{part}"] for part in PACKED)
        length = integers.shape[-1]
        block = math.ceil(length / scale.shape[-1])
        scale, zero = (t.float().repeat_interleave(block, -1)[..., :length] for t in (scale, zero))
        state[name] = ((integers.float() - zero) * scale).reshape(shape.tolist())
    return state


def load_into(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict into a model; tensors that the model lacks (a classifier's) are left out.

    Args:
        model: The model.
        state: Tensors by name.
        what: What the tensors are from, for error messages.

    Raises:
        UserError: Tensors are missing, have another shape or are not finite; the first is named.
    """
    own = model.state_dict()
    # The batch counter of a normalization is no weight, and not in every file.
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked")}
    state = counters | dict(state)
    missing = [name for name in own if name not in state]
    if missing:
        raise UserError(
            f"{what}: {len(missing)} tensors of the backbone are missing: {missing[:3]}"
        )
    other = [name for name in own if own[name].shape != state[name].shape]
    if other:
        name = other[0]
        shapes = f"{list(state[name].shape)}, the backbone {list(own[name].shape)}"
        raise UserError(f"{what}: {len(other)} tensors have another shape: {name} has {shapes}")
    broken = [name for name in own if not torch.isfinite(state[name]).all()]
    if broken:
        raise UserError(f"{what}: {broken[0]} holds values that are not finite numbers")
    model.load_state_dict({name: state[name] for name in own})


def fingerprint(module: nn.Module) -> str:
    """Return a hash of all of a module's tensors and their names."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
