"""Pictures -> embeddings: decoded on all cores while the model works, every picture once ever.

An embedding depends on the picture's content, the preprocessing, the weights and the engine, and on
nothing else: it is the same whichever pictures shared its batch and whatever was in the cache.
Pictures go through in blocks, and what is made of many lies on the disk: a million take no more
memory than ten thousand.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile

import cv2
import numpy as np
import pandas as pd
import PIL
import torch
from PIL import Image
from tqdm import tqdm

from lookalike.core.cache import FeatureCache, keys_of
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash
from lookalike.core.log import log
from lookalike.core.numeric import blocks, one_thread, unit
from lookalike.core.runs import Pace, Run
from lookalike.core.settings import EmbedSettings
from lookalike.data.catalogue import load_full_catalogue
from lookalike.faces.dataset import detect, way_to_find
from lookalike.faces.detection import Detector, load_detector
from lookalike.faces.geometry import Crop, Face, crop_kind
from lookalike.features.engine import Engine, Plan, build_engine, plans
from lookalike.features.loader import PLAIN, View, batches, show
from lookalike.models.checkpoints import load_model
from lookalike.models.embedder import Embedder, project_rows
from lookalike.models.onnx_models import OnnxBackbone

IN_MEMORY = 1 << 24  # bytes of the embeddings that are held in memory; more lie on the disk


@dataclass(frozen=True)
class FeatureExtractor:
    """What embedding needs to know besides the pictures.

    root: the data set's folder. cache: the folder of the cache. compile: auto, on or off.
    total: number of pictures of the whole run, which decides whether compiling pays. detector: what
    finds faces, where the embedder wants them. flip: whether the mirror image counts too. scales:
    how large a picture is shown, one view for each.
    """

    embedder: Embedder
    root: Path
    cache: Path
    compile: str = "auto"
    total: int = 0
    detector: str = "yunet"
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    pace: Pace = field(default_factory=Pace, repr=False, compare=False)
    _engines: dict[Plan, Engine] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def views(self) -> list[View]:
        """All that an embedding is the sum of."""
        sides = (False, True) if self.flip else (False,)
        return [View(mirrored=mirrored, scale=scale) for scale in self.scales for mirrored in sides]

    @property
    def plans(self) -> list[Plan]:
        """The ways to run the backbone, the best first; an ONNX file has a runtime of its own."""
        mode = "off" if isinstance(self.embedder.backbone, OnnxBackbone) else self.compile
        return plans(mode, self.total)

    def engine(self, plan: Plan) -> Engine:
        """The engine of a plan, made once. Raises: see build_engine."""
        if plan not in self._engines:
            self._engines[plan] = build_engine(plan, self.embedder, self.cache)
        return self._engines[plan]

    @property
    def crop(self) -> Crop:
        """What of a picture the embedder sees."""
        return self.embedder.preprocessing.crop

    def faces(self, pictures: pd.DataFrame) -> dict[str, Face]:
        """{content: face} of catalogue rows; empty where the embedder sees whole pictures."""
        if self.crop.kind == "none":
            return {}
        return detect(pictures, self.root, self.cache, self.finder)

    @cached_property
    def finder(self) -> Detector:
        """What finds faces, ready. Raises: see load_detector."""
        return load_detector(self.detector, self.cache)


def flips(settings: EmbedSettings) -> bool:
    """Whether mirror images are embedded too; `auto` is for faces."""
    return settings.flip == "on" or (settings.flip == "auto" and crop_kind(settings) != "none")


def extractor_for(run: Run, embedder: Embedder) -> FeatureExtractor:
    """How a run embeds its pictures with this embedder. Raises: see embedding_of."""
    extractor = make_extractor(
        run.settings.embed, embedder, run.data, run.cache, len(load_full_catalogue(run.folder))
    )
    return replace(extractor, pace=run.session.pace)


def make_extractor(
    settings: EmbedSettings, embedder: Embedder, root: Path, cache: Path, total: int
) -> FeatureExtractor:
    """How the settings have pictures embedded; the rest is as in Embedding.

    Raises:
        UserError: a scale below 1 where there is nothing around what the backbone sees.
    """
    if crop_kind(settings) == "none" and min(settings.scales) < 1:
        raise UserError(
            f"--scales {min(settings.scales)}: a whole picture has nothing around it that a scale "
            "below 1 could show; name scales from 1, or crop faces (--crop aligned)"
        )
    how = (settings.compile, total, settings.detector, flips(settings), settings.scales)
    return FeatureExtractor(embedder, root, cache, *how)


def embed(extractor: FeatureExtractor, pictures: pd.DataFrame) -> np.ndarray:
    """(N, dim) float32 unit rows for N catalogue rows, in their order. See `embed_features`.

    Where there are several views (`job.views`), a row is the sum of theirs, brought to length 1.
    """
    dim = extractor.embedder.dim
    return _in_blocks(
        extractor, pictures, extractor.views, dim, lambda all: sum_views(extractor.embedder, all)
    )


def embed_features(
    extractor: FeatureExtractor, pictures: pd.DataFrame, view: View = PLAIN
) -> np.ndarray:
    """(N, features_dim) float32: the backbone's features of N catalogue rows, in their order.

    pictures: rows with `path` and `content` that can be read; those whose features are cached are
        not opened.

    Raises:
        UserError: a picture has changed or gone since the catalogue was made.
    """
    return _in_blocks(extractor, pictures, [view], extractor.embedder.features_dim, next)


def embed_faces(
    extractor: FeatureExtractor, image: Image.Image, faces: Sequence[Face]
) -> np.ndarray:
    """(n, dim) float32 unit rows of n faces in one RGB picture, as `embed` makes them of a picture
    with one face, to within 1e-4.

    In plain PyTorch, a face at a time, and not cached: so few are not worth compiling for. On one
    thread, since several that wait for each other at every layer of one face are slower on a busy
    machine, twenty times on two busy cores.
    """
    engine = extractor.engine(plans("off", 0)[0])
    preprocessing, seen = extractor.embedder.preprocessing, np.array(image)

    def features(view: View) -> np.ndarray:
        crops = [preprocessing.take(seen, face, view.scale) for face in faces]
        shown = [preprocessing.resize(show(crop, view)) for crop in crops]
        rows = list(engine.features(pixels[None] for pixels in shown))
        return np.concatenate([np.zeros((0, extractor.embedder.features_dim), np.float32), *rows])

    with one_thread():
        return sum_views(extractor.embedder, map(features, extractor.views))


def sum_views(embedder: Embedder, features: Iterator[np.ndarray]) -> np.ndarray:
    """(N, dim) unit rows from the (N, features_dim) features of every view, summed."""
    rows = project_rows(embedder, next(features))
    alone = True
    for others in features:
        rows += project_rows(embedder, others)
        alone = False
    return rows if alone else unit(rows)


# ---- from the cache, or by the backbone ---------------------------------------------------------


def _in_blocks(
    extractor: FeatureExtractor,
    pictures: pd.DataFrame,
    views: Sequence[View],
    dim: int,
    combine: Callable[[Iterator[np.ndarray]], np.ndarray],
) -> np.ndarray:
    """(N, dim) rows: what `combine` makes of each block's features in all views."""
    out = large_array(extractor.cache, len(pictures), dim)
    sources = [Source(extractor, pictures, view) for view in views]
    total = sum(source.missing for source in sources)
    with tqdm(total=total, desc="embedding", unit=" pictures", disable=not total) as bar:
        for block in blocks(len(pictures)):
            rows = pictures.iloc[block]
            out[block] = combine(source.features(rows, bar) for source in sources)
    if total:
        log.info(
            "embedded %d pictures by %s, %s a second", bar.n, sources[0].plan, extractor.pace.rate()
        )
    return out


