"""Any ONNX file as a backbone, run by ONNX Runtime: `--backbone onnx:arcface.onnx`.

`arcface.json` beside `arcface.onnx` may say what the model was trained on. Every entry is optional;
the defaults are those of insightface's ArcFace models:

    {"side": 112, "mean": 127.5, "std": 127.5, "channels": "rgb", "template": [[38.3, 51.7], …]}

side: height and width of the input, in pixels. mean, std: for pixel values from 0 to 255. channels:
rgb or bgr. template: x and y of the eyes, the nose and the corners of the mouth, in pixels of a
side × side face.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash
from lookalike.core.readers import read_json
from lookalike.faces.geometry import TEMPLATE, TEMPLATE_SIDE

ENTRIES = {"side", "mean", "std", "channels", "template"}  # of the JSON beside an ONNX file


class OnnxBackbone(nn.Module):
    """An ONNX file with one input (N, 3, H, W) and the features as its first output.

    Args:
        file: The ONNX file.

    Attributes:
        image_size: Height and width of its input, in pixels.
        batch: Pictures that the file takes at a time; None for any number.
        bgr: Whether its channels are blue, green, red.
        mean: Mean of each channel, for values from 0 to 1.
        std: Standard deviation of each channel, for values from 0 to 1.
        template: (x, y) of the five points of an aligned face, as shares of its side.

    Raises:
        UserError: The file, or the JSON beside it, cannot be used.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.session = _open_onnx(file)
        about = _read_sidecar(file.with_suffix(".json"))
        shape = self.session.get_inputs()[0].shape
        own_size = shape[-1] if isinstance(shape[-1], int) else TEMPLATE_SIDE
        self.image_size = int(about.get("side") or own_size)
        self.batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        self.bgr = str(about.get("channels", "rgb")).lower() == "bgr"
        self.mean = (float(about.get("mean", 127.5)) / 255,) * 3
        self.std = (float(about.get("std", 127.5)) / 255,) * 3
        points = np.array(
            about.get("template", TEMPLATE * (self.image_size / TEMPLATE_SIDE)), float
        )
        self.template = tuple((float(x), float(y)) for x, y in points / self.image_size)
        # The file's hash and the order of its channels stand for the weights where those count.
        digest = list(bytes.fromhex(str(file_hash(file))))
        self.register_buffer("sha256", torch.tensor([*digest, self.bgr], dtype=torch.uint8))

    def forward(self, pictures: Tensor) -> Tensor:
        """Map normalized pictures (N, 3, H, W) to features (N, D)."""
        values = (pictures.flip(1) if self.bgr else pictures).float().cpu().numpy()
        size = self.batch or len(values)
        rows = [self._run(values[start : start + size]) for start in range(0, len(values), size)]
        return torch.from_numpy(np.concatenate(rows)).to(pictures.device)

    def _run(self, values: np.ndarray) -> np.ndarray:
        """Return (N, D) float32 of at most a batch of pictures."""
        stored = self.session.get_inputs()[0]
        count = len(values)
        missing = (self.batch or count) - count
        values = np.pad(values, ((0, missing), (0, 0), (0, 0), (0, 0)))
        values = values.astype(np.float16 if stored.type == "tensor(float16)" else np.float32)
        try:
            features = np.asarray(self.session.run(None, {stored.name: values})[0])
            return features.reshape(len(values), -1)[:count].astype(np.float32)
        except Exception as error:  # its errors share no class of their own
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(
                f"--backbone onnx:{self.file}: cannot be run on {values.shape} ({reason}); "
                "--image-size names the size that it takes"
            ) from error


def _open_onnx(file: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file that takes pictures; raise UserError where it cannot be used."""
    if not file.is_file():
        raise UserError(f"--backbone onnx:{file}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    providers = onnxruntime.get_available_providers()
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # its errors share no class of their own
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"--backbone onnx:{file}: ONNX Runtime cannot use it ({reason})") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] != 3:
        shapes = ", ".join(f"{entry.name} {entry.shape}" for entry in inputs[:3])
        raise UserError(f"--backbone onnx:{file}: takes {shapes}, not pictures (N, 3, H, W)")
    return session


def _read_sidecar(path: Path) -> dict[str, Any]:
    """Read the JSON beside an ONNX file; {} where there is none, UserError where it is wrong."""
    if not path.is_file():
        return {}
    about = read_json(path, "the entries of docs/backbones.md")
    if not _is_valid(about):
        names = ", ".join(sorted(ENTRIES))
        raise UserError(
            f"{path}: must be a table of {names}, channels rgb or bgr; see docs/backbones.md"
        )
    return dict(about)


def _is_valid(about: Any) -> bool:
    """Tell whether a sidecar has only known entries, each of the right form."""
    try:
        side, _, std = (float(about.get(name, 1)) for name in ("side", "mean", "std"))
        points = np.array(about.get("template", TEMPLATE), float)
        channels = str(about.get("channels", "rgb")).lower() in ("rgb", "bgr")
        known = about.keys() <= ENTRIES and channels
        return known and min(side, std) > 0 and points.shape == (5, 2)
    except (AttributeError, TypeError, ValueError):
        return False
