"""Metric learning validated by retrieval: fine-tune an embedder and save the best epoch's weights.

    python main.py --stage all --objective arcface --embed-dim 512 --epochs 20
    python main.py --stage all --objective arcface+0.1*triplet --unfreeze 4 --train-views 4

After each epoch the validation's gallery is ranked for its queries: the best score is the best
epoch, and a training that does not beat the untrained embedder is not used. With --refit, one that
does is repeated on all labeled pictures, for as many epochs; with --folds, several times without a
part of them, and the weights are averaged. A killed training is resumed by the same command from
training.pt, refit.pt or those of the folds, and ends with the same weights.
"""

import hashlib
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from lookalike.core.log import log
from lookalike.core.numeric import one_thread, seeded
from lookalike.core.runs import Run
from lookalike.core.settings import TrainSettings, validation_steps
from lookalike.data.catalogue import load_catalogue
from lookalike.data.splits import Pictures, RetrievalTask, load_split
from lookalike.evaluation.metrics import SCORE, Metric, run_metric
from lookalike.features.extractor import extractor_for
from lookalike.models.checkpoints import save_tensors
from lookalike.models.embedder import Embedder, embedder_of
from lookalike.training.distributed import (
    barrier,
    rank,
    rank_zero_first,
)
from lookalike.training.folds import Fold, folds_of, mean_state
from lookalike.training.history import write_history
from lookalike.training.loggers import LogMetrics, numbers_of, track
from lookalike.training.lora import merge_lora
from lookalike.training.metric_learning import MetricLearning, check_spread, prepare
from lookalike.training.schedules import parameter_groups, warmup_cosine
from lookalike.training.trainable import TrainableEmbedder
from lookalike.training.trainer import (
    Epoch,
    State,
    StoppingRule,
    Trainer,
    fingerprint,
)
from lookalike.viz import plots

CHECKPOINT, REFIT = "training.pt", "refit.pt"
FOLDS = "fold*.pt"
# Settings that do not change what an epoch does; which pictures it has is told apart beside them.
UNRELATED = ("max_minutes", "log_to", "refit", "folds")


class Part(NamedTuple):
    """What a training learns from, and when it ends.

    Attributes:
        pictures: {path: identity} to train on.
        validation: What scores the epochs; None: nothing.
        epochs: How many; None: until the validation says that it is over.
        checkpoint: Name of the file that a killed training goes on from.
    """

    pictures: Pictures
    validation: RetrievalTask | None
    epochs: int | None = None
    checkpoint: str = CHECKPOINT


class Result(NamedTuple):
    """An embedder whose `trainable` part was trained, and the trainer that did it."""

    embedder: Embedder
    trainable: TrainableEmbedder
    trainer: Trainer

    @property
    def helps(self) -> bool:
        """Whether the best epoch beats the untrained embedder."""
        trainer = self.trainer
        return trainer.best_epoch.metrics["score"] > trainer.history[0].metrics["score"]


def run_finetune(run: Run) -> str:
    """Train by the settings and save model.safetensors, history.csv and training.png.

    Args:
        run: A run whose pictures are split.

    Returns:
        One line about the result; empty on all ranks but the first.

    Raises:
        UserError: A validation without answers, batches that cannot be formed, pictures of a size
            that the backbone does not take, a loss that is not finite, or embeddings that collapse;
            each says what to change.
    """
    split, train = load_split(run.path("split.json")), run.settings.train
    folds: list[Fold] = []
    if train.folds:  # too many are refused before anything is trained
        catalogue = load_catalogue(run.path("training.csv"))
        folds = folds_of(split, catalogue, train.folds, run.seed)
    validated = train_embedder(run, Part(split.train, split.validation))
    final = validated
    if train.refit and validated.helps:
        epochs = validated.trainer.best_epoch.number
        everything = Part(split.labeled, None, epochs, REFIT)
        final = train_folds(run, folds, epochs) if folds else train_embedder(run, everything)
    barrier()  # no checkpoint is deleted before all ranks have read it
    return finish(run, validated, final) if rank() == 0 else ""


