"""What a verifier's run folder holds: every pair's score, measures, plots, and its calibration.

measures = write_results(folder, answers)      # pairs.csv, metrics.json, roc.png, errors.jpg, …
print(results_table([Path("runs/sface"), Path("runs/siamese")]))
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
from lookalike.core.files import read_json, whole_file, write_json
from lookalike.core.log import log
from lookalike.data.images import read_known_picture
from lookalike.verification.metrics import answered, calibrate, measure
from lookalike.verification.scoring import MADE_BY
from lookalike.viz.drawing import fitting_font
from lookalike.viz.plots import roc, save_png

SHOWN = 8  # errors of each kind
CELL, LINE = 128, 18  # pixels of a picture, and of a line of text


class Answers(NamedTuple):
    """What a verifier said of a protocol's pairs.

    root: folder of the pictures. rows: their catalogue rows. table: the pairs that were asked.
    scores: (N,), higher for more alike, NaN for a pair with a broken picture. thresholds: by fold,
    where the folds do not choose them for each other.
    """

    root: Path
    rows: pd.DataFrame
    table: pd.DataFrame
    scores: np.ndarray
    thresholds: Mapping[int, float] | None = None


def write_results(folder: Path, made: Answers) -> dict[str, Any]:
    """Writes pairs.csv, metrics.json, calibration.json, roc.png and errors.jpg; returns the
    measures."""
    table, same = made.table, made.table.same.to_numpy()
    measures = measure(made.scores, same, table.fold.to_numpy(), made.thresholds)
    chosen = {row["fold"]: row["threshold"] for row in measures["by_fold"]}
    beyond = made.scores - table.fold.map(chosen).to_numpy()
    right = ((beyond >= 0) == same) & ~np.isnan(beyond)
    judged = table.assign(score=made.scores, beyond=beyond, right=right)
    with whole_file(folder / "pairs.csv") as beside:
        judged.to_csv(beside, index=False)
    write_json(folder / "calibration.json", calibrate(made.scores, same))
    curve = roc_curve(same, answered(made.scores, same), drop_intermediate=False)[:2]
    save_png(roc({folder.name: curve}), folder / "roc.png")
    with whole_file(folder / "errors.jpg") as beside:
        errors_sheet(judged, made.root, made.rows).save(beside, "JPEG", quality=90)
    write_json(folder / "metrics.json", measures)
    if measures["unanswered"]:
        log.warning(
            "warning: %d of %d pairs have a picture that cannot be read: answered wrong",
            *(measures["unanswered"], measures["pairs"]),
        )
    return measures


# ---- the worst errors ---------------------------------------------------------------------------


def worst_errors(judged: pd.DataFrame, same: bool) -> pd.DataFrame:
    """The wrong answers farthest beyond the threshold, of pairs that are the same or are not.

    judged: columns `same`, `beyond` (score less threshold; NaN is left out) and `right`.
    """
    wrong = judged[(judged.same == same) & ~judged.right & judged.beyond.notna()]
    return wrong.sort_values("beyond", ascending=same, kind="stable").head(SHOWN)


def errors_sheet(judged: pd.DataFrame, root: Path, rows: pd.DataFrame) -> Image.Image:
    """Two columns: different people taken for one, and one person taken for two; worst first."""
    contents = dict(zip(rows.path, rows.content, strict=True))
    columns = {
        "different people, taken for one": worst_errors(judged, same=False),
        "one person, taken for two": worst_errors(judged, same=True),
    }
    wide, high = 2 * CELL + 4, CELL + 2 * LINE
    most = max(len(errors) for errors in columns.values())
    sheet = Image.new("RGB", (2 * wide + 24, 2 * LINE + max(1, most) * high), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (title, errors) in enumerate(columns.items()):
        left = number * (wide + 24)
        pen.text((left, 4), title, fill="black", font=fitting_font(title, wide, 14))
        for i, error in enumerate(errors.itertuples(index=False)):
            entry = error_entry(root, contents, str(error.a), str(error.b), float(error.score))  # type: ignore[arg-type]
            sheet.paste(entry, (left, 2 * LINE + i * high))
        if errors.empty:
            pen.text((left, 2 * LINE), "none", fill="black", font=fitting_font("none", wide, 14))
    return sheet


def error_entry(
    root: Path, contents: Mapping[str, str], a: str, b: str, score: float
) -> Image.Image:
    """Two pictures side by side, with the ends of their paths below, and the pair's score."""
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

HEADS = ["run", "pairs", "folds", "accuracy", "AUC", "EER", "TAR at FAR 1e-2", "TAR at FAR 1e-3"]


def result_line(name: str, measures: Mapping[str, Any]) -> list[str]:
    """A line under HEADS."""
    kept = ("auc", "eer", "tar@far=0.01", "tar@far=0.001")
    accuracy = f"{measures['accuracy']:.4f} ± {measures['accuracy_sd']:.4f}"
    counts = [f"{measures['pairs']:,}", str(len(measures["by_fold"]))]
    return [name, *counts, accuracy, *(f"{measures[key]:.4f}" for key in kept)]


def results_table(runs: Sequence[Path]) -> str:
    """The measures of finished runs, a line each, as a table that Markdown shows too.

    Raises:
        UserError: one of them has no metrics.json, or is no run of lookalike verify.
    """
    lines = []
    for run in runs:
        measures = read_json(run / "metrics.json", MADE_BY)
        if not isinstance(measures, dict) or "by_fold" not in measures:
            raise UserError(f"{run}: is no run of {MADE_BY}")
        lines.append(result_line(run.name, measures))
    return tabulate(lines, HEADS, tablefmt="github", disable_numparse=True)
