"""TODO lookalike.training.trainer."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.log import log
from lookalike.core.settings import TrainSettings
from lookalike.training import distributed as processes
from lookalike.training.inputs import Inputs, shown_in
from lookalike.training.samplers import Batch, People, batches, steps_of
from lookalike.training.schedules import Average, parameter_groups, schedule_of
from lookalike.training.trainable import TrainableEmbedder
from lookalike.training.validation import RetrievalValidator

UNJUDGED = (float("nan"), float("nan"))
# Embeddings have collapsed where spread and score are below these shares of the untrained ones: a
# small spread alone may be a projection's bias.
COLLAPSED = {"spread": 0.01, "score": 0.5}
State = dict[str, Tensor]
Keep = Callable[["Epoch"], None]
Judging = Callable[[], tuple[float, float]]  # -> score and spread of the weights as they are


@dataclass
class Epoch:
    """What an epoch came to; number 0 is the untrained embedder.

    train_loss: mean over its batches. score: of the validation, 0 to 1000. spread: 1 - the mean
    cosine of all pairs of its gallery pictures; neither is a number where nothing judges. lr: of
    the projection, at the end. minutes: since the training began, without those that a kill has
    cost.
    """

    epoch: int
    train_loss: float
    score: float
    spread: float
    lr: float
    minutes: float


@dataclass(frozen=True)
class TrainingData:
    """What is learnt from: (N,) targets, whom batches are drawn from, and what the trunk is fed."""

    inputs: Inputs
    targets: Tensor
    people: People
    kind: str
    views: int
    fresh: bool


class Training:
    """All that changes in a training, so that it can be kept on the disk and taken up again."""

    def __init__(
        self,
        trainable: TrainableEmbedder,
        objective: nn.Module,
        settings: TrainSettings,
        steps: int,
    ):
        """steps: batches in an epoch."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.trainable, self.objective = trainable.to(self.device), objective.to(self.device)
        self.settings = settings
        self.optimizer = torch.optim.AdamW(parameter_groups(trainable, objective, settings))
        total = -(-steps // settings.accumulate) * settings.epochs
        self.schedule = schedule_of(self.optimizer, total, settings.warmup)
        self.average = Average(trainable, settings.ema) if settings.ema else None
        self.history: list[Epoch] = []
        self.best: State = {}

    @property
    def best_epoch(self) -> Epoch:
        """The trained epoch with the best score, the first of equal ones."""
        return max(self.history[1:], key=lambda epoch: epoch.score)

    @property
    def helps(self) -> bool:
        """Whether that beats the untrained embedder."""
        return self.best_epoch.score > self.history[0].score

    def weights(self) -> State:
        """What is judged and kept: the trunk's state, or its moving average."""
        state = self.average.state if self.average else self.trainable.state_dict()
        return {name: tensor.clone() for name, tensor in state.items()}

    def step(self) -> None:
        """Takes the gradients that have been summed up."""
        processes.sum_gradients(self.trainable.parameters())
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.settings.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.average:
            self.average.update(self.trainable)

    def state(self) -> dict[str, Any]:
        """Everything, as torch.save keeps it and torch.load reads it with weights_only."""
        return {
            "trainable": self.trainable.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state if self.average else {},
            "best": self.best,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def take_up(self, state: dict[str, Any]) -> None:
        """The opposite of `state`."""
        for name in ("trainable", "objective", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        if self.average:
            self.average.state = state["average"]
        self.best = state["best"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]


def train_epoch(training: Training, training_data: TrainingData, seed: int) -> float:
    """One pass over the training pictures; the mean loss of its batches.

    All chance comes from the seed and the epoch's number: an epoch that a kill cut short is the
    same when it is done again.

    Raises:
        UserError: a loss is not finite.
    """
    number = len(training.history)
    rng = np.random.default_rng([seed, 6, number])
    torch.manual_seed(int(rng.integers(2**62)))
    count, settings = len(training_data.targets), training.settings
    shown = shown_in(number, training_data.views, count, training_data.fresh, rng)
    training.trainable.train()
    drawn = batches(
        training_data.kind,
        training_data.people,
        settings.batch_size,
        settings.samples_per_class,
        rng,
    )
    steps = steps_of(training_data.people, settings.batch_size)
    losses = []
    for i, batch in enumerate(tqdm(drawn, f"epoch {number}", steps, unit=" steps"), 1):
        loss = loss_of(training, training_data, batch, shown)
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise UserError(
                f"the loss of epoch {number}, step {i} is no finite number: lower --lr, --clip-grad-norm or "
                "--logit-scale"
            )
        (loss / settings.accumulate).backward()
        if i % settings.accumulate == 0 or i == steps:
            training.step()
    return float(np.mean(losses))


def loss_of(
    training: Training, training_data: TrainingData, batch: Batch, shown: np.ndarray
) -> Tensor:
    """The loss of a batch; each process embeds its share of it."""
    own = batch.rows[processes.share(batch.rows)]
    on_gpu = training.device.type == "cuda"
    with torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext():
        rows = training.trainable(training_data.inputs.take(own, shown[own]).to(training.device))
    rows = processes.gather(rows.float(), len(batch.rows))
    targets = training_data.targets[torch.from_numpy(batch.rows)].to(training.device)
    drawn = batch.tuples or ()
    tuples = tuple(torch.from_numpy(indices).to(training.device) for indices in drawn)
    loss: Tensor = training.objective(rows, targets, tuples or None)
    return loss


def judge_epoch(training: Training, judged: RetrievalValidator | None) -> tuple[float, float]:
    """The score and the spread of the weights that would be kept; see Epoch.

    Raises:
        UserError: all embeddings have become alike.
    """
    trainable, embed = training.trainable.eval(), training.trainable.features
    before = {name: tensor.clone() for name, tensor in trainable.state_dict().items()}
    if training.history:  # the untrained embedder has no projection
        trainable.load_state_dict(training.weights())
        embed = trainable
    score, spread = judged.score(embed, training.device) if judged else (0.0, 1.0)
    trainable.load_state_dict(before)
    score, spread = processes.agree(score), processes.agree(spread)
    if training.history:
        check_spread(training.history[0], score, spread)
    return score, spread


def check_spread(untrained: Epoch, score: float, spread: float) -> None:
    """Raises UserError where all embeddings have become alike."""
    alike = spread < COLLAPSED["spread"] * untrained.spread
    if alike and score < COLLAPSED["score"] * untrained.score:
        raise UserError(
            f"all embeddings have become alike (their spread is {spread:.1e}, untrained "
            f"{untrained.spread:.1e}; the validation score {score:.1f}): lower --lr, take --miner "
            "semihard, or add an objective of classes (cross_entropy+triplet)"
        )


def fit(
    training: Training,
    training_data: TrainingData,
    judged: RetrievalValidator | None,
    seed: int,
    keep: Keep,
) -> None:
    """Trains until the epochs, the patience or the minutes are over.

    judged: None in all processes but the first. keep: called after each epoch.
    """
    if not training.history:
        begin(training, judged)
    while not is_over(training.history, training.settings):
        epoch = do_epoch(training, training_data, lambda: judge_epoch(training, judged), seed)
        if training.best_epoch is epoch:
            training.best = training.weights()
        number, loss, score = epoch.epoch, epoch.train_loss, epoch.score
        log.info("epoch %d: loss %.3f, validation score %.1f", number, loss, score)
        keep(epoch)


def refit(
    training: Training, training_data: TrainingData, epochs: int, seed: int, keep: Keep
) -> None:
    """Trains for so many epochs, which nothing judges; the last one's weights are the best."""
    training.history = training.history or [Epoch(0, float("nan"), *UNJUDGED, 0.0, 0.0)]
    while len(training.history) <= epochs:
        epoch = do_epoch(training, training_data, lambda: UNJUDGED, seed)
        training.best = training.weights()
        log.info("all labelled pictures, epoch %d: loss %.3f", epoch.epoch, epoch.train_loss)
        keep(epoch)


def do_epoch(training: Training, training_data: TrainingData, judge: Judging, seed: int) -> Epoch:
    """Trains for an epoch, judges it and puts it into the history."""
    start, number = time.perf_counter(), len(training.history)
    loss = train_epoch(training, training_data, seed)
    score, spread = judge()
    minutes = training.history[-1].minutes + (time.perf_counter() - start) / 60
    lr = float(training.schedule.get_last_lr()[0])
    training.history.append(Epoch(number, loss, score, spread, lr, processes.agree(minutes)))
    return training.history[-1]


def is_over(history: list[Epoch], settings: TrainSettings) -> bool:
    """Whether a training has come to its end: never before its first epoch."""
    done = len(history) - 1
    if done < 1:
        return False
    best = max(history[1:], key=lambda epoch: epoch.score).epoch
    late = settings.max_minutes is not None and history[-1].minutes >= settings.max_minutes
    return done >= settings.epochs or done - best >= settings.patience or late


def write_checkpoint(path: Path, training: Training, made_from: str) -> None:
    """Writes a training whole or not at all."""
    with whole_file(path) as beside:
        torch.save({"made_from": made_from, **training.state()}, beside)


def write_history(path: Path, training: Training) -> pd.DataFrame:
    """Writes the table of a training's epochs, and returns it."""
    table = pd.DataFrame([asdict(epoch) for epoch in training.history])
    with whole_file(path) as beside:
        table.to_csv(beside, index=False)
    return table


def read_checkpoint(path: Path, training: Training, made_from: str) -> bool:
    """Takes up a training that was left unfinished; whether there is one that fits."""
    if not path.is_file():
        return False
    try:
        state = torch.load(path, map_location=training.device, weights_only=True)
    except Exception as error:  # what PyTorch raises for a damaged file is not documented
        log.warning("warning: %s cannot be read (%s): training begins anew", path, error)
        return False
    if state.get("made_from") != made_from:
        log.info("train: %s is of other settings or data: training begins anew", path)
        return False
    training.take_up(state)
    log.info("train: goes on after epoch %d", training.history[-1].epoch)
    return True


def begin(training: Training, judged: RetrievalValidator | None) -> None:
    """Judges the untrained embedder, without a projection: what training has to beat."""
    score, spread = judge_epoch(training, judged)
    training.history = [Epoch(0, float("nan"), score, spread, 0.0, 0.0)]
    log.info("untrained: validation score %.1f", score)
