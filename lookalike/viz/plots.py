"""Plots of sweeps, trainings and reports, by matplotlib: PNG files, or SVG for a page.

    save_png(learning_rates(table), Path("lr.png"))
    text = as_svg(learning_curves({"run": history}))

An SVG takes axes and words from the page's own text color; the colors of the series can be told
apart on white and on black.
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from lookalike.core.files import whole_file

COLORS = ("#3d8f7c", "#c8743a", "#5b7fc7", "#b0568f", "#8a8f3c", "#7a6fb0", "#b5504f", "#5a9bb0")
INK = "#123456"  # stands for the page's text color, and is replaced by it
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # words stay words: small, sharp, in the page's own font
    "svg.hashsalt": "plots",  # the same plot is the same bytes
    "font.size": 9.0,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def new_figure(width: float = 6.0, height: float = 3.4, columns: int = 1) -> tuple[Figure, list]:
    """Return an empty figure and its axes, side by side.

    Args:
        width: In inches.
        height: In inches.
        columns: Number of axes.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def as_svg(figure: Figure) -> str:
    """Return a figure as an <svg> element that takes the page's text color, font and width."""
    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 role="img"', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text)
    return text.replace(INK, "currentColor")


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG on white, whole or not at all."""
    with matplotlib.rc_context(STYLE), whole_file(path) as beside:
        figure.savefig(beside, format="png", dpi=140, facecolor="white")


def _legend(axes: Axes) -> None:
    with matplotlib.rc_context(STYLE):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)


# ---- choices ------------------------------------------------------------------------------------


def score_by_minutes(trials: pd.DataFrame) -> Figure:
    """Plot what was tried within a time limit: a line through the choices that stayed.

    Args:
        trials: A table with minutes, after (the metric with a choice) and kept.
    """
    figure, (axes,) = new_figure(8.0, 3.2)
    kept, others = trials[trials.kept], trials[~trials.kept]
    axes.plot(others.minutes, others.after, ".", color=COLORS[1], markersize=3, label="tried")
    axes.step(kept.minutes, kept.after, where="post", color=COLORS[0], marker="o", label="stayed")
    for number, (minutes, after) in enumerate(zip(kept.minutes, kept.after, strict=True), 1):
        axes.annotate(
            str(number), (minutes, after), xytext=(4, -10), textcoords="offset points", fontsize=8
        )
    axes.set(xlabel="minutes", ylabel="out-of-fold score")
    _legend(axes)
    return figure


# ---- training -----------------------------------------------------------------------------------


def learning_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot losses and held-out accuracy by epoch; a ring marks the epoch that was saved.

    Args:
        histories: {name: table with epoch, train_loss, holdout_loss and holdout_accuracy}.
    """
    figure, (left, right) = new_figure(8.0, 3.2, columns=2)
    for color, (name, history) in zip(_cycle(len(histories)), histories.items(), strict=True):
        prefix = f"{name}: " if len(histories) > 1 else ""
        best = history.iloc[int(history.holdout_loss.argmin())]
        line = {"color": color, "marker": ".", "linewidth": 1.5}
        left.plot(history.epoch, history.train_loss, linestyle=":", label=f"{prefix}train", **line)
        left.plot(history.epoch, history.holdout_loss, label=f"{prefix}held out", **line)
        right.plot(history.epoch, history.holdout_accuracy, label=name, **line)
        _ring(left, best.epoch, best.holdout_loss, color)
        _ring(right, best.epoch, best.holdout_accuracy, color)
    for axes, label in ((left, "loss"), (right, "held-out accuracy")):
        _by_epoch(axes, label)
    _legend(left)
    return figure


def retrieval_curves(history: pd.DataFrame) -> Figure:
    """Plot loss, validation score and learning rate by epoch.

    A ring marks the best score, a dotted line that of the untrained embedder.

    Args:
        history: A table with epoch (0 is untrained), train_loss, score and lr.
    """
    figure, (losses, scores, rates) = new_figure(9.0, 2.8, columns=3)
    trained = history[history.epoch > 0]
    for axes, name, label in (
        (losses, "train_loss", "loss"),
        (scores, "score", "validation score"),
        (rates, "lr", "learning rate"),
    ):
        axes.plot(trained.epoch, trained[name], color=COLORS[0], marker=".", linewidth=1.5)
        _by_epoch(axes, label)
    best = trained.iloc[int(trained.score.argmax())]
    _ring(scores, best.epoch, best.score, COLORS[0])
    scores.axhline(history.score.iloc[0], color=COLORS[1], linestyle=":", label="untrained")
    _legend(scores)
    return figure


