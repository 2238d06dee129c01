"""Open-set identification as a competition asks for it: name each picture, or call it new.

    python -m benchmarks.open_set --source-path $DATA/lfw62 --seeds 5

A tenth of the identities are in the test only. Of each of the others, half of the pictures are
training, the other half test. The table shows how `lookalike identify test` names them, by its own
threshold and by the true share of new identities; and what naming everybody, and nobody, scores.
"""

import argparse
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from lookalike import cli
from lookalike.core.files import write_text
from lookalike.core.log import log
from lookalike.core.readers import read_outside_table
from lookalike.data.layout import class_folders
from lookalike.evaluation.open_set import measure_names
from lookalike.evaluation.scoring import read_labels

NEW = "new_individual"
MEASURES = ("map@5", "accuracy", "baks", "baus", "balanced", "gap")


def write_tables(source: Path, folder: Path, seed: int) -> float:
    """Write train.csv and test.csv; return the share of the test that shows new identities."""
    rng = np.random.default_rng(seed)
    classes = class_folders(source)
    names = rng.permutation(sorted(classes)).tolist()
    new = set(names[: max(1, len(names) // 10)])
    train, test = ["image,identity"], ["image,identity,split"]
    unknown = 0
    for name in sorted(classes):
        pictures = [f"{name}/{path.as_posix()}" for path in classes[name]]
        order = rng.permutation(len(pictures)).tolist()
        known = 0 if name in new else len(order) // 2
        train += [f"{pictures[i]},{name}" for i in order[:known]]
        test += [f"{pictures[i]},{name},test" for i in order[known:]]
        unknown += len(order) if name in new else 0
    write_text(folder / "train.csv", "\n".join(train))
    write_text(folder / "test.csv", "\n".join(test))
    return unknown / (len(test) - 1)


def run(*words: str | Path) -> None:
    """Run a command of the package; stop where it fails."""
    if cli.main(list(map(str, words))):
        raise SystemExit(f"failed: lookalike {' '.join(map(str, words))}")
    log.handlers.clear()


def score_names(folder: Path, known: set[str]) -> dict[str, float]:
    """Return the measures of a run's identities.csv."""
    table = read_outside_table(folder / "run" / "identities.csv")
    names = [column for column in table.columns if column.startswith("name_")]
    named = dict(zip(table["query"], table[names].to_numpy().tolist(), strict=True))
    sure = dict(zip(table["query"], map(float, table.similarity), strict=True))
    truth = read_labels(folder / "test.csv").query
    return measure_names(named, truth, known, NEW, sure)


def main() -> None:
    """Print mean and deviation over seeds; further options go to main.py."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--source-path", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    arguments, words = parser.parse_known_args()
    rows: dict[str, list[list[float]]] = {}
    for seed in tqdm(range(arguments.seeds), "seeds"):
        folder = Path("runs") / "open_set" / f"seed{seed:02}"
        folder.mkdir(parents=True, exist_ok=True)
        share = write_tables(arguments.source_path, folder, seed)
        tables = ("--train", folder / "train.csv", "--test", folder / "test.csv")
        where = ("--data", arguments.source_path, "--run", folder / "run", "--seed", str(seed))
        run("run", "--stage", "split", "train", *where, *tables, "--time-limit", "0", *words)
        known = set(read_outside_table(folder / "train.csv").identity)
        choices: dict[str, list[str | Path]] = {
            "own threshold": [],
            "true share of new ones": ["--new-share", f"{share:.6f}"],
            "everybody named": ["--threshold", "-1"],
            "all called new": ["--threshold", "1"],
        }
        for name, options in choices.items():
            run("identify", "test", "--run", folder / "run", *options)
            values = score_names(folder, known)
            rows.setdefault(name, []).append([values[measure] for measure in MEASURES])
    table = [
        [name, *(f"{m:.3f} ± {d:.3f}" for m, d in zip(np.mean(v, 0), np.std(v, 0), strict=True))]
        for name, v in rows.items()
    ]
    print(tabulate(table, ["threshold", *MEASURES], disable_numparse=True))


if __name__ == "__main__":
    main()
