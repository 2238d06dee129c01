"""Which training pictures make a batch.

    for batch in batches("pk", people, domains, size=32, per_person=4, rng=rng):
        loss = objective(embed(batch.rows), targets[batch.rows], batch.tuples)

`shuffled` takes every picture once. `pk` takes P people with K pictures each, the K shared among
the domains where those are known, so that a picture's positives are found across them. `triplets`
and `pairs` draw what they are named after. All draw by numpy: a generator's seed says it all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lookalike.core.errors import UserError
from lookalike.core.log import report_each

TAIL = 8  # pictures that make a batch of their own at the end of a pass


class Batch(NamedTuple):
    """Pictures of a training step.

    rows: (N,) their numbers. tuples: places in `rows` that belong together, as
    pytorch-metric-learning takes them: (anchors, positives, negatives), or (anchors, positives,
    anchors, negatives) where pairs were drawn; None: all that the batch holds.
    """

    rows: np.ndarray
    tuples: tuple[np.ndarray, ...] | None = None


@dataclass(frozen=True)
class People:
    """Whom batches are drawn from.

    places: for each person with two pictures or more, the numbers of its pictures by domain.
    count: all pictures, those of people with a single one included.
    """

    indices: list[list[np.ndarray]]
    count: int

    @property
    def sizes(self) -> np.ndarray:
        """(people,) their numbers of pictures."""
        return np.array([sum(map(len, domains)) for domains in self.indices])


def group_people(targets: np.ndarray, domains: np.ndarray, names: list[str]) -> People:
    """People with their pictures by domain.

    targets: (N,) each picture's person, by number. domains: (N,) text, "" where unknown. names: of
    the people.

    People with a single picture have no positive: they are named in the log and left out.
    """
    counts = np.bincount(targets, minlength=len(names))
    alone = [names[i] for i in np.flatnonzero(counts == 1)]
    report_each("people have a single picture, no positive: left out of the batches", alone)
    indices = [
        [np.flatnonzero((targets == i) & (domains == d)) for d in np.unique(domains[targets == i])]
        for i in np.flatnonzero(counts > 1)
    ]
    return People(indices, len(targets))


def batches(
    kind: str, people: People, size: int, samples_per_class: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """The batches of one pass over the training pictures.

    kind: shuffled, pk, triplets or pairs. size: pictures in a batch. per_person: K of P×K.

    Raises:
        UserError: see check_batches.
    """
    if kind == "shuffled":
        cuts = [size * step for step in range(1, steps_of(people, size))]
        yield from map(Batch, np.split(rng.permutation(people.count), cuts))
        return
    draw = {"pk": _draw_pk, "triplets": _draw_triplets, "pairs": _draw_pairs}[kind]
    for _ in range(steps_of(people, size)):
        yield draw(people, size, samples_per_class, rng)


def steps_of(people: People, size: int) -> int:
    """Batches in one pass; a few pictures at its end go with the batch before: every process wants
    some of a batch, and batch normalisation several."""
    tail = max(1, min(TAIL, size // 2))
    return max(1, (people.count + size - tail) // size)


def check_batches(kind: str, people: People, size: int, samples_per_class: int) -> None:
    """Raises UserError, with the cause and what to change, where a batch cannot be formed."""
    if kind == "shuffled":
        return
    found = len(people.indices)
    if found < 2:
        raise UserError(
            f"--sampler {kind}: {found} people have two training pictures or more, two are needed: "
            "more pictures, or an objective of classes (arcface) with --sampler shuffled"
        )
    least = {"pk": 2 * samples_per_class, "triplets": 3, "pairs": 4}[kind]
    if size < least:
        change = " or lower --samples-per-class" if kind == "pk" else ""
        raise UserError(
            f"--batch-size {size}: too small for --sampler {kind}, which needs {least}; "
            f"raise it{change}"
        )
    if kind == "pk" and size // samples_per_class > found:
        raise UserError(
            f"--batch-size {size} with --samples-per-class {samples_per_class} needs {size // samples_per_class} people "
            f"with two pictures or more, and there are {found}: lower it to {found * samples_per_class}"
        )


def _draw_pk(people: People, size: int, samples_per_class: int, rng: np.random.Generator) -> Batch:
    chosen = rng.choice(len(people.indices), size // samples_per_class, replace=False)
    rows = [_pictures_of(people.indices[person], samples_per_class, rng) for person in chosen]
    return Batch(np.concatenate(rows))


def _pictures_of(domains: list[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """So many pictures of a person, of each domain in turn while it has any; repeated only where
    the person has not enough."""
    mixed = [rng.permutation(domains[i]) for i in rng.permutation(len(domains))]
    longest = max(map(len, mixed))
    turns = [row[i] for i in range(longest) for row in mixed if i < len(row)]
    return np.resize(turns, count)


def pair_weights(sizes: np.ndarray) -> np.ndarray:
    """(people,) probabilities proportional to n(n-1)/2: every pair of pictures is equally likely.

    >>> pair_weights(np.array([2, 3, 4])).round(2).tolist()
    [0.1, 0.3, 0.6]
    """
    pairs = sizes * (sizes - 1) / 2
    return np.asarray(pairs / pairs.sum())


def _draw_triplets(
    people: People, size: int, samples_per_class: int, rng: np.random.Generator
) -> Batch:
    """size // 3 triplets: a pair, each equally likely, and a picture of anybody else."""
    count = size // 3
    anchors, positives, persons = _draw_positives(people, count, rng)
    negatives = _draw_others(people, persons, rng)
    first, second, third = np.arange(3 * count).reshape(3, count)
    return Batch(np.concatenate([anchors, positives, negatives]), (first, second, third))


def _draw_pairs(
    people: People, size: int, samples_per_class: int, rng: np.random.Generator
) -> Batch:
    """size // 4 pairs of one person, each equally likely, and as many of two."""
    count = size // 4
    anchors, positives, _ = _draw_positives(people, count, rng)
    others, _, persons = _draw_positives(people, count, rng)
    negatives = _draw_others(people, persons, rng)
    indices = np.arange(4 * count).reshape(4, count)
    return Batch(np.concatenate([anchors, positives, others, negatives]), tuple(indices))


def _draw_positives(
    people: People, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(count,) anchors, their positives, and their persons; across domains where there are two."""
    persons = rng.choice(len(people.indices), count, p=pair_weights(people.sizes))
    pairs = [_draw_pair(people.indices[person], rng) for person in persons]
    anchors, positives = np.array(pairs).T
    return anchors, positives, persons


def _draw_pair(domains: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    if len(domains) == 1:
        return rng.choice(domains[0], 2, replace=False)
    one, other = rng.choice(len(domains), 2, replace=False)
    return np.array([rng.choice(domains[one]), rng.choice(domains[other])])


def _draw_others(people: People, persons: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture of somebody else for each person, every picture equally likely."""
    flat = np.concatenate([np.concatenate(domains) for domains in people.indices])
    starts = np.concatenate([[0], np.cumsum(people.sizes)])
    drawn = rng.integers(len(flat) - people.sizes[persons])
    # The person's own pictures stand in one stretch: step over it.
    drawn += np.where(drawn >= starts[persons], people.sizes[persons], 0)
    return np.asarray(flat[drawn])
