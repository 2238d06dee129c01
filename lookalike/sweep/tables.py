"""Summarize the rows of a sweep: tables, beside those of the baseline report, and plots.

`rows.csv` has a line for every run, `summary.csv` one for every setting, with means over seeds;
`report.md` shows them with few digits, and the PNG files as plots.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from tabulate import tabulate

from lookalike.core.files import whole_file, write_text
from lookalike.core.readers import read_if_good, read_table
from lookalike.training.history import read_history
from lookalike.viz import plots

FACTORS = ["backbone", "lr", "epochs", "batch_size", "normalization", "train_views"]
MEASURES = ["score", "recall@1", "recall@5", "recall@10", "map", "map@10", "map@10_hits"]
# The columns of summary.csv that are read again, with their types.
SUMMARY: dict[str, type] = {
    "backbone": str,
    "lr": float,
    "epochs": int,
    "batch_size": int,
    "normalization": str,
    "train_views": int,
    "seeds": int,
    **dict.fromkeys(["score", "low", "high", "relative", "memory", "parameters", "flops"], float),
    **dict.fromkeys(["recall@1", "recall@5", "recall@10", "map", "map@10_hits"], float),
    **dict.fromkeys(["training_seconds", "pictures_per_second"], float),
}
TESTED_TO_TRAINED = 0.6  # the baseline report's protocol: three tenths tested, half trained on
BASELINE_REPORT = Path(__file__).with_name("baseline_report.csv")
# What the baseline report says of its ablations, by the factor that was changed.
BASELINE_FINDINGS = {
    "normalization=none": "more than 30 points less",
    "train_views": "without augmentation a little worse",
    "batch_size": "8 and 64 worse than 32",
    "lr": "1e-2 and 1e-1 worse than 1e-3",
    "epochs": "3 and 5: no clear order",
    "backbone": "ViT-B/16 and EfficientNet-B0 near each other, ResNet-50 far below",
}


def write_tables(
    results: Sequence[Mapping[str, Any]], backbones: Mapping[str, Any], folder: Path
) -> str:
    """Write rows.csv, summary.csv, report.md and the plots.

    Args:
        results: A table for each row, in the order of the grid, the base first: FACTORS, `seed`,
            `row`, and measures or `failed`.
        backbones: {name: costs}, see `grid.backbone_costs`.
        folder: To write to; histories are read from `rows/<row>/` there.

    Returns:
        The text of report.md.
    """
    rows = pd.DataFrame([_flat(result, backbones) for result in results])
    summary = summarize_rows(rows)
    changes = ablations(rows, summary)
    for name, table in (("rows", rows), ("summary", summary)):
        with whole_file(folder / f"{name}.csv") as beside:
            table.to_csv(beside, index=False)
    text = "\n\n".join(sections(rows, summary, changes)) + "\n"
    write_text(folder / "report.md", text)
    draw_plots(rows, summary, changes, folder)
    return text


def _flat(result: Mapping[str, Any], backbones: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of rows.csv, with the interval of its score as `low` and `high`.

    `training_seconds` is what the training takes with an empty cache: the head, and the embedding
    of all pictures that it needs, at the backbone's speed.
    """
    costs = backbones[result["backbone"]]
    low, high = result.get("ci95", {}).get("score", (np.nan, np.nan))
    rate, count = costs.get("pictures_per_second"), result.get("training_pictures", np.nan)
    seconds = result.get("head_seconds", np.nan) + count / rate if rate else np.nan
    others = {k: v for k, v in result.items() if k != "ci95"}
    columns = dict.fromkeys([*MEASURES, "memory", "part", "failed"])
    return {**columns, **others, **costs, "low": low, "high": high, "training_seconds": seconds}


