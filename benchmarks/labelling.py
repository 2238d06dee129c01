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

from lookalike import pipeline as runner
from lookalike.core.errors import UserError
from lookalike.core.runs import Run, open_run
from lookalike.data.catalogue import bare_names, load_catalogue, readable
from lookalike.evaluation.scoring import labels_path, read_labels
from lookalike.features.extractor import embed, load_extractor
from lookalike.identification.references import (
    METHODS,
    Naming,
    calibration,
    labelled_pictures,
    make_references,
    name_rows,
)


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
    arguments, words = parser.parse_known_args()
    run = make_run(
        ["--backbone", arguments.backbone, *words], arguments.source_path, arguments.seed
    )
    extractor, labelled, test = load_extractor(run), labelled_pictures(run), test_pictures(run)
    known = labelled[labelled.part == "training"]
    rows, settings = embed(extractor, known), embed(extractor, test)
    table = []
    for method in METHODS:
        how = Naming(run.folder, method=method)
        references = make_references(rows, list(known.identity), how, run.seed)
        best = [guesses[0] for guesses in name_rows(settings, references, how)]
        right = np.array([guess.identity for guess in best]) == test.identity.to_numpy()
        threshold = calibration(run, extractor, how, 0.01)["threshold"]
        sure = np.array([guess.similarity for guess in best]) >= threshold
        shares = (right.mean(), (right & sure).mean(), (~right & sure).mean(), (~sure).mean())
        table.append((method, len(references.rows), *shares, threshold))
    heads = ["method", "references", "accuracy", "named right", "wrong", "unknown", "threshold"]
    print(f"{len(test)} test pictures, {len(known)} known of {known.identity.nunique()} people\n")
    print(tabulate(table, heads, floatfmt=("", "", *[".4f"] * 4, ".3f")))


if __name__ == "__main__":
    main()
