"""Batches hold what they promise, with the probabilities that they promise."""

from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest

from lookalike.core.errors import UserError
from lookalike.training.samplers import (
    Batch,
    ClassIndex,
    batches,
    check_batches,
    index_classes,
    steps_per_epoch,
)

# Identities with 1, 2, 3 and 6 pictures; the last one's are half photographs, half drawings.
TARGETS = np.array([0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3])
DOMAINS = np.array([*[""] * 6, *["photo", "drawing"] * 3])


def classes() -> ClassIndex:
    return index_classes(TARGETS, DOMAINS, ["ada", "bob", "cyd", "dan"])


def drawn(kind: str, size: int, samples_per_class: int = 2, count: int = 1000) -> list[Batch]:
    rng = np.random.default_rng(0)
    found: list[Batch] = []
    while len(found) < count:
        found += batches(kind, classes(), size, samples_per_class, rng)
    return found[:count]


def test_shuffled_batches_hold_every_picture_once() -> None:
    rows = [batch.rows for batch in batches("shuffled", classes(), 5, 4, np.random.default_rng(0))]
    assert [len(part) for part in rows] == [5, 5, 2]
    assert sorted(np.concatenate(rows)) == list(range(12))


def test_an_identity_with_one_picture_is_named_and_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("WARNING", logger="toolkit"):
        assert len(classes().indices) == 3
    assert "ada" in caplog.text
    assert all(0 not in batch.rows for batch in drawn("pk", 4, count=50))


def test_pk_takes_k_pictures_of_p_identities_from_all_domains() -> None:
    for batch in drawn("pk", 4, count=200):
        identities, counts = np.unique(TARGETS[batch.rows], return_counts=True)
        assert len(identities) == 2 and set(counts) == {2}
        assert len(set(batch.rows)) == 4
        if 3 in identities:
            assert set(DOMAINS[batch.rows[TARGETS[batch.rows] == 3]]) == {"photo", "drawing"}


def test_an_identity_with_too_few_pictures_repeats_them_and_no_other_does() -> None:
    for batch in drawn("pk", 8, samples_per_class=4, count=50):
        for identity, pictures in ((1, 2), (2, 3), (3, 4)):
            own = batch.rows[TARGETS[batch.rows] == identity]
            assert len(own) in (0, 4) and len(set(own)) in (0, pictures)


@pytest.mark.parametrize(("kind", "size"), [("triplets", 6), ("pairs", 8)])
def test_every_pair_of_pictures_is_equally_likely(kind: str, size: int) -> None:
    """1, 3 and 15 pairs of an identity are 19 in all, those across domains and within one."""
    counts: Counter[frozenset[int]] = Counter()
    for batch in drawn(kind, size, count=5000):
        assert batch.tuples is not None
        anchors, positives = (batch.rows[indices] for indices in batch.tuples[:2])
        counts.update(map(frozenset, zip(anchors.tolist(), positives.tolist(), strict=True)))
    every = [frozenset(p) for p in combinations(range(12), 2) if len(set(TARGETS[[*p]])) == 1]
    assert len(every) == 19 and counts.keys() == set(every)
    # 10,000 draws: a count's standard deviation is 22.
    assert [counts[pair] for pair in every] == pytest.approx([10_000 / 19] * 19, abs=100)


@pytest.mark.parametrize(("kind", "size"), [("triplets", 6), ("pairs", 8)])
def test_positives_are_of_one_identity_and_negatives_of_two(kind: str, size: int) -> None:
    for batch in drawn(kind, size, count=300):
        assert batch.tuples is not None
        first, positive, *_ = (batch.rows[indices] for indices in batch.tuples)
        anchor, negative = (
            batch.rows[batch.tuples[i]] for i in (-3 if kind == "triplets" else -2, -1)
        )
        assert (TARGETS[first] == TARGETS[positive]).all() and (first != positive).all()
        assert (TARGETS[anchor] != TARGETS[negative]).all()


def test_the_same_seed_draws_the_same() -> None:
    one, same = (
        list(islice(batches("pk", classes(), 4, 2, np.random.default_rng(5)), 3)) for _ in range(2)
    )
    assert all((a.rows == b.rows).all() for a, b in zip(one, same, strict=True))


@pytest.mark.parametrize(
    ("kind", "size", "samples_per_class", "said"),
    [
        ("pk", 4, 4, "raise it or lower --samples-per-class"),
        ("pk", 32, 4, "lower it to 12"),
        ("pairs", 3, 2, "needs 4"),
    ],
)
def test_a_batch_that_cannot_be_formed_says_what_to_change(
    kind: str, size: int, samples_per_class: int, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check_batches(kind, classes(), size, samples_per_class)


def test_identities_without_a_second_picture_cannot_be_positives() -> None:
    lonely = index_classes(np.arange(3), np.array([""] * 3), ["a", "b", "c"])
    with pytest.raises(UserError, match="two training pictures"):
        check_batches("triplets", lonely, 9, 2)
    check_batches("shuffled", lonely, 9, 2)


@pytest.mark.parametrize(
    ("count", "size", "sizes"), [(33, 32, [33]), (40, 32, [32, 8]), (3, 1, [1] * 3)]
)
def test_a_few_pictures_at_the_end_go_with_the_batch_before(
    count: int, size: int, sizes: list[int]
) -> None:
    index = ClassIndex([[np.arange(count)]], count)
    drawn = list(batches("shuffled", index, size, 2, np.random.default_rng(0)))
    assert [len(batch.rows) for batch in drawn] == sizes
    assert steps_per_epoch(index, size) == len(sizes)
    assert sorted(np.concatenate([batch.rows for batch in drawn]).tolist()) == list(range(count))