def train_folds(run: Run, folds: Sequence[Fold], epochs: int) -> Result:
    """Train a model without each fold of the labeled pictures, and average their weights.

    Args:
        run: A run whose pictures are split.
        folds: Of its pictures.
        epochs: Of each training.
    """
    states, scores = [], []
    for number, fold in enumerate(folds, 1):
        log.info("fold %d of %d: %d pictures", number, len(folds), len(fold.train))
        part = Part(fold.train, fold.task, epochs, FOLDS.replace("*", f"{number:03}"))
        result = train_embedder(run, part)
        states.append(result.trainer.best_state)
        history = result.trainer.history
        if fold.task is not None:
            scores.append((history[-1].metrics["score"], history[0].metrics["score"]))
    if scores:
        after, before = map(run_metric(run.settings).show, np.mean(scores, axis=0).tolist())
        how = "out of fold: mean score %s of %d folds, untrained %s"
        log.info(how, after, len(scores), before)
    result.trainer.best_state = mean_state(states)
    return result


def train_embedder(run: Run, part: Part) -> Result:
    """Train on labeled pictures, from the checkpoint where an earlier process was killed.

    Args:
        run: A run whose pictures are split.
        part: Of these pictures.
    """
    settings, epochs = run.settings.train, part.epochs
    checkpoint = run.path(part.checkpoint)
    embedder = embedder_of(run.settings.embed, run.cache)
    catalogue, extractor = load_catalogue(run.path("training.csv")), extractor_for(run, embedder)
    with seeded(run.seed), threads_for(settings), rank_zero_first():
        method = prepare(extractor, catalogue, part.pictures, part.validation, run.settings)
    rule = stopping_rule(settings, epochs)
    trainer = trainer_of(method.trainable, method.objective, method.steps, settings, rule)
    made_from = origin(run, embedder, part)
    with (
        seeded(run.seed),
        threads_for(settings),
        tracker(settings, run.folder, part) as log_metrics,
    ):

        def after_epoch(epoch: Epoch) -> None:
            check_spread(trainer.history[0].metrics, epoch.metrics)
            if rank() == 0:
                trainer.save(checkpoint, made_from)
            log_metrics(numbers_of(epoch.row()), epoch.number)

        if not trainer.resume(checkpoint, made_from):
            score_untrained(trainer, method)
        trainer.fit(method, after_epoch)
    return Result(embedder, method.trainable, trainer)


def tracker(
    settings: TrainSettings, folder: Path, part: Part
) -> AbstractContextManager[LogMetrics]:
    """Open a run of the tracker of --log-to for a training, on rank 0."""
    log_to = settings.log_to if rank() == 0 else "none"
    name = f"{folder.resolve().name}, {settings.objective}"
    name += "" if part.checkpoint == CHECKPOINT else f", {Path(part.checkpoint).stem}"
    return track(log_to, "retrieval", name, asdict(settings), folder)


def trainer_of(
    trainable: TrainableEmbedder,
    objective: nn.Module,
    steps: int,
    settings: TrainSettings,
    rule: StoppingRule,
    remedy: str = "lower --lr, --clip-grad-norm or --logit-scale",
) -> Trainer:
    """Return a trainer by AdamW with warm-up and cosine decay.

    Args:
        trainable: What is trained, on its device.
        objective: The loss, on the same device.
        steps: Batches in an epoch.
        settings: Of the optimizer.
        rule: When to stop, and which epoch to keep.
        remedy: What an error about a loss that is not finite advises.
    """
    optimizer = torch.optim.AdamW(parameter_groups(trainable, objective, settings))
    total = math.ceil(steps / settings.accumulate) * settings.epochs
    return Trainer(
        trainable,
        optimizer,
        rule,
        criterion=objective,
        schedule=warmup_cosine(optimizer, total, settings.warmup),
        ema=settings.ema,
        accumulate=settings.accumulate,
        clip_grad_norm=settings.clip_grad_norm,
        distributed=True,
        remedy=remedy,
    )


