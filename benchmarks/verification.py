"""Ablation of the training of a Siamese network: the earlier work's factors, one at a time.

    python -m benchmarks.verification --data $DATA/cfp

Celebrities in Frontal-Profile, the first three splits, each tested by a network of its own. Every
row changes one thing of the first. With two idle cores a network takes half a minute, and all rows
about 25 minutes: with this budget, differences below the spread over splits are not significant.
The same command resumes after a kill, fold by fold. Options after `--` go to every row
(`-- --image-size 112 --epochs 10`).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from lookalike.core.log import log
from lookalike.core.readers import read_json
from lookalike.verification import verify

BASE = "the base: pretrained, all layers, two outputs, Adam 3e-4"
BUDGET = ["--image-size", "64", "--epochs", "3", "--epoch-pairs", "1000", "--batch-size", "16"]
COMMON = ["--crop", "face", "--layers", "all", "--lr", "3e-4", *BUDGET]
ROWS: dict[str, list[str]] = {
    BASE: [],
    "not pretrained": ["--weights", "none"],
    "augmentation": ["--augment"],
    "one output": ["--head", "one"],
    "cosine": ["--head", "cosine"],
    "linear layer in the branch": ["--branch-dim", "512"],
    "half of the layers": ["--layers", "half"],
    "none of the layers": ["--layers", "none"],
    "SGD 1e-2": ["--optimizer", "sgd", "--lr", "1e-2"],
    "one output, not pretrained": ["--head", "one", "--weights", "none"],
    "cosine, not pretrained": ["--head", "cosine", "--weights", "none"],
    "cosine, augmentation": ["--head", "cosine", "--augment"],
    "cosine, half of the layers": ["--head", "cosine", "--layers", "half"],
}


def run_row(name: str, number: int, words: list[str], out: Path) -> list[str | float]:
    """Train the networks of a row.

    Returns:
        Name, accuracies by fold, their mean and standard deviation, the area under the ROC, and the
        mean number of the best epoch.
    """
    folder = out / f"row{number:02}"
    if verify.main(["train", *words, "--run", str(folder)]):
        raise SystemExit(f"{name}: failed, see {folder}/log.txt")
    log.handlers.clear()
    measures = read_json(folder / "metrics.json", "the row")
    folds = [row["fold"] for row in measures["by_fold"]]
    histories = [
        read_json(folder / f"fold{f:02}" / "fold.json", "the row")["history"] for f in folds
    ]
    best = [int(np.argmax([epoch["validation_auc"] for epoch in h])) + 1 for h in histories]
    accuracies = [row["accuracy"] for row in measures["by_fold"]]
    spread = (measures["accuracy"], measures["accuracy_sd"], measures["auc"])
    return [name, *accuracies, *spread, float(np.mean(best))]


def main() -> None:
    """Print a table with one row per entry of ROWS."""
    own, more = sys.argv[1:], []
    if "--" in own:
        own, more = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kind", default="FF")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument(
        "--rows", type=int, default=len(ROWS), help="only this many, from the first"
    )
    parser.add_argument("--folds", nargs="+", default=["1", "2", "3"])
    parser.add_argument("--out", type=Path, default=Path("runs/verification"))
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    arguments = parser.parse_args(own)
    words = ["--data", str(arguments.data), "--kind", arguments.kind]
    words += [
        "--backbone",
        arguments.backbone,
        "--folds",
        *arguments.folds,
        "--cache",
        str(arguments.cache),
        *COMMON,
    ]
    table = []
    headers = ["", *(f"split {fold}" for fold in arguments.folds), "mean", "sd", "AUC", "epoch"]
    for number, (name, changed) in enumerate(tqdm(list(ROWS.items())[: arguments.rows], "rows")):
        table.append(run_row(name, number, [*words, *changed, *more], arguments.out))
    formats = ("", *[".3f"] * (len(headers) - 2), ".1f")
    print(tabulate(table, headers, tablefmt="github", floatfmt=formats))


if __name__ == "__main__":
    main()
