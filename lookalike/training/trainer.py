"""The training loop: epochs, optimizer steps, evaluation, early stopping and checkpoints.

    rule = StoppingRule(epochs=30, monitor="holdout_loss", mode="min", patience=3)
    trainer = Trainer(head, torch.optim.Adam(head.parameters()), rule)
    trainer.fit(method)
    head.load_state_dict(trainer.best_state)

There is one loop. What differs between the linear probe, metric learning, SimCLR and the Siamese
networks is a `TrainingMethod`: which batches an epoch has, the loss of a batch, and how the weights
are evaluated.
"""

import copy
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, whole_file
from lookalike.core.log import log
from lookalike.training.distributed import (
    average_gradients,
    broadcast,
    broadcast_state,
    rank,
    sum_gradients,
)

CHECKPOINT_FORMAT = 2
State = dict[str, Tensor]
Metrics = dict[str, float]


@dataclass(frozen=True)
class Epoch:
    """The record of an epoch.

    Attributes:
        number: From 1; 0 is the model before training.
        train_loss: Mean loss of the epoch's batches.
        metrics: What the evaluation after the epoch measured, by name.
        lr: Learning rate of the optimizer's first group at the end.
        minutes: Since the training began, without those that a kill has cost.
    """

    number: int
    train_loss: float
    metrics: Metrics
    lr: float = 0.0
    minutes: float = 0.0

    def row(self) -> dict[str, float]:
        """Return the epoch as a row of history.csv."""
        times = {"lr": self.lr, "minutes": self.minutes}
        return {"epoch": self.number, "train_loss": self.train_loss, **self.metrics, **times}


@dataclass(frozen=True)
class StoppingRule:
    """When training ends, and which epoch's weights are kept.

    Attributes:
        epochs: Epochs at most.
        monitor: The metric that says which epoch is best; None: the last one is.
        mode: Whether the largest ("max") or the smallest ("min") value is best.
        patience: Epochs without a better value before training stops early; None: never.
        max_minutes: Training stops with the epoch in which so many minutes are over; None: never.
        within_epoch: That epoch is cut short after its current step.
    """

    epochs: int
    monitor: str | None = None
    mode: Literal["max", "min"] = "max"
    patience: int | None = None
    max_minutes: float | None = None
    within_epoch: bool = False

    def best(self, history: Sequence[Epoch]) -> Epoch:
        """Return the trained epoch whose weights are kept: of equal ones, the first."""
        trained, monitor = [epoch for epoch in history if epoch.number], self.monitor
        if monitor is None:
            return trained[-1]
        choose = max if self.mode == "max" else min
        return choose(trained, key=lambda epoch: epoch.metrics[monitor])

    def is_over(self, history: Sequence[Epoch]) -> bool:
        """Whether training has come to its end; never before its first epoch."""
        if not history or not history[-1].number:
            return False
        last = history[-1]
        waited = last.number - self.best(history).number
        out_of_patience = self.patience is not None and waited >= self.patience
        return last.number >= self.epochs or out_of_patience or self.is_late(last.minutes)

    def is_late(self, minutes: float) -> bool:
        """Whether a training that has taken so many minutes has no time left."""
        return self.max_minutes is not None and minutes >= self.max_minutes


class TrainingMethod(ABC):
    """What a method brings to the training loop.

    Attributes:
        steps: Batches in an epoch.
    """

    steps: int

    @abstractmethod
    def batches(self, epoch: int) -> Iterable[Any]:
        """Yield the batches of an epoch, which are numbered from 1.

        A method whose training can be resumed takes all random numbers of an epoch from the seed
        and the epoch's number: an epoch that a kill cut short is then the same when it is repeated.
        """

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Return the mean loss of a batch, with its gradient."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> Metrics:
        """Return the metrics of the model with the weights that would be kept.

        Args:
            model: In evaluation mode; the trained one, or its moving average.
        """

    def mean_loss(self, losses: Sequence[float]) -> float:
        """Return the mean loss of an epoch from those of its batches."""
        return float(np.mean(losses))

    def describe(self, epoch: Epoch) -> str:
        """Return the line that the log shows of an epoch."""
        return f"epoch {epoch.number}: loss {epoch.train_loss:.3f}"


