"""What does the whole way cost beside one pass of the backbone over the same pictures?

    python -m benchmarks.end_to_end --source-path ../shared/data/lfw62 --repeats 3

Both start from an empty cache in a process of their own, in turn: `main.py --stage all`, timed
from outside with all its imports; and the embedding of every picture, decoding included, with the
same settings, timed without its imports. Then the same command of the whole way again.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

MAIN = Path(__file__).parent.parent / "main.py"


def whole_way(source: str, folder: Path) -> float:
    """Seconds of main.py --stage all in `folder`."""
    words = ["--stage", "all", "--source", "folder", "--source-path", source]
    command = [sys.executable, str(MAIN), *words, "--data", "data/lfw", "--run", "runs/lfw"]
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - began


def one_pass(source: str, folder: Path) -> float:
    """Seconds of embedding every picture of `source`, as measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.end_to_end", "--pass-of", source, str(folder)]
    done = subprocess.run(command, cwd=MAIN.parent, check=True, capture_output=True, text=True)
    return float(done.stdout)


def time_pass(source: Path, cache: Path) -> float:
    """Seconds of the backbone's pass over all pictures of a folder of class folders."""
    import pandas as pd

    from data import content_hash
    from data_extraction import class_folders
    from embed import Embedding, embed_features
    from model import load_embedder

    paths = [f"{name}/{p}" for name, found in class_folders(source).items() for p in found]
    content = [content_hash((source / path).read_bytes()) for path in paths]
    embedder = load_embedder("efficientnet_lite0")
    began = time.perf_counter()
    pictures = pd.DataFrame({"path": paths, "content": content})
    embed_features(Embedding(embedder, source, cache, total=len(pictures)), pictures)
    return time.perf_counter() - began


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description="The whole way beside one pass of the backbone.")
    parser.add_argument("--source-path")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pass-of", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.pass_of:
        print(time_pass(Path(given.pass_of[0]), Path(given.pass_of[1])))
        return
    source = str(Path(given.source_path).resolve())
    rows = []
    for repeat in range(given.repeats):
        folder = Path(tempfile.mkdtemp())
        whole, again = whole_way(source, folder), whole_way(source, folder)
        single = one_pass(source, folder / "empty")
        rows.append((f"run {repeat + 1}", whole, single, whole / single, again))
        shutil.rmtree(folder)
    rows.append(("median", *np.median([row[1:] for row in rows], axis=0)))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; seconds")
    heads = ["", "whole way", "one pass", "ratio", "the same again"]
    print(tabulate(rows, heads, floatfmt=("", ".1f", ".1f", ".3f", ".1f")))


if __name__ == "__main__":
    main()
