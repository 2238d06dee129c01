"""Random views of a picture, for training: the same person, shown otherwise.

view = augment(pixels, np.random.default_rng(0), "strong")

`weak` is what a photographer might have done otherwise; `strong` are the views of SimCLR (Chen et
al., 2020), after which colours and sharpness say little of who it is.
"""

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from lookalike.core.settings import Augmentation

GREY = np.array([0.299, 0.587, 0.114], np.float32)  # how bright red, green and blue look
SIDE = 224  # of SimCLR's pictures: what its blur is measured by


def augment(pixels: np.ndarray, rng: np.random.Generator, kind: Augmentation) -> np.ndarray:
    """A random view of (height, width, 3) uint8 pixels, as such pixels of any height and width."""
    return strong(pixels, rng) if kind == "strong" else weak(pixels, rng)


def weak(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop of 70 to 100 % of the area, mirrored or not, with brightness, contrast and colour
    changed by up to 20 %."""
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
    """A crop of 30 to 100 % of the area, up to a third wider or higher than the picture's form,
    mirrored or not; brightness, contrast and colour changed by up to 40 %, hues turned by up to 36
    degrees; grey, blurred."""
    part = random_part(pixels, rng)
    if rng.random() < 0.5:
        part = part[:, ::-1]
    view: np.ndarray = part.astype(np.float32) / 255
    if rng.random() < 0.8:
        view = jitter(view, rng)
    if rng.random() < 0.2:
        view = np.repeat((view @ GREY)[..., None], 3, axis=2)
    if rng.random() < 0.5:
        sigma = rng.uniform(0.1, 2.0) * max(view.shape[:2]) / SIDE
        view = cv2.GaussianBlur(view, (0, 0), sigma)
    return (view * 255).round().astype(np.uint8)


def random_part(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The crop of a strong view."""
    height, width = pixels.shape[:2]
    area, form = rng.uniform(0.3, 1.0), np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
    size = np.sqrt(area) * np.array([height / np.sqrt(form), width * np.sqrt(form)])
    rows, columns = (int(side) for side in np.clip(size.round(), 1, (height, width)))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    return pixels[top : top + rows, left : left + columns]


def jitter(view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The colours of a strong view; both are (height, width, 3) float32 from 0 to 1."""
    bright, contrast, color = (np.float32(value) for value in rng.uniform(0.6, 1.4, 3))
    view = np.clip(view * bright, 0, 1)
    mean = (view @ GREY).mean()
    view = np.clip(mean + contrast * (view - mean), 0, 1)
    gray = (view @ GREY)[..., None]
    view = np.clip(gray + color * (view - gray), 0, 1)
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV)  # the hue in degrees
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-36, 36)) % 360
    turned: np.ndarray = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return np.clip(turned, 0, 1)
