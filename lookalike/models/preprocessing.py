"""Preprocessing: which part of a picture a backbone sees, at which size, and how it is normalized.

    preprocessing = Preprocessing(224, "bicubic", (0.5,) * 3, (0.5,) * 3)
    pixels = preprocessing.resize(preprocessing.take(picture))   # (224, 224, 3) uint8
    inputs = preprocessing.normalize(torch.from_numpy(pixels)[None])   # (1, 3, 224, 224) float32

All of its fields count in the keys of the cache and in model files, see `Preprocessing.key`.
"""

from dataclasses import dataclass, replace
from typing import Self

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
    """What turns a picture into a backbone's input: crop, resize to a square, normalize.

    By default the whole picture is squeezed into the square. The transforms that ImageNet models
    are published with cut the borders off, which suits an object in the middle; a face loses its
    chin. On the caricature set's training identities, photograph to drawing, the whole picture
    scores 333 and the published crop 292 (`python -m benchmarks.transforms`).

    Attributes:
        image_size: Height and width of the input, in pixels.
        interpolation: `bilinear` or `bicubic`.
        mean: Mean of each channel, for values from 0 to 1.
        std: Standard deviation of each channel, for values from 0 to 1.
        crop: Which part of the picture is seen.
        standardized: Whether each picture is also standardized by its own mean and deviation.
    """

    image_size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: Crop = WHOLE
    standardized: bool = False

    def take(self, pixels: np.ndarray, face: Face | None = None, scale: float = 1.0) -> np.ndarray:
        """Return the part of a picture that the backbone sees, enlarged `scale` times.

        Args:
            pixels: (H, W, 3) uint8.
            face: The face to crop, already at `image_size`; None takes the whole picture.
            scale: Above 1 shows the face, or the middle of a whole picture, larger; below 1 shows
                more of a face's surroundings.

        Returns:
            (height, width, 3) uint8, of any size.
        """
        if face is not None:
            return crop_face(pixels, face, self.crop.scaled(scale), self.image_size)
        return pixels if scale == 1 else crop_middle(pixels, scale)

    def resize(self, pixels: np.ndarray) -> np.ndarray:
        """Resize (H, W, 3) uint8 pixels to (image_size, image_size, 3) uint8.

        PyTorch resizes bytes as Pillow does in a third of its time, and differs from it by 2 of
        255 at most (`python -m benchmarks.decoding`).
        """
        pixels = np.ascontiguousarray(pixels)
        if pixels.shape[:2] == (self.image_size, self.image_size):
            return pixels
        with torch.inference_mode():
            whole = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
            size, mode = (self.image_size, self.image_size), self.interpolation
            small: Tensor = interpolate(whole, size, mode=mode, antialias=True)
        return np.asarray(small[0].permute(1, 2, 0).contiguous().numpy())

    def normalize(self, pixels: Tensor) -> Tensor:
        """Turn (N, H, W, 3) uint8 pixels into (N, 3, H, W) float32, channels last in memory."""
        mean, std = (torch.tensor(v, device=pixels.device) for v in (self.mean, self.std))
        pictures = pixels.float().div(255).sub(mean).div(std).permute(0, 3, 1, 2)
        return standardize(pictures) if self.standardized else pictures

    @property
    def key(self) -> str:
        """Text that stands for it in the cache and in model files.

        It must never change, or every cached feature and trained model of earlier releases would
        be lost; so it has the field names of the first release. A subclass has its own keys, since
        it computes other inputs.
        """
        return (
            f"{type(self).__name__}(side={self.image_size}, interpolation={self.interpolation!r}, "
            f"mean={self.mean}, std={self.std}, crop={self.crop}, whitening={self.standardized})"
        )

    def normalized_by(self, name: str) -> Self:
        """Return a copy with the mean and deviation of an entry of NORMALIZATIONS."""
        mean, std = NORMALIZATIONS[name]
        return replace(self, mean=mean, std=std, standardized=name == "whitening")


def standardize(pictures: Tensor) -> Tensor:
    """Bring each picture to mean 0 and deviation 1: (x - mean) / max(std, 1 / √n).

    The n values of all channels count together. It is FaceNet's "pre-whitening" (Sandberg, facenet,
    2017), after TensorFlow's per_image_standardization.

    Args:
        pictures: (N, C, H, W), values from 0 to 255.

    Returns:
        (N, C, H, W) float32.

    >>> standardize(torch.tensor([0.0, 255.0]).view(1, 1, 1, 2)).flatten().tolist()
    [-1.0, 1.0]
    """
    values = pictures.flatten(1)
    smallest = values.shape[1] ** -0.5
    mean = values.mean(1)[:, None, None, None]
    std = values.std(1, correction=0).clamp(min=smallest)[:, None, None, None]
    return (pictures - mean) / std
