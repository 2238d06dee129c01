"""The features of pictures in one view: from the cache, or computed where it lacks them.

    source = FeatureSource(extractor, pictures, PLAIN)
    with tqdm(total=source.missing) as bar:
        features = source.features(pictures, bar)       # (N, features_dim) float32

The cache's key is all that a feature depends on but the picture: the backbone, its weights, the
preprocessing, the view, the plan and the versions of the libraries.
"""

import time
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lookalike.core.cache import FeatureCache, keys_of
from lookalike.core.errors import UserError
from lookalike.core.log import log
from lookalike.core.numeric import blocks
from lookalike.data.pictures import sources
from lookalike.faces.dataset import detection_recipe
from lookalike.features.engine import Plan
from lookalike.features.loader import View, load_batches
from lookalike.models.stored import StoredEmbeddings

if TYPE_CHECKING:
    from lookalike.features.extractor import FeatureExtractor


class FeatureSource:
    """The features of some pictures in one view: from the cache, or computed where it lacks them.

    Args:
        extractor: The backbone and the cache.
        pictures: All pictures, so that the same plan serves every block of them.
        view: How they are shown.

    Attributes:
        missing: Number of pictures that the cache lacks.
        plan: How the backbone runs: the first plan that has made all of the pictures already, or
            whose engine works.

    Raises:
        UserError: The backbone runs by none of the plans; why not.
    """

    def __init__(self, extractor: "FeatureExtractor", pictures: pd.DataFrame, view: View) -> None:
        self.extractor, self.view = extractor, view
        reason: Exception | None = None
        for plan in extractor.plans:
            self.plan, self.store = plan, open_cache(extractor, plan, view)
            parts = (keys_of(pictures.content.iloc[block]) for block in blocks(len(pictures)))
            self.missing = sum(len(self.store.missing(keys)) for keys in parts)
            if not self.missing:
                return
            try:
                extractor.engine(plan)
                return
            except Exception as error:  # compilers raise what they like
                reason = error
                log.warning("warning: no %s for %s (%s)", plan, extractor.embedder.name, error)
        place = "the GPU" if self.plan.device == "cuda" else "this machine"
        raise UserError(
            f"--backbone {extractor.embedder.name} does not run on {place}, in batches of "
            f"{self.plan.batch} neither ({reason}): name a smaller --image-size or backbone, or "
            "end other programs that use its memory"
        )

    def features(self, pictures: pd.DataFrame, bar: tqdm) -> np.ndarray:
        """Return (N, features_dim) float32 of a block of the pictures, in their order.

        Args:
            pictures: N rows with `path` and `content`.
            bar: Advances by a picture for each that is computed.

        Raises:
            UserError: A file is gone, has changed since it was hashed, or cannot be decoded.
        """
        keys = keys_of(pictures.content)
        return self.store.fetch(
            keys, lambda missing: self._fill(pictures.iloc[missing], keys[missing], bar)
        )

    def _fill(self, pictures: pd.DataFrame, keys: np.ndarray, bar: tqdm) -> None:
        """Compute the features of pictures into the store; an error loses none before it."""
        extractor, faces = self.extractor, self.extractor.faces(pictures)
        files = list(zip(sources(pictures, extractor.root), pictures.content, strict=True))
        pixels = load_batches(
            files, faces, extractor.embedder.preprocessing, self.view, self.plan.batch
        )
        start, done = time.perf_counter(), 0
        try:
            for rows in extractor.engine(self.plan).features(pixels):
                if not np.isfinite(rows).all():
                    raise UserError(f"{extractor.embedder.name}: features are not finite")
                count = min(len(rows), len(keys) - done)
                self.store.add(keys[done : done + count], rows[:count])
                done += count
                bar.update(count)
        finally:
            self.store.flush()
        extractor.pace.pictures += done
        extractor.pace.seconds += time.perf_counter() - start


class StoredSource:
    """The features of some pictures that another program has made: all of them are there.

    Args:
        extractor: Of the file.
        stored: The embeddings in the file.
        pictures: All pictures.

    Attributes:
        missing: 0.

    Raises:
        UserError: The file lacks a picture.
    """

    missing = 0

    def __init__(
        self, extractor: "FeatureExtractor", stored: StoredEmbeddings, pictures: pd.DataFrame
    ) -> None:
        self.extractor, self.stored = extractor, stored
        stored.require(pictures.path.tolist())

    def features(self, pictures: pd.DataFrame, bar: tqdm) -> np.ndarray:
        """Return (N, features_dim) float32 of a block of the pictures, in their order."""
        return self.stored.rows_of(pictures.path.tolist())


Source = FeatureSource | StoredSource


def source_of(extractor: "FeatureExtractor", pictures: pd.DataFrame, view: View) -> Source:
    """Return where the features of some pictures in one view come from; see both classes."""
    backbone = extractor.embedder.backbone
    if isinstance(backbone, StoredEmbeddings):
        return StoredSource(extractor, backbone, pictures)
    return FeatureSource(extractor, pictures, view)


# What decodes and resizes pictures, and what builds and runs backbones: each rounds in its own way.
LIBRARIES = ("pillow", "opencv-python-headless", "torch", "torchvision", "timm", "onnxruntime")


def open_cache(extractor: "FeatureExtractor", plan: Plan, view: View) -> FeatureCache:
    """Open the cache of the features computed in one way; its key is all but the picture.

    Args:
        extractor: The backbone and the folder of the cache.
        plan: How the backbone runs.
        view: How the pictures are shown.
    """
    about = {
        "backbone": extractor.embedder.name,
        "weights": extractor.embedder.weights_id,
        "preprocessing": extractor.embedder.preprocessing.key,
        "faces": detection_recipe(extractor.finder) if extractor.crop.kind != "none" else "",
        "view": str(view),
        "libraries": {name: version(name) for name in LIBRARIES},
        "instructions": torch.backends.cpu.get_cpu_capability() if plan.device == "cpu" else "",
        **asdict(plan),
    }
    return FeatureCache(
        extractor.cache, extractor.embedder.name, about, extractor.embedder.features_dim
    )
