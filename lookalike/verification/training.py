"""Train a Siamese network for each fold, on identities of neither its test nor its validation.

    setup = FoldSetup(embedder, inputs, rows, identities, table, settings, seed=0)
    trained = train_fold(setup, fold=1)
    trained.scores      # log-odds of the fold's pairs

Of a protocol's folds one is tested, the next one is the validation (it says when to stop, and gives
the threshold and the calibration), and the identities of all others are trained on, with all pairs
of their pictures and not only those of the protocol. An identity of the tested fold or of the
validation is left out of the training.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from lookalike.core.errors import UserError
from lookalike.core.log import log
from lookalike.core.numeric import one_thread, seeded
from lookalike.core.readers import Finite, read_if_good
from lookalike.core.sealed import read_sealed, write_sealed
from lookalike.core.settings import RENAMED
from lookalike.data.splits import Pictures
from lookalike.models.checkpoints import save_model
from lookalike.models.embedder import Embedder
from lookalike.training.trainer import Epoch, Metrics, StoppingRule, Trainer, TrainingMethod
from lookalike.verification.metrics import (
    Calibration,
    best_threshold,
    fill_missing_scores,
    fit_calibration,
    log_odds,
)
from lookalike.verification.protocols import score_readable
from lookalike.verification.settings import SiameseSettings
from lookalike.verification.siamese import AugmentedInputs, Siamese, make_network, score_pairs

MOMENTUM = 0.9
COLUMNS = ("epoch", "train_loss", "validation_auc")  # what fold.json holds of an epoch


# ---- pairs to train with ------------------------------------------------------------------------


class PairSampler:
    """Draws pairs of pictures to train with.

    Positive pairs are drawn from all pairs of all identities, each with the same chance, without
    repeats while there are enough. Negative pairs are drawn from two identities, each with the same
    chance, and a picture of each. In both, either picture may come first.

    Args:
        identities: Of the pictures.
        indices: (N,) rows of the pictures among the inputs.

    Attributes:
        groups: The rows of each identity's pictures.
        positives: (n, 2) all positive pairs, by row.

    Raises:
        UserError: There are fewer than two identities, or none has two pictures.
    """

    def __init__(self, identities: Sequence[str], indices: np.ndarray) -> None:
        grouped = pd.Series(indices).groupby(list(identities)).apply(np.array)
        self.groups: list[np.ndarray] = list(grouped)
        pairs = [
            np.column_stack([rows[i] for i in np.triu_indices(len(rows), 1)])
            for rows in self.groups
        ]
        self.positives = np.concatenate([np.zeros((0, 2), int), *pairs])
        if len(self.groups) < 2 or not len(self.positives):
            raise UserError("training needs two identities, and one of them with two pictures")

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw pairs, half of them positive, in random order.

        Args:
            count: Number of pairs.
            rng: Decides everything.

        Returns:
            (count, 2) rows of the pictures; (count,) bool, whether the pair is positive.
        """
        half = count // 2
        chosen = rng.choice(len(self.positives), half, replace=half > len(self.positives))
        pairs = np.concatenate([self.positives[chosen], self.draw_negatives(count - half, rng)])
        order = rng.permutation(count)
        pairs = rng.permuted(pairs, axis=1)
        return pairs[order], (np.arange(count) < half)[order]

    def draw_negatives(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw (count, 2) rows of pictures of two identities."""
        number = len(self.groups)
        first = rng.integers(number, size=count)
        second = (first + rng.integers(1, number, size=count)) % number
        drawn = [
            [rng.choice(self.groups[i]) for i in two] for two in zip(first, second, strict=True)
        ]
        return np.array(drawn, int).reshape(count, 2)


def split_pairs(
    pairs: np.ndarray, same: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of pairs; a last one of a single pair is left out: BatchNorm needs more.

    Args:
        pairs: (N, 2).
        same: (N,) bool.
        size: Pairs in a batch.
    """
    for start in range(0, len(pairs), size):
        if len(pairs) - start >= 2:
            yield pairs[start : start + size], same[start : start + size]


# ---- training -----------------------------------------------------------------------------------


class PairTraining(TrainingMethod):
    """A network's own loss on drawn pairs, validated on the pairs of a fold.

    Args:
        network: What is trained.
        inputs: Of the pictures.
        sampler: Draws the pairs.
        auc: Returns a network's area under the ROC on the validation.
        settings: Of the batches.
        seed: Of pairs and views.
    """

    def __init__(
        self,
        network: Siamese,
        inputs: AugmentedInputs,
        sampler: PairSampler,
        auc: Callable[[Siamese], float],
        settings: SiameseSettings,
        seed: int,
    ) -> None:
        self.network, self.inputs, self.sampler = network, inputs, sampler
        self.auc, self.settings = auc, settings
        self.rng = np.random.default_rng([seed, 6])
        full, last = divmod(settings.epoch_pairs, settings.batch_size)
        self.steps = full + (last >= 2)

    def batches(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the batches of newly drawn pairs."""
        drawn = self.sampler.draw(self.settings.epoch_pairs, self.rng)
        return split_pairs(*drawn, self.settings.batch_size)

    def loss(self, batch: tuple[np.ndarray, np.ndarray]) -> Tensor:
        """Return the network's mean loss of a batch."""
        pairs, same = batch
        inputs = self.inputs.augmented(pairs.T.ravel(), self.rng)
        first, second = self.network.embed(inputs).chunk(2)
        return self.network.loss(first, second, torch.from_numpy(same))

    def evaluate(self, model: nn.Module) -> Metrics:
        """Return the area under the ROC on the validation."""
        # The model is the network itself: no moving average is evaluated.
        return {"validation_auc": self.auc(self.network)}

    def describe(self, epoch: Epoch) -> str:
        """Return the line that the log shows of an epoch."""
        return f"{super().describe(epoch)}, validation AUC {epoch.metrics['validation_auc']:.4f}"


def fit_network(
    network: Siamese,
    inputs: AugmentedInputs,
    sampler: PairSampler,
    auc: Callable[[Siamese], float],
    settings: SiameseSettings,
    seed: int,
) -> list[Epoch]:
    """Train a network and leave it with the weights of the best epoch.

    Args:
        network: What is trained.
        inputs: Of the pictures.
        sampler: Draws the pairs.
        auc: Returns a network's area under the ROC on pairs of identities that are not trained on.
        settings: Of optimizer, batches and epochs.
        seed: Of pairs and views.

    Raises:
        UserError: A loss is not finite.
    """
    rule = StoppingRule(
        settings.epochs,
        monitor="validation_auc",
        patience=settings.patience,
        max_minutes=settings.max_minutes,
        within_epoch=True,
    )
    trainer = Trainer(network, make_optimizer(network, settings), rule)
    trainer.fit(PairTraining(network, inputs, sampler, auc, settings, seed))
    network.load_state_dict(trainer.best_state)
    return trainer.history


def make_optimizer(network: Siamese, settings: SiameseSettings) -> torch.optim.Optimizer:
    """Return Adam or SGD for all weights that are trained."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    if settings.optimizer == "adam":
        return torch.optim.Adam(weights, lr=settings.lr)
    return torch.optim.SGD(weights, lr=settings.lr, momentum=MOMENTUM)


# ---- a fold -------------------------------------------------------------------------------------


class FoldSetup(NamedTuple):
    """What the folds have in common.

    Attributes:
        embedder: The networks are made from it.
        inputs: Of the pictures.
        rows: Of the catalogue, of the pictures that can be read.
        identities: {path: identity} of all pictures.
        table: The pairs of all folds.
        settings: Of network and training.
        seed: Of all random numbers.
    """

    embedder: Embedder
    inputs: AugmentedInputs
    rows: pd.DataFrame
    identities: Pictures
    table: pd.DataFrame
    settings: SiameseSettings
    seed: int


class TrainedFold(NamedTuple):
    """A trained network, and its scores of the fold that it was tested on.

    Attributes:
        network: With the weights of the best epoch.
        history: Of its training.
        calibration: Of its scores, fitted on the validation fold.
        threshold: In log-odds, the best one there.
        scores: Log-odds of the tested fold's pairs, NaN where a picture cannot be read.
    """

    network: Siamese
    history: list[Epoch]
    calibration: Calibration
    threshold: float
    scores: np.ndarray


def validation_fold(folds: Sequence[int], fold: int) -> int:
    """Return the fold after this one; after the last comes the first.

    >>> validation_fold([1, 2, 10], 10)
    1
    """
    ordered = sorted(set(folds))
    return ordered[(ordered.index(fold) + 1) % len(ordered)]


def training_identities(table: pd.DataFrame, identities: Pictures, fold: int) -> set[str]:
    """Return the identities to train on when a fold is tested.

    Args:
        table: The pairs of all folds.
        identities: {path: identity}.
        fold: The tested one.
    """

    def shown(pairs: pd.DataFrame) -> set[str]:
        return {identities[path] for name in "ab" for path in pairs[name]}

    held_out = table.fold.isin([fold, validation_fold(list(table.fold), fold)])
    return shown(table[~held_out]) - shown(table[held_out])


def train_fold(setup: FoldSetup, fold: int) -> TrainedFold:
    """Train a network without a fold, and score the fold.

    The same seed gives the same weights on one machine.

    Args:
        setup: What the folds have in common.
        fold: The tested one.

    Raises:
        UserError: Too few identities, or a loss that is not finite.
    """
    table, settings, identity = setup.table, setup.settings, setup.rows.identity
    own = identity.isin(training_identities(table, setup.identities, fold)).to_numpy()
    sampler = PairSampler(list(identity[own]), np.flatnonzero(own))
    count = len(sampler.groups)
    log.info("fold %d: %d pictures of %d identities to train on", fold, own.sum(), count)
    validation = table[table.fold == validation_fold(list(table.fold), fold)]
    same = validation.same.to_numpy()

    def score(network: Siamese, pairs: pd.DataFrame) -> np.ndarray:
        return score_readable(pairs, setup.rows, partial(score_pairs, network, setup.inputs))

    def auc(network: Siamese) -> float:
        return float(roc_auc_score(same, fill_missing_scores(score(network, validation), same)))

    # A head's sums are cheap, and the same on any number of cores only if one core makes them.
    with one_thread() if settings.layers == "none" else nullcontext(), seeded(setup.seed):
        network = make_network(setup.embedder, settings)
        history = fit_network(network, setup.inputs, sampler, auc, settings, setup.seed)
        raw = score(network, validation)
        tested = score(network, table[table.fold == fold])
    calibration = fit_calibration(raw, same)
    threshold = best_threshold(fill_missing_scores(log_odds(calibration, raw), same), same)
    return TrainedFold(network, history, calibration, threshold, log_odds(calibration, tested))


# ---- a fold's files -----------------------------------------------------------------------------


class SavedFold(TypedDict):
    """The content of fold.json.

    Attributes:
        made_from: All that the fold's network depends on.
        history: COLUMNS of each epoch.
        calibration: See `TrainedFold`, as the others.
        threshold: In log-odds.
        scores: None where a picture cannot be read.
    """

    made_from: dict[str, Any]
    history: list[dict[str, Finite]]
    calibration: Calibration
    threshold: Finite
    scores: list[Finite | None]


def read_fold(path: Path) -> SavedFold:
    """Read a fold.json.

    Raises:
        UserError: The file is missing or damaged.
    """
    saved: SavedFold = read_sealed(path, "lookalike verify train", SavedFold)
    return saved


def fold_folder(run: Path, fold: int) -> Path:
    """Return the folder of a fold's files."""
    return run / f"fold{fold:02}"


def saved_fold(run: Path, fold: int, made_from: Mapping[str, Any]) -> SavedFold | None:
    """Return what `run_fold` saved of a fold.

    Args:
        run: The run folder.
        fold: The tested one.
        made_from: All that the fold's network depends on.

    Returns:
        The content of fold.json; None where there is none, it is damaged (which is said), or it was
        made from something else.
    """
    path = fold_folder(run, fold) / "fold.json"
    saved = read_if_good(read_fold, path, f"fold {fold} is trained again")
    if saved is None:
        return None
    # Earlier versions have other names for some settings.
    before = {RENAMED.get(name, name): value for name, value in saved["made_from"].items()}
    return saved if before == made_from else None


def run_fold(setup: FoldSetup, fold: int, run: Path, made_from: Mapping[str, Any]) -> SavedFold:
    """Train and test one fold, and save its model.safetensors, and fold.json, which comes last.

    Args:
        setup: What the folds have in common.
        fold: The tested one.
        run: The run folder.
        made_from: All that the fold's network depends on, as JSON holds it.

    Returns:
        The content of fold.json.
    """
    trained, folder = train_fold(setup, fold), fold_folder(run, fold)
    save_model(folder / "model.safetensors", setup.embedder, {"network": trained.network})
    rows = [epoch.row() for epoch in trained.history]
    saved: SavedFold = {
        "made_from": dict(made_from),
        "history": [{name: row[name] for name in COLUMNS} for row in rows],
        "calibration": trained.calibration,
        "threshold": trained.threshold,
        "scores": [None if np.isnan(value) else value for value in trained.scores.tolist()],
    }
    write_sealed(folder / "fold.json", {**saved})
    return saved
