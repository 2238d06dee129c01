"""Pictures with a face in a known place, and what finds it there."""

from pathlib import Path

import numpy as np
from numpy.random import default_rng
from PIL import Image, ImageDraw

from lookalike.data.demo import draw_picture, make_person
from lookalike.faces.detection import Detector, load_detector


def drawn(person: int, domain: str = "photo") -> Image.Image:
    """A face drawn by the demo, which the detector takes for one."""
    return draw_picture(make_person(8, person), domain, default_rng([8, person]))


def yunet() -> Detector:
    return load_detector("yunet", Path("cache"))


class RedDetector:
    """Finds the box of what is red, with five points in it, where the picture is large enough."""

    name = "red"
    side, has_points = 320, True

    def __init__(self, score: float = 0.9, least_side: int = 0) -> None:
        self.score, self.least_side = score, least_side

    def find(self, pixels: np.ndarray) -> np.ndarray:
        y, x = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 1] < 60))
        if not len(x) or min(pixels.shape[:2]) < self.least_side:
            return np.zeros((0, 15), np.float32)
        left, top, width, height = x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1
        points = [(left + i * width, top + j * height) for i, j in POINTS]
        row = [left, top, width, height, *np.ravel(points), self.score]
        return np.array([row], np.float32)


POINTS = ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))


def red_square(size: tuple[int, int] = (200, 160)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle([60, 40, 119, 99], fill="red")
    return image
