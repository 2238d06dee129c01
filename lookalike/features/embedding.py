"""Embed pictures: the features of each view from the cache or the backbone, summed up.

    embeddings = embed(extractor, pictures)             # (N, dim) float32, of length 1
    features = embed_features(extractor, pictures)      # (N, features_dim), of one view

Pictures are processed in blocks, and large results are stored in a file: a million take no more
memory than ten thousand.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from lookalike.core.files import reserve_open
from lookalike.core.log import log
from lookalike.core.numeric import blocks, one_thread, unit
from lookalike.faces.geometry import Face
from lookalike.features.engine import plans
from lookalike.features.loader import PLAIN, View
from lookalike.features.source import FeatureSource, Source, source_of
from lookalike.models.embedder import Embedder, project_rows

if TYPE_CHECKING:
    from lookalike.features.extractor import Extractor, FeatureExtractor

IN_MEMORY = 1 << 24  # bytes; larger results are stored in a file


def embed(extractor: "Extractor", pictures: pd.DataFrame, shown: bool = True) -> np.ndarray:
    """Embed catalogue rows, from the cache where it has their features.

    Where there are several views (`extractor.views`), a row is the sum of their embeddings, scaled
    to length 1; so are the concatenated rows of several extractors.

    Args:
        extractor: The backbone, its views and the cache.
        pictures: N rows with `path` and `content` that can be read.
        shown: Whether a bar and a line tell of the work.

    Returns:
        (N, dim) float32 rows of length 1, in the order of the pictures.

    Raises:
        UserError: A file is gone, has changed since it was hashed, or cannot be decoded.
    """
    members = extractor.members
    sources = [[source_of(member, pictures, view) for view in member.views] for member in members]
    with _progress(sources, shown) as bar:
        parts = [
            _in_blocks(pictures, its_sources, member.dim, partial(sum_views, member.embedder), bar)
            for member, its_sources in zip(members, sources, strict=True)
        ]
    if len(parts) == 1:
        return parts[0]
    if extractor.factors:
        parts = [
            part * np.float32(f**0.5) for part, f in zip(parts, extractor.factors, strict=True)
        ]
    return unit(np.concatenate(parts, axis=1))


def count_missing(extractor: "Extractor", pictures: pd.DataFrame) -> int:
    """Count what embedding pictures would compute: each in each view, unless it is cached.

    Args:
        extractor: The backbone, its views and the cache.
        pictures: Rows with `content`.
    """
    views = ((member, view) for member in extractor.members for view in member.views)
    return sum(source_of(member, pictures, view).missing for member, view in views)


def embed_features(
    extractor: "FeatureExtractor", pictures: pd.DataFrame, view: View = PLAIN
) -> np.ndarray:
    """Compute the backbone's features of catalogue rows, from the cache where it has them.

    Args:
        extractor: The backbone and the cache.
        pictures: N rows with `path` and `content` that can be read; a file whose features are
            cached is not opened.
        view: How the pictures are shown.

    Returns:
        (N, features_dim) float32, in the order of the pictures.

    Raises:
        UserError: A file is gone, has changed since it was hashed, or cannot be decoded.
    """
    sources = [source_of(extractor, pictures, view)]
    with _progress([sources]) as bar:
        return _in_blocks(pictures, sources, extractor.embedder.features_dim, next, bar)


def embed_faces(
    extractor: "FeatureExtractor", image: Image.Image, faces: Sequence[Face]
) -> np.ndarray:
    """Embed n faces of one picture, to within 1e-4 of what `embed` makes of each face alone.

    In plain PyTorch, one face at a time, without the cache: so few are not worth compiling for. On
    one thread, since several that wait for each other at every layer of one face are slower on a
    busy machine, twenty times on two busy cores.

    Args:
        extractor: The backbone and its views.
        image: An RGB picture.
        faces: The faces in it.

    Returns:
        (n, dim) float32 rows of length 1.
    """
    engine = extractor.engine(plans("off", 0)[0])
    embedder, pixels = extractor.embedder, np.array(image)
    preprocessing = embedder.preprocessing

    def features(view: View) -> np.ndarray:
        crops = (preprocessing.take(pixels, face, view.scale) for face in faces)
        batches_of_one = (preprocessing.resize(view.orient(crop))[None] for crop in crops)
        none = np.zeros((0, embedder.features_dim), np.float32)
        return np.concatenate([none, *engine.features(batches_of_one)])

    with one_thread():
        return sum_views(embedder, map(features, extractor.views))


def sum_views(embedder: Embedder, features: Iterator[np.ndarray]) -> np.ndarray:
    """Sum up the embeddings of several views.

    Args:
        embedder: Its projection maps features to embeddings.
        features: (N, features_dim) of each view.

    Returns:
        (N, dim) float32 rows of length 1.
    """
    rows = project_rows(embedder, next(features))
    alone = True
    for others in features:
        rows += project_rows(embedder, others)
        alone = False
    return rows if alone else unit(rows)


@contextmanager
def _progress(sources: Sequence[Sequence[Source]], shown: bool = True) -> Iterator[tqdm]:
    """Show one bar for all that the cache lacks, and log at the end how it was made."""
    every = (source for its_sources in sources for source in its_sources)
    parts = [source for source in every if isinstance(source, FeatureSource) and source.missing]
    total = sum(part.missing for part in parts)
    with tqdm(
        total=total, desc="embedding", unit=" pictures", disable=not (total and shown)
    ) as bar:
        yield bar
    if total:
        plan, rate = parts[0].plan, parts[0].extractor.pace.rate()
        how = "embedded %d pictures by %s, %s per second"
        log.log(logging.INFO if shown else logging.DEBUG, how, total, plan, rate)


def _in_blocks(
    pictures: pd.DataFrame,
    sources: Sequence[Source],
    dim: int,
    combine: Callable[[Iterator[np.ndarray]], np.ndarray],
    bar: tqdm,
) -> np.ndarray:
    """Return (N, dim) rows: what `combine` makes of each block's features in all views."""
    out = large_array(sources[0].extractor.cache, len(pictures), dim)
    for block in blocks(len(pictures)):
        rows = pictures.iloc[block]
        out[block] = combine(source.features(rows, bar) for source in sources)
    return out


def large_array(folder: Path, rows: int, dim: int) -> np.ndarray:
    """Return an empty (rows, dim) float32 array.

    A large one is stored in a nameless file in the folder, which is deleted with the array.

    Raises:
        UserError: The disk has no room for it.
    """
    size = rows * dim * 4
    if size <= IN_MEMORY:
        return np.empty((rows, dim), np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder) as stream:
        reserve_open(stream, folder / "embeddings", size)
        return np.memmap(stream, np.float32, "r+", shape=(rows, dim)).view(np.ndarray)