def summarize_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line for each setting, in the order of the grid, with means over seeds.

    Args:
        rows: The table of rows.csv.

    Returns:
        FACTORS, `seeds` (how many have not failed), the means of MEASURES, the medians of the
        costs; `low` and `high`, for one seed the interval over identities, for several
        the mean minus and plus `sd`, the standard deviation over them; `failed`, the reasons; and
        `relative`, the score over the best one's.
    """
    lines = []
    for factors, group in rows.groupby(FACTORS, sort=False):
        good = group[group.failed.isna()]
        costs = ["training_seconds", "memory", "parameters", "flops", "pictures_per_second"]
        line: dict[str, Any] = dict(zip(FACTORS, factors, strict=True)) | {"seeds": len(good)}
        line |= {name: good[name].mean() for name in MEASURES}
        line |= {name: good[name].median() if name in good else np.nan for name in costs}
        line |= {"low": good.low.mean(), "high": good.high.mean(), "sd": np.nan}
        if len(good) > 1:
            sd = good.score.std(ddof=1)
            line |= {"low": line["score"] - sd, "high": line["score"] + sd, "sd": sd}
        reasons = group.failed.dropna().unique()
        lines.append(line | {"failed": "; ".join(map(str, reasons))})
    summary = pd.DataFrame(lines)
    summary["relative"] = summary.score / max(float(summary.score.max()), 1e-9)
    return summary


def read_summary(path: Path) -> pd.DataFrame:
    """Read a summary.csv; unknown numbers are NaN.

    Raises:
        UserError: The file is missing or damaged.
    """
    table: pd.DataFrame = read_table(path, "lookalike sweep", SUMMARY)
    return table[list(SUMMARY)]


def ablations(rows: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Return the effect on the score of each change of a single factor of the base.

    Args:
        rows: The table of rows.csv.
        summary: What `summarize_rows` returns, the base first.

    Returns:
        A line for each change: `change`; `difference`, the mean over seeds of the score minus the
        base's with the same seed (so that the effect of a seed's split cancels); `low` and `high`,
        see `paired_difference`; `seeds`; and `baseline`, the finding of the baseline report.
    """
    scores = rows[rows.failed.isna()].set_index([*FACTORS, "seed"]).score.astype(float).sort_index()
    base = dict(summary.loc[0, FACTORS])
    found = []
    for line in summary[FACTORS].to_dict("records"):
        changed = [name for name in FACTORS if line[name] != base[name]]
        if len(changed) != 1:
            continue
        try:
            pairs = scores.loc[tuple(line.values())] - scores.loc[tuple(base.values())]
        except KeyError:  # one of them has failed for every seed
            continue
        change = f"{changed[0]}={line[changed[0]]}"
        finding = BASELINE_FINDINGS.get(change, BASELINE_FINDINGS.get(changed[0], ""))
        found.append((change, pairs.dropna().to_numpy(), finding))
    return pd.DataFrame(
        {"change": change, **paired_difference(pairs, len(found)), "baseline": finding}
        for change, pairs, finding in found
    )


def paired_difference(differences: np.ndarray, changes: int) -> dict[str, float]:
    """Return the mean of paired differences over seeds, and its 95 % interval.

    The seeds divide the same pictures, so that their results are not independent: the corrected
    resampled t interval takes (1/J + tested/trained) for 1/J of the variance (Nadeau and Bengio,
    Inference for the generalization error, 2003). All changes are judged at once: their intervals
    hold together with 95 % (Bonferroni).

    Args:
        differences: (J,), one for each seed.
        changes: How many changes are judged by the same seeds.

    Returns:
        `difference`, `low` and `high`, NaN for a single seed, and `seeds`.

    >>> found = paired_difference(np.array([1.0, 2.0, 3.0]), changes=1)
    >>> [round(found[name], 2) for name in ("difference", "low", "high")]
    [2.0, -2.16, 6.16]
    """
    mean, count = float(differences.mean()), len(differences)
    half = np.nan
    if count > 1:
        error = differences.std(ddof=1) * np.sqrt(1 / count + TESTED_TO_TRAINED)
        half = float(stats.t.ppf(1 - 0.025 / changes, count - 1) * error)
    return {"difference": mean, "low": mean - half, "high": mean + half, "seeds": count}


# ---- report.md ----------------------------------------------------------------------------------


CHANGES_NOTE = (
    "The intervals hold together with 95 % (corrected resampled t, Bonferroni): the seeds divide "
    "the same pictures, and several changes are judged."
)


def sections(rows: pd.DataFrame, summary: pd.DataFrame, changes: pd.DataFrame) -> list[str]:
    """Return the parts of report.md: settings, changes, the baseline report's table, failures."""
    parts = ["# Sweep", _note(rows), markdown(table_for_reading(summary))]
    if len(changes):
        parts += [
            "## One factor changed, seed by seed",
            CHANGES_NOTE,
            markdown(changes_for_reading(changes)),
        ]
    parts += ["## Beside the baseline report's table", markdown(beside_baseline(summary))]
    failed = rows[rows.failed.notna()]
    if len(failed):
        parts += ["## Failed", markdown(failed[["row", "failed"]])]
    return parts


def _note(rows: pd.DataFrame) -> str:
    """Say what the columns of the tables mean."""
    parts = ", ".join(sorted(rows.part.dropna().unique())) or "nothing"
    return (
        f"Scored on the {parts}. The interval is the mean ± one standard deviation over the seeds; "
        "for a single seed, the 95 % interval over identities. Training time is "
        "that with an empty cache: the head, and every picture once through the backbone. A "
        "multiplication and an addition are two FLOPs. Relative: to the best score of this table."
    )


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown; unknown values are dashes."""
    cells = table.astype(object).where(table.notna(), "-")
    return tabulate(cells.to_numpy().tolist(), list(table.columns), "github", disable_numparse=True)


def _format(values: pd.Series, form: str, scale: float = 1.0) -> list[str]:
    """Format a column; unknown values are dashes."""
    return ["-" if pd.isna(value) else format(value * scale, form) for value in values]


def table_for_reading(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the summary, best first, with few digits and with units in the heads.

    Args:
        summary: What `summarize_rows` returns, or the table of summary.csv.
    """
    best = summary.sort_values("score", ascending=False, na_position="last", kind="stable")
    interval = [f"{low} to {high}" for low, high in zip(*_both_ends(best), strict=True)]
    return pd.DataFrame(
        {
            **{name: best[name] for name in FACTORS},
            "seeds": best.seeds,
            "score": _format(best.score, ".1f"),
            "interval": interval,
            "Top-1": _format(best["recall@1"], ".3f"),
            "Top-5": _format(best["recall@5"], ".3f"),
            "Top-10": _format(best["recall@10"], ".3f"),
            "mAP": _format(best["map"], ".3f"),
            "mAP (hits)": _format(best["map@10_hits"], ".3f"),
            "training s": _format(best.training_seconds, ".1f"),
            "pictures/s": _format(best.pictures_per_second, ".0f"),
            "parameters M": _format(best.parameters, ".1f", 1e-6),
            "GFLOPs": _format(best.flops, ".2f", 1e-9),
            "memory MB": _format(best.memory, ".0f", 1e-6),
            "relative": _format(best.relative, ".3f"),
        }
    )


