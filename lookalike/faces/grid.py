"""A detector of one's own: where things of one kind are in a picture, faces, animals or products.

    detector = GridDetector(Path("zebra.safetensors"))    # made by `lookalike detector train`
    face = find_face(image, detector)                     # as with every other detector

A picture is divided into cells of 32 pixels, 13 × 13 at 416 pixels; each predicts two boxes and how
sure it is of them. Redmon et al., You Only Look Once: Unified, Real-Time Object Detection (2016),
with a single class, on ImageNet features of two scales.
"""

from pathlib import Path

import numpy as np
import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import nms

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, whole_file
from lookalike.core.numeric import one_thread
from lookalike.core.weights import load_into
from lookalike.faces.detection import MAX_OVERLAP, MIN_CONFIDENCE
from lookalike.faces.geometry import points_in

CELL = 32  # side of a cell in pixels
SIDE = 416  # side in pixels of the pictures that it is trained on; no box is longer
BOXES = 2  # that a cell predicts
WIDTH = 256  # channels of the head
BACKBONE = "tf_efficientnet_lite0"
FINE, COARSE = 112, 320  # its channels at half a cell and at a whole one
FORMAT = "lookalike grid detector 1"


class GridNetwork(nn.Module):
    """EfficientNet-Lite0 and a head that predicts the boxes of each cell.

    Its weights are random at first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            BACKBONE, pretrained=False, features_only=True, out_indices=(3, 4)
        )
        self.head = nn.Sequential(
            _convolution(4 * FINE + COARSE, WIDTH, 1),
            _convolution(WIDTH, WIDTH, 3),
            _convolution(WIDTH, WIDTH, 3),
        )
        self.boxes = nn.Conv2d(WIDTH, 5 * BOXES, 1)

    def features(self, pixels: Tensor) -> Tensor:
        """Return what the head sees of each cell.

        Args:
            pixels: (N, 3, H, W) uint8 RGB; H and W are multiples of CELL.

        Returns:
            (N, C, H / CELL, W / CELL).
        """
        fine, coarse = self.backbone(pixels.float() / 127.5 - 1)
        return torch.cat([functional.pixel_unshuffle(fine, 2), coarse], 1)

    def predict(self, features: Tensor) -> Tensor:
        """Return the boxes of each cell.

        Args:
            features: (N, C, rows, columns).

        Returns:
            (N, rows, columns, BOXES, 5) from 0 to 1: the box's center from the cell's corner, as a
            share of CELL; the square roots of its width and height, as shares of SIDE; confidence.
        """
        outputs: Tensor = self.boxes(self.head(features)).sigmoid()
        return outputs.unflatten(1, (BOXES, 5)).permute(0, 3, 4, 1, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the boxes of each cell of pictures, see `features` and `predict`."""
        return self.predict(self.features(pixels))


def _convolution(channels: int, out: int, side: int) -> nn.Sequential:
    """Return a convolution with normalization and ReLU that keeps the size."""
    return nn.Sequential(
        nn.Conv2d(channels, out, side, padding=side // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def boxes_of(predicted: Tensor) -> Tensor:
    """Return predicted boxes in pixels.

    Args:
        predicted: (..., rows, columns, BOXES, 5), what `GridNetwork.predict` returns.

    Returns:
        (..., rows, columns, BOXES, 4) left, top, right and bottom.

    >>> boxes_of(torch.full((1, 2, 1, 5), 0.5))[0, 1, 0].tolist()  # 104 pixels about (48, 16)
    [-4.0, -36.0, 100.0, 68.0]
    """
    rows, columns = predicted.shape[-4:-2]
    across, down = torch.meshgrid(
        torch.arange(columns, device=predicted.device),
        torch.arange(rows, device=predicted.device),
        indexing="xy",
    )
    corner = torch.stack([across, down], -1)[:, :, None]
    center = (corner + predicted[..., :2]) * CELL
    half = predicted[..., 2:4].square() * SIDE / 2
    return torch.cat([center - half, center + half], -1)


class GridDetector:
    """A trained grid detector.

    Args:
        path: The file that `lookalike detector train` wrote.

    Raises:
        UserError: No such file, or it holds something else.
    """

    side, has_points = SIDE, False

    def __init__(self, path: Path) -> None:
        self.name = f"grid {file_hash(path)} torch {torch.__version__}"
        self.network = _read(path)

    @torch.inference_mode()
    def find(self, pixels: np.ndarray) -> np.ndarray:
        """Detect what it was trained on, see `detection.Detector.find`.

        It knows no points: they are where an upright face in the box would have them.
        """
        height, width = pixels.shape[:2]
        padding = ((0, -height % CELL), (0, -width % CELL), (0, 0))
        padded = np.pad(pixels, padding, constant_values=127)
        picture = torch.from_numpy(padded).permute(2, 0, 1)[None]
        with one_thread():  # pictures are searched side by side
            predicted = self.network(picture)[0]
        boxes, scores = pick_boxes(predicted, MIN_CONFIDENCE)
        points = np.array([points_in(box) for box in boxes]).reshape(-1, 10)
        return np.concatenate([boxes, points, scores[:, None]], axis=1).astype(np.float32)


def pick_boxes(predicted: Tensor, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes of a picture, without those that overlap a more confident one.

    Args:
        predicted: (rows, columns, BOXES, 5), see `GridNetwork.predict`.
        confidence: The least of a box.

    Returns:
        (n, 4) left, top, width and height in pixels, and (n,) confidence; most confident first.
    """
    boxes, scores = boxes_of(predicted).reshape(-1, 4), predicted[..., 4].reshape(-1)
    boxes, scores = boxes[scores >= confidence], scores[scores >= confidence]
    kept = nms(boxes, scores, MAX_OVERLAP)
    found = boxes[kept].numpy()
    found[:, 2:] -= found[:, :2]
    return found, scores[kept].numpy()


def save_detector(path: Path, network: GridNetwork) -> None:
    """Write a network as a safetensors file, for `GridDetector`."""
    state = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    with whole_file(path) as beside:
        save_file(state, beside, {"format": FORMAT})


def _read(path: Path) -> GridNetwork:
    """Read a network that `save_detector` wrote."""
    if not path.is_file():
        raise UserError(f"--detector {path}: no such file")
    try:
        with safe_open(path, "pt") as stored:
            if (stored.metadata() or {}).get("format") != FORMAT:
                raise UserError(f"{path}: is no detector of `lookalike detector train`")
            state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from error
    network = GridNetwork()
    load_into(network, state, str(path))
    return network.eval()
