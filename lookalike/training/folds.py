"""Training in folds: every model leaves a part of the labeled pictures out, which then scores it.

for fold in folds_of(split, catalogue, count=10, seed=0):
...                                    # train on fold.train, score by fold.task
state = mean_state(states)                 # one model, as fast as each of them
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from lookalike.core.errors import UserError
from lookalike.data.splits import (
    Pictures,
    RetrievalTask,
    Split,
    group,
    retrieval_task,
    sessions_of,
)
from lookalike.training.trainer import State


class Fold(NamedTuple):
    """A division of the labeled pictures.

    Attributes:
        train: {path: identity} to train on.
        task: A retrieval task of the others; None where they make none that has an answer.
    """

    train: Pictures
    task: RetrievalTask | None


def folds_of(split: Split, catalogue: pd.DataFrame, count: int, seed: int) -> list[Fold]:
    """Divide all labeled pictures into folds, as the split divides them.

    Where its validation is a closed set, each fold has a share of each identity's pictures, in
    whole sessions; otherwise whole identities.

    Args:
        split: Of the labeled pictures.
        catalogue: Their rows.
        count: How many folds.
        seed: Of the division.

    Raises:
        UserError: There are too few pictures or identities for so many folds.
    """
    labeled, sessions = split.labeled, sessions_of(catalogue)
    number = _deal(labeled, sessions if split.closed_set else labeled, count, seed)
    if (most := len(set(number.values()))) < count:
        what = "pictures, or sessions," if split.closed_set else "identities"
        raise UserError(f"--folds {count}: there are {what} for {most}; name no more")
    domains = dict(zip(catalogue.path, catalogue.domain, strict=True))
    folds = []
    for this in range(count):
        inside = {path: name for path, name in labeled.items() if number[path] == this}
        outside = {path: name for path, name in labeled.items() if number[path] != this}
        known = {domains[path] for path in inside} - {""}
        if known and split.query_domain not in known:
            folds.append(Fold(outside, None))
            continue
        task = retrieval_task(group(inside), domains, split.query_domain, seed, sessions)
        folds.append(Fold(outside, task if task.answerable else None))
    return folds


def _deal(pictures: Pictures, together: Mapping[str, str], count: int, seed: int) -> dict[str, int]:
    """Return the fold of each picture; those that are together have the same.

    Each identity's pictures go on where those of the one before have ended, so that all folds have
    about the same number.

    Args:
        pictures: {path: identity}.
        together: {path: name of what is not divided}; a picture that is not there is alone.
        count: How many folds.
        seed: Of the order.
    """
    rng = np.random.default_rng([seed, 6])
    groups = group(pictures)
    names = sorted(groups)
    fold_of: dict[str, int] = {}
    for identity in (names[number] for number in rng.permutation(len(names))):
        units = sorted({together.get(path, path) for path in groups[identity]})
        for number in rng.permutation(len(units)):
            fold_of.setdefault(units[number], len(fold_of) % count)
    return {path: fold_of[together.get(path, path)] for path in pictures}


def mean_state(states: Iterable[State]) -> State:
    """Return the mean of several models' weights, trained from the same ones: a model soup.

    Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy
    without increasing inference time (2022).

    Args:
        states: {name: tensor} of each; what is no floating-point number is the first's.

    Examples:
        >>> mean_state([{"w": torch.ones(2)}, {"w": torch.zeros(2)}])
        {'w': tensor([0.5000, 0.5000])}
    """
    first, *others = states
    mean = {}
    for name, tensor in first.items():
        mean[name] = tensor
        if tensor.is_floating_point():
            rows = [tensor, *(state[name] for state in others)]
            mean[name] = torch.stack(rows).double().mean(0).to(tensor.dtype)
    return mean
