"""Pictures -> embeddings: decoded on all cores while the model works, every picture once ever.

An embedding depends on the picture's content, the preprocessing, the weights and the engine, and on
nothing else: it is the same whichever pictures shared its batch and whatever was in the cache.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
from PIL import Image, ImageOps
from tqdm import tqdm

from cache import FeatureCache
from config import EmbedSettings, UserError
from crops import detect
from data import WORKERS, augment, count_pictures, read_known_picture, truncated_pictures
from engine import Engine, Plan, build_engine, plans
from faces import Crop, Face, crop_kind, load_detector, pixels_needed
from model import Embedder, one_thread, project_rows
from onnx_models import OnnxBackbone
from runs import Run, log, pace

AHEAD = 96  # pictures decoded and waiting: enough that the engine never waits, little memory


@dataclass(frozen=True)
class View:
    """How pictures are shown to the backbone: as they are, mirrored, larger or smaller, or one of
    several augmented ways."""

    number: int = 0
    seed: int = 0
    augmented: bool = False
    mirrored: bool = False
    scale: float = 1.0

    def __str__(self) -> str:
        """What the cache knows it by."""
        if self.augmented:
            return f"augmented {self.number}, seed {self.seed}"
        name = "mirrored" if self.mirrored else "plain"
        return name if self.scale == 1 else f"{name}, scale {self.scale}"


PLAIN = View()


@dataclass(frozen=True)
class Embedding:
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

    @property
    def views(self) -> list[View]:
        """All that an embedding is the sum of."""
        sides = (False, True) if self.flip else (False,)
        return [View(mirrored=side, scale=scale) for scale in self.scales for side in sides]

    @property
    def plans(self) -> list[Plan]:
        """The ways to run the backbone, the best first; an ONNX file has a runtime of its own."""
        mode = "off" if isinstance(self.embedder.backbone, OnnxBackbone) else self.compile
        return plans(mode, self.total)

    @property
    def crop(self) -> Crop:
        """What of a picture the embedder sees."""
        return self.embedder.preprocessing.crop

    def faces(self, pictures: pd.DataFrame) -> dict[str, Face]:
        """{content: face} of catalogue rows; empty where the embedder sees whole pictures."""
        if self.crop.kind == "none":
            return {}
        return detect(pictures, self.root, self.cache, load_detector(self.detector, self.cache))


def flips(asked: EmbedSettings) -> bool:
    """Whether mirror images are embedded too; `auto` is for faces."""
    return asked.flip == "on" or (asked.flip == "auto" and crop_kind(asked) != "none")


def run_embedding(run: Run, embedder: Embedder) -> Embedding:
    """How a run embeds its pictures with this embedder. Raises: see embedding_of."""
    return embedding_of(run.settings.embed, embedder, run.data, run.cache, count_pictures(run))


def embedding_of(
    asked: EmbedSettings, embedder: Embedder, root: Path, cache: Path, total: int
) -> Embedding:
    """How the settings have pictures embedded; the rest is as in Embedding.

    Raises:
        UserError: a scale below 1 where there is nothing around what the backbone sees.
    """
    if crop_kind(asked) == "none" and min(asked.scales) < 1:
        raise UserError(
            f"--scales {min(asked.scales)}: a whole picture has nothing around it that a scale "
            "below 1 could show; name scales from 1, or crop faces (--crop aligned)"
        )
    how = (asked.compile, total, asked.detector, flips(asked), asked.scales)
    return Embedding(embedder, root, cache, *how)


def embed(job: Embedding, pictures: pd.DataFrame) -> np.ndarray:
    """(N, dim) float32 unit rows for N catalogue rows, in their order. See `embed_features`.

    Where there are several views (`job.views`), a row is the sum of theirs, brought to length 1.
    """
    return embed_views(job, lambda view: embed_features(job, pictures, view))


def embed_faces(job: Embedding, image: Image.Image, faces: Sequence[Face]) -> np.ndarray:
    """(n, dim) float32 unit rows of n faces in one RGB picture, as `embed` makes them of a picture
    with one face, to within 1e-4.

    In plain PyTorch, a face at a time, and not cached: so few are not worth compiling for. On one
    thread, since several that wait for each other at every layer of one face are slower on a busy
    machine, twenty times on two busy cores.
    """
    engine = build_engine(plans("off", 0)[0], job.embedder, job.cache)
    wants = job.embedder.preprocessing

    def features(view: View) -> np.ndarray:
        crops = [wants.take(image, face, view.scale) for face in faces]
        shown = [wants.resize(show(crop, view)).copy() for crop in crops]
        rows = list(engine.features(pixels[None] for pixels in shown))
        return np.concatenate([np.zeros((0, job.embedder.features_dim), np.float32), *rows])

    with one_thread():
        return embed_views(job, features)


def embed_views(job: Embedding, features: Callable[[View], np.ndarray]) -> np.ndarray:
    """Unit rows from the features of all views, summed."""
    first, *others = job.views
    rows = project_rows(job.embedder, features(first))
    for view in others:
        rows += project_rows(job.embedder, features(view))
    if others:
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows


def embed_features(job: Embedding, pictures: pd.DataFrame, view: View = PLAIN) -> np.ndarray:
    """(N, features_dim) float32: the backbone's features of N catalogue rows, in their order.

    pictures: rows with `path` and `content` that can be read; those whose features are cached are
        not opened.

    Raises:
        UserError: a picture has changed or gone since the catalogue was made.
    """
    keys = [bytes.fromhex(content) for content in pictures.content]
    for plan in job.plans:
        store = open_cache(job, plan, view)
        missing = store.missing(keys)
        if not missing:
            break
        try:
            engine = build_engine(plan, job.embedder, job.cache)
        except Exception as error:  # compilers raise what they like
            log.warning("warning: no %s for %s (%s)", plan, job.embedder.name, error)
            continue
        _fill(store, engine, plan, job, pictures.iloc[missing], view)
        break
    return store.rows(keys)


def open_cache(job: Embedding, plan: Plan, view: View) -> FeatureCache:
    """The cache of all that was made in this way: everything but the picture is its key."""
    about = {
        "backbone": job.embedder.name,
        "weights": job.embedder.weights_id,
        "preprocessing": str(job.embedder.preprocessing),
        "faces": job.detector if job.crop.kind != "none" else "",
        "view": str(view),
        "pillow": PIL.__version__,
        **asdict(plan),
    }
    return FeatureCache(job.cache, job.embedder.name, about, job.embedder.features_dim)


def _fill(
    store: FeatureCache,
    engine: Engine,
    plan: Plan,
    job: Embedding,
    pictures: pd.DataFrame,
    view: View,
) -> None:
    """Embeds the pictures into the store; what is embedded when an error comes is kept."""
    faces = job.faces(pictures)
    files = [(job.root / path, c) for path, c in zip(pictures.path, pictures.content, strict=True)]
    start, done = time.perf_counter(), 0
    try:
        with tqdm(total=len(files), desc=f"embedding ({view})", unit=" pictures") as bar:
            for rows in engine.features(batches(files, faces, job.embedder, view, plan.batch)):
                if not np.isfinite(rows).all():
                    raise UserError(f"{job.embedder.name} makes embeddings that are not finite")
                contents = [content for _, content in files[done : done + len(rows)]]
                store.add([bytes.fromhex(c) for c in contents], rows[: len(contents)])
                done += len(contents)
                bar.update(len(contents))
    finally:
        store.flush()
    pace.pictures += done
    pace.seconds += time.perf_counter() - start
    log.info("embedded %d pictures by %s, %s a second", done, plan, pace.rate())


def batches(
    files: Sequence[tuple[Path, str]],
    faces: Mapping[str, Face],
    embedder: Embedder,
    view: View,
    size: int,
) -> Iterator[np.ndarray]:
    """(size, side, side, 3) uint8 batches of the files in order, the last one filled up with zeros.

    files: (path, content hash) pairs. faces: by content, where the embedder wants them.

    Threads decode ahead of the model: Pillow lets go of the interpreter while it works, and threads
    share memory where processes would copy it.
    """

    def load(file: tuple[Path, str]) -> np.ndarray:
        return load_pixels(*file, faces.get(file[1]), embedder, view)

    def stack(waiting: Sequence[Future[np.ndarray]]) -> np.ndarray:
        batch = np.zeros((size, embedder.side, embedder.side, 3), np.uint8)
        for i, future in enumerate(waiting):
            batch[i] = future.result()
        return batch

    pool = ThreadPoolExecutor(WORKERS)
    waiting: deque[Future[np.ndarray]] = deque()
    with truncated_pictures(True):
        try:
            for file in files:
                waiting.append(pool.submit(load, file))
                if len(waiting) >= max(AHEAD, 2 * size):
                    yield stack([waiting.popleft() for _ in range(size)])
            while waiting:
                yield stack([waiting.popleft() for _ in range(min(size, len(waiting)))])
        finally:
            pool.shutdown(cancel_futures=True)


def load_pixels(
    path: Path, content: str, face: Face | None, embedder: Embedder, view: View
) -> np.ndarray:
    """One picture, or the crop of its face, as (side, side, 3) uint8.

    Raises:
        UserError: the file is not the one that the catalogue knows.
    """
    side = embedder.side * view.scale
    least = ceil(side) if face is None else pixels_needed(face, side)
    image = read_known_picture(path, content, least)
    image = embedder.preprocessing.take(image, face, view.scale)
    if view.augmented:
        image = augment(image, np.random.default_rng([view.seed, view.number, int(content, 16)]))
    return embedder.preprocessing.resize(show(image, view))


def show(image: Image.Image, view: View) -> Image.Image:
    """A picture, augmented already where the view is, or its mirror image."""
    return ImageOps.mirror(image) if view.mirrored else image