class Trainer:
    """Trains a model by a method, until a rule says that it is over.

    Args:
        model: What is trained, on its device.
        optimizer: For all weights that are trained, those of `criterion` included.
        rule: When to stop, and which epoch to keep.
        criterion: A loss with weights or memory of its own, which checkpoints hold too.
        schedule: Of the learning rate; it moves with every optimizer step.
        ema: Decay of a moving average of the weights, which is then evaluated and kept; 0 for none.
        accumulate: Batches whose gradients an optimizer step sums up.
        clip_grad_norm: Longest gradient that a step takes; None for any.
        distributed: Whether each rank computes its share of every batch.
        remedy: What an error about a loss that is not finite advises.

    Attributes:
        history: The epochs so far.
        best_state: State of the model as it was evaluated after the best epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        rule: StoppingRule,
        *,
        criterion: nn.Module | None = None,
        schedule: LRScheduler | None = None,
        ema: float = 0.0,
        accumulate: int = 1,
        clip_grad_norm: float | None = None,
        distributed: bool = False,
        remedy: str = "lower --lr",
    ) -> None:
        self.model, self.optimizer, self.rule = model, optimizer, rule
        self.criterion, self.schedule = criterion, schedule
        self.average = ModelEmaV3(model, decay=ema) if ema else None
        self.accumulate, self.clip_grad_norm = accumulate, clip_grad_norm
        self.distributed, self.remedy = distributed, remedy
        self.history: list[Epoch] = []
        self.best_state: State = {}

    @property
    def best_epoch(self) -> Epoch:
        """The trained epoch whose weights are kept."""
        return self.rule.best(self.history)

    @property
    def evaluated(self) -> nn.Module:
        """What is evaluated and kept: the model, or its moving average."""
        return self.average.module if self.average else self.model

    def record_untrained(self, metrics: Metrics) -> None:
        """Begin the history with the metrics of the model before training, as epoch 0."""
        self.history = [Epoch(0, float("nan"), metrics)]

    def fit(
        self, method: TrainingMethod, after_epoch: Callable[[Epoch], None] | None = None
    ) -> list[Epoch]:
        """Train until the rule says that it is over, and return the history.

        Args:
            method: Batches, loss and evaluation.
            after_epoch: Called with each epoch once it stands in the history.

        Raises:
            UserError: A loss, or the monitored metric, is not finite.
        """
        if self.distributed:
            broadcast_state(self.model, self.criterion, self.average)
        while not self.rule.is_over(self.history):
            epoch = self._run_epoch(method)
            self.history.append(epoch)
            if self.best_epoch is epoch:
                self.best_state = {k: v.clone() for k, v in self.evaluated.state_dict().items()}
            log.info("%s", method.describe(epoch))
            if after_epoch is not None:
                after_epoch(epoch)
        last = self.history[-1]
        if self.rule.is_late(last.minutes):
            log.warning("warning: training stopped in epoch %d by --max-minutes", last.number)
        return self.history

    def _run_epoch(self, method: TrainingMethod) -> Epoch:
        """Train for one epoch and evaluate it."""
        start = time.perf_counter()
        before, number = 0.0, 1
        if self.history:
            before, number = self.history[-1].minutes, self.history[-1].number + 1

        def minutes() -> float:
            return before + (time.perf_counter() - start) / 60

        loss = self._train(method, number, minutes)
        measured = method.evaluate(self.evaluated.eval())
        metrics = {name: float(value) for name, value in measured.items()}
        if self.rule.monitor is not None:
            self._check(metrics[self.rule.monitor], f"{self.rule.monitor} after epoch {number}")
        spent = broadcast(minutes()) if self.distributed else minutes()
        return Epoch(number, loss, metrics, float(self.optimizer.param_groups[0]["lr"]), spent)

    def _train(self, method: TrainingMethod, number: int, minutes: Callable[[], float]) -> float:
        """Take the steps of one epoch; return its mean loss."""
        self.model.train()
        bar = tqdm(
            method.batches(number),
            f"epoch {number}",
            method.steps,
            leave=False,
            unit=" steps",
            disable=rank() > 0,
        )
        losses: list[float] = []
        for step, batch in enumerate(bar, 1):
            loss = method.loss(batch)
            losses.append(loss.item())
            self._check(losses[-1], f"the loss of epoch {number}, step {step}")
            (loss / self.accumulate).backward()
            if step % self.accumulate == 0:
                self._step()
            if self.rule.within_epoch and self.rule.is_late(minutes()):
                break
        if len(losses) % self.accumulate:
            self._step()
        return method.mean_loss(losses)

    def _step(self) -> None:
        """Update the weights by the gradients that have been summed up."""
        if self.distributed:
            sum_gradients(self.model.parameters())
            if self.criterion is not None:
                average_gradients(self.criterion.parameters())
        if self.clip_grad_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.schedule:
            self.schedule.step()
        if self.average:
            self.average.update(self.model)

    def _check(self, value: float, what: str) -> None:
        """Raise UserError unless a value is finite."""
        if not np.isfinite(value):
            raise UserError(f"{what} is not finite: {self.remedy}")

    # ---- checkpoints ----------------------------------------------------------------------------

    def save(self, path: Path, made_from: str) -> None:
        """Write a checkpoint of the whole training, whole or not at all.

        Args:
            path: The file.
            made_from: What the training depends on, see `fingerprint`.
        """
        about = {"format": CHECKPOINT_FORMAT, "made_from": made_from}
        history = [asdict(epoch) for epoch in self.history]
        state = {name: part.state_dict() for name, part in self._parts().items()}
        with whole_file(path) as beside:
            torch.save(
                {**about, **state, "best_state": self.best_state, "history": history}, beside
            )

    def resume(self, path: Path, made_from: str) -> bool:
        """Continue from a checkpoint; return whether there was one that fits.

        Args:
            path: The file.
            made_from: What the training depends on: a checkpoint of anything else is not used.
        """
        if not path.is_file():
            return False
        before = copy.deepcopy({name: part.state_dict() for name, part in self._parts().items()})
        try:
            device = next(self.model.parameters()).device
            state = torch.load(path, map_location=device, weights_only=True)
            if (state.get("format"), state.get("made_from")) != (CHECKPOINT_FORMAT, made_from):
                log.info("train: %s is of other settings or data: training begins anew", path)
                return False
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            history = [Epoch(**epoch) for epoch in state["history"]]
            self.best_state, self.history = dict(state["best_state"]), history
        except MemoryError:
            raise
        except Exception as error:  # what PyTorch raises for a damaged file is not documented
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("warning: %s cannot be read (%s): training begins anew", path, reason)
            for name, part in self._parts().items():
                part.load_state_dict(before[name])
            return False
        log.info("train: resumed after epoch %d", self.history[-1].number)
        return True

    def _parts(self) -> dict[str, Any]:
        """Return all that has a state, by its name in a checkpoint."""
        parts = {
            "model": self.model,
            "criterion": self.criterion,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "average": self.average,
        }
        return {name: part for name, part in parts.items() if part is not None}


def fingerprint(files: Iterable[Path], **parts: Any) -> str:
    """Return a text of all that a training depends on; another text means another training.

    Args:
        files: Files that are read; their contents count.
        parts: Settings, seed, weights: whatever else the result depends on.
    """
    hashes = {path.name: file_hash(path) for path in files}
    return json.dumps({"files": hashes, **parts}, sort_keys=True, default=str)


def best_device() -> torch.device:
    """Return the GPU where there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
