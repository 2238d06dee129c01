"""A benchmark's rows -> summary, tables beside the report's, plots.

`rows.csv` has a line for every run, `summary.csv` one for every setting, with means over seeds;
`report.md` is for reading, the PNG files are for looking at.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from tabulate import tabulate

from lookalike.core.files import whole_file, write_text
from lookalike.viz import plots

FACTORS = ["backbone", "lr", "epochs", "batch_size", "normalization", "train_views"]
MEASURES = ["score", "recall@1", "recall@5", "recall@10", "map", "map@10", "map@10_hits"]
REPORT = Path(__file__).with_name("report_tables.csv")
# What the report says of its ablations, by the factor that was changed.
REPORT_SAYS = {
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
    """Writes rows.csv, summary.csv, report.md and the plots; the text of report.md.

    results: rows in the order of the grid, the base first: FACTORS, seed, row, and measures or
        `failed`. backbones: {name: costs}, see backbone_costs.
    """
    rows = pd.DataFrame([_flat(result, backbones) for result in results])
    summary = summarise_rows(rows)
    changes = ablations(rows, summary)
    for name, table in (("rows", rows), ("summary", summary)):
        with whole_file(folder / f"{name}.csv") as beside:
            table.to_csv(beside, index=False)
    text = "\n\n".join(sections(rows, summary, changes)) + "\n"
    write_text(folder / "report.md", text)
    draw_plots(rows, summary, changes, folder)
    return text


def _flat(result: Mapping[str, Any], backbones: Mapping[str, Any]) -> dict[str, Any]:
    """A row of rows.csv; the interval of its score as `low` and `high`.

    training_seconds: of the head, and of the embedding of all pictures that training needs, at the
    backbone's own speed: what it takes with an empty cache.
    """
    costs = backbones[result["backbone"]]
    low, high = result.get("ci95", {}).get("score", (np.nan, np.nan))
    rate, count = costs.get("pictures_per_second"), result.get("training_pictures", np.nan)
    seconds = result.get("head_seconds", np.nan) + count / rate if rate else np.nan
    kept = {k: v for k, v in result.items() if k != "ci95"}
    columns = dict.fromkeys([*MEASURES, "memory", "part", "failed"])
    return {**columns, **kept, **costs, "low": low, "high": high, "training_seconds": seconds}


def summarise_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each setting, in the order of the grid: means over seeds.

    low, high: of one seed the bootstrap interval over identities; of several the mean less and
    plus the standard deviation over them. relative: the score over the best one's.
    """
    kept = []
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
        kept.append(line | {"failed": "; ".join(map(str, reasons))})
    summary = pd.DataFrame(kept)
    summary["relative"] = summary.score / max(float(summary.score.max()), 1e-9)
    return summary


