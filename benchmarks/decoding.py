"""What do decoding and resizing cost, by which library, and what do they change?

    python -m benchmarks.decoding --data $DATA/caricature
    python -m benchmarks.decoding --data $DATA/caricature --enlarge 6

The training pictures of the caricature set as they are, or enlarged (6: 1,068 x 1,308) and saved as
JPEG again. Each method runs on one core and ends with the 224 pixels that a backbone sees; the
difference, of values from 0 to 255, is to Pillow alone. The score is that of
`benchmarks.transforms`, once by Pillow alone and once by ours.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.transforms import scores_of
from lookalike.core.files import files_below
from lookalike.core.log import log
from lookalike.data.images import read_picture, read_pixels
from lookalike.features.extractor import FeatureExtractor
from lookalike.models.embedder import load_embedder
from lookalike.models.preprocessing import Preprocessing

Method = Callable[[bytes, Preprocessing], np.ndarray]  # from a file to (H, W, 3) uint8
IN_FULL = patch.object(JpegImageFile, "draft", lambda *_: None)


def resize_by_pillow(preprocessing: Preprocessing, image: Image.Image) -> np.ndarray:
    """Do what `Preprocessing.resize` does, by Pillow."""
    how = Image.Resampling[preprocessing.interpolation.upper()]
    return np.array(image.resize((preprocessing.image_size, preprocessing.image_size), how))


BY_PILLOW = patch.object(
    Preprocessing,
    "resize",
    lambda preprocessing, pixels: resize_by_pillow(preprocessing, Image.fromarray(pixels)),
)


def by_pillow(raw: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Decode at the picture's own size and resize, by Pillow alone."""
    with IN_FULL:
        return resize_by_pillow(preprocessing, read_picture(raw, preprocessing.image_size))


def by_both(raw: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Decode no larger than needed by Pillow, resize by PyTorch."""
    return preprocessing.resize(np.array(read_picture(raw, preprocessing.image_size)))


def by_ours(raw: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Decode no larger than needed by OpenCV, resize by PyTorch."""
    return preprocessing.resize(read_pixels(raw, preprocessing.image_size))


METHODS: dict[str, Method] = {
    "Pillow decodes and resizes": by_pillow,
    "Pillow decodes, PyTorch resizes": by_both,
    "ours: OpenCV decodes, PyTorch resizes": by_ours,
}


def copy(source: Path, target: Path, times: float) -> None:
    """Copy a data set; with `times` other than 1, its pictures become JPEGs of that size."""
    for path in tqdm(files_below(source), "copying", unit=" pictures"):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if times == 1:
            shutil.copy(path, place)
            continue
        image = Image.open(path).convert("RGB")
        size = (round(image.width * times), round(image.height * times))
        image.resize(size, Image.Resampling.BICUBIC).save(place, "JPEG", quality=90)


def compare(
    files: list[bytes], preprocessing: Preprocessing
) -> list[tuple[str, float, float, float]]:
    """Return (name, pictures per second, mean and largest difference) of each method."""
    seconds: dict[str, float] = dict.fromkeys(METHODS, 0.0)
    differences: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
    for raw in tqdm(files, "decoding", unit=" pictures"):  # in turns: a busy moment slows all alike
        results = {}
        for name, method in METHODS.items():
            start = time.thread_time()
            results[name] = method(raw, preprocessing)
            seconds[name] += time.thread_time() - start
        plain, *_ = results.values()
        for name, pixels in results.items():
            differences[name].append(np.abs(pixels.astype(int) - plain))
    rates = {name: len(files) / total for name, total in seconds.items()}
    return [(n, rates[n], float(np.mean(d)), float(np.max(d))) for n, d in differences.items()]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--enlarge", type=float, default=1)
    parser.add_argument("--pictures", type=int, default=400, help="to time the methods on")
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    log.setLevel("ERROR")
    with tempfile.TemporaryDirectory() as name:
        root, embedder = Path(name) / "data", load_embedder("efficientnet_lite0", cache=Path(name))
        copy(arguments.data / "training", root / "training", arguments.enlarge)
        for part in ("query", "gallery"):  # none of the test is used, but a data set has one
            (root / "test" / part).mkdir(parents=True)
            shutil.copy(files_below(root / "training")[0], root / "test" / part)
        files = [path.read_bytes() for path in files_below(root)[: arguments.pictures]]
        rows = compare(files, embedder.preprocessing)
        ours = np.array(
            scores_of(FeatureExtractor(embedder, root, Path(name) / "ours"), arguments.seeds)
        )
        with IN_FULL, BY_PILLOW:
            pillow = FeatureExtractor(embedder, root, Path(name) / "pillow")
            plain = np.array(scores_of(pillow, arguments.seeds))
    heads = ["", "pictures/s, one core", "mean difference", "largest"]
    print(tabulate(rows, heads, floatfmt=("", ".0f", ".4f", ".0f")))
    gain = ours - plain
    print(f"score by Pillow alone {plain.mean():.1f}, by ours {ours.mean():.1f}: ", end="")
    print(f"{gain.mean():+.1f} ± {gain.std(ddof=1):.1f} over seeds")


if __name__ == "__main__":
    main()
