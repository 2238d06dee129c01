"""Plots of benchmarks and reports, by matplotlib: PNG files, or SVG for a page in light or dark.

    save_png(learning_rates(table), Path("lr.png"))
    text = as_svg(learning_curves({"run": history}))

A page's own colour draws axes and words; the colours of the series read on white and on black.
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

COLOURS = ("#3d8f7c", "#c8743a", "#5b7fc7", "#b0568f", "#8a8f3c", "#7a6fb0", "#b5504f", "#5a9bb0")
INK = "#123456"  # stands for the page's colour, and is replaced by it

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
    """A figure of so many inches and its axes, side by side."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def as_svg(figure: Figure) -> str:
    """The figure as an <svg> element that takes the page's colour and font, and its width."""
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
    """Writes the figure as PNG on white, whole or not at all."""
    with matplotlib.rc_context(STYLE), whole_file(path) as beside:
        figure.savefig(beside, format="png", dpi=140, facecolor="white")


def _legend(axes: Axes) -> None:
    with matplotlib.rc_context(STYLE):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)


# ---- training -----------------------------------------------------------------------------------


def learning_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Losses and held-out accuracy by epoch; a ring marks the epoch that was kept.

    histories: {name: columns epoch, train_loss, holdout_loss, holdout_accuracy}.
    """
    figure, (left, right) = new_figure(8.0, 3.2, columns=2)
    for color, (name, history) in zip(_cycle(len(histories)), histories.items(), strict=True):
        prefix = f"{name}: " if len(histories) > 1 else ""
        kept = history.iloc[int(history.holdout_loss.argmin())]
        line = {"color": color, "marker": ".", "linewidth": 1.5}
        left.plot(history.epoch, history.train_loss, linestyle=":", label=f"{prefix}train", **line)
        left.plot(history.epoch, history.holdout_loss, label=f"{prefix}held out", **line)
        right.plot(history.epoch, history.holdout_accuracy, label=name, **line)
        ring = {"s": 70, "facecolors": "none", "edgecolors": color}
        left.scatter(kept.epoch, kept.holdout_loss, **ring)
        right.scatter(kept.epoch, kept.holdout_accuracy, **ring)
    for axes, label in ((left, "loss"), (right, "held-out accuracy")):
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(left)
    return figure


def retrieval_curves(history: pd.DataFrame) -> Figure:
    """Loss, validation score and learning rate by epoch; a ring marks the best score, a dotted line
    the untrained embedder's.

    history: columns epoch (0 is untrained), train_loss, score, lr.
    """
    figure, panels = new_figure(9.0, 2.8, columns=3)
    trained = history[history.epoch > 0]
    for axes, name, label in zip(
        panels,
        ("train_loss", "score", "lr"),
        ("loss", "validation score", "learning rate"),
        strict=True,
    ):
        axes.plot(trained.epoch, trained[name], color=COLOURS[0], marker=".", linewidth=1.5)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
    best = trained.iloc[int(trained.score.argmax())]
    ring = {"s": 70, "facecolors": "none", "edgecolors": COLOURS[0]}
    panels[1].scatter(best.epoch, best.score, **ring)
    panels[1].axhline(history.score.iloc[0], color=COLOURS[1], linestyle=":", label="untrained")
    _legend(panels[1])
    return figure


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


# ---- benchmarks ---------------------------------------------------------------------------------


def score_against_time(table: pd.DataFrame) -> Figure:
    """Each line of a benchmark's summary: seconds of training, and the score with its interval."""
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
    """The score by learning rate, a line for each backbone and number of epochs."""
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
    """Lengths of the whiskers; a bootstrap's interval may just miss the mean of a tiny sample."""
    return [(rows.score - rows.low).clip(lower=0), (rows.high - rows.score).clip(lower=0)]


def ablation_bars(table: pd.DataFrame) -> Figure:
    """What each change costs: columns change, difference, low, high."""
    figure, (axes,) = new_figure(6.0, 0.9 + 0.32 * len(table))
    lengths = [table.difference - table.low, table.high - table.difference]
    colors = [COLOURS[0] if difference >= 0 else COLOURS[1] for difference in table.difference]
    axes.barh(table.change, table.difference, xerr=lengths, color=colors, ecolor=INK, height=0.6)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="difference of the score to the base")
    axes.invert_yaxis()
    return figure


# ---- verification -------------------------------------------------------------------------------


def roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """{name: (false-accept rates, true-accept rates)}; false accepts on a logarithmic axis, since
    a verifier is used where they are few."""
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
    """A box for each identity's pairwise distances, {identity: distances}."""
    figure, (axes,) = new_figure(7.0, 0.8 + 0.2 * len(distances))
    thin = {"color": INK, "linewidth": 0.7}
    axes.boxplot(
        list(distances.values()),
        orientation="horizontal",
        tick_labels=[name.replace("$", r"\$") for name in distances],
        widths=0.6,
        patch_artist=True,
        boxprops={"facecolor": COLOURS[0] + "66", **thin},
        medianprops={"color": COLOURS[1], "linewidth": 1.5},
        whiskerprops=thin,
        capprops=thin,
        flierprops={"marker": ".", "markersize": 2, "markeredgecolor": INK, "alpha": 0.4},
    )
    axes.set(xlabel="cosine distance of two pictures of one identity")
    axes.invert_yaxis()
    return figure
