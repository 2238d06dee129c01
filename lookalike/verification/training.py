"""Trains a verifier, a fold at a time: on the people of other folds, never on those of its test.

    made = train_fold(Work(embedder, inputs, rows, people, table, asked, seed=0), fold=1)
    made.scores      # log-odds of the fold's pairs

Of a protocol's folds one is tested, the next one is the validation (it says when to stop, and gives
the threshold and the calibration), and the people of all others are trained on, with all pairs of
their pictures and not only those of the protocol. Whoever occurs in the tested fold or in the
validation is left out of the training.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.core.files import read_json, write_json
from lookalike.core.log import log
from lookalike.core.numeric import one_thread, seeded
from lookalike.data.splits import Pictures
from lookalike.models.checkpoints import save_model
from lookalike.models.embedder import Embedder
from lookalike.verification.metrics import (
    best_threshold,
    fill_missing_scores,
    fit_calibration,
    log_odds,
)
from lookalike.verification.protocols import score_readable
from lookalike.verification.settings import SiameseSettings
from lookalike.verification.siamese import (
    Inputs,
    Siamese,
    make_network,
    score_pairs,
    set_training,
)

MOMENTUM = 0.9


# ---- pairs to train with ------------------------------------------------------------------------


class PairDrawer:
    """Draws pairs of pictures to train with.

    Of the same person: from all pairs of all people, each with the same chance, without repeats
    while there are enough. Of different people: two people, each with the same chance, and a
    picture of each. In both, either picture may come first.
    """

    def __init__(self, identities: Sequence[str], indices: np.ndarray) -> None:
        """identities: of the pictures; places: where each is among the inputs.

        Raises:
            UserError: fewer than two people, or nobody with two pictures.
        """
        groups = pd.Series(indices).groupby(list(identities)).apply(np.array)
        self.people: list[np.ndarray] = list(groups)
        pairs = [
            np.column_stack([mine[i] for i in np.triu_indices(len(mine), 1)])
            for mine in self.people
        ]
        self.same = np.concatenate([np.zeros((0, 2), int), *pairs])
        if len(self.people) < 2 or not len(self.same):
            raise UserError("training needs two people, and one of them with two pictures")

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(pairs (count, 2) of places, same (count,) bool), half of each kind, shuffled."""
        half = count // 2
        chosen = rng.choice(len(self.same), half, replace=half > len(self.same))
        pairs = np.concatenate([self.same[chosen], self.strangers(count - half, rng)])
        order = rng.permutation(count)
        pairs = rng.permuted(pairs, axis=1)
        return pairs[order], (np.arange(count) < half)[order]

    def strangers(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, 2) places of pictures of two different people."""
        number = len(self.people)
        first = rng.integers(number, size=count)
        second = (first + rng.integers(1, number, size=count)) % number
        mine = [
            [rng.choice(self.people[i]) for i in two] for two in zip(first, second, strict=True)
        ]
        return np.array(mine, int).reshape(count, 2)


# ---- training -----------------------------------------------------------------------------------


@dataclass
class Epoch:
    """What an epoch came to: its mean loss, and the validation fold's area under the ROC."""

    epoch: int
    train_loss: float
    validation_auc: float


def fit(
    network: Siamese,
    inputs: Inputs,
    drawer: PairDrawer,
    judge: Callable[[Siamese], float],
    settings: SiameseSettings,
    seed: int,
) -> list[Epoch]:
    """Trains the network and leaves it as after the epoch that `judge` gave the most.

    judge: the network's area under the ROC on pairs of people who are not trained on.

    Raises:
        UserError: a loss is not finite.
    """
    optimizer = make_optimizer(network, settings)
    rng = np.random.default_rng([seed, 6])
    end = time.monotonic() + 60 * (settings.max_minutes or float("inf"))
    history: list[Epoch] = []
    best = Epoch(0, 0.0, -1.0)
    bar = tqdm(range(1, settings.epochs + 1), "training", unit=" epochs")
    for number in bar:
        loss = train_epoch(network, optimizer, inputs, drawer, settings, rng, end)
        if not np.isfinite(loss):
            raise UserError(f"the loss of epoch {number} is no finite number: lower --lr")
        history.append(Epoch(number, loss, judge(network)))
        bar.set_postfix(loss=f"{loss:.3f}", validation=f"{history[-1].validation_auc:.4f}")
        if history[-1].validation_auc > best.validation_auc:
            best = history[-1]
            kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        out_of_time = time.monotonic() >= end
        if out_of_time:
            log.warning("warning: training stopped in epoch %d by --max-minutes", number)
        if out_of_time or number - best.epoch >= settings.patience:
            break
    network.load_state_dict(kept)
    return history