def _by_epoch(axes: Axes, label: str) -> None:
    """Label axes whose horizontal one counts epochs."""
    axes.set(xlabel="epoch", ylabel=label)
    locator: Any = axes.xaxis.get_major_locator()
    locator.set_params(integer=True)


def _ring(axes: Axes, x: float, y: float, color: str) -> None:
    axes.scatter(x, y, s=70, facecolors="none", edgecolors=color)


def _cycle(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]


# ---- sweeps -------------------------------------------------------------------------------------


def score_against_time(table: pd.DataFrame) -> Figure:
    """Plot the score with its interval against the seconds of training.

    Args:
        table: The lines of a sweep's summary, with backbone, training_seconds, score, low and high.
    """
    figure, (axes,) = new_figure()
    names = list(dict.fromkeys(table.backbone))
    for color, name in zip(_cycle(len(names)), names, strict=True):
        rows = table[table.backbone == name]
        axes.errorbar(
            rows.training_seconds,
            rows.score,
            _ends(rows),
            fmt="o",
            markersize=4,
            linewidth=0.8,
            color=color,
            label=name,
        )
    axes.set(xlabel="seconds of training, embedding included", ylabel="score", xscale="log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    _legend(axes)
    return figure


def learning_rates(table: pd.DataFrame) -> Figure:
    """Plot the score by learning rate, a line for each backbone and number of epochs.

    Args:
        table: The lines of a sweep's summary, with backbone, epochs, lr, score, low and high.
    """
    figure, (axes,) = new_figure()
    groups = list(table.groupby(["backbone", "epochs"], sort=False))
    for color, ((name, epochs), rows) in zip(_cycle(len(groups)), groups, strict=True):
        rows = rows.sort_values("lr")
        label = f"{name}, {epochs} epochs"
        axes.errorbar(
            rows.lr, rows.score, _ends(rows), marker="o", markersize=4, color=color, label=label
        )
    axes.set(xlabel="learning rate", ylabel="score", xscale="log")
    _legend(axes)
    return figure


def _ends(rows: pd.DataFrame) -> list[pd.Series]:
    """Return the whiskers' lengths; an interval may miss the mean of a tiny sample."""
    return [(rows.score - rows.low).clip(lower=0), (rows.high - rows.score).clip(lower=0)]


def ablation_bars(table: pd.DataFrame) -> Figure:
    """Plot what each change of the settings costs, as bars.

    Args:
        table: With the columns change, difference, low and high.
    """
    figure, (axes,) = new_figure(6.0, 0.9 + 0.32 * len(table))
    lengths = [table.difference - table.low, table.high - table.difference]
    colors = [COLORS[0] if difference >= 0 else COLORS[1] for difference in table.difference]
    axes.barh(table.change, table.difference, xerr=lengths, color=colors, ecolor=INK, height=0.6)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="difference of the score to the base")
    axes.invert_yaxis()
    return figure


# ---- verification -------------------------------------------------------------------------------


def roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Plot ROC curves, false accepts on a logarithmic axis: a verifier is used where they are few.

    Args:
        curves: {name: (false-accept rates, true-accept rates)}, each (n,).
    """
    figure, (axes,) = new_figure(5.0, 4.0)
    least = min(0.1, *(rates[rates > 0].min() for rates, _ in curves.values()))
    for color, (name, rates) in zip(_cycle(len(curves)), curves.items(), strict=True):
        axes.plot(*rates, color=color, linewidth=1.5, label=name, drawstyle="steps-post")
    ends = np.geomspace(least, 1, 100)
    axes.plot(ends, ends, color=INK, linewidth=0.6, linestyle=":", label="by chance")
    axes.set(xlabel="false accepts", ylabel="true accepts", xscale="log", xlim=(least, 1))
    axes.set_ylim(0, 1.01)
    _legend(axes)
    return figure


# ---- embedding space ----------------------------------------------------------------------------


def distance_boxes(distances: Mapping[str, np.ndarray]) -> Figure:
    """Plot a box for the pairwise distances of each identity.

    Args:
        distances: {identity: (n,) cosine distances}.
    """
    figure, (axes,) = new_figure(7.0, 0.8 + 0.2 * len(distances))
    thin = {"color": INK, "linewidth": 0.7}
    axes.boxplot(
        list(distances.values()),
        orientation="horizontal",
        tick_labels=[name.replace("$", r"\$") for name in distances],
        widths=0.6,
        patch_artist=True,
        boxprops={"facecolor": COLORS[0] + "66", **thin},
        medianprops={"color": COLORS[1], "linewidth": 1.5},
        whiskerprops=thin,
        capprops=thin,
        flierprops={"marker": ".", "markersize": 2, "markeredgecolor": INK, "alpha": 0.4},
    )
    axes.set(xlabel="cosine distance of two pictures of one identity")
    axes.invert_yaxis()
    return figure
