"""What does the whole pipeline cost, compared with one pass of the backbone over the same pictures?

    python -m benchmarks.end_to_end --source-path $DATA/lfw62 --repeats 3

In turns, each in its own process and from an empty cache: `main.py --stage all`; the features of
every picture, decoding included, with the same settings, timed from outside as the pipeline is, and
from inside, without starting Python and importing PyTorch. Then the same command of the pipeline
again, with nothing to do.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

MAIN = Path(__file__).parent.parent / "main.py"


def seconds_of(command: list[str], folder: Path) -> tuple[float, str]:
    """Run a command and return (seconds, what it printed)."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def measure(source: str, mode: str) -> tuple[float, ...]:
    """Return the seconds of pipeline, pass, pass without imports, and pipeline again."""
    words = ["--stage", "all", "--time-limit", "0", "--compile", mode]
    words += ["--source", "folder", "--source-path", source]
    whole = [sys.executable, str(MAIN), *words, "--data", "data/lfw", "--run", "runs/lfw"]
    single = [sys.executable, "-m", "benchmarks.end_to_end", "--compile", mode, "--pass-of", source]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as empty:
        first, _ = seconds_of(whole, Path(folder))
        again, _ = seconds_of(whole, Path(folder))
        outside, inside = seconds_of([*single, empty], MAIN.parent)
    return first, outside, float(inside), again


def time_pass(source: Path, cache: Path, mode: str) -> float:
    """Return the seconds of the backbone's pass over all pictures of class folders."""
    from lookalike.data.images import content_hash
    from lookalike.data.layout import class_folders
    from lookalike.features.embedding import embed_features
    from lookalike.features.extractor import FeatureExtractor
    from lookalike.models.embedder import load_embedder

    paths = [f"{name}/{p}" for name, found in class_folders(source).items() for p in found]
    content = [content_hash((source / path).read_bytes()) for path in paths]
    pictures = pd.DataFrame({"path": paths, "content": content})
    embedder = load_embedder("efficientnet_lite0")
    start = time.perf_counter()
    embed_features(FeatureExtractor(embedder, source, cache, mode, len(pictures)), pictures)
    return time.perf_counter() - start


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="The pipeline beside one pass of the backbone.")
    parser.add_argument("--source-path")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"))
    parser.add_argument("--pass-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pass_of:
        print(time_pass(Path(arguments.pass_of[0]), Path(arguments.pass_of[1]), arguments.compile))
        return
    source = str(Path(arguments.source_path).resolve())
    rows = []
    for repeat in range(arguments.repeats):
        whole, outside, inside, again = measure(source, arguments.compile)
        seconds = (whole, outside, whole / outside, inside, whole / inside, again)
        rows.append((f"run {repeat + 1}", *seconds))
    rows.append(("median", *np.median([row[1:] for row in rows], axis=0)))
    print(f"--compile {arguments.compile}, {os.cpu_count()} cores; seconds")
    heads = ["", "pipeline", "one pass", "ratio", "without imports", "ratio", "the same again"]
    print(tabulate(rows, heads, floatfmt=("", ".1f", ".1f", ".2f", ".1f", ".2f", ".1f")))


if __name__ == "__main__":
    main()
