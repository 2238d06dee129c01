"""What does each objective give on people never seen? EfficientNet-Lite0, one crop for all rows.

    python -m benchmarks.objectives --data ../shared/data/caricature \\
        --labels ../shared/data/caricature/test_labels.json \\
        --domain-pattern '(?P<domain>photo|caricature)_'

All see whole pictures and their mirror images at 160 × 160 pixels; the whole backbone, which a CPU
can train at 128 × 128, is trained on those. A row is a run of main.py; --max-minutes caps its
training, but for the last row, which may take 45. The same command goes on after a kill: rows that
are done stand in row.json of their folder. Settings were chosen by the validation alone; the test's
scores stand apart.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate
from tqdm import tqdm

from lookalike.core.files import read_json, write_json
from lookalike.sweep.grid import run_and_watch, why

ROOT = Path(__file__).parent.parent
STAGES = ("split", "crop", "train", "index", "retrieve", "evaluate")
HEAD = ("--embed-dim", "512", "--epochs", "30", "--patience", "6")
# Whatever the objective: the last block and a projection.
TRAINED = (*HEAD, "--unfreeze", "1", "--batch-size", "64")
# All blocks, with views as SimCLR's, and a head that is thrown away.
WHOLE = (
    *("--unfreeze", "all", "--backbone-lr-scale", "0.3", "--batch-size", "64", "--patience", "30"),
    *("--train-views", "1", "--augmentation", "strong", "--train-image-size", "128", "--center"),
)
PROJECTOR = ("--projector", "128")
LONGER = ("--refit", "--max-minutes", "45")
SUPCON = ("--objective", "supcon")
TRIPLET = ("--objective", "triplet", "--miner")
ROWS: dict[str, tuple[str, ...]] = {
    "frozen": ("--epochs", "0"),
    "frozen, centred": ("--epochs", "0", "--center"),
    "head, cross-entropy (the report)": ("--epochs", "3"),
    "projection, cross-entropy": HEAD,
    "projection, arcface": (*HEAD, "--objective", "arcface"),
    "arcface": (*TRAINED, "--objective", "arcface"),
    "triplet, all": (*TRAINED, *TRIPLET, "all"),
    "triplet, semi-hard": (*TRAINED, *TRIPLET, "semihard"),
    "triplet, hard": (*TRAINED, *TRIPLET, "hard"),
    "contrastive": (*TRAINED, "--objective", "contrastive"),
    "supcon": (*TRAINED, *SUPCON),
    "arcface+supcon": (*TRAINED, "--objective", "arcface+supcon"),
    "arcface, centred": (*TRAINED, "--objective", "arcface", "--center"),
    "arcface, centred, refit": (*TRAINED, "--objective", "arcface", "--center", "--refit"),
    "SimCLR, then head": HEAD,
    "whole, supcon, embed-dim 512": (*WHOLE, *SUPCON, "--embed-dim", "512", "--epochs", "8"),
    "whole, supcon, projector": (*WHOLE, *SUPCON, *PROJECTOR, "--epochs", "8"),
    "the same, longer, refit": (*WHOLE, *SUPCON, *PROJECTOR, "--epochs", "30", *LONGER),
}
SIMCLR = "SimCLR, then head"


def do_row(folder: Path, words: list[str], before: list[list[str]]) -> dict[str, Any]:
    """A run's validation and test score and its minutes of training, SimCLR's too; kept in
    row.json.

    words: for main.py. before: programs to run first, each as the words of a command.
    """
    path = folder / "row.json"
    if path.is_file():
        known: dict[str, Any] = read_json(path, "this program")
        if known.get("words") == words:
            return known
    folder.mkdir(parents=True, exist_ok=True)
    run = ["run", "--stage", *STAGES, f"--run={folder}", *words]
    for command in [*before, run]:
        program = [sys.executable, "-m", "lookalike", *command]
        code, _ = run_and_watch(program, folder / "output.txt")
        if code:
            said = (folder / "output.txt").read_text(encoding="utf-8", errors="replace")
            return {"failed": why(said)}
    metrics = read_json(folder / "metrics.json", "main.py")
    scores = {part: metrics[part]["score"] for part in ("validation", "test") if part in metrics}
    if "--refit" in words:  # it leaves no validation: what the training before it came to
        scores["validation"] = float(pd.read_csv(folder / "history.csv").score.max())
    learnt = folder.glob("unlabelled/simclr/history.csv")
    seconds = read_json(folder / "stages.json", "main.py")["train"]["seconds"]
    minutes = seconds / 60 + sum(pd.read_csv(path).minutes.max() for path in learnt)
    row = {"words": words, **scores, "minutes": minutes}
    write_json(path, row)
    return row


def simclr_first(folder: Path, shared: list[str], epochs: int) -> tuple[list[list[str]], list[str]]:
    """The programs that learn a backbone without labels, and the words that take its weights."""
    learnt = folder / "unlabelled"
    split = ["main.py", "--stage", "split", "crop", f"--run={learnt}", *shared, "--image-size=128"]
    learn = ["simclr", str(learnt), "--epochs", str(epochs), "--lr", "0.0001"]
    return [split, learn], [f"--weights={learnt / 'simclr' / f'epoch_{epochs:03}.safetensors'}"]


def main() -> None:
    """See the top of this file; further options go to main.py with every row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="labels of the test")
    parser.add_argument("--max-minutes", type=float, default=12)
    parser.add_argument("--simclr-epochs", type=int, default=5)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--crop", default="none")
    parser.add_argument("--image-size", default="160")
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"))
    arguments, others = parser.parse_known_args()
    limit = f"--max-minutes={arguments.max_minutes}"
    seen = [f"--crop={arguments.crop}", f"--image-size={arguments.image_size}", "--flip=on"]
    shared = [f"--data={arguments.data}", *seen, *others]
    labels = [f"--labels={arguments.labels}"] if arguments.labels else []
    lines = []
    for name in tqdm(arguments.rows, "rows"):
        folder = arguments.out / name.replace(" ", "_").replace(",", "")
        before: list[list[str]] = []
        weights: list[str] = []
        if name == SIMCLR:
            before, weights = simclr_first(folder, shared, arguments.simclr_epochs)
        words = [*shared, *labels, limit, *ROWS[name], *weights]
        row = do_row(folder, words, before)
        shown = [f"{row[k]:.1f}" if k in row else "" for k in ("validation", "test", "minutes")]
        lines.append((name, *shown, row.get("failed", "")))
    heads = [
        f"crop {arguments.crop}, {arguments.image_size} pixels",
        "validation",
        "test",
        "minutes",
        "",
    ]
    print(tabulate(lines, heads, disable_numparse=True))


if __name__ == "__main__":
    main()
