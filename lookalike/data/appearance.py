"""How pictures look on the whole: colors, contrast and rough layout, not what they show.

    looks = describe_looks(root, rows)              # (N, 272) float32
    judge = fit_looks(looks, kinds)                 # tells kinds of pictures apart
    judge.predict_proba(describe_looks(root, others))

A photograph and a drawing differ in their looks, two identities hardly do. It takes seconds, and no
backbone.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from lookalike.data.images import map_images, read_known_picture

SIDE, CELLS = 64, 8  # pixels of the small picture, and cells of its mean colors
STEPS = (0, 0.004, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 1)  # of a histogram of differences
LEVELS = 16
FOLDS = 5


def describe_looks(root: Path, rows: pd.DataFrame) -> np.ndarray:
    """Return what pictures look like on the whole.

    Args:
        root: The data set's folder.
        rows: N rows of its catalogue, of pictures that can be read.

    Returns:
        (N, F) float32: mean colors of 8 × 8 cells, histograms of the colors, of their saturation,
        and of the differences between neighboring pixels.
    """
    content = dict(zip((root / path for path in rows.path), rows.content, strict=True))

    def look(path: Path) -> np.ndarray:
        return _describe(read_known_picture(path, content[path], SIDE))

    return np.array(list(map_images(look, list(content), "how pictures look")), np.float32)


def _describe(image: Image.Image) -> np.ndarray:
    """Return (F,) what one picture looks like."""
    image = image.resize((SIDE, SIDE))
    pixels = np.asarray(image, np.float32) / 255
    cells = pixels.reshape(CELLS, SIDE // CELLS, CELLS, SIDE // CELLS, 3).mean((1, 3))
    gray = pixels.mean(2)
    parts = [cells.ravel()]
    parts += [np.histogram(pixels[..., i], LEVELS, (0, 1))[0] / SIDE**2 for i in range(3)]
    parts += [np.histogram(np.ptp(pixels, axis=2), LEVELS // 2, (0, 1))[0] / SIDE**2]
    parts += [np.histogram(np.abs(np.diff(gray, axis=axis)), STEPS)[0] / SIDE**2 for axis in (0, 1)]
    return np.concatenate(parts)


def fit_looks(looks: np.ndarray, kinds: np.ndarray) -> Pipeline:
    """Return a classifier of kinds of pictures by their looks.

    Args:
        looks: (N, F), of `describe_looks`.
        kinds: (N,) their kinds, at least two.
    """
    with threadpool_limits(1):
        return _classifier().fit(looks, kinds)


def _classifier() -> Pipeline:
    """Return an untrained classifier, strongly regularized: it has more features than pictures."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))


def difference_of_looks(one: np.ndarray, other: np.ndarray) -> float:
    """Return how well pictures of two kinds are told apart by their looks, cross-validated.

    Args:
        one: (N, F), of `describe_looks`.
        other: (M, F).

    Returns:
        The area under the ROC curve: 0.5 where they look alike, 1 where none is mistaken; 0.5 for
        fewer than five of a kind, which say nothing.
    """
    if min(len(one), len(other)) < FOLDS:
        return 0.5
    kinds = np.repeat([1, 0], [len(one), len(other)])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with threadpool_limits(1):
        judged = cross_val_predict(
            _classifier(), np.concatenate([one, other]), kinds, cv=folds, method="predict_proba"
        )
    return float(roc_auc_score(kinds, judged[:, 1]))


def sample_rows(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return at most so many rows, the same ones whatever their order."""
    rows = rows.sort_values("path", kind="stable")
    chosen = np.random.default_rng(0).permutation(len(rows))[:count]
    return rows.iloc[np.sort(chosen)]
