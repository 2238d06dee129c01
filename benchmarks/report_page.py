"""Time and size of the report of 10,000 pictures.

    python -m benchmarks.report_page --pictures 10000

The pictures are noise, with a tint for each identity, since only their number counts here; the
backbone is tiny with random weights, so that nearly all of the time is the page's.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from lookalike.core.files import write_json

EACH, SIDE = 20, 160  # pictures per identity, a quarter of them queries; pixels
STAGES = ("split", "train", "index", "retrieve", "forecast", "evaluate")


def draw(folder: Path, pictures: int) -> None:
    """Write a competition; each identity also has four training pictures."""
    labels: dict[str, dict[str, str]] = {"query": {}, "gallery": {}}
    rng = np.random.default_rng(0)
    for number in tqdm(range(pictures), "drawing", unit=" pictures"):
        identity = f"person_{number // EACH}"
        tint = np.random.default_rng(number // EACH).integers(0, 128, 3)
        noise = rng.integers(0, 128, (SIDE // 8, SIDE // 8, 3)).repeat(8, 0).repeat(8, 1)
        part = "query" if number % 4 == 0 else "gallery"
        labels[part][f"{number:06d}.jpg"] = identity
        paths = [f"test/{part}/{number:06d}.jpg"]
        paths += [f"training/{identity}/{number}.jpg"] if number % EACH < 4 else []
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((tint + noise).astype(np.uint8)).save(folder / path, quality=90)
    write_json(folder / "labels.json", labels)


def main() -> None:
    """Draw the pictures, run the stages, and time the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data, run = Path(name) / "data", Path(name) / "run"
        draw(data, arguments.pictures)
        words = [f"--data={data}", f"--run={run}", f"--cache={name}/cache"]
        words += [f"--labels={data}/labels.json", "--backbone=test_efficientnet", "--weights=none"]
        subprocess.run(
            [sys.executable, "-m", "lookalike", "run", "--stage", *STAGES, *words], check=True
        )
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lookalike", "report", str(run)], check=True)
        seconds, size = time.perf_counter() - start, (run / "report.html").stat().st_size / 1e6
    print(f"{arguments.pictures:,} pictures: {seconds:.1f} s with Python's start, {size:.1f} MB")


if __name__ == "__main__":
    main()
