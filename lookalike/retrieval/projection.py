"""A linear projection across domains, learned from labeled pictures in seconds.

    projected = project(embeddings, steps=300, dim=512)

Backbones that were trained on photographs keep much of what tells a photograph from a drawing, and
little of what tells two identities apart. A linear layer that pulls the pictures of an identity
together, those of one domain to those of the other, turns that around; few enough steps, and one
that starts as the principal directions, leave identities that it never saw the better for it.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from lookalike.core.numeric import one_thread, unit
from lookalike.retrieval.embeddings import Embeddings, center

WIDTH = 256  # of the projection
SEEDS = (0, 1, 2)  # projections whose cosines are averaged
BATCH = 256  # identities in a step
TEMPERATURE = 0.05
DROPOUT = 0.2  # of the input
LEARNING_RATE = 1e-3
FEWEST = 8  # identities with two pictures that there is something to learn from


def project(embeddings: Embeddings, steps: int, dim: int, transductive: bool = True) -> Embeddings:
    """Project embeddings as the labeled pictures have taught.

    The domains are centered, the rows reduced to the first principal directions of the labeled
    pictures, and projected by linear layers that start as the first of those directions. They are
    trained by the symmetric contrastive loss: Radford et al., Learning transferable visual models
    from natural language supervision (2021).

    Args:
        embeddings: Of a retrieval task, with the identities of the labeled pictures. Where too few
            identities have two pictures, nothing changes.
        steps: Of the training; 0 leaves the layers as they start.
        dim: Principal directions that the layers see.
        transductive: Whether the queries' and the gallery's own means center them, see `center`.

    Returns:
        Embeddings of other columns, rows of length 1.
    """
    pairs = _Pairs(*embeddings.identities)
    if pairs.count < FEWEST:
        return embeddings
    centered = center(embeddings, transductive)
    directions = principal_directions(_labeled(centered), dim)
    reduced = [rows @ directions for rows in centered.arrays]
    train = partial(_train, reduced[2], reduced[3], pairs, steps)
    with one_thread(), ThreadPoolExecutor(min(len(SEEDS), os.cpu_count() or 1)) as pool:
        layers = list(pool.map(train, SEEDS))
    projected = (
        unit(np.concatenate([unit(rows @ layer) for layer in layers], axis=1)) for rows in reduced
    )
    return embeddings.with_arrays(projected)


def _labeled(embeddings: Embeddings) -> np.ndarray:
    """Return the labeled rows, each once."""
    queries, gallery = embeddings.labeled_queries, embeddings.labeled_gallery
    return queries if queries is gallery else np.concatenate([queries, gallery])


def principal_directions(rows: np.ndarray, dim: int) -> np.ndarray:
    """Return the first principal directions of centered rows, of more columns than rows or fewer.

    Args:
        rows: (N, D), with a mean of about zero.
        dim: How many directions at most.

    Returns:
        (D, d) float32 orthonormal columns, d = min(dim, N, D) or fewer where the rows span less.
    """
    wide = rows.shape[1] > len(rows)
    products = (rows @ rows.T if wide else rows.T @ rows).astype(np.float64)
    variances, vectors = np.linalg.eigh(products)
    kept = np.flatnonzero(variances > variances[-1] * 1e-6)[::-1][:dim]
    chosen = vectors[:, kept]
    if wide:
        chosen = rows.T @ (chosen / np.sqrt(variances[kept]))
    return np.asarray(chosen, np.float32)


class _Pairs:
    """Pairs of pictures of one identity, one from each domain where it has pictures in both.

    Rows are numbered among both sides, those of the gallery after those of the queries.

    Args:
        queries: (L1,) identities of the labeled pictures in the queries' domain.
        gallery: (L2,) identities of those in the other domains; the same array where domains are
            not known.

    Attributes:
        count: Number of identities that have a pair.
    """

    def __init__(self, queries: np.ndarray, gallery: np.ndarray) -> None:
        sides = [_rows_of_identities(queries, 0)]
        if queries is not gallery:
            sides.append(_rows_of_identities(gallery, len(queries)))
        parts = [
            [side[name] for side in sides if name in side]
            for name in sorted(set[str]().union(*sides))
        ]
        parts = [rows for rows in parts if len(rows) == 2 or len(rows[0]) > 1]
        self.count = len(parts)
        self._first, self._second = (_Ragged([rows[side] for rows in parts]) for side in (0, -1))
        self._alone = np.array([len(rows) == 1 for rows in parts], bool)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of a pair of each of at most `BATCH` identities."""
        chosen = rng.permutation(self.count)[:BATCH]
        counts, others = self._first.counts[chosen], self._second.counts[chosen]
        one = rng.integers(counts)
        # Of a single side, any but the first: so many places further on, around the end.
        further = (one + 1 + rng.integers(np.maximum(others - 1, 1))) % others
        other = np.where(self._alone[chosen], further, rng.integers(others))
        return self._first.take(chosen, one), self._second.take(chosen, other)


class _Ragged:
    """Arrays of different lengths, end to end."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.counts = np.array([len(part) for part in parts], np.int64)
        self._starts = np.cumsum(self.counts) - self.counts
        self._flat = np.concatenate([np.zeros(0, np.int64), *parts])

    def take(self, part: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Return the elements at these places of these parts."""
        return np.asarray(self._flat[self._starts[part] + place])


def _rows_of_identities(identities: np.ndarray, start: int) -> dict[str, np.ndarray]:
    """Return the rows of each identity, counted from `start`."""
    names, codes = np.unique(identities, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    cuts = np.cumsum(np.bincount(codes, minlength=len(names)))[:-1]
    parts = np.split(order + start, cuts) if len(names) else []
    return dict(zip(names.tolist(), parts, strict=True))


def _train(
    queries: np.ndarray, gallery: np.ndarray, pairs: _Pairs, steps: int, seed: int
) -> np.ndarray:
    """Return a trained (D, width) projection of the reduced labeled rows."""
    rows = torch.from_numpy(np.concatenate([queries, gallery]))
    width = min(WIDTH, rows.shape[1])
    layer = nn.Parameter(torch.eye(rows.shape[1], width))
    optimizer = torch.optim.AdamW([layer], lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    for one, other in _batches(pairs, steps, seed):
        loss = contrastive_loss(
            _masked(rows[one], generator) @ layer, _masked(rows[other], generator) @ layer
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return np.asarray(layer.detach().numpy())


def _batches(pairs: _Pairs, steps: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of each step."""
    rng = np.random.default_rng([seed, 7])
    for _ in range(steps):
        yield pairs.draw(rng)


def _masked(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Drop a share of the numbers, as dropout does, by a generator of its own."""
    kept = torch.rand(rows.shape, generator=generator) >= DROPOUT
    return rows * kept / (1 - DROPOUT)


def contrastive_loss(one: Tensor, other: Tensor) -> Tensor:
    """Return the symmetric contrastive loss of pairs: each finds its partner among all of a batch.

    Args:
        one: (N, D) of the first pictures.
        other: (N, D) of the second ones, row by row of the same identity.
    """
    logits = normalize(one, dim=1) @ normalize(other, dim=1).T / TEMPERATURE
    partners = torch.arange(len(logits))
    return (cross_entropy(logits, partners) + cross_entropy(logits.T, partners)) / 2
