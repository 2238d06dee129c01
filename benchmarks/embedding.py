"""How long does it take to embed a folder of pictures with EfficientNet-Lite0?

    python -m benchmarks.embedding --pictures pictures.csv --root $DATA/lfw62 --cache empty

Timed inside the process, decoding included: without starting Python, importing PyTorch and loading
the weights, with the time to compile where the cache holds no compiled model. Prints JSON.
`beside_the_model` is a row of run.py.
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

from benchmarks.rows import BenchmarkSettings, Row, in_turns, seconds
from lookalike.data.images import content_hash
from lookalike.data.layout import class_folders
from lookalike.features.embedding import embed
from lookalike.features.extractor import FeatureExtractor
from lookalike.features.loader import PLAIN, load_batches
from lookalike.models.embedder import load_embedder

BACKBONE = "efficientnet_lite0"


def list_pictures(arguments: BenchmarkSettings) -> pd.DataFrame:
    """Return path and content of LFW62's pictures; of fewer, evenly from all identities."""
    folders = class_folders(arguments.source)
    paths = [f"{name}/{picture}" for name, found in folders.items() for picture in found]
    if arguments.pictures is not None:
        chosen = np.linspace(0, len(paths), min(arguments.pictures, len(paths)), endpoint=False)
        paths = [paths[int(i)] for i in chosen]
    contents = [content_hash((arguments.source / path).read_bytes()) for path in paths]
    return pd.DataFrame({"path": paths, "content": contents})


def beside_the_model(arguments: BenchmarkSettings) -> list[Row]:
    """Compare embedding with the model alone: the same compiled engine on pixels in memory."""
    pictures, cache = list_pictures(arguments), arguments.out / "cache-of-limit"
    embedder = load_embedder(BACKBONE, cache=cache)
    extractor = FeatureExtractor(embedder, arguments.source, cache, "on", len(pictures))
    plan = extractor.plans[0]
    engine = extractor.engine(plan)  # compiled now, and kept by the extractor
    files = [
        (arguments.source / p, c) for p, c in zip(pictures.path, pictures.content, strict=True)
    ]
    pixels = list(load_batches(files, {}, embedder.preprocessing, PLAIN, plan.batch))

    def whole() -> float:
        for features in cache.glob(f"{BACKBONE}-*"):
            shutil.rmtree(features)
        return len(pictures) / seconds(lambda: embed(extractor, pictures))()

    def alone() -> float:
        return len(pictures) / seconds(lambda: list(engine.features(pixels)))()

    ours, limit = in_turns((whole, alone), arguments.repeats)
    what = f"pictures/s, {len(pictures)} of LFW62, {BACKBONE}, decoding included"
    remark = f"{plan}, compiled beforehand; an empty cache each time; one warm-up"
    other = "the same engine on pixels in memory"
    return [Row(what, "`embed`", other, "pictures/s", 0.85, ours, limit, remark)]


def time_once(root: Path, pictures: pd.DataFrame, cache: Path) -> dict[str, float]:
    """Return the seconds to embed all pictures, compiling included, and to compile alone."""
    embedder = load_embedder(BACKBONE, cache=cache)
    extractor = FeatureExtractor(embedder, root, cache, "auto", len(pictures))
    start = time.perf_counter()
    extractor.engine(extractor.plans[0])
    compiled = time.perf_counter()
    embed(extractor, pictures)
    return {"seconds": time.perf_counter() - start, "compiling": compiled - start}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="CSV: path, content")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    pictures = pd.read_csv(arguments.pictures, dtype=str)
    times = []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory(dir=arguments.cache) as empty:
            times.append(time_once(arguments.root, pictures, Path(empty)))
    print(json.dumps({name: median(one[name] for one in times) for name in times[0]}))


if __name__ == "__main__":
    main()
