"""Seconds of embedding a folder of pictures with EfficientNet-Lite0, decoding included.

    python -m benchmarks.embedding --pictures pictures.csv --root ../shared/data/lfw62 --cache empty

Timed from inside: without starting Python, importing PyTorch and loading the weights, with the time
to compile where the cache holds no compiled model. Prints JSON. `beside_the_model` is a
row of run.py of its own.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from benchmarks.rows import Given, Row, in_turns, seconds
from data import content_hash
from data_extraction import class_folders
from embed import Embedding, embed
from model import load_embedder
from pixels import PLAIN, batches

BACKBONE = "efficientnet_lite0"


def list_pictures(given: Given) -> pd.DataFrame:
    """path and content of LFW62's pictures; of a part, evenly from all people."""
    folders = class_folders(given.source)
    paths = [f"{name}/{picture}" for name, found in folders.items() for picture in found]
    if given.pictures is not None:
        chosen = np.linspace(0, len(paths), min(given.pictures, len(paths)), endpoint=False)
        paths = [paths[int(i)] for i in chosen]
    contents = [content_hash((given.source / path).read_bytes()) for path in paths]
    return pd.DataFrame({"path": paths, "content": contents})


def beside_the_model(given: Given) -> list[Row]:
    """Embedding beside the model alone: the same compiled engine on pixels in memory."""
    pictures, cache = list_pictures(given), given.out / "cache-of-limit"
    embedder = load_embedder(BACKBONE, cache=cache)
    job = Embedding(embedder, given.source, cache, "on", len(pictures))
    plan = job.plans[0]
    engine = job.engine(plan)  # the job keeps it
    files = [(given.source / p, c) for p, c in zip(pictures.path, pictures.content, strict=True)]
    pixels = list(batches(files, {}, embedder.preprocessing, PLAIN, plan.batch))

    def whole() -> float:
        for features in cache.glob(f"{BACKBONE}-*"):
            shutil.rmtree(features)
        return len(pictures) / seconds(lambda: embed(job, pictures))()

    def alone() -> float:
        return len(pictures) / seconds(lambda: list(engine.features(pixels)))()

    ours, limit = in_turns((whole, alone), given.repeats)
    what = f"pictures/s, {len(pictures)} of LFW62, {BACKBONE}, decoding included"
    remark = (
        f"{plan}, batch {plan.batch}, compiled beforehand; an empty cache each time; one warm-up"
    )
    name = "`embed`", "the same engine on pixels in memory"
    return [Row(what, name[0], name[1], "pictures/s", 0.85, ours, limit, remark)]


def time_once(root: Path, pictures: pd.DataFrame, cache: Path) -> dict[str, float]:
    """Seconds of one embedding of all pictures, compiling included, and of that alone."""
    embedder = load_embedder(BACKBONE, cache=cache)
    job = Embedding(embedder, root, cache, "auto", len(pictures))
    start = time.perf_counter()
    job.engine(job.plans[0])
    compiled = time.perf_counter()
    embed(job, pictures)
    return {"seconds": time.perf_counter() - start, "compiling": compiled - start}


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="CSV: path, content")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    pictures = pd.read_csv(given.pictures, dtype=str)
    taken = []
    for _ in range(given.repeats):
        with tempfile.TemporaryDirectory(dir=given.cache) as empty:
            taken.append(time_once(given.root, pictures, Path(empty)))
    print(json.dumps({name: median(one[name] for one in taken) for name in taken[0]}))


if __name__ == "__main__":
    main()
