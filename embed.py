"""Pictures -> embeddings: decoded on all cores while the model works, every picture once ever.

An embedding depends on the picture's content, the transform, the weights and the numerics, and on
nothing else: batches have one fixed shape, so it is the same whichever pictures shared its batch
and whatever was in the cache before.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
import torch
from torch import Tensor
from tqdm import tqdm

from cache import FeatureCache
from config import UserError
from data import WORKERS, augment, content_hash, read_picture, truncated_pictures
from model import Embedder, choose_device, project_rows
from runs import log, pace

BATCH = {"cpu": 32, "cuda": 256}
BATCHES_AHEAD = 3  # decoded and waiting: enough that the model never waits, little memory


@dataclass(frozen=True)
class View:
    """How pictures are shown to the backbone: as they are, or one of several augmented ways."""

    number: int = 0
    seed: int = 0
    augmented: bool = False

    def __str__(self) -> str:
        return f"augmented {self.number}, seed {self.seed}" if self.augmented else "plain"


PLAIN = View()


def embed(embedder: Embedder, pictures: pd.DataFrame, root: Path, cache: Path) -> np.ndarray:
    """(N, dim) float32 unit rows for N catalogue rows, in their order. See `embed_features`."""
    return project_rows(embedder, embed_features(embedder, pictures, root, cache))


def embed_features(
    embedder: Embedder, pictures: pd.DataFrame, root: Path, cache: Path, view: View = PLAIN
) -> np.ndarray:
    """(N, features_dim) float32: the backbone's features of N catalogue rows, in their order.

    pictures: rows with `path` and `content` that can be read.
    root: the data set's folder.
    cache: the folder of the cache; features that it holds are not computed again.

    Raises:
        UserError: a picture has changed or gone since the catalogue was made.
    """
    device = choose_device()
    store = FeatureCache(cache, embedder.name, about(embedder, view, device), embedder.features_dim)
    keys = [bytes.fromhex(content) for content in pictures.content]
    missing = store.missing(keys)
    if missing:
        embedder.to(memory_format=torch.channels_last).to(device)
        _fill(store, embedder, pictures.iloc[missing], root, view, device)
    return store.rows(keys)


def _fill(
    store: FeatureCache,
    embedder: Embedder,
    pictures: pd.DataFrame,
    root: Path,
    view: View,
    device: torch.device,
) -> None:
    """Embeds the pictures into the store; what is embedded when an error comes is kept."""
    files = [(root / path, c) for path, c in zip(pictures.path, pictures.content, strict=True)]
    start, done = time.perf_counter(), 0
    try:
        with tqdm(total=len(files), desc=f"embedding ({view})", unit=" pictures") as bar:
            for batch in batches(files, embedder, view, BATCH[device.type]):
                rows = forward(embedder, batch, device)[: len(files) - done]
                contents = [content for _, content in files[done : done + len(rows)]]
                store.add([bytes.fromhex(content) for content in contents], rows)
                done += len(rows)
                bar.update(len(rows))
    finally:
        store.flush()
    pace.pictures += done
    pace.seconds += time.perf_counter() - start
    log.info("embedded %d pictures on %s, %s a second", done, device, pace.rate())


def about(embedder: Embedder, view: View, device: torch.device) -> dict[str, str | int]:
    """Everything besides the picture that an embedding depends on: the cache's key."""
    return {
        "backbone": embedder.name,
        "weights": embedder.weights_id,
        "transform": repr(embedder.transform),
        "view": str(view),
        "device": device.type,
        "precision": precision(device),
        "batch": BATCH[device.type],
        "torch": torch.__version__,
        "pillow": PIL.__version__,
    }


def precision(device: torch.device) -> str:
    """Half precision where there is hardware for it."""
    return "float16" if device.type == "cuda" else "float32"


def forward(embedder: Embedder, batch: Tensor, device: torch.device) -> np.ndarray:
    """One batch through the backbone, as float32."""
    half = torch.autocast("cuda", torch.float16) if device.type == "cuda" else nullcontext()
    with torch.inference_mode(), half:
        batch = batch.to(device, memory_format=torch.channels_last, non_blocking=True)
        features: np.ndarray = embedder.features(batch).float().cpu().numpy()
    return features


def batches(
    files: Sequence[tuple[Path, str]], embedder: Embedder, view: View, size: int
) -> Iterator[Tensor]:
    """(size, 3, side, side) tensors of the files in order, the last one filled up with zeros.

    files: (path, content hash) pairs. Threads decode ahead of the model: Pillow lets go of the
    interpreter while it works, and threads share memory where processes would copy it.
    """

    def load(file: tuple[Path, str]) -> Tensor:
        return load_tensor(*file, embedder, view)

    def stack(waiting: Sequence[Future[Tensor]]) -> Tensor:
        batch = torch.zeros(size, 3, embedder.side, embedder.side)
        for i, future in enumerate(waiting):
            batch[i] = future.result()
        return batch

    pool = ThreadPoolExecutor(WORKERS)
    ahead: deque[list[Future[Tensor]]] = deque()
    with truncated_pictures(True):
        try:
            for start in range(0, len(files), size):
                ahead.append([pool.submit(load, file) for file in files[start : start + size]])
                if len(ahead) > BATCHES_AHEAD:
                    yield stack(ahead.popleft())
            while ahead:
                yield stack(ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def load_tensor(path: Path, content: str, embedder: Embedder, view: View) -> Tensor:
    """One picture as the backbone wants it.

    Raises:
        UserError: the file is not the one that the catalogue knows.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} has gone since --stage split: run it again") from error
    if content_hash(raw) != content:
        raise UserError(f"{path} has changed since --stage split: run it again")
    try:
        image = read_picture(raw, embedder.side)
    except Exception as error:  # what Pillow raises for a damaged file is not documented
        raise UserError(f"{path} cannot be decoded ({error}): take it out of the data") from error
    if view.augmented:
        image = augment(image, np.random.default_rng([view.seed, view.number, int(content, 16)]))
    return embedder.transform(image)
