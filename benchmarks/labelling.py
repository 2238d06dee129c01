"""Is every test picture given its right name? By each of the four methods, on LFW62.

    python -m benchmarks.labelling --source-path ../shared/data/lfw62

The report's protocol: known are the people of the training half (part `training` of the catalogue),
named is every picture of the test, queries and gallery. The threshold for "unknown" is calibrated
on the validation, never on the test.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

import main as runner
from config import UserError
from data import bare_names, load_catalogue, readable
from embed import embed
from evaluate import labels_path, read_labels
from naming import (
    METHODS,
    Naming,
    calibration,
    labelled_pictures,
    make_references,
    name_rows,
    open_run,
)
from retrieve import load_job
from runs import Run


def make_run(words: list[str], source: str, seed: int) -> Run:
    """A run as far as it is needed to embed."""
    name = f"labelling{seed:02}"
    where = ["--source", "folder", "--source-path", source, "--seed", str(seed)]
    where += ["--data", f"data/{name}", "--run", f"runs/{name}"]
    if runner.main(["--stage", "extract", "split", "crop", "train", *where, *words]):
        raise SystemExit(f"the run failed: see runs/{name}/log.txt")
    return open_run(Path("runs") / name)


def test_pictures(run: Run) -> pd.DataFrame:
    """Catalogue rows of the test that can be read, with their identities."""
    rows, path = load_catalogue(run.path("test.csv")), labels_path(run)
    if path is None:
        raise UserError(f"{run.data}: the labels of its test are not known")
    parts = read_labels(path)._asdict()
    names = zip(rows.part, bare_names(rows.path), strict=True)
    rows["identity"] = [parts[part][name] for part, name in names]
    return rows[readable(rows)]


def main() -> None:
    """See the top of this file; further options go to main.py."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--source-path", required=True)
    parser.add_argument("--backbone", default="sface")
    parser.add_argument("--seed", type=int, default=0)
    given, words = parser.parse_known_args()
    run = make_run(["--backbone", given.backbone, *words], given.source_path, given.seed)
    job, labelled, test = load_job(run), labelled_pictures(run), test_pictures(run)
    known = labelled[labelled.part == "training"]
    rows, asked = embed(job, known), embed(job, test)
    table = []
    for method in METHODS:
        how = Naming(run.folder, method=method)
        references = make_references(rows, list(known.identity), how, run.seed)
        best = [guesses[0] for guesses in name_rows(asked, references, how)]
        right = np.array([guess.identity for guess in best]) == test.identity.to_numpy()
        threshold = calibration(run, job, how, 0.01)["threshold"]
        sure = np.array([guess.similarity for guess in best]) >= threshold
        shares = (right.mean(), (right & sure).mean(), (~right & sure).mean(), (~sure).mean())
        table.append((method, len(references.rows), *shares, threshold))
    heads = ["method", "references", "accuracy", "named right", "wrong", "unknown", "threshold"]
    print(f"{len(test)} test pictures, {len(known)} known of {known.identity.nunique()} people\n")
    print(tabulate(table, heads, floatfmt=("", "", *[".4f"] * 4, ".3f")))


if __name__ == "__main__":
    main()
