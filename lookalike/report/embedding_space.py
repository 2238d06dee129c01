"""The geometry of embeddings by identity: a map, spreads, medoids, overlaps.

    positions = project_to_plane(embeddings, settings, seed=0)     # (N, 2), near where similar
    spreads = measure_spreads(embeddings, identities)
    pairs = rank_overlaps(spreads)                        # the identities hardest to tell apart

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

MAX_COMPARED = 200  # pictures of an identity that are compared with each other
MIN_POINTS = 5
ALIKE = 1e-6  # numbers of unit rows that differ by less are equal but for rounding
PCA_WIDTH = 50  # dimensions to which PCA reduces before t-SNE, as its authors do


class Spreads(NamedTuple):
    """The distances within and between I identities.

    Attributes:
        within: {identity: its pairwise distances}, empty for a single picture.
        medoids: (I,) index of the picture with the least sum of distances to the others.
        spread: (I,) mean distance of an identity's pictures to the medoid.
        between: (I, I) distances of the medoids.
    """

    within: dict[str, np.ndarray]
    medoids: np.ndarray
    spread: np.ndarray
    between: np.ndarray


def measure_spreads(embeddings: np.ndarray, identities: Sequence[str], seed: int = 0) -> Spreads:
    """Measure distances within and between identities, in the order of their sorted names.

    Args:
        embeddings: (N, D) unit rows.
        identities: The identity of each row.
        seed: Of identities with more than 200 pictures, 200 are drawn by it.

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
        if len(rows) > MAX_COMPARED:
            rows = np.sort(rng.choice(rows, MAX_COMPARED, replace=False))
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
    """Return the (N, M) distances, 1 - cosine, of (N, D) and (M, D) unit rows."""
    return 1 - np.clip(one.astype(float) @ two.astype(float).T, -1, 1)


def rank_overlaps(spreads: Spreads) -> pd.DataFrame:
    """Return all pairs of identities, those that overlap most first.

    Returns:
        Columns `one`, `two`, `distance` (of their medoids) and `overlap`: the sum of their spreads
        over that distance. Above 1 the two clusters reach into each other (the measure of
        similarity in the Davies-Bouldin index, 1979).
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


def project_to_plane(embeddings: np.ndarray, settings: ReportSettings, seed: int) -> np.ndarray:
    """Map embeddings to two dimensions.

    By t-SNE (van der Maaten and Hinton, 2008) or UMAP (McInnes et al., 2018). t-SNE's perplexity is
    lowered to a third of the number of pictures where it is higher.

    Args:
        embeddings: (N, D) rows.
        settings: Method, perplexity and iterations.
        seed: Seed of the method.

    Returns:
        (N, 2) positions from 0 to 1, all in the middle where the rows are alike; (0, 2) where there
        are fewer than five rows.

    Raises:
        UserError: UMAP is chosen and not installed.
    """
    if len(embeddings) < MIN_POINTS:
        return np.zeros((0, 2))
    if np.allclose(embeddings, embeddings[0], rtol=0, atol=ALIKE):
        return np.full((len(embeddings), 2), 0.5)  # a method would spread the rounding
    method = _umap if settings.projection == "umap" else _tsne
    # With one thread the map is the same on a busy machine, and there much faster.
    with threadpool_limits(1):
        if min(embeddings.shape) > PCA_WIDTH:
            embeddings = PCA(PCA_WIDTH, random_state=seed).fit_transform(embeddings)
        positions = method(embeddings, settings, seed).astype(float)
    low = positions.min(0)
    return np.asarray((positions - low) / max(float((positions.max(0) - low).max()), 1e-9))


def perplexity_for(settings: ReportSettings, points: int) -> float:
    """Return the perplexity that this number of points allows."""
    return min(settings.perplexity, points / 3)


def _tsne(embeddings: np.ndarray, settings: ReportSettings, seed: int) -> np.ndarray:
    """Return (N, 2) positions by t-SNE."""
    tsne = TSNE(
        perplexity=perplexity_for(settings, len(embeddings)),
        max_iter=settings.iterations,
        init="pca",
        random_state=seed,
    )
    return np.asarray(tsne.fit_transform(embeddings))


def _umap(embeddings: np.ndarray, settings: ReportSettings, seed: int) -> np.ndarray:
    """Return (N, 2) positions by UMAP."""
    try:
        from umap import UMAP
    except ImportError as error:
        raise UserError(
            "--projection umap needs its package: pip install umap-learn, or choose tsne"
        ) from error
    neighbors = max(2, round(perplexity_for(settings, len(embeddings))))
    umap = UMAP(n_neighbors=neighbors, n_epochs=settings.iterations, random_state=seed, n_jobs=1)
    return np.asarray(umap.fit_transform(embeddings))
