"""The results in a run folder of `lookalike verify`: scores, measures, plots and calibration.

    measures = write_results(folder, scored)       # pairs.csv, metrics.json, roc.png, errors.jpg, …
    print(results_table([Path("runs/sface"), Path("runs/siamese")]))

A pair with an unreadable picture is in every count, as answered wrong.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageOps
from sklearn.metrics import roc_curve
from tabulate import tabulate

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.log import log
from lookalike.core.readers import read_json
from lookalike.core.sealed import read_sealed, write_sealed
from lookalike.data.images import read_known_picture
from lookalike.verification.metrics import (
    FoldMeasures,
    PairMeasures,
    fill_missing_scores,
    fit_calibration,
    measure_pairs,
)
from lookalike.verification.settings import MADE_BY
from lookalike.viz.drawing import fitting_font
from lookalike.viz.plots import roc, save_png

ERRORS_SHOWN = 8  # of each kind
CELL, LINE = 128, 18  # pixels of a picture, and of a line of text


class ScoredPairs(NamedTuple):
    """The pairs of a protocol with the scores of a verifier.

    Attributes:
        root: Folder of the pictures.
        rows: Catalogue rows of the pictures.
        table: The N pairs that were scored.
        scores: (N,), higher for more alike; NaN for a pair with an unreadable picture.
        thresholds: By fold. None: each fold's is chosen on the other folds.
    """

    root: Path
    rows: pd.DataFrame
    table: pd.DataFrame
    scores: np.ndarray
    thresholds: Mapping[int, float] | None = None


def write_results(folder: Path, scored: ScoredPairs) -> PairMeasures:
    """Write pairs.csv, metrics.json, calibration.json, roc.png and errors.jpg.

    Returns:
        The measures.

    Raises:
        UserError: No pair of one kind has a score, or a single fold has no threshold.
    """
    table, scores, same = scored.table, scored.scores, scored.table.same.to_numpy()
    measures = measure_pairs(scores, same, table.fold.to_numpy(), scored.thresholds)
    answers = mark_answers(table, scores, measures["by_fold"])
    with whole_file(folder / "pairs.csv") as beside:
        answers.to_csv(beside, index=False)
    write_sealed(folder / "calibration.json", {**fit_calibration(scores, same)})
    curve = roc_curve(same, fill_missing_scores(scores, same), drop_intermediate=False)[:2]
    save_png(roc({folder.name: curve}), folder / "roc.png")
    with whole_file(folder / "errors.jpg") as beside:
        errors_sheet(answers, scored.root, scored.rows).save(beside, "JPEG", quality=90)
    write_sealed(folder / "metrics.json", {**measures})
    if measures["unanswered"]:
        log.warning(
            "warning: %d of %d pairs have a picture that cannot be read: answered wrong",
            measures["unanswered"],
            measures["pairs"],
        )
    return measures


def mark_answers(
    table: pd.DataFrame, scores: np.ndarray, by_fold: Sequence[FoldMeasures]
) -> pd.DataFrame:
    """Add the score of each pair, its distance from the threshold, and whether it is correct.

    Args:
        table: N pairs.
        scores: (N,); NaN for a pair that could not be compared.
        by_fold: A fold and its threshold in each entry, as in metrics.json.

    Returns:
        The table with the columns `score`, `beyond` (score less threshold) and `right`.
    """
    thresholds = {row["fold"]: row["threshold"] for row in by_fold}
    beyond = scores - table.fold.map(thresholds).to_numpy()
    right = ((beyond >= 0) == table.same.to_numpy()) & ~np.isnan(beyond)
    return table.assign(score=scores, beyond=beyond, right=right)


# ---- the worst errors ---------------------------------------------------------------------------


def worst_errors(answers: pd.DataFrame, same: bool) -> pd.DataFrame:
    """Return the wrong answers farthest from the threshold, the worst first.

    Args:
        answers: Columns `same`, `beyond` (score less threshold; rows with NaN are left out) and
            `right`.
        same: Whether to look among same pairs, or among different ones.
    """
    wrong = answers[(answers.same == same) & ~answers.right & answers.beyond.notna()]
    return wrong.sort_values("beyond", ascending=same, kind="stable").head(ERRORS_SHOWN)


def errors_sheet(answers: pd.DataFrame, root: Path, rows: pd.DataFrame) -> Image.Image:
    """Draw the worst errors in two columns: false accepts and false rejects.

    Args:
        answers: Pairs with the columns of `mark_answers`.
        root: Folder of the pictures.
        rows: Catalogue rows of the pictures.
    """
    contents = dict(zip(rows.path, rows.content, strict=True))
    columns = {
        "different people, called the same": worst_errors(answers, same=False),
        "the same person, called different": worst_errors(answers, same=True),
    }
    width, height = 2 * CELL + 4, CELL + 2 * LINE
    most = max(len(errors) for errors in columns.values())
    sheet = Image.new("RGB", (2 * width + 24, 2 * LINE + max(1, most) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (title, errors) in enumerate(columns.items()):
        left = number * (width + 24)
        pen.text((left, 4), title, fill="black", font=fitting_font(title, width, 14))
        for i, error in enumerate(errors.itertuples(index=False)):
            entry = error_entry(root, contents, str(error.a), str(error.b), float(error.score))  # type: ignore[arg-type]
            sheet.paste(entry, (left, 2 * LINE + i * height))
        if errors.empty:
            pen.text((left, 2 * LINE), "none", fill="black", font=fitting_font("none", width, 14))
    return sheet


def error_entry(
    root: Path, contents: Mapping[str, str], a: str, b: str, score: float
) -> Image.Image:
    """Draw two pictures side by side, with the ends of their paths and the pair's score below.

    Args:
        root: Folder of the pictures.
        contents: {path: content hash}.
        a: Path of the first picture.
        b: Path of the second picture.
        score: Of the pair.

    Raises:
        UserError: A picture has changed or gone since the catalogue was made.
    """
    entry = Image.new("RGB", (2 * CELL + 4, CELL + 2 * LINE), "white")
    pen = ImageDraw.Draw(entry)
    for left, path in ((0, a), (CELL + 4, b)):
        image = read_known_picture(root / path, contents[path], CELL)
        entry.paste(ImageOps.pad(image, (CELL, CELL), color="white"), (left, 0))
        name = "/".join(Path(path).parts[-3:])
        pen.text((left, CELL), name, fill="black", font=fitting_font(name, CELL, 11))
    pen.text((0, CELL + LINE - 4), f"{score:.3f}", fill="black", font=fitting_font("0", CELL, 12))
    return entry


# ---- tables -------------------------------------------------------------------------------------

HEADERS = ["run", "pairs", "folds", "accuracy", "AUC", "EER", "TAR at FAR 1e-2", "TAR at FAR 1e-3"]


def result_row(name: str, measures: PairMeasures) -> list[str]:
    """Return the row of a run, in the order of HEADERS."""
    accuracy = f"{measures['accuracy']:.4f} ± {measures['accuracy_sd']:.4f}"
    counts = [f"{measures['pairs']:,}", str(len(measures["by_fold"]))]
    rates = measures["auc"], measures["eer"], measures["tar@far=0.01"], measures["tar@far=0.001"]
    return [name, *counts, accuracy, *(f"{rate:.4f}" for rate in rates)]


def results_table(runs: Sequence[Path]) -> str:
    """Return the measures of finished runs, one row each, as a Markdown table.

    Raises:
        UserError: One of the folders has no metrics.json, or a damaged one, or is not a run of
            lookalike verify.
    """
    rows = [result_row(run.name, read_measures(run)) for run in runs]
    return tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True)


def read_measures(run: Path) -> PairMeasures:
    """Read the measures of a finished run.

    Raises:
        UserError: It has no metrics.json, or a damaged one, or is a run of something else.
    """
    path = run / "metrics.json"
    if "by_fold" not in read_json(path, MADE_BY, dict[str, Any]):
        raise UserError(f"{run}: not a run of {MADE_BY}")
    measures: PairMeasures = read_sealed(path, MADE_BY, PairMeasures)
    return measures
