r"""Compare training objectives on unseen identities: EfficientNet-Lite0, one crop for all rows.

    python -m benchmarks.objectives --data $DATA/caricature \
        --labels $DATA/caricature/test_labels.json \
        --domain-pattern '(?P<domain>photo|caricature)_'

Pictures are whole, embedded with their mirror images at 160 × 160 pixels; the rows that train the
whole backbone do so at 128 × 128, which a CPU can. A row is a run of main.py; --max-minutes caps
its training, except in the last row, which may take 45. The same command continues after a kill:
finished rows are read from row.json in their folder. Settings were chosen by the validation alone;
the test's scores are in a column of their own.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate
from tqdm import tqdm

from lookalike.core.files import write_json
from lookalike.core.readers import read_json
from lookalike.sweep.grid import failure_reason, run_measured

ROOT = Path(__file__).parent.parent
STAGES = ("split", "crop", "train", "index", "retrieve", "evaluate")
PROJECTION = ("--embed-dim", "512", "--epochs", "30", "--patience", "6")
# Whatever the objective: the last block and a projection.
TRAINED = (*PROJECTION, "--unfreeze", "1", "--batch-size", "64")
# All blocks, with views as SimCLR's, and a projection head that is discarded.
WHOLE = (
    "--unfreeze",
    "all",
    "--backbone-lr-scale",
    "0.3",
    "--batch-size",
    "64",
    "--patience",
    "30",
    "--train-views",
    "1",
    "--augmentation",
    "strong",
    "--train-image-size",
    "128",
    "--center",
)
PROJECTOR = ("--projector", "128")
LONGER = ("--refit", "--max-minutes", "45")
SUPCON = ("--objective", "supcon")
TRIPLET = ("--objective", "triplet", "--miner")
ROWS: dict[str, tuple[str, ...]] = {
    "frozen": ("--epochs", "0"),
    "frozen, centered": ("--epochs", "0", "--center"),
    "linear probe, cross-entropy (baseline report)": ("--epochs", "3"),
    "projection, cross-entropy": PROJECTION,
    "projection, arcface": (*PROJECTION, "--objective", "arcface"),
    "arcface": (*TRAINED, "--objective", "arcface"),
    "triplet, all": (*TRAINED, *TRIPLET, "all"),
    "triplet, semi-hard": (*TRAINED, *TRIPLET, "semihard"),
    "triplet, hard": (*TRAINED, *TRIPLET, "hard"),
    "contrastive": (*TRAINED, "--objective", "contrastive"),
    "supcon": (*TRAINED, *SUPCON),
    "arcface+supcon": (*TRAINED, "--objective", "arcface+supcon"),
    "arcface, centered": (*TRAINED, "--objective", "arcface", "--center"),
    "arcface, centered, refit": (*TRAINED, "--objective", "arcface", "--center", "--refit"),
    "SimCLR, then projection": PROJECTION,
    "whole, supcon, embed-dim 512": (*WHOLE, *SUPCON, "--embed-dim", "512", "--epochs", "8"),
    "whole, supcon, projector": (*WHOLE, *SUPCON, *PROJECTOR, "--epochs", "8"),
    "the same, longer, refit": (*WHOLE, *SUPCON, *PROJECTOR, "--epochs", "30", *LONGER),
}
SIMCLR = "SimCLR, then projection"


def do_row(folder: Path, words: list[str], before: list[list[str]]) -> dict[str, Any]:
    """Return a run's validation and test score and its minutes of training, SimCLR's included.

    Args:
        folder: The run folder; a finished row is read from its row.json.
        words: The words of main.py's command line.
        before: Commands of the package to run first, each as its words.

    Returns:
        The row; `failed` says why where a command failed.
    """
    path = folder / "row.json"
    if path.is_file():
        saved: dict[str, Any] = read_json(path, "this program")
        if saved.get("words") == words:
            return saved
    folder.mkdir(parents=True, exist_ok=True)
    for command in [*before, ["run", "--stage", *STAGES, f"--run={folder}", *words]]:
        program = [sys.executable, "-m", "lookalike", *command]
        code, _ = run_measured(program, folder / "output.txt")
        if code:
            output = (folder / "output.txt").read_text(encoding="utf-8", errors="replace")
            return {"failed": failure_reason(output)}
    row = {"words": words, **scores_of(folder, "--refit" in words), "minutes": minutes_of(folder)}
    write_json(path, row)
    return row


def scores_of(folder: Path, refitted: bool) -> dict[str, float]:
    """Return the scores of a run; after a refit the validation's is that of the training before."""
    metrics = read_json(folder / "metrics.json", "main.py")
    scores = {part: metrics[part]["score"] for part in ("validation", "test") if part in metrics}
    if refitted:
        scores["validation"] = float(pd.read_csv(folder / "history.csv").score.max())
    return scores


def minutes_of(folder: Path) -> float:
    """Return the minutes of a run's training, and of SimCLR before it."""
    pretraining = folder.glob("unlabelled/simclr/history.csv")
    seconds = read_json(folder / "stages.json", "main.py")["train"]["seconds"]
    return seconds / 60 + sum(float(pd.read_csv(path).minutes.max()) for path in pretraining)


def simclr_first(
    folder: Path, shared: list[str], epochs: int, side: str = "128"
) -> tuple[list[list[str]], list[str]]:
    """Return the commands that learn a backbone without labels, and the words that name its file.

    Args:
        folder: The row's folder; SimCLR gets a run in it.
        shared: Words of all rows.
        epochs: Of SimCLR.
        side: Height and width of its pictures, in pixels.
    """
    run = folder / "unlabelled"
    split = ["run", "--stage", "split", "crop", f"--run={run}", *shared, f"--image-size={side}"]
    simclr = ["simclr", str(run), "--epochs", str(epochs), "--lr", "0.0001"]
    return [split, simclr], [f"--weights={run / 'simclr' / f'epoch_{epochs:03}.safetensors'}"]


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Return this program's arguments, and those that go to main.py with every row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="labels of the test")
    parser.add_argument("--max-minutes", type=float, default=12)
    parser.add_argument("--simclr-epochs", type=int, default=5)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--crop", default="none")
    parser.add_argument("--image-size", default="160")
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"))
    return parser.parse_known_args()


def main() -> None:
    """Run the rows and print their table."""
    arguments, others = parse_arguments()
    limit = f"--max-minutes={arguments.max_minutes}"
    view = [f"--crop={arguments.crop}", f"--image-size={arguments.image_size}", "--flip=on"]
    shared = [f"--data={arguments.data}", *view, *others]
    labels = [f"--labels={arguments.labels}"] if arguments.labels else []
    lines = []
    for name in tqdm(arguments.rows, "rows"):
        folder = arguments.out / name.replace(" ", "_").replace(",", "")
        before: list[list[str]] = []
        weights: list[str] = []
        if name == SIMCLR:
            before, weights = simclr_first(folder, shared, arguments.simclr_epochs)
        row = do_row(folder, [*shared, *labels, limit, *ROWS[name], *weights], before)
        cells = [f"{row[k]:.1f}" if k in row else "" for k in ("validation", "test", "minutes")]
        lines.append((name, *cells, row.get("failed", "")))
    title = f"crop {arguments.crop}, {arguments.image_size} pixels"
    print(tabulate(lines, [title, "validation", "test", "minutes", ""], disable_numparse=True))


if __name__ == "__main__":
    main()
