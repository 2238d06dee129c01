"""How much memory does embedding many pictures take, beyond their catalogue?

    python -m benchmarks.memory --count 10000

Distinct pictures of 16 × 16 pixels are written into a temporary folder. Two processes read their
names and hashes into a catalogue, as `--stage split` leaves it; one of them then embeds them all
with a stand-in backbone, a linear layer to 64 dimensions, the other only 100 of them, so that what
PyTorch takes once is in both. The difference of their peaks of anonymous memory (RssAnon, sampled
every 20 ms) is printed as JSON, in MB.
"""

import argparse
import json
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.rows import BenchmarkSettings, Row

SIDE, DIM, FEW = 16, 64, 10_000
ROOT = Path(__file__).parent.parent
PER_FOLDER = 10_000


def write_pictures(root: Path, count: int) -> None:
    """Write distinct BMP files: a random picture each, with its number in the first pixels."""
    size = SIDE * SIDE * 3
    head = b"BM" + struct.pack("<IHHI", 54 + size, 0, 0, 54)
    head += struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, 0, size, 2835, 2835, 0, 0)
    rng = np.random.default_rng(0)
    for start in range(0, count, PER_FOLDER):
        folder = root / f"{start // PER_FOLDER:04}"
        folder.mkdir()
        for number in range(start, min(start + PER_FOLDER, count)):
            pixels = struct.pack("<I", number) + rng.bytes(size - 4)
            (folder / f"{number:07}.bmp").write_bytes(head + pixels)


def catalogue_of(root: Path) -> pd.DataFrame:
    """Return path and content of every picture."""
    from lookalike.data.images import content_hash

    paths = [path.relative_to(root).as_posix() for path in sorted(root.glob("*/*.bmp"))]
    contents = [content_hash((root / path).read_bytes()) for path in paths]
    return pd.DataFrame({"path": paths, "content": contents}, dtype=str)


def anonymous() -> float:
    """Return this process's anonymous memory, which is no file's, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    if found is None:
        raise SystemExit("this system does not say how much memory is anonymous")
    return int(found[1]) / 1024


class Peak(threading.Thread):
    """Samples the anonymous memory; `most` is the largest that it has seen, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.over = 0.0, threading.Event()

    def run(self) -> None:
        """Sample every 20 ms."""
        while not self.over.wait(0.02):
            self.most = max(self.most, anonymous())


def watch(root: Path, cache: Path, embedding: bool) -> dict[str, float]:
    """Return peak MB and seconds of this process, with or without embedding all pictures."""
    import torch
    from torch import nn

    from lookalike.features.embedding import embed
    from lookalike.features.extractor import FeatureExtractor
    from lookalike.models.embedder import Embedder
    from lookalike.models.preprocessing import Preprocessing

    torch.set_num_threads(1)
    torch.manual_seed(0)
    preprocessing = Preprocessing(SIDE, "bilinear", (0.5,) * 3, (0.5,) * 3)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, DIM))
    extractor = FeatureExtractor(
        Embedder("stand-in", backbone, preprocessing), root, cache, "off", 0
    )
    rows = catalogue_of(root)
    peak, start = Peak(), time.perf_counter()
    peak.start()
    embeddings = embed(extractor, rows if embedding else rows[:100])
    seconds = time.perf_counter() - start
    time.sleep(0.1)
    peak.over.set()
    peak.join()
    assert np.isfinite(embeddings[-1]).all()
    return {"peak": peak.most, "seconds": seconds}


def measure(count: int) -> dict[str, float]:
    """Return the MB that embedding takes beyond the catalogue, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), count)
        found = []
        for words in ([], ["--embedding"]):
            with tempfile.TemporaryDirectory() as cache:
                command = [sys.executable, "-m", "benchmarks.memory", "--watch", folder, cache]
                done = subprocess.run(
                    [*command, *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
                )
                found.append(json.loads(done.stdout))
    alone, whole = found
    return {"MB": whole["peak"] - alone["peak"], "seconds": whole["seconds"]}


def flat(arguments: BenchmarkSettings) -> list[Row]:
    """Compare few pictures with many."""
    many_runs, few_runs = [], []
    for _ in range(arguments.repeats):
        many_runs.append(measure(arguments.many))
        few_runs.append(measure(FEW))
    many, few = ([run["MB"] for run in runs] for runs in (many_runs, few_runs))
    speed = arguments.many / float(np.median([run["seconds"] for run in many_runs]))
    remark = f"wanted: at most 1.1 times as much; {speed:.0f} pictures/s; RssAnon every 20 ms"
    what = "peak anonymous memory of embedding, beyond the catalogue"
    names = f"{arguments.many:,} pictures", f"{FEW:,} pictures"
    return [Row(what, names[0], names[1], "MB", 1 / 1.1, many, few, remark)]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=FEW)
    parser.add_argument("--watch", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--embedding", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        root, cache = map(Path, arguments.watch)
        print(json.dumps(watch(root, cache, arguments.embedding)))
    else:
        print(json.dumps(measure(arguments.count)))


if __name__ == "__main__":
    main()