def stopping_rule(settings: TrainSettings, epochs: int | None) -> StoppingRule:
    """Return the rule of a training that is validated, or that has so many epochs."""
    if epochs is not None:
        return StoppingRule(epochs)
    patience, minutes = settings.patience, settings.max_minutes
    return StoppingRule(settings.epochs, "score", patience=patience, max_minutes=minutes)


def threads_for(settings: TrainSettings) -> AbstractContextManager[None]:
    """Return a context with one thread where only a projection is trained.

    That gives the same bytes on every machine and is fast enough; a backbone takes all threads.
    """
    return one_thread() if settings.unfreeze == 0 else nullcontext()


def origin(run: Run, embedder: Embedder, part: Part) -> str:
    """Return the fingerprint of a training."""
    train = {k: v for k, v in asdict(run.settings.train).items() if k not in UNRELATED}
    return fingerprint(
        [run.path("training.csv"), run.path("split.json")],
        train=train,
        embed=asdict(run.settings.embed),
        steps=str((validation_steps(run.settings.retrieve), run_metric(run.settings))),
        seed=run.seed,
        weights=embedder.weights_id,
        torch=torch.__version__,
        epochs=part.epochs,
        pictures=digest(part.pictures),
    )


def digest(pictures: Pictures) -> str:
    """Return a hash of which pictures there are, of which identities."""
    text = "\n".join(f"{path}\t{identity}" for path, identity in sorted(pictures.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def score_untrained(trainer: Trainer, method: MetricLearning) -> None:
    """Begin the history with the embedder before training and without a projection."""
    trainer.record_untrained(method.score(method.trainable.eval().features))
    if method.validator is not None:
        score = trainer.history[0].metrics["score"]
        log.info("untrained: validation score %s", method.validator.metric.show(score))


def finish(run: Run, validated: Result, final: Result) -> str:
    """Save the result, delete the checkpoints, and return the line about it.

    Args:
        run: Gets model.safetensors, history.csv and training.png.
        validated: The training that the validation has scored.
        final: The one whose weights are saved: the same, or its refit.
    """
    tensors: State = {}
    if validated.helps:
        final.trainable.load_state_dict(final.trainer.best_state)
        merge_lora(final.trainable.blocks)
        tensors = trained_tensors(final.embedder.cpu(), final.trainable)
    table = write_history(run.path("history.csv"), validated.trainer.history)
    plots.save_png(plots.retrieval_curves(table), run.path("training.png"))
    embed_dim = run.settings.train.embed_dim if validated.helps else None
    save_tensors(run.path("model.safetensors"), final.embedder, tensors, embed_dim=embed_dim)
    for path in (run.path(CHECKPOINT), run.path(REFIT), *run.folder.glob(FOLDS)):
        path.unlink(missing_ok=True)
    line = describe_result(run.settings.train.objective, validated, run_metric(run.settings))
    if not validated.helps:
        log.warning(
            "warning: the training does not beat the untrained embedder on the validation: not used"
        )
    if final is validated:
        return line
    folds = run.settings.train.folds
    return line + (
        f"; mean of {folds} models, each without a part of all labeled pictures"
        if folds
        else "; repeated on all labeled pictures"
    )


def describe_result(objective: str, validated: Result, metric: Metric = SCORE) -> str:
    """Return the line about a training that the validation has scored."""
    history, best = validated.trainer.history, validated.trainer.best_epoch
    untrained = metric.show(history[0].metrics["score"])
    summary = (
        f"best after epoch {best.number} of {history[-1].number}, "
        f"validation score {metric.show(best.metrics['score'])}"
    )
    if validated.helps:
        return f"{objective}: {summary} (untrained {untrained})"
    return f"{objective} not used: {summary}, untrained {untrained}"


def trained_tensors(embedder: Embedder, trainable: TrainableEmbedder) -> State:
    """Return the embedder's tensors that training has changed, by their names in it."""
    changed = {id(tensor) for tensor in trainable.state_dict(keep_vars=True).values()}
    own = embedder.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in own.items() if id(tensor) in changed}
