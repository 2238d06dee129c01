"""How the embeddings of identities lie to each other: a map, spreads, medoids, overlaps.

    places = project(embeddings, settings, seed=0)     # (N, 2), near where alike
    spreads = measure_spreads(embeddings, identities)
    pairs = overlapping(spreads)                       # the identities hardest to tell apart

Distances are 1 - cosine, from 0 (the same direction) to 2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from lookalike.core.errors import UserError
from lookalike.core.settings import ReportSettings

MOST_OF_ONE = 200  # pictures of an identity that are compared with each other
FEWEST_POINTS = 5
WIDTH_BEFORE = 50  # t-SNE's authors first reduce to as many numbers by PCA


class Spreads(NamedTuple):
    """How each of I identities lies.

    within: {identity: its pairwise distances}, empty for a single picture. medoids: (I,) row of
    the picture with the least sum of distances to the others. spread: (I,) mean distance of an
    identity's pictures to the medoid. between: (I, I) distances of the medoids.
    """

    within: dict[str, np.ndarray]
    medoids: np.ndarray
    spread: np.ndarray
    between: np.ndarray


def measure_spreads(embeddings: np.ndarray, identities: Sequence[str], seed: int = 0) -> Spreads:
    """Spreads of (N, D) unit rows by identity, in the order of the sorted names.

    Of an identity with more than 200 pictures, 200 drawn by `seed` are used.

    >>> rows = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    >>> measure_spreads(rows, ["a", "a", "b"]).between[0].tolist()
    [0.0, 1.0]
    """
    rng = np.random.default_rng(seed)
    within: dict[str, np.ndarray] = {}
    medoids, spread = [], []
    names = np.asarray(identities)
    for name in sorted(set(identities)):
        rows = np.flatnonzero(names == name)
        if len(rows) > MOST_OF_ONE:
            rows = np.sort(rng.choice(rows, MOST_OF_ONE, replace=False))
        distances = cosine_distances(embeddings[rows], embeddings[rows])
        within[name] = distances[np.triu_indices(len(rows), 1)]
        middle = int(distances.sum(1).argmin())
        medoids.append(rows[middle])
        spread.append(distances[middle].mean())
    chosen = np.array(medoids, int)
    between = cosine_distances(embeddings[chosen], embeddings[chosen])
    np.fill_diagonal(between, 0.0)
    return Spreads(within, chosen, np.array(spread), between)


def cosine_distances(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(N, D) and (M, D) unit rows -> (N, M) distances, 1 - cosine."""
    return 1 - np.clip(one.astype(float) @ two.astype(float).T, -1, 1)


def overlapping(spreads: Spreads) -> pd.DataFrame:
    """All pairs of identities, those that overlap most first.

    Columns: one, two, distance of their medoids, overlap: the sum of their spreads over that
    distance. Above 1 the clouds reach into each other (the inverse of the ratio of separation that
    the Davies-Bouldin index takes, 1979).
    """
    names = list(spreads.within)
    i, j = np.triu_indices(len(names), 1)
    distance = spreads.between[i, j]
    overlap = (spreads.spread[i] + spreads.spread[j]) / np.maximum(distance, 1e-9)
    pairs = pd.DataFrame(
        {
            "one": [names[k] for k in i],
            "two": [names[k] for k in j],
            "distance": distance,
            "overlap": overlap,
        }
    )
    return pairs.sort_values("overlap", ascending=False, kind="stable", ignore_index=True)


def project(embeddings: np.ndarray, settings: ReportSettings, seed: int) -> np.ndarray:
    """(N, D) rows -> (N, 2) places from 0 to 1, by t-SNE (van der Maaten and Hinton, 2008) or UMAP
    (McInnes et al., 2018); empty where there are fewer than five.

    t-SNE's perplexity is lowered to a third of the pictures where they are too few for it.

    Raises:
        UserError: UMAP is asked for and not installed.
    """
    if len(embeddings) < FEWEST_POINTS:
        return np.zeros((0, 2))
    by = _umap if settings.projection == "umap" else _tsne
    # With one thread the map is the same on a busy machine, and there much faster.
    with threadpool_limits(1):
        if min(embeddings.shape) > WIDTH_BEFORE:
            embeddings = PCA(WIDTH_BEFORE, random_state=seed).fit_transform(embeddings)
        indices = by(embeddings, settings, seed).astype(float)
    low = indices.min(0)
    return np.asarray((indices - low) / max(float((indices.max(0) - low).max()), 1e-9))


def perplexity_for(settings: ReportSettings, points: int) -> float:
    """The perplexity that so many points allow."""
    return min(settings.perplexity, points / 3)


def _tsne(embeddings: np.ndarray, settings: ReportSettings, seed: int) -> np.ndarray:
    made: np.ndarray = TSNE(
        perplexity=perplexity_for(settings, len(embeddings)),
        max_iter=settings.iterations,
        init="pca",
        random_state=seed,
    ).fit_transform(embeddings)
    return made


def _umap(embeddings: np.ndarray, settings: ReportSettings, seed: int) -> np.ndarray:
    try:
        from umap import UMAP
    except ImportError as error:
        raise UserError(
            "--projection umap needs its package: pip install umap-learn, or take tsne"
        ) from error
    neighbors = max(2, round(perplexity_for(settings, len(embeddings))))
    made: np.ndarray = UMAP(
        n_neighbors=neighbors, n_epochs=settings.iterations, random_state=seed, n_jobs=1
    ).fit_transform(embeddings)
    return made
