"""What a trunk is fed: the feature maps of its frozen front, or the pictures themselves.

feed = feed_of(run, embedder, trunk, rows, views)
maps = feed.take(places, shown)   # pictures by number, each in one of the views
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lookalike.core.runs import Run
from lookalike.data.images import WORKERS, truncated_pictures
from lookalike.faces.geometry import Face
from lookalike.features.extractor import embed_features, run_extractor
from lookalike.features.loader import PLAIN, View, load_pixels, random_views
from lookalike.models.embedder import Embedder
from lookalike.models.preprocessing import Preprocessing
from lookalike.training.trainable import TrainableEmbedder


class Inputs(Protocol):
    """Pictures in the form in which a trunk takes them."""

    def take(self, indices: np.ndarray, shown: np.ndarray) -> Tensor:
        """(n,) numbers of pictures and (n,) numbers of views -> (n, ...) float32."""
        ...


@dataclass(frozen=True)
class Maps:
    """Feature maps, which lie on the disk where they are large. rows: for each view (N, values)."""

    rows: list[np.ndarray]

    def take(self, indices: np.ndarray, shown: np.ndarray) -> Tensor:
        """See Feed."""
        taken = [self.rows[view][place] for view, place in zip(shown, indices, strict=True)]
        return torch.from_numpy(np.stack(taken))


@dataclass(frozen=True)
class Pixels:
    """Pictures that are decoded when they are wanted.

    root: the data set's folder. wants: what they are made into. rows: of the catalogue. views: by
    number. faces: by content, where these are wanted.
    """

    root: Path
    preprocessing: Preprocessing
    rows: pd.DataFrame
    views: Sequence[View]
    faces: dict[str, Face]
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(WORKERS))

    def take(self, indices: np.ndarray, shown: np.ndarray) -> Tensor:
        """See Feed."""
        with truncated_pictures(True):
            pixels = np.stack(list(self.pool.map(self._load, indices.tolist(), shown.tolist())))
        return self.preprocessing.normalize(torch.from_numpy(pixels))

    def _load(self, place: int, shown: int) -> np.ndarray:
        path, content = self.rows.path.iloc[place], self.rows.content.iloc[place]
        view, face = self.views[shown], self.faces.get(content)
        return load_pixels(self.root / path, content, face, self.preprocessing, view)


def inputs_of(
    run: Run,
    embedder: Embedder,
    trainable: TrainableEmbedder,
    rows: pd.DataFrame,
    views: Sequence[View],
    image_size: int | None = None,
) -> Inputs:
    """Catalogue rows in these views, as the trunk of an embedder takes them.

    side: of the pictures, where nothing is frozen. Default: the embedder's.

    Raises:
        UserError: the backbone cannot see pictures of that size.
    """
    if trainable.frozen is None:
        return pixels_of(run, embedder, rows, views, image_size)
    extractor = run_extractor(run, trainable.frozen)
    return Maps([embed_features(extractor, rows, view) for view in views])


def pixels_of(
    run: Run,
    embedder: Embedder,
    rows: pd.DataFrame,
    views: Sequence[View],
    image_size: int | None = None,
) -> Pixels:
    """Catalogue rows in these views, as pictures. side, raises: as for `feed_of`."""
    preprocessing = embedder.preprocessing_at(image_size)
    return Pixels(run.data, preprocessing, rows, views, run_extractor(run, embedder).faces(rows))


def training_views(run: Run, trainable: TrainableEmbedder) -> list[View]:
    """The views that pictures are trained in: as they are, or augmented, so many as are asked for,
    or as there are epochs, where pictures are decoded anyway.

    The mirror image, of which an embedding may be made too, is no help here: on LFW62 the
    validation scores 737 with it and 742 without (three seeds).
    """
    settings = run.settings.train
    if not settings.train_views:
        return [PLAIN]
    count = settings.epochs if trainable.frozen is None else settings.train_views
    return random_views(count, run.seed, settings.augmentation)


def shown_in(
    epoch: int, views: int, count: int, fresh: bool, rng: np.random.Generator
) -> np.ndarray:
    """(count,) the view of each picture in an epoch, from 1: a new one, or one of a few drawn."""
    return np.full(count, (epoch - 1) % views) if fresh else rng.integers(views, size=count)
