"""How much does a score vary? The baseline report's protocol on many split seeds.

    python -m benchmarks.seeds --source-path $DATA/lfw62 --seeds 20

Every seed lays the pictures out anew and runs all stages of main.py; the cache makes all but the
first cheap.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from lookalike import pipeline as runner
from lookalike.core.log import log
from lookalike.core.readers import read_json

MEASURES = ("score", "recall@1", "recall@5", "recall@10", "map", "map@10", "map@10_hits")


def run_seed(words: list[str], source: str, seed: int, folder: Path) -> dict[str, float]:
    """Run the pipeline with a seed and return the measures of the test."""
    data, run = folder / "data", folder / f"seed{seed:02}"
    where = ["--source", "folder", "--source-path", source, "--data", str(data), "--run", str(run)]
    if runner.main(["--stage", "all", "--time-limit", "0", "--seed", str(seed), *where, *words]):
        raise SystemExit(f"seed {seed} failed: see {run}/log.txt")
    block = read_json(run / "metrics.json", "the run")["test"]
    return {name: block[name] for name in MEASURES}


def main() -> None:
    """Print a line per seed, and mean and deviation; further options go to main.py."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--source-path", required=True)
    parser.add_argument("--seeds", type=int, default=20)
    arguments, words = parser.parse_known_args()
    folder = Path("runs") / "seeds"
    rows = []
    for seed in tqdm(range(arguments.seeds), "seeds"):
        rows.append(run_seed(words, arguments.source_path, seed, folder))
        log.handlers.clear()
    shutil.rmtree(folder / "data")
    table = np.array([[row[name] for name in MEASURES] for row in rows])
    listed = [(f"seed {seed}", *row) for seed, row in enumerate(table)]
    if len(table) > 1:
        spread = table.std(axis=0, ddof=1)
        listed += [("mean", *table.mean(axis=0)), ("standard deviation", *spread)]
    print(tabulate(listed, ["", *MEASURES], floatfmt=("", ".1f", *[".3f"] * 6)))


if __name__ == "__main__":
    main()
