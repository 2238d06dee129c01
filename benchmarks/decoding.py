"""What does it cost to decode large JPEGs, and what does decoding them small change?

    python -m benchmarks.decoding --data ../shared/data/caricature

The caricature set's training people, their pictures enlarged (--enlarge 6: 1,068 x 1,308) and saved
as JPEG again. A decoder has one core, and ends with the 224 pixels that a backbone sees; the
difference is that to Pillow's full decoding, of values from 0 to 255. The score is that of
`benchmarks.transforms`, with JPEGs decoded in full, and no larger than needed.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.transforms import scores_of
from data import read_picture
from embed import Embedding
from model import Embedder, load_embedder
from runs import files_below, log

Decoder = Callable[[bytes, int], Image.Image]
IN_FULL = patch.object(JpegImageFile, "draft", lambda *_: None)


def by_pillow_in_full(raw: bytes, least: int) -> Image.Image:
    """Pillow, at the picture's own size."""
    with IN_FULL:
        return read_picture(raw, least)


def by_opencv(raw: bytes, least: int) -> Image.Image:
    """OpenCV, at the picture's own size."""
    pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR_RGB)
    return Image.fromarray(pixels)


DECODERS: dict[str, Decoder] = {
    "Pillow, in full": by_pillow_in_full,
    "OpenCV, in full": by_opencv,
    "ours: Pillow, no larger than needed": read_picture,
}


def enlarge(source: Path, target: Path, times: float) -> None:
    """A copy of a data set whose pictures are so many times as large, all of them JPEGs."""
    for path in tqdm(files_below(source), "enlarging", unit=" pictures"):
        image = Image.open(path).convert("RGB")
        size = (round(image.width * times), round(image.height * times))
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        image.resize(size, Image.Resampling.BICUBIC).save(place, "JPEG", quality=90)


def compare(files: list[bytes], embedder: Embedder) -> list[tuple[str, float, float, float]]:
    """(decoder, pictures a second, mean and largest difference) of each, in turns."""
    resize, side = embedder.preprocessing.resize, embedder.side
    seconds, apart = dict.fromkeys(DECODERS, 0.0), {name: [] for name in DECODERS}  # type: ignore[var-annotated]
    for raw in tqdm(files, "decoding", unit=" pictures"):
        made = {}
        for name, decode in DECODERS.items():
            start = time.perf_counter()
            made[name] = resize(decode(raw, side)).astype(int)
            seconds[name] += time.perf_counter() - start
        for name, pixels in made.items():
            apart[name].append(np.abs(pixels - made["Pillow, in full"]))
    rates = {name: len(files) / taken for name, taken in seconds.items()}
    return [(n, rates[n], float(np.mean(d)), float(np.max(d))) for n, d in apart.items()]


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--enlarge", type=float, default=6)
    parser.add_argument("--pictures", type=int, default=200, help="to time decoders on")
    parser.add_argument("--seeds", type=int, default=20)
    given = parser.parse_args()
    log.setLevel("ERROR")
    with tempfile.TemporaryDirectory() as name:
        root, embedder = Path(name) / "data", load_embedder("efficientnet_lite0", cache=Path(name))
        enlarge(given.data / "training", root / "training", given.enlarge)
        for part in ("query", "gallery"):  # none of the test is used, but a data set has one
            (root / "test" / part).mkdir(parents=True)
            shutil.copy(files_below(root / "training")[0], root / "test" / part / "none.jpg")
        files = [path.read_bytes() for path in files_below(root)[: given.pictures]]
        rows = compare(files, embedder)
        small = np.array(scores_of(Embedding(embedder, root, Path(name) / "small"), given.seeds))
        with IN_FULL:
            full = np.array(scores_of(Embedding(embedder, root, Path(name) / "full"), given.seeds))
    heads = ["decoder", "pictures/s, one core", "mean difference", "largest"]
    print(tabulate(rows, heads, floatfmt=".1f"))
    gain = small - full
    print(f"score in full {full.mean():.1f}, no larger than needed {small.mean():.1f}: ", end="")
    print(f"{gain.mean():+.1f} ± {gain.std(ddof=1):.1f} over seeds")


if __name__ == "__main__":
    main()
