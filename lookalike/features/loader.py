"""Pictures -> the pixels that a backbone sees: decoded ahead of it, on all cores.

A `View` is a way to show a picture: as it is, mirrored, at a scale, or augmented.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path

import numpy as np

from lookalike.core.settings import Augmentation
from lookalike.data.images import AHEAD, map_images, read_known_pixels
from lookalike.faces.geometry import Face, pixels_needed
from lookalike.features.augmentation import augment
from lookalike.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class View:
    """How pictures are shown to the backbone: as they are, mirrored, larger or smaller, or one of
    several augmented ways."""

    number: int = 0
    seed: int = 0
    augmentation: Augmentation | None = None
    mirrored: bool = False
    scale: float = 1.0

    def __str__(self) -> str:
        """What the cache knows it by."""
        if self.augmentation:
            return f"{self.augmentation} {self.number}, seed {self.seed}"
        name = "mirrored" if self.mirrored else "plain"
        return name if self.scale == 1 else f"{name}, scale {self.scale}"


PLAIN = View()


def random_views(count: int, seed: int, kind: Augmentation) -> list[View]:
    """So many augmented views, the same ones for the same seed."""
    return [View(number, seed, kind) for number in range(count)]


def batches(
    files: Sequence[tuple[Path, str]],
    faces: Mapping[str, Face],
    preprocessing: Preprocessing,
    view: View,
    size: int,
) -> Iterator[np.ndarray]:
    """(size, side, side, 3) uint8 batches of the files in order, the last one filled up with zeros.

    files: (path, content hash) pairs. faces: by content, where they are wanted.

    Threads decode ahead of the model, see `map_images`.
    """

    def load(file: tuple[Path, str]) -> np.ndarray:
        return load_pixels(*file, faces.get(file[1]), preprocessing, view)

    pictures = map_images(load, files, ahead=max(AHEAD, 2 * size))
    with closing(pictures):
        while loaded := list(islice(pictures, size)):
            batch = np.zeros((size, *loaded[0].shape), np.uint8)
            batch[: len(loaded)] = loaded
            yield batch


def load_pixels(
    path: Path, content: str, face: Face | None, preprocessing: Preprocessing, view: View
) -> np.ndarray:
    """One picture, or the crop of its face, as (side, side, 3) uint8.

    Raises:
        UserError: the file is not the one that the catalogue knows.
    """
    image_size = preprocessing.image_size * view.scale
    least = ceil(image_size) if face is None else pixels_needed(face, image_size)
    pixels = read_known_pixels(path, content, least)
    pixels = preprocessing.take(pixels, face, view.scale)
    if view.augmentation:
        rng = np.random.default_rng([view.seed, view.number, int(content, 16)])
        pixels = augment(pixels, rng, view.augmentation)
    return preprocessing.resize(show(pixels, view))


def show(pixels: np.ndarray, view: View) -> np.ndarray:
    """A picture, augmented already where the view is, or its mirror image."""
    return pixels[:, ::-1] if view.mirrored else pixels
