"""What a trained part takes of each picture: cached feature maps, or the picture itself.

inputs = inputs_of(extractor, frozen, rows, views)
batch = inputs.take(indices, view_numbers)   # a picture by its row, in one of the views
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lookalike.core.settings import TrainSettings
from lookalike.data.images import WORKERS
from lookalike.faces.geometry import Face
from lookalike.features.embedding import embed_features
from lookalike.features.extractor import FeatureExtractor
from lookalike.features.loader import PLAIN, View, load_pixels, random_views
from lookalike.models.embedder import Embedder
from lookalike.models.preprocessing import Preprocessing


class Inputs(Protocol):
    """The inputs of a network, by picture and view."""

    def take(self, indices: np.ndarray, views: np.ndarray) -> Tensor:
        """Return the inputs of pictures, each in one of its views.

        Args:
            indices: (n,) rows of the pictures.
            views: (n,) numbers of the views.

        Returns:
            (n, ...) float32.
        """
        ...


@dataclass(frozen=True)
class FeatureMaps:
    """Inputs that are cached features, which lie on the disk where they are large.

    Attributes:
        rows: For each view (N, values).
    """

    rows: Sequence[np.ndarray]

    def take(self, indices: np.ndarray, views: np.ndarray) -> Tensor:
        """Return (n, values) float32; see `Inputs.take`."""
        taken = [self.rows[view][index] for view, index in zip(views, indices, strict=True)]
        return torch.from_numpy(np.stack(taken))


@dataclass(frozen=True)
class Pixels:
    """Inputs that are pictures, decoded when they are taken.

    Attributes:
        root: The data set's folder.
        preprocessing: Turns a picture into a network's input.
        rows: Of the catalogue.
        views: By number.
        faces: {content: face}, where the network sees faces.
    """

    root: Path
    preprocessing: Preprocessing
    rows: pd.DataFrame
    views: Sequence[View]
    faces: dict[str, Face]
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(WORKERS))

    def take(self, indices: np.ndarray, views: np.ndarray) -> Tensor:
        """Return (n, 3, side, side) float32, normalized; see `Inputs.take`."""
        pixels = np.stack(list(self.pool.map(self._load, indices.tolist(), views.tolist())))
        return self.preprocessing.normalize(torch.from_numpy(pixels))

    def _load(self, index: int, view: int) -> np.ndarray:
        """Decode one picture."""
        path, content = self.rows.path.iloc[index], self.rows.content.iloc[index]
        face = self.faces.get(content)
        return load_pixels(self.root / path, content, face, self.preprocessing, self.views[view])


def inputs_of(
    extractor: FeatureExtractor,
    frozen: Embedder | None,
    rows: pd.DataFrame,
    views: Sequence[View],
    image_size: int | None = None,
) -> Inputs:
    """Return the inputs of an embedder's trained part.

    Args:
        extractor: Of the whole embedder.
        frozen: Its frozen part, whose features are the inputs; None: pictures are.
        rows: Of the catalogue, of pictures that can be read.
        views: The views that the inputs can be taken in.
        image_size: Height and width of the pictures in pixels, where nothing is frozen. Default:
            the embedder's.

    Raises:
        UserError: The backbone does not take pictures of that size.
    """
    if frozen is None:
        return pixels_of(extractor, rows, views, image_size)
    extractor = replace(extractor, embedder=frozen)
    return FeatureMaps([embed_features(extractor, rows, view) for view in views])


def pixels_of(
    extractor: FeatureExtractor,
    rows: pd.DataFrame,
    views: Sequence[View],
    image_size: int | None = None,
) -> Pixels:
    """Return pictures as the inputs of a whole backbone; arguments and errors of `inputs_of`."""
    preprocessing = extractor.embedder.preprocessing_at(image_size)
    return Pixels(extractor.root, preprocessing, rows, views, extractor.faces(rows))


def training_views(settings: TrainSettings, seed: int, decodes: bool) -> list[View]:
    """Return the views that pictures are trained in.

    The mirror image, of which an embedding may be made too, is no help here: on LFW62 the
    validation scores 737 with it and 742 without (three seeds).

    Args:
        settings: `train_views` is their number; 0 for pictures as they are.
        seed: Of their random numbers.
        decodes: Whether pictures are decoded in every step: there is then a view for each epoch.
    """
    if not settings.train_views:
        return [PLAIN]
    count = settings.epochs if decodes else settings.train_views
    return random_views(count, seed, settings.augmentation)


def views_of_epoch(
    epoch: int, views: int, count: int, fresh: bool, rng: np.random.Generator
) -> np.ndarray:
    """Return the view of each picture in an epoch.

    Args:
        epoch: From 1.
        views: Number of views.
        count: Number of pictures.
        fresh: Whether all pictures take the epoch's own view, or each a random one.
        rng: Draws the random ones.

    Returns:
        (count,) numbers of views.
    """
    return np.full(count, (epoch - 1) % views) if fresh else rng.integers(views, size=count)