def make_optimizer(network: Siamese, settings: SiameseSettings) -> torch.optim.Optimizer:
    """Adam or SGD on all weights that are trained."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    if settings.optimizer == "adam":
        return torch.optim.Adam(weights, lr=settings.lr)
    return torch.optim.SGD(weights, lr=settings.lr, momentum=MOMENTUM)


def train_epoch(
    network: Siamese,
    optimizer: torch.optim.Optimizer,
    inputs: Inputs,
    drawer: PairDrawer,
    settings: SiameseSettings,
    rng: np.random.Generator,
    end: float,
) -> float:
    """One pass over newly drawn pairs, until time.monotonic() is `end`; the mean loss."""
    set_training(network, True)
    losses: list[float] = []
    for indices, same in batches_of(*drawer.draw(settings.epoch_pairs, rng), settings.batch_size):
        first, second = network.rows(inputs.shown(indices.T.ravel(), rng)).chunk(2)
        loss = network.loss(first, second, torch.from_numpy(same))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not np.isfinite(losses[-1]) or time.monotonic() >= end:
            break
    return float(np.mean(losses))


def batches_of(
    pairs: np.ndarray, same: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of the pairs; a last one of a single pair is left out: BatchNorm needs more."""
    for start in range(0, len(pairs), size):
        if len(pairs) - start >= 2:
            yield pairs[start : start + size], same[start : start + size]


# ---- a fold -------------------------------------------------------------------------------------


class Work(NamedTuple):
    """What the folds have in common.

    rows: catalogue rows of the pictures that can be read; inputs: what the trunk is given of each.
    people: {path: identity} of all pictures. table: the pairs of all folds.
    """

    embedder: Embedder
    inputs: Inputs
    rows: pd.DataFrame
    people: Pictures
    table: pd.DataFrame
    settings: SiameseSettings
    seed: int


class Trained(NamedTuple):
    """A trained network, and what it made of the fold that it was tested on.

    calibration: of its scores, learnt on the validation fold. threshold: in log-odds, the best one
    there. scores: log-odds of the tested fold's pairs, NaN where a picture cannot be read.
    """

    network: Siamese
    history: list[Epoch]
    calibration: dict[str, Any]
    threshold: float
    scores: np.ndarray


def validation_fold(folds: Sequence[int], fold: int) -> int:
    """The fold after this one; after the last comes the first.

    >>> validation_fold([1, 2, 10], 10)
    1
    """
    ordered = sorted(set(folds))
    return ordered[(ordered.index(fold) + 1) % len(ordered)]


def trained_people(table: pd.DataFrame, people: Pictures, fold: int) -> set[str]:
    """Who may be trained on when this fold is tested. people: {path: identity}."""

    def seen(pairs: pd.DataFrame) -> set[str]:
        return {people[path] for name in "ab" for path in pairs[name]}

    away = table.fold.isin([fold, validation_fold(list(table.fold), fold)])
    return seen(table[~away]) - seen(table[away])


def train_fold(work: Work, fold: int) -> Trained:
    """Trains without a fold, and scores it. The same seed gives the same weights on one machine.

    Raises:
        UserError: too few folds or people, or a loss that is not finite.
    """
    table, settings, identity = work.table, work.settings, work.rows.identity
    mine = identity.isin(trained_people(table, work.people, fold)).to_numpy()
    drawer = PairDrawer(list(identity[mine]), np.flatnonzero(mine))
    log.info("fold %d: %d pictures of %d people to train on", fold, mine.sum(), len(drawer.people))
    validation = table[table.fold == validation_fold(list(table.fold), fold)]
    answers = validation.same.to_numpy()

    def scores_of(network: Siamese, pairs: pd.DataFrame) -> np.ndarray:
        return score_readable(pairs, work.rows, partial(score_pairs, network, work.inputs))

    def judge(network: Siamese) -> float:
        return float(
            roc_auc_score(answers, fill_missing_scores(scores_of(network, validation), answers))
        )

    # A head's sums are cheap, and the same on any number of cores only if one core makes them.
    with one_thread() if settings.layers == "none" else nullcontext(), seeded(work.seed):
        network = make_network(work.embedder, settings)
        history = fit(network, work.inputs, drawer, judge, settings, work.seed)
        raw = scores_of(network, validation)
        tested = scores_of(network, table[table.fold == fold])
    calibration = fit_calibration(raw, answers)
    threshold = best_threshold(fill_missing_scores(log_odds(calibration, raw), answers), answers)
    return Trained(network, history, calibration, threshold, log_odds(calibration, tested))


# ---- what a run keeps of a fold -----------------------------------------------------------------


def fold_folder(run: Path, fold: int) -> Path:
    """Where a fold's files lie."""
    return run / f"fold{fold:02}"


def kept_fold(run: Path, fold: int, made_from: Mapping[str, Any]) -> dict[str, Any]:
    """What `do_fold` kept of a fold; {} where there is nothing, or it was made from something
    else."""
    path = fold_folder(run, fold) / "fold.json"
    if not path.is_file():
        return {}
    kept: dict[str, Any] = read_json(path, "lookalike verify train")
    return kept if kept.get("made_from") == made_from else {}


def do_fold(work: Work, fold: int, run: Path, made_from: Mapping[str, Any]) -> dict[str, Any]:
    """Trains and tests one fold; its model.safetensors, and fold.json, which comes last."""
    made, folder = train_fold(work, fold), fold_folder(run, fold)
    save_model(folder / "model.safetensors", work.embedder, {"network": made.network})
    kept = {
        "made_from": dict(made_from),
        "history": [asdict(epoch) for epoch in made.history],
        "calibration": made.calibration,
        "threshold": made.threshold,
        "scores": [None if np.isnan(value) else value for value in made.scores.tolist()],
    }
    write_json(folder / "fold.json", kept)
    return kept
