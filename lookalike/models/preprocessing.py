"""TODO lookalike.models.preprocessing."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lookalike.faces.geometry import WHOLE, Crop, Face, crop_face, crop_middle

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

    image_size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: Crop = WHOLE
    whitening: bool = False

    def take(self, pixels: np.ndarray, face: Face | None = None, scale: float = 1.0) -> np.ndarray:
        """The part of a picture that the backbone sees, shown `scale` times as large; both are
        (height, width, 3) uint8."""
        if face is not None:
            return crop_face(pixels, face, self.crop.scaled(scale), self.image_size)
        return pixels if scale == 1 else crop_middle(pixels, scale)

    def resize(self, pixels: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 -> (side, side, 3) uint8.

        By PyTorch, which works on bytes as Pillow does, a third of its time, and differs by 2 of
        255 at most (`python -m benchmarks.decoding`).
        """
        pixels = np.ascontiguousarray(pixels)
        if pixels.shape[:2] == (self.image_size, self.image_size):
            return pixels
        with torch.inference_mode():
            whole = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
            size, how = (self.image_size, self.image_size), self.interpolation
            small = interpolate(whole, size, mode=how, antialias=True)
        resized: np.ndarray = small[0].permute(1, 2, 0).contiguous().numpy()
        return resized

    def normalize(self, pixels: Tensor) -> Tensor:
        """(N, side, side, 3) uint8 -> (N, 3, side, side) float32, channels last in memory."""
        mean, std = (torch.tensor(v, device=pixels.device) for v in (self.mean, self.std))
        pictures = pixels.float().div(255).sub(mean).div(std).permute(0, 3, 1, 2)
        return whiten(pictures) if self.whitening else pictures

    @property
    def key(self) -> str:
        """What the cache knows it by: the words of the first release, so that its rows are read."""
        return (
            f"Preprocessing(side={self.image_size}, interpolation={self.interpolation!r}, "
            f"mean={self.mean}, std={self.std}, crop={self.crop}, whitening={self.whitening})"
        )

    def normalized_by(self, name: str) -> "Preprocessing":
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