def large_array(folder: Path, rows: int, dim: int) -> np.ndarray:
    """A (rows, dim) float32 array to be filled: in memory, or, where it is large, in a nameless
    file in the folder, which goes with the array."""
    if rows * dim * 4 <= IN_MEMORY:
        return np.empty((rows, dim), np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder) as stream:
        return np.memmap(stream, np.float32, "w+", shape=(rows, dim)).view(np.ndarray)


class Source:
    """Where the features of some pictures, seen in one way, come from: the cache, and the backbone
    for what it lacks.

    missing: number of pictures that the cache lacks. plan: how the backbone runs.
    """

    def __init__(self, extractor: FeatureExtractor, pictures: pd.DataFrame, view: View) -> None:
        """Takes the best plan that has made all of the pictures already, or whose engine works."""
        self.extractor, self.view = extractor, view
        for plan in extractor.plans:
            self.plan, self.store = plan, open_cache(extractor, plan, view)
            parts = (keys_of(pictures.content.iloc[block]) for block in blocks(len(pictures)))
            self.missing = sum(len(self.store.missing(keys)) for keys in parts)
            if not self.missing or self._works(plan):
                break

    def _works(self, plan: Plan) -> bool:
        try:
            self.extractor.engine(plan)
        except Exception as error:  # compilers raise what they like
            log.warning("warning: no %s for %s (%s)", plan, self.extractor.embedder.name, error)
            return False
        return True

    def features(self, pictures: pd.DataFrame, bar: tqdm) -> np.ndarray:
        """(N, features_dim) of a block of the pictures, in their order."""
        keys = keys_of(pictures.content)
        if self.missing:
            missing = self.store.missing(keys)
            self._fill(pictures.iloc[missing], keys[missing], bar)
        return self.store.rows(keys)

    def _fill(self, pictures: pd.DataFrame, keys: np.ndarray, bar: tqdm) -> None:
        """Embeds the pictures into the store; what is embedded when an error comes is kept."""
        if pictures.empty:
            return
        extractor, faces = self.extractor, self.extractor.faces(pictures)
        paths = (extractor.root / path for path in pictures.path)
        files = list(zip(paths, pictures.content, strict=True))
        pixels = batches(files, faces, extractor.embedder.preprocessing, self.view, self.plan.batch)
        start, done = time.perf_counter(), 0
        try:
            for rows in extractor.engine(self.plan).features(pixels):
                if not np.isfinite(rows).all():
                    raise UserError(
                        f"{extractor.embedder.name} makes embeddings that are not finite"
                    )
                count = min(len(rows), len(keys) - done)
                self.store.add(keys[done : done + count], rows[:count])
                done += count
                bar.update(count)
        finally:
            self.store.flush()
        extractor.pace.pictures += done
        extractor.pace.seconds += time.perf_counter() - start


