"""Random augmentation of pictures, for training.

    view = augment(pixels, np.random.default_rng(0), "strong")

`weak` changes what a photographer might have done otherwise. `strong` is the augmentation of SimCLR
(Chen et al., 2020), after which colors and sharpness say little about the identity.
"""

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from lookalike.core.settings import Augmentation

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # perceived brightness of red, green, blue
BLUR_SIDE = 224  # pixels; SimCLR's blur is in pixels of pictures of this size


def augment(pixels: np.ndarray, rng: np.random.Generator, kind: Augmentation) -> np.ndarray:
    """Return a random view of a picture.

    Args:
        pixels: (H, W, 3) uint8.
        rng: Source of the random choices.
        kind: `weak` or `strong`.

    Returns:
        (height, width, 3) uint8, of any size.
    """
    return strong(pixels, rng) if kind == "strong" else weak(pixels, rng)


def weak(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a weak view: crop, mirror, and small changes of color.

    The crop has 70 to 100 % of the area; every second picture is mirrored; brightness, contrast and
    saturation change by up to 20 %.

    Args:
        pixels: (H, W, 3) uint8.
        rng: Source of the random choices.

    Returns:
        (height, width, 3) uint8, of any size.
    """
    image = Image.fromarray(pixels)
    scale = np.sqrt(rng.uniform(0.7, 1.0))
    width, height = (max(1, round(scale * side)) for side in image.size)
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    image = image.crop((left, top, left + width, top + height))
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.8, 1.2))
    return np.array(image)


def strong(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a strong view: crop, mirror, color jitter, grayscale and blur.

    The crop has 30 to 100 % of the area, with an aspect ratio of up to a third more or less than
    the picture's; every second picture is mirrored. In 80 % brightness, contrast and saturation
    change by up to 40 % and hues turn by up to 36 degrees, 20 % become gray, and half are blurred.

    Args:
        pixels: (H, W, 3) uint8.
        rng: Source of the random choices.

    Returns:
        (height, width, 3) uint8, of any size.
    """
    crop = random_crop(pixels, rng)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    view: np.ndarray = crop.astype(np.float32) / 255
    if rng.random() < 0.8:
        view = jitter(view, rng)
    if rng.random() < 0.2:
        view = np.repeat((view @ LUMA)[..., None], 3, axis=2)
    if rng.random() < 0.5:
        sigma = rng.uniform(0.1, 2.0) * max(view.shape[:2]) / BLUR_SIDE
        view = cv2.GaussianBlur(view, (0, 0), sigma)
    return (view * 255).round().astype(np.uint8)


def random_crop(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the crop of a strong view, a view into (H, W, C) pixels."""
    height, width = pixels.shape[:2]
    area, aspect = rng.uniform(0.3, 1.0), np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
    size = np.sqrt(area) * np.array([height / np.sqrt(aspect), width * np.sqrt(aspect)])
    rows, columns = (int(side) for side in np.clip(size.round(), 1, (height, width)))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    return pixels[top : top + rows, left : left + columns]


def jitter(view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the colors of (H, W, 3) float32 pixels from 0 to 1, as a strong view does."""
    brightness, contrast, saturation = (np.float32(value) for value in rng.uniform(0.6, 1.4, 3))
    view = np.clip(view * brightness, 0, 1)
    mean = (view @ LUMA).mean()
    view = np.clip(mean + contrast * (view - mean), 0, 1)
    gray = (view @ LUMA)[..., None]
    view = np.clip(gray + saturation * (view - gray), 0, 1)
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV)  # the hue in degrees
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-36, 36)) % 360
    turned: np.ndarray = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return np.clip(turned, 0, 1)
