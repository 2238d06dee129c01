"""Which training pictures make a batch.

    for batch in batches("pk", classes, size=32, samples_per_class=4, rng=rng):
        loss = objective(embed(batch.rows), targets[batch.rows], batch.tuples)

`shuffled` takes every picture once. `pk` takes P identities with K pictures each, the K from all
domains in turn where those are known, so that an anchor's positives are found across them.
`triplets` and `pairs` draw what they are named after, every positive pair equally likely, whatever
its domains. All draw by numpy: a generator's seed decides
everything.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lookalike.core.errors import UserError
from lookalike.core.log import report_each

TAIL = 8  # pictures that make a batch of their own at the end of a pass


class Batch(NamedTuple):
    """The pictures of a training step.

    Attributes:
        rows: (N,) their numbers.
        tuples: Indices into `rows`, as pytorch-metric-learning takes them: (anchors, positives,
            negatives), or (anchors, positives, anchors, negatives) where pairs were drawn; None:
            the loss forms its own from all of the batch.
    """

    rows: np.ndarray
    tuples: tuple[np.ndarray, ...] | None = None


@dataclass(frozen=True)
class ClassIndex:
    """The training pictures of each identity.

    Attributes:
        indices: For each identity with two pictures or more, the numbers of its pictures by domain.
        count: Number of all pictures, those of identities with a single one included.
    """

    indices: list[list[np.ndarray]]
    count: int

    @property
    def sizes(self) -> np.ndarray:
        """(identities,) their numbers of pictures."""
        return np.array([sum(map(len, domains)) for domains in self.indices])


def index_classes(targets: np.ndarray, domains: np.ndarray, names: list[str]) -> ClassIndex:
    """Group pictures by identity and domain.

    Identities with a single picture have no positive: they are named in the log and left out.

    Args:
        targets: (N,) number of each picture's identity.
        domains: (N,) text, "" where unknown.
        names: Of the identities.
    """
    counts = np.bincount(targets, minlength=len(names))
    alone = [names[i] for i in np.flatnonzero(counts == 1)]
    report_each("identities have a single picture, no positive: left out of the batches", alone)
    indices = [
        [np.flatnonzero((targets == i) & (domains == d)) for d in np.unique(domains[targets == i])]
        for i in np.flatnonzero(counts > 1)
    ]
    return ClassIndex(indices, len(targets))


def batches(
    kind: str, classes: ClassIndex, size: int, samples_per_class: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """Yield the batches of one pass over the training pictures.

    Args:
        kind: shuffled, pk, triplets or pairs.
        classes: The pictures, of which `check_batches` has said that they suffice.
        size: Pictures in a batch.
        samples_per_class: K of P×K.
        rng: Decides everything.
    """
    steps = steps_per_epoch(classes, size)
    if kind == "shuffled":
        cuts = [size * step for step in range(1, steps)]
        yield from map(Batch, np.split(rng.permutation(classes.count), cuts))
        return
    draw = {"pk": _draw_pk, "triplets": _draw_triplets, "pairs": _draw_pairs}[kind]
    for _ in range(steps):
        yield draw(classes, size, samples_per_class, rng)


def steps_per_epoch(classes: ClassIndex, size: int) -> int:
    """Return the number of batches of `size` pictures in one pass.

    A few pictures at its end go with the batch before: every rank needs some of a batch, and batch
    normalization several.
    """
    tail = max(1, min(TAIL, size // 2))
    return max(1, (classes.count + size - tail) // size)


def check_batches(kind: str, classes: ClassIndex, size: int, samples_per_class: int) -> None:
    """Check that batches can be formed; arguments of `batches`.

    Raises:
        UserError: They cannot; the cause, and what to change.
    """
    if kind == "shuffled":
        return
    found = len(classes.indices)
    if found < 2:
        raise UserError(
            f"--sampler {kind}: {found} identities have two training pictures or more, two are "
            "needed: more pictures, or an objective of classes (arcface) with --sampler shuffled"
        )
    least = {"pk": 2 * samples_per_class, "triplets": 3, "pairs": 4}[kind]
    if size < least:
        change = " or lower --samples-per-class" if kind == "pk" else ""
        raise UserError(
            f"--batch-size {size}: too small for --sampler {kind}, which needs {least}; "
            f"raise it{change}"
        )
    drawn = size // samples_per_class
    if kind == "pk" and drawn > found:
        raise UserError(
            f"--batch-size {size} with --samples-per-class {samples_per_class} needs {drawn} "
            f"identities with two pictures or more, and there are {found}: lower it to "
            f"{found * samples_per_class}"
        )


def _draw_pk(
    classes: ClassIndex, size: int, samples_per_class: int, rng: np.random.Generator
) -> Batch:
    """Draw P identities, each equally likely, and K pictures of each."""
    chosen = rng.choice(len(classes.indices), size // samples_per_class, replace=False)
    rows = [_draw_samples(classes.indices[i], samples_per_class, rng) for i in chosen]
    return Batch(np.concatenate(rows))


def _draw_samples(domains: list[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw pictures of an identity, from each domain in turn while it has any.

    A picture is repeated only where the identity has too few.
    """
    mixed = [rng.permutation(domains[i]) for i in rng.permutation(len(domains))]
    longest = max(map(len, mixed))
    turns = [row[i] for i in range(longest) for row in mixed if i < len(row)]
    return np.resize(turns, count)