def open_cache(extractor: FeatureExtractor, plan: Plan, view: View) -> FeatureCache:
    """The cache of all that was made in this way: everything but the picture is its key."""
    about = {
        "backbone": extractor.embedder.name,
        "weights": extractor.embedder.weights_id,
        "preprocessing": extractor.embedder.preprocessing.key,
        "faces": way_to_find(extractor.finder) if extractor.crop.kind != "none" else "",
        "view": str(view),
        "pixels": f"pillow {PIL.__version__}, opencv {cv2.__version__}, torch {torch.__version__}",
        **asdict(plan),
    }
    return FeatureCache(
        extractor.cache, extractor.embedder.name, about, extractor.embedder.features_dim
    )


def trained_extractor(run: Run) -> FeatureExtractor:
    """The run's trained model, ready to embed the run's pictures.

    The last one is kept: the stages that embed share it, since to load and to compile a backbone
    takes seconds. Raises: see load_model.
    """
    settings, model = run.settings.embed, run.path("model.safetensors")
    files = (model, Path(settings.weights or ""))
    state = (run.folder.resolve(), run.data, run.cache, settings, *map(file_hash, files))
    key = " ".join(map(str, state))
    loaded: dict[str, FeatureExtractor] = run.session.extractors
    if key not in loaded:
        loaded.clear()
        loaded[key] = extractor_for(run, load_model(model, settings, run.cache))
    return loaded[key]