def ablations(rows: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """What each change of a single factor of the base does to the score.

    Columns: change; difference, mean over seeds of the score less the base's with the same seed
    (which takes out what a seed's split does to both); low and high, its 95 % interval by Student's
    t; seeds; the report's finding. With one seed the interval is unknown.
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
        says = REPORT_SAYS.get(change, REPORT_SAYS.get(changed[0], ""))
        found.append({"change": change, **_paired(pairs.dropna()), "report": says})
    return pd.DataFrame(found)


def _paired(differences: pd.Series) -> dict[str, float]:
    """The mean of paired differences and its 95 % interval (nothing wide is claimed of one)."""
    mean, count = float(differences.mean()), len(differences)
    half = np.nan
    if count > 1:
        error = differences.std(ddof=1) / np.sqrt(count)
        half = float(stats.t.ppf(0.975, count - 1) * error)
    return {"difference": mean, "low": mean - half, "high": mean + half, "seeds": count}


# ---- for reading --------------------------------------------------------------------------------


def sections(rows: pd.DataFrame, summary: pd.DataFrame, changes: pd.DataFrame) -> list[str]:
    """The parts of report.md: all settings, the changes, beside the report, failures."""
    parts = ["# Benchmark", _note(rows), markdown(table_for_reading(summary))]
    if len(changes):
        parts += ["## One factor changed, seed by seed", markdown(changes_for_reading(changes))]
    parts += ["## Beside the report's table", markdown(beside_report(summary))]
    failed = rows[rows.failed.notna()]
    if len(failed):
        parts += ["## Failed", markdown(failed[["row", "failed"]])]
    return parts


def _note(rows: pd.DataFrame) -> str:
    parts = ", ".join(sorted(rows.part.dropna().unique())) or "nothing"
    return (
        f"Scored on the {parts}. The interval is the mean ± one standard deviation over the seeds; "
        "of a single seed it is the 95 % of a bootstrap over identities. Training time is that of "
        "an empty cache: the head, and every picture once through the backbone. A multiplication "
        "and an addition are two FLOPs. Relative: to the best score of this table."
    )


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table; what is not known is a dash."""
    shown = table.astype(object).where(table.notna(), "-")
    return tabulate(shown.to_numpy().tolist(), list(table.columns), "github", disable_numparse=True)


def _form(values: pd.Series, form: str, scale: float = 1.0) -> list[str]:
    return ["-" if pd.isna(value) else format(value * scale, form) for value in values]


def table_for_reading(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary, best first, with few digits and units in the heads."""
    best = summary.sort_values("score", ascending=False, na_position="last", kind="stable")
    interval = [f"{low} to {high}" for low, high in zip(*_both_ends(best), strict=True)]
    return pd.DataFrame(
        {
            **{name: best[name] for name in FACTORS},
            "seeds": best.seeds,
            "score": _form(best.score, ".1f"),
            "interval": interval,
            "Top-1": _form(best["recall@1"], ".3f"),
            "Top-5": _form(best["recall@5"], ".3f"),
            "Top-10": _form(best["recall@10"], ".3f"),
            "mAP": _form(best["map"], ".3f"),
            "mAP (hits)": _form(best["map@10_hits"], ".3f"),
            "training s": _form(best.training_seconds, ".1f"),
            "pictures/s": _form(best.pictures_per_second, ".0f"),
            "parameters M": _form(best.parameters, ".1f", 1e-6),
            "GFLOPs": _form(best.flops, ".2f", 1e-9),
            "memory MB": _form(best.memory, ".0f", 1e-6),
            "relative": _form(best.relative, ".3f"),
        }
    )


def _both_ends(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    return _form(table.low, ".1f"), _form(table.high, ".1f")


def changes_for_reading(changes: pd.DataFrame) -> pd.DataFrame:
    """The changes with their intervals, and whether these leave out zero."""
    low, high = _both_ends(changes)
    surely = np.where(changes.low > 0, "better", np.where(changes.high < 0, "worse", "cannot tell"))
    return pd.DataFrame(
        {
            "change": changes.change,
            "difference": _form(changes.difference, "+.1f"),
            "95 % of the mean": [f"{a} to {b}" for a, b in zip(low, high, strict=True)],
            "seeds": changes.seeds,
            "verdict": np.where(changes.low.isna(), "one seed: unknown", surely),
            "the report says": changes.report,
        }
    )


def beside_report(summary: pd.DataFrame) -> pd.DataFrame:
    """The report's rows, and beside each what our backbones reach with its rate and epochs."""
    report = pd.read_csv(REPORT)
    table = pd.DataFrame(
        {
            "report's model": report.model,
            "lr": report.lr,
            "epochs": report.epochs,
            "report": _form(report.score, ".1f"),
            "Top-1": _form(report["recall@1"], ".3f"),
            "mAP (hits)": _form(report["map@10_hits"], ".3f"),
            "seconds": report.seconds,
        }
    )
    ours = summary.drop_duplicates(["backbone", "lr", "epochs"]).set_index(["lr", "epochs"])
    for name in dict.fromkeys(summary.backbone):
        known = ours[ours.backbone == name]
        table[name] = [
            _with_spread(known.loc[key]) if key in known.index else "-"
            for key in zip(report.lr, report.epochs, strict=True)
        ]
    return table


def _with_spread(line: pd.Series) -> str:
    spread = "" if pd.isna(line.sd) else f" ± {line.sd:.1f}"
    return "-" if pd.isna(line.score) else f"{line.score:.1f}{spread}"


# ---- for looking at -----------------------------------------------------------------------------


def draw_plots(
    rows: pd.DataFrame, summary: pd.DataFrame, changes: pd.DataFrame, folder: Path
) -> None:
    """Writes those of the four plots that there is something to draw in."""
    for name, figure in figures(rows, summary, changes, folder).items():
        plots.save_png(figure, folder / f"{name}.png")


def figures(
    rows: pd.DataFrame, summary: pd.DataFrame, changes: pd.DataFrame, folder: Path
) -> dict[str, plots.Figure]:
    """{file's name: plot}; see `plots`."""
    found = {}
    known = summary[summary.score.notna()]
    if known.training_seconds.notna().any():
        found["score_against_time"] = plots.score_against_time(known)
    base = summary.loc[0]
    same = (known.batch_size == base.batch_size) & (known.normalization == base.normalization)
    at_base = known[same & (known.train_views == base.train_views)]
    if at_base.lr.nunique() > 1:
        found["learning_rates"] = plots.learning_rates(at_base)
    if len(changes):
        found["ablations"] = plots.ablation_bars(changes)
    histories = read_histories(rows, folder)
    if histories:
        found["losses"] = plots.learning_curves(histories)
    return found


def read_histories(rows: pd.DataFrame, folder: Path) -> dict[str, pd.DataFrame]:
    """{setting: history} of the first seed's longest training for each backbone and rate."""
    good = rows[rows.failed.isna() & (rows.seed == rows.seed.iloc[0])]
    longest = good.sort_values("epochs", kind="stable").drop_duplicates(
        ["backbone", "lr"], keep="last"
    )
    found = {}
    for line in longest.itertuples():
        path = folder / "rows" / str(line.row) / "history.csv"
        history = pd.read_csv(path) if path.is_file() else pd.DataFrame()
        if len(history) and "holdout_loss" in history:
            found[f"{line.backbone}, {line.lr:g}"] = history
    return dict(list(found.items())[: len(plots.COLORS)])
