"""Does SFace as a torch module compute what ONNX Runtime does, and how fast?

    python -m benchmarks.sface --data $DATA/lfw62

On aligned faces of the first pictures of the data set, in memory. ONNX Runtime takes one at a time,
as the file requires; the torch module runs in batches, by the engines that embed.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from PIL import Image
from tabulate import tabulate

from lookalike.core.carriers import CARRIERS, carried_file
from lookalike.core.files import files_below
from lookalike.core.settings import EmbedSettings
from lookalike.faces.detection import find_face, load_detector
from lookalike.features.engine import build_engine, plans
from lookalike.models.embedder import Embedder, embedder_of

Run = Callable[[np.ndarray], np.ndarray]


def by_onnx_runtime(cache: Path) -> Run:
    """Return a function from aligned faces (N, 112, 112, 3) uint8 to (N, 128), one at a time."""
    model = onnx.load(carried_file(CARRIERS["sface"], cache))
    # The file lists its weights as inputs too, which ONNX Runtime would not treat as constants.
    pictures = next(entry for entry in model.graph.input if entry.name == "data")
    del model.graph.input[:]
    model.graph.input.append(pictures)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)

    def run(faces: np.ndarray) -> np.ndarray:
        values = faces.transpose(0, 3, 1, 2).astype(np.float32)  # the file normalizes itself
        return np.concatenate([session.run(None, {"data": value[None]})[0] for value in values])

    return run


def by_engine(embedder: Embedder, mode: str, cache: Path) -> Run:
    """Return a function from aligned faces to (N, 128), by the torch module in batches.

    Args:
        embedder: SFace.
        mode: `on` or `off` to compile or not.
        cache: Folder for compiled models.
    """
    plan = plans(mode, 0)[0]
    engine = build_engine(plan, embedder, cache)

    def run(faces: np.ndarray) -> np.ndarray:
        short = -len(faces) % plan.batch
        padded = np.concatenate([faces, np.zeros((short, *faces.shape[1:]), np.uint8)])
        parts = np.split(padded, len(padded) // plan.batch)
        return np.concatenate(list(engine.features(parts)))[: len(faces)]

    return run


def aligned_faces(root: Path, count: int, embedder: Embedder, cache: Path) -> np.ndarray:
    """Return (count, 112, 112, 3) uint8 from the first pictures of a data set."""
    detector = load_detector("yunet", cache)
    images = [Image.open(path).convert("RGB") for path in files_below(root)[:count]]
    take = embedder.preprocessing.take
    return np.stack([take(np.array(image), find_face(image, detector)) for image in images])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--faces", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    arguments = parser.parse_args()
    embedder = embedder_of(EmbedSettings("sface"), arguments.cache)
    faces = aligned_faces(arguments.data, arguments.faces, embedder, arguments.cache)
    programs = {
        "ONNX Runtime, one at a time": by_onnx_runtime(arguments.cache),
        "ours, PyTorch": by_engine(embedder, "off", arguments.cache),
        "ours, compiled": by_engine(embedder, "on", arguments.cache),
    }
    expected = programs["ONNX Runtime, one at a time"](faces)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    difference = {
        name: float(np.abs(run(faces) - expected).max()) for name, run in programs.items()
    }
    for _ in range(arguments.repeats):  # in turns, so that a busy moment slows all alike
        for name, run in programs.items():
            start = time.perf_counter()
            run(faces)
            seconds[name].append(time.perf_counter() - start)
    median = {name: float(np.median(times)) for name, times in seconds.items()}
    first = median["ONNX Runtime, one at a time"]
    rows = [
        (name, f"{len(faces) / total:.1f}", f"{first / total:.2f}", f"{difference[name]:.1e}")
        for name, total in median.items()
    ]
    heads = ["SFace", "faces/s", "times ONNX Runtime", "largest difference"]
    print(tabulate(rows, heads, disable_numparse=True))


if __name__ == "__main__":
    main()
