r"""Which validation ranks settings as the test does: unseen identities, or those in training?

    python -m benchmarks.validations --data $DATA/caricature \
        --labels $DATA/caricature/test_labels.json \
        --domain-pattern '(?P<domain>photo|caricature)_'

Six settings of a projection on frozen EfficientNet-Lite0, each trained on both splits: `disjoint`
holds out whole identities, `stratified` pictures of every identity (a closed set). Beside each
validation score stands the test score of the same training; below, the rank correlation of both.
"""

import argparse
from pathlib import Path

from scipy.stats import spearmanr
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.objectives import do_row

PROJECTION = ("--embed-dim", "512", "--epochs", "30", "--patience", "6")
SETTINGS: dict[str, tuple[str, ...]] = {
    "frozen": ("--epochs", "0"),
    "cross-entropy": PROJECTION,
    "arcface": (*PROJECTION, "--objective", "arcface"),
    "arcface, rate 0.01": (*PROJECTION, "--objective", "arcface", "--lr", "0.01"),
    "supcon": (*PROJECTION, "--objective", "supcon", "--batch-size", "64"),
    "triplet, hard": (
        *PROJECTION,
        "--objective",
        "triplet",
        "--miner",
        "hard",
        "--batch-size",
        "64",
    ),
}
SPLITS = {"closed set": "stratified", "unseen identities": "disjoint"}


def main() -> None:
    """Train all settings on both splits; further options go to main.py with every row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--crop", default="aligned")
    parser.add_argument("--out", type=Path, default=Path("runs/validations"))
    arguments, others = parser.parse_known_args()
    shared = [
        f"--data={arguments.data}",
        f"--labels={arguments.labels}",
        f"--crop={arguments.crop}",
        *others,
    ]
    scores: dict[str, list[float]] = {}
    for name, words in tqdm(SETTINGS.items(), "settings"):
        for split in SPLITS.values():
            folder = arguments.out / f"{name}-{split}".replace(" ", "_").replace(",", "")
            row = do_row(folder, [*shared, f"--split={split}", *words], [])
            if "failed" in row:
                raise SystemExit(f"{name}, {split}: {row['failed']}")
            scores.setdefault(name, []).extend([row["validation"], row["test"]])
    heads = [head for name in SPLITS for head in (name, "test")]
    print(tabulate([(name, *row) for name, row in scores.items()], ["", *heads], floatfmt=".1f"))
    for name, columns in zip(SPLITS, ((0, 1), (2, 3)), strict=True):
        ranks = spearmanr(*([row[column] for row in scores.values()] for column in columns))
        print(f"rank correlation with the test, {name}: {ranks.statistic:.2f}")


if __name__ == "__main__":
    main()
