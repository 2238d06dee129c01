"""Measures of open-set identification: name the identity of each picture, or that it is a new one.

    measure_names({"q.jpg": ["ada", "new"]}, {"q.jpg": "ada"}, known={"ada"}, new="new")

A picture has one right answer: its identity where that is known, else the name for a new one.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np


def measure_names(
    named: Mapping[str, Sequence[str]],
    truth: Mapping[str, str],
    known: Collection[str],
    new: str,
    confidence: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Score the names that are given to pictures.

    Args:
        named: {picture: [names, the likeliest first]}, all lists as long as each other.
        truth: {picture: its identity}; a picture without names scores 0.
        known: The identities that can be named; those of `truth` that are not among them are new.
        new: The name of a new identity.
        confidence: {picture: how sure its first name is}, for `gap`.

    Returns:
        - `map@k` for lists of k names (Humpback Whale Identification, Happywhale): the mean of
          1/rank of the right name. There is one, so that it is also the mean reciprocal rank.
        - `accuracy`: how often the first name is right.
        - `baks`, `baus` (AnimalCLEF 2025): the balanced accuracy on known and on new identities,
          which is the mean over identities of how often the first name is right; and `balanced`,
          the geometric mean of both. Those that no picture shows are left out.
        - `gap` (Google Landmark Recognition): the micro average precision of all pictures whose
          first name is an identity, the surest first; of as many as show a known one.

    >>> named = {"a.jpg": ["ada", "new"], "b.jpg": ["ada", "new"]}
    >>> measure_names(named, {"a.jpg": "ada", "b.jpg": "bo"}, {"ada"}, "new")["map@2"]
    0.75
    """
    right = {picture: name if name in known else new for picture, name in truth.items()}
    length = max(map(len, named.values()), default=1)
    ranks = [_rank(named.get(picture, ()), name) for picture, name in right.items()]
    first = np.array([rank == 1 for rank in ranks])
    values = {
        f"map@{length}": float(np.mean([1 / rank if rank else 0.0 for rank in ranks])),
        "accuracy": float(first.mean()),
    }
    balanced = []
    for name, wanted in (("baks", True), ("baus", False)):
        shares: dict[str, list[bool]] = {}
        for identity, hit in zip(truth.values(), first.tolist(), strict=True):
            if (identity in known) == wanted:
                shares.setdefault(identity, []).append(hit)
        if shares:
            values[name] = float(np.mean([np.mean(hits) for hits in shares.values()]))
            balanced.append(values[name])
    if len(balanced) == 2:
        values["balanced"] = float(np.sqrt(balanced[0] * balanced[1]))
    if confidence is not None:
        values["gap"] = _micro_precision(named, right, new, confidence)
    return values


def _rank(names: Sequence[str], right: str) -> int:
    """Return the rank of the right name, 0 where it is not named."""
    return list(names).index(right) + 1 if right in names else 0


def _micro_precision(
    named: Mapping[str, Sequence[str]],
    right: Mapping[str, str],
    new: str,
    confidence: Mapping[str, float],
) -> float:
    """Return the global average precision of the first names."""
    given = [p for p in right if named.get(p) and named[p][0] != new]
    given.sort(key=lambda picture: -confidence[picture])
    hits = np.array([named[picture][0] == right[picture] for picture in given], bool)
    answerable = sum(name != new for name in right.values())
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float(precision[hits].sum() / max(1, answerable))
