"""Peak anonymous memory of embedding many pictures, beyond what their catalogue takes.

    python -m benchmarks.memory --count 10000

Distinct pictures of 16 × 16 pixels are written into a temporary folder. Two processes read their
names and contents into a catalogue, as `--stage split` leaves it; one of them then embeds them all
with a stand-in, 64 numbers from a linear layer. The difference of their peaks (RssAnon, sampled
every 20 ms) is printed as JSON, in MB. A process that only waits embeds 100 pictures, so that what
PyTorch takes once is in both.
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

from benchmarks.rows import Given, Row

SIDE, DIM, FEW = 16, 64, 10_000
ROOT = Path(__file__).parent.parent
PER_FOLDER = 10_000


def write_pictures(root: Path, count: int) -> None:
    """Distinct BMP files: a random picture each, with its number in the first pixels."""
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
    """path and content of every picture."""
    from lookalike.data.images import content_hash

    paths = [path.relative_to(root).as_posix() for path in sorted(root.glob("*/*.bmp"))]
    contents = [content_hash((root / path).read_bytes()) for path in paths]
    return pd.DataFrame({"path": paths, "content": contents}, dtype=str)


def anonymous() -> float:
    """MB of this process's memory that are no file's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    if found is None:
        raise SystemExit("this system does not say how much memory is anonymous")
    return int(found[1]) / 1024


class Peak(threading.Thread):
    """The most anonymous memory that was seen while it ran."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.over = 0.0, threading.Event()

    def run(self) -> None:
        """Looks every 20 ms."""
        while not self.over.wait(0.02):
            self.most = max(self.most, anonymous())


def watch(root: Path, cache: Path, embedding: bool) -> dict[str, float]:
    """Peak MB and seconds of a process with the catalogue, and with the embedding of it."""
    import torch
    from torch import nn

    from lookalike.features.extractor import FeatureExtractor, embed
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
    made = embed(extractor, rows if embedding else rows[:100])
    taken = time.perf_counter() - start
    time.sleep(0.1)
    peak.over.set()
    peak.join()
    assert np.isfinite(made[-1]).all()
    return {"peak": peak.most, "seconds": taken}


def measure(count: int) -> dict[str, float]:
    """MB that embedding takes beyond the catalogue, and its seconds; each in its own process."""
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


def flat(arguments: Given) -> list[Row]:
    """The row of run.py: few pictures beside many."""
    taken: list[list[dict[str, float]]] = [[], []]
    for _ in range(arguments.repeats):
        for kept, count in zip(taken, (arguments.many, FEW), strict=True):
            kept.append(measure(count))
    many, few = ([one["MB"] for one in kept] for kept in taken)
    speed = arguments.many / float(np.median([one["seconds"] for one in taken[0]]))
    remark = f"wanted: at most 1.1 times as much; {speed:.0f} pictures/s; RssAnon every 20 ms"
    what = "peak anonymous memory of embedding, beyond the catalogue"
    names = f"{arguments.many:,} pictures", f"{FEW:,} pictures"
    return [Row(what, names[0], names[1], "MB", 1 / 1.1, many, few, remark)]


def main() -> None:
    """See the top of this file."""
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
