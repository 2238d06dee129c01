"""Plots take a page's text color, and are the same bytes for the same numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lookalike.viz import plots

HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "train_loss": [2.0, 1.0, 0.5],
        "holdout_loss": [2.0, 1.2, 1.4],
        "holdout_accuracy": [0.2, 0.5, 0.5],
    }
)


def test_an_svg_has_the_pages_color_and_words_as_text() -> None:
    text = plots.as_svg(plots.learning_curves({"": HISTORY}))
    assert text.startswith("<svg") and "currentColor" in text and plots.INK not in text
    assert ">epoch</text>" in text and ">held-out accuracy</text>" in text
    assert text == plots.as_svg(plots.learning_curves({"": HISTORY}))


def test_a_name_in_a_plot_is_no_markup_and_no_formula() -> None:
    """Matplotlib would read $...$ as a formula, and stop at one that is none."""
    text = plots.as_svg(
        plots.distance_boxes({"<b>&$\\frac$": np.array([0.1, 0.2, 0.3]), "bo": np.ones(1)})
    )
    assert "&lt;b&gt;&amp;" in text and "<b>" not in text


def test_a_png_is_whole(tmp_path: Path) -> None:
    changes = pd.DataFrame({"change": ["a", "b"], "difference": [1, -2], "low": -3, "high": 2})
    plots.save_png(plots.ablation_bars(changes.astype({"low": float})), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.load()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["train", "held out"])
def test_several_histories_are_told_apart(name: str) -> None:
    text = plots.as_svg(plots.learning_curves({"one": HISTORY, "two": HISTORY}))
    assert f">one: {name}</text>" in text and f">two: {name}</text>" in text


def test_a_training_shows_the_score_of_the_untrained_embedder() -> None:
    history = pd.DataFrame(
        {
            "epoch": [0, 1, 2],
            "train_loss": [np.nan, 2.0, 1.0],
            "score": [300.0, 250.0, 400.0],
            "lr": [0.0, 0.1, 0.05],
        }
    )
    text = plots.as_svg(plots.retrieval_curves(history))
    assert all(f">{word}</text>" in text for word in ("loss", "validation score", "untrained"))


SWEEP = pd.DataFrame(
    {
        "backbone": ["resnet50", "resnet50", "sface"],
        "epochs": [1, 1, 2],
        "lr": [0.1, 0.01, 0.1],
        "training_seconds": [3.0, 20.0, 100.0],
        "score": [300.0, 400.0, 350.0],
        "low": [290.0, 380.0, 340.0],
        "high": [310.0, 410.0, 380.0],
    }
)


def test_a_sweep_is_plotted_with_a_series_for_each_backbone() -> None:
    text = plots.as_svg(plots.score_against_time(SWEEP))
    assert text.count(">resnet50</text>") == 1 and text.count(">sface</text>") == 1
    text = plots.as_svg(plots.learning_rates(SWEEP))
    assert ">resnet50, 1 epochs</text>" in text and ">sface, 2 epochs</text>" in text


def test_more_series_than_colors_begin_anew() -> None:
    many = SWEEP.iloc[[0] * 10].assign(backbone=[f"b{number}" for number in range(10)])
    text = plots.as_svg(plots.score_against_time(many))
    assert all(color in text for color in plots.COLORS) and ">b9</text>" in text


def test_roc_curves_start_where_the_first_false_accept_is() -> None:
    rates = np.array([0.0, 0.001, 0.1, 1.0])
    (axes,) = plots.roc({"one": (rates, rates**0.5)}).axes
    assert axes.get_xlim() == (0.001, 1) and axes.get_xscale() == "log"
