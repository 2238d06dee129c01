"""Loading: from picture files to the pixels that a backbone sees, decoded ahead of it on all cores.

    files = [(Path("ada.jpg"), content_hash(raw))]
    for batch in load_batches(files, {}, embedder.preprocessing, PLAIN, size=32):
        ...   # (32, image_size, image_size, 3) uint8

A `View` is a way to show a picture: as it is, mirrored, at another scale, or augmented.
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
    """How pictures are shown to the backbone.

    Attributes:
        number: Tells the augmented views of one seed apart.
        seed: Of the random augmentation.
        augmentation: Kind of the random augmentation; None for none.
        mirrored: Whether the mirror image is shown.
        scale: How many times as large the face, or the middle of a whole picture, is shown.
    """

    number: int = 0
    seed: int = 0
    augmentation: Augmentation | None = None
    mirrored: bool = False
    scale: float = 1.0

    def __str__(self) -> str:
        """Return the text that stands for it in the cache's keys; it must never change."""
        if self.augmentation:
            return f"{self.augmentation} {self.number}, seed {self.seed}"
        name = "mirrored" if self.mirrored else "plain"
        return name if self.scale == 1 else f"{name}, scale {self.scale}"

    def orient(self, pixels: np.ndarray) -> np.ndarray:
        """Return (H, W, 3) pixels, mirrored where the view is."""
        # A copy: PyTorch takes no reversed axis, which NumPy hides where it has one element.
        return pixels[:, ::-1].copy() if self.mirrored else pixels


PLAIN = View()


def random_views(count: int, seed: int, kind: Augmentation) -> list[View]:
    """Return `count` different augmented views, the same ones for the same seed."""
    return [View(number, seed, kind) for number in range(count)]


def load_batches(
    files: Sequence[tuple[Path | np.ndarray, str]],
    faces: Mapping[str, Face],
    preprocessing: Preprocessing,
    view: View,
    size: int,
) -> Iterator[np.ndarray]:
    """Load pictures in batches of a fixed size; threads decode ahead, see `map_images`.

    Args:
        files: (file, content hash) of each picture; an array (H, W, 3) uint8 stands for its pixels.
        faces: {content hash: face}, for the pictures whose face is to be cropped.
        preprocessing: What the backbone sees of a picture.
        view: How it is shown.
        size: Pictures in a batch.

    Yields:
        (size, image_size, image_size, 3) uint8, in the order of the files; the last batch is filled
        up with zeros.

    Raises:
        UserError: A file is gone, has changed since it was hashed, or cannot be decoded.
    """

    def load(file: tuple[Path | np.ndarray, str]) -> np.ndarray:
        return load_pixels(*file, faces.get(file[1]), preprocessing, view)

    pictures = map_images(load, files, ahead=max(AHEAD, 2 * size))
    with closing(pictures):
        while loaded := list(islice(pictures, size)):
            batch = np.zeros((size, *loaded[0].shape), np.uint8)
            batch[: len(loaded)] = loaded
            yield batch


def load_pixels(
    source: Path | np.ndarray,
    content: str,
    face: Face | None,
    preprocessing: Preprocessing,
    view: View,
) -> np.ndarray:
    """Load one picture, or the crop of its face, as the backbone sees it in a view.

    Args:
        source: The file, or its pixels, (H, W, 3) uint8.
        content: The content hash; it also seeds a random view, so that each picture has its own.
        face: The face to crop, or None for the whole picture.
        preprocessing: What the backbone sees of a picture.
        view: How it is shown.

    Returns:
        (image_size, image_size, 3) uint8.

    Raises:
        UserError: The file is gone, has changed since it was hashed, or cannot be decoded.
    """
    pixels = source
    if not isinstance(pixels, np.ndarray):
        image_size = preprocessing.image_size * view.scale
        least = ceil(image_size) if face is None else pixels_needed(face, image_size)
        pixels = read_known_pixels(pixels, content, least)
    pixels = preprocessing.take(pixels, face, view.scale)
    if view.augmentation:
        rng = np.random.default_rng([view.seed, view.number, int(content, 16)])
        pixels = augment(pixels, rng, view.augmentation)
    return preprocessing.resize(view.orient(pixels))