def pair_weights(sizes: np.ndarray) -> np.ndarray:
    """Return probabilities of identities by which every positive pair is equally likely.

    Args:
        sizes: (identities,) numbers of pictures n.

    Returns:
        (identities,) proportional to n(n-1)/2.

    >>> pair_weights(np.array([2, 3, 4])).round(2).tolist()
    [0.1, 0.3, 0.6]
    """
    pairs = sizes * (sizes - 1) / 2
    return np.asarray(pairs / pairs.sum())


def _draw_triplets(
    classes: ClassIndex, size: int, samples_per_class: int, rng: np.random.Generator
) -> Batch:
    """Draw size // 3 triplets: a positive pair, and a picture of any other identity."""
    count = size // 3
    anchors, positives, drawn = _draw_positives(classes, count, rng)
    negatives = _draw_negatives(classes, drawn, rng)
    first, second, third = np.arange(3 * count).reshape(3, count)
    return Batch(np.concatenate([anchors, positives, negatives]), (first, second, third))


def _draw_pairs(
    classes: ClassIndex, size: int, samples_per_class: int, rng: np.random.Generator
) -> Batch:
    """Draw size // 4 positive pairs, and as many negative ones."""
    count = size // 4
    anchors, positives, _ = _draw_positives(classes, count, rng)
    others, _, drawn = _draw_positives(classes, count, rng)
    negatives = _draw_negatives(classes, drawn, rng)
    indices = np.arange(4 * count).reshape(4, count)
    return Batch(np.concatenate([anchors, positives, others, negatives]), tuple(indices))


def _draw_positives(
    classes: ClassIndex, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw (count,) anchors, their positives, and say of which identities; all pairs alike."""
    drawn = rng.choice(len(classes.indices), count, p=pair_weights(classes.sizes))
    pictures = [np.concatenate(classes.indices[i]) for i in drawn]
    pairs = [rng.choice(own, 2, replace=False) for own in pictures]
    anchors, positives = np.array(pairs).T
    return anchors, positives, drawn


def _draw_negatives(classes: ClassIndex, drawn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a picture of another identity for each of `drawn`, every picture equally likely."""
    flat = np.concatenate([np.concatenate(domains) for domains in classes.indices])
    starts = np.concatenate([[0], np.cumsum(classes.sizes)])
    chosen = rng.integers(len(flat) - classes.sizes[drawn])
    # An identity's own pictures stand in one stretch: step over it.
    chosen += np.where(chosen >= starts[drawn], classes.sizes[drawn], 0)
    return np.asarray(flat[chosen])
