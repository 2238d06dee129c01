"""Accuracy of identification by each of the four methods, on LFW62.

    python -m benchmarks.labelling --source-path $DATA/lfw62

The baseline report's protocol: the references are the pictures of the training half (part
`training` of the catalogue), and every picture of the test, queries and gallery, is identified. The
threshold for "unknown" is calibrated on the validation, never on the test.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from lookalike import pipeline
from lookalike.core.errors import UserError
from lookalike.core.runs import Run, open_run
from lookalike.data.catalogue import bare_names, load_catalogue, readable
from lookalike.evaluation.scoring import read_labels
from lookalike.evaluation.stage import labels_path
from lookalike.features.embedding import embed
from lookalike.features.extractor import single_extractor
from lookalike.identification.calibration import load_calibration
from lookalike.identification.references import labeled_pictures, make_references, match_rows
from lookalike.identification.settings import METHODS, ReferenceSettings


def make_run(words: list[str], source: str, seed: int) -> Run:
    """Run the stages that are needed to embed, and return the run."""
    name = f"labelling{seed:02}"
    where = ["--source", "folder", "--source-path", source, "--seed", str(seed)]
    where += ["--data", f"data/{name}", "--run", f"runs/{name}"]
    if pipeline.main(["--stage", "extract", "split", "crop", "train", *where, *words]):
        raise SystemExit(f"the run failed: see runs/{name}/log.txt")
    return open_run(Path("runs") / name)


def test_pictures(run: Run) -> pd.DataFrame:
    """Return catalogue rows of the readable test pictures, with their identities."""
    rows, path = load_catalogue(run.path("test.csv")), labels_path(run)
    if path is None:
        raise UserError(f"{run.data}: the labels of its test are not known")
    parts = read_labels(path)._asdict()
    names = zip(rows.part, bare_names(rows.path), strict=True)
    rows["identity"] = [parts[part][name] for part, name in names]
    return rows[readable(rows)]


def main() -> None:
    """Print a table with one row per method; unknown options go to main.py."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--source-path", required=True)
    parser.add_argument("--backbone", default="sface")
    parser.add_argument("--seed", type=int, default=0)
    arguments, words = parser.parse_known_args()
    words = ["--backbone", arguments.backbone, *words]
    run = make_run(words, arguments.source_path, arguments.seed)
    extractor, labeled, test = single_extractor(run), labeled_pictures(run), test_pictures(run)
    known = labeled[labeled.part == "training"]
    rows, queries = embed(extractor, known), embed(extractor, test)
    table = []
    for method in METHODS:
        settings = ReferenceSettings(run.folder, method=method)
        references = make_references(rows, list(known.identity), settings, run.seed)
        best = [matches[0] for matches in match_rows(queries, references, settings)]
        correct = np.array([match.identity for match in best]) == test.identity.to_numpy()
        threshold = load_calibration(run, extractor, settings, 0.01)["threshold"]
        accepted = np.array([match.similarity for match in best]) >= threshold
        named = ((correct & accepted).mean(), (~correct & accepted).mean())
        rates = (correct.mean(), *named, (~accepted).mean())
        table.append((method, len(references.rows), *rates, threshold))
    headers = [
        "method",
        "references",
        "accuracy",
        "named correctly",
        "wrong",
        "unknown",
        "threshold",
    ]
    sizes = f"{len(known)} reference pictures of {known.identity.nunique()} people"
    print(f"{len(test)} test pictures, {sizes}\n")
    print(tabulate(table, headers, floatfmt=("", "", *[".4f"] * 4, ".3f")))


if __name__ == "__main__":
    main()