def _both_ends(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Format the ends of the intervals."""
    return _format(table.low, ".1f"), _format(table.high, ".1f")


def changes_for_reading(changes: pd.DataFrame) -> pd.DataFrame:
    """Return the changes with their intervals, and whether these exclude zero."""
    low, high = _both_ends(changes)
    verdict = np.where(changes.high < 0, "worse", "cannot tell")
    verdict = np.where(changes.low > 0, "better", verdict)
    return pd.DataFrame(
        {
            "change": changes.change,
            "difference": _format(changes.difference, "+.1f"),
            "95 % interval": [f"{a} to {b}" for a, b in zip(low, high, strict=True)],
            "seeds": changes.seeds,
            "verdict": np.where(changes.low.isna(), "one seed: unknown", verdict),
            "the baseline report says": changes.baseline,
        }
    )


def beside_baseline(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the baseline report's rows with our backbones' scores at its rates and epochs."""
    report = pd.read_csv(BASELINE_REPORT)
    table = pd.DataFrame(
        {
            "baseline model": report.model,
            "lr": report.lr,
            "epochs": report.epochs,
            "baseline": _format(report.score, ".1f"),
            "Top-1": _format(report["recall@1"], ".3f"),
            "mAP (hits)": _format(report["map@10_hits"], ".3f"),
            "seconds": report.seconds,
        }
    )
    ours = summary.drop_duplicates(["backbone", "lr", "epochs"]).set_index(["lr", "epochs"])
    for name in dict.fromkeys(summary.backbone):
        scores = ours[ours.backbone == name]
        table[name] = [
            _with_spread(scores.loc[key]) if key in scores.index else "-"
            for key in zip(report.lr, report.epochs, strict=True)
        ]
    return table


def _with_spread(line: pd.Series) -> str:
    """Format a score with its standard deviation over seeds."""
    spread = "" if pd.isna(line.sd) else f" ± {line.sd:.1f}"
    return "-" if pd.isna(line.score) else f"{line.score:.1f}{spread}"


# ---- plots --------------------------------------------------------------------------------------


def draw_plots(
    rows: pd.DataFrame, summary: pd.DataFrame, changes: pd.DataFrame, folder: Path
) -> None:
    """Write those of the four plots that have something to show."""
    for name, figure in figures(rows, summary, changes, folder).items():
        plots.save_png(figure, folder / f"{name}.png")


def figures(
    rows: pd.DataFrame, summary: pd.DataFrame, changes: pd.DataFrame, folder: Path
) -> dict[str, plots.Figure]:
    """Return {name of the file: plot}.

    Args:
        rows: The table of rows.csv.
        summary: What `summarize_rows` returns.
        changes: What `ablations` returns.
        folder: Of the sweep; histories are read from it.
    """
    found = {}
    scored = summary[summary.score.notna()]
    if scored.training_seconds.notna().any():
        found["score_against_time"] = plots.score_against_time(scored)
    base = summary.loc[0]
    same = (scored.batch_size == base.batch_size) & (scored.normalization == base.normalization)
    at_base = scored[same & (scored.train_views == base.train_views)]
    if at_base.lr.nunique() > 1:
        found["learning_rates"] = plots.learning_rates(at_base)
    if len(changes):
        found["ablations"] = plots.ablation_bars(changes)
    histories = read_histories(rows, folder)
    if histories:
        found["losses"] = plots.learning_curves(histories)
    return found


def read_histories(rows: pd.DataFrame, folder: Path) -> dict[str, pd.DataFrame]:
    """Return {setting: history} of the first seed's longest training per backbone and rate."""
    good = rows[rows.failed.isna() & (rows.seed == rows.seed.iloc[0])]
    longest = good.sort_values("epochs", kind="stable").drop_duplicates(
        ["backbone", "lr"], keep="last"
    )
    found = {}
    for line in longest.itertuples():
        path = folder / "rows" / str(line.row) / "history.csv"
        history = read_if_good(read_history, path, "left out of the plot")
        if history is not None and len(history) and "holdout_loss" in history:
            found[f"{line.backbone}, {line.lr:g}"] = history
    return dict(list(found.items())[: len(plots.COLORS)])
