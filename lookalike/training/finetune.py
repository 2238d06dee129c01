"""Metric learning validated by retrieval: fine-tune an embedder and save the best epoch's weights.

    python main.py --stage all --objective arcface --embed-dim 512 --epochs 20
    python main.py --stage all --objective arcface+0.1*triplet --unfreeze 4 --train-views 4

After each epoch the validation's gallery is ranked for its queries: the best score is the best
epoch, and a training that does not beat the untrained embedder is not used. With --refit, one that
does is repeated on all labeled pictures, for as many epochs; with --folds, several times without a
part of them, and the weights are averaged. A killed training is resumed by the same command from
training.pt, refit.pt or those of the folds, and ends with the same weights.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lookalike.core.errors import UserError
from lookalike.core.log import log
from lookalike.core.numeric import one_thread, score_text, seeded
from lookalike.core.runs import Run
from lookalike.core.settings import Settings, TrainSettings, validation_steps
from lookalike.data.catalogue import load_catalogue, rows_of
from lookalike.data.splits import Pictures, RetrievalTask, Split, load_split
from lookalike.evaluation.metrics import SCORE, Metric, run_metric
from lookalike.features.extractor import FeatureExtractor, extractor_for
from lookalike.models.checkpoints import save_tensors
from lookalike.models.embedder import Embedder, embedder_of
from lookalike.training.distributed import (
    barrier,
    broadcast,
    gather,
    own_share,
    rank,
    rank_zero_first,
)
from lookalike.training.folds import folds_of, mean_state
from lookalike.training.history import write_history
from lookalike.training.inputs import Inputs, inputs_of, training_views, views_of_epoch
from lookalike.training.loggers import LogMetrics, numbers_of, track
from lookalike.training.losses import Objective, compares_pairs
from lookalike.training.samplers import (
    Batch,
    ClassIndex,
    batches,
    check_batches,
    index_classes,
    steps_per_epoch,
)
from lookalike.training.schedules import parameter_groups, warmup_cosine
from lookalike.training.trainable import TrainableEmbedder, divide_embedder
from lookalike.training.trainer import (
    Epoch,
    Metrics,
    State,
    StoppingRule,
    Trainer,
    TrainingMethod,
    best_device,
    fingerprint,
)
from lookalike.training.validation import Embed, RetrievalValidator
from lookalike.viz import plots

CHECKPOINT, REFIT = "training.pt", "refit.pt"
FOLDS = "fold*.pt"
NOT_SCORED = {"score": float("nan"), "spread": float("nan")}
# Embeddings have collapsed where spread and score are below these shares of the untrained ones: a
# small spread alone may be a projection's bias.
COLLAPSED = {"spread": 0.01, "score": 0.5}
UNRELATED = ("max_minutes", "log_to")  # settings that do not change what an epoch does


# ---- the method ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingData:
    """What an embedder is trained on.

    Attributes:
        inputs: Of the embedder's trained part, by picture and view.
        targets: (N,) int64, numbers of identities.
        classes: The pictures by identity, which batches are drawn from.
        views: Number of views of a picture.
        fresh: Whether every epoch shows all pictures in a view of its own.
    """

    inputs: Inputs
    targets: Tensor
    classes: ClassIndex
    views: int
    fresh: bool


class EmbeddingBatch(NamedTuple):
    """A training step's pictures, and the view of every training picture in this epoch."""

    drawn: Batch
    views: np.ndarray


class MetricLearning(TrainingMethod):
    """An objective of embeddings and identities, validated by retrieval.

    With several processes, each embeds its share of a batch, and rank 0 validates.

    Args:
        trainable: What is trained, on its device.
        objective: The loss, on the same device.
        data: What is trained on.
        settings: Of the batches.
        seed: All random numbers of an epoch come from it and the epoch's number.
        validator: None: nothing is scored.
    """

    def __init__(
        self,
        trainable: TrainableEmbedder,
        objective: Objective,
        data: TrainingData,
        settings: TrainSettings,
        seed: int,
        validator: RetrievalValidator | None,
    ) -> None:
        self.trainable, self.objective, self.data = trainable, objective, data
        self.settings, self.seed, self.validator = settings, seed, validator
        self.device = best_device()
        self.steps = steps_per_epoch(data.classes, settings.batch_size)

    def batches(self, epoch: int) -> Iterator[EmbeddingBatch]:
        """Yield the batches that the sampler draws."""
        data, settings = self.data, self.settings
        rng = np.random.default_rng([self.seed, 6, epoch])
        torch.manual_seed(int(rng.integers(2**62)))
        views = views_of_epoch(epoch, data.views, len(data.targets), data.fresh, rng)
        size, samples = settings.batch_size, settings.samples_per_class
        for drawn in batches(sampler_of(settings), data.classes, size, samples, rng):
            yield EmbeddingBatch(drawn, views)

    def loss(self, batch: EmbeddingBatch) -> Tensor:
        """Return the objective of a whole batch, of which this rank embeds its share."""
        rows, tuples = batch.drawn
        own = rows[own_share(len(rows))]
        embeddings = gather(self._embed(own, batch.views[own]), len(rows))
        targets = self.data.targets[torch.from_numpy(rows)].to(self.device)
        indices = tuple(torch.from_numpy(part).to(self.device) for part in tuples or ())
        loss: Tensor = self.objective(embeddings, targets, indices or None)
        return loss

    def _embed(self, rows: np.ndarray, views: np.ndarray) -> Tensor:
        """Return (n, dim) float32 embeddings of the pictures, each in its view."""
        if not len(rows):  # more ranks than pictures: a gradient, of nothing
            return torch.zeros(0, self.trainable.dim, device=self.device, requires_grad=True)
        inputs = self.data.inputs.take(rows, views).to(self.device)
        on_gpu = self.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext():
            embeddings: Tensor = self.trainable(inputs)
        return embeddings.float()

    def evaluate(self, model: nn.Module) -> Metrics:
        """Return score and spread of the validation; see `RetrievalValidator.score`."""
        return self.score(model)

    def score(self, embed: Embed) -> Metrics:
        """Return score and spread of any embeddings; NaN where nothing validates."""
        if self.validator is None:
            return NOT_SCORED
        return broadcast(self.validator.score(embed, self.device) if rank() == 0 else NOT_SCORED)

    def describe(self, epoch: Epoch) -> str:
        """Return the line that the log shows of an epoch."""
        if self.validator is None:
            return f"all labeled pictures, {super().describe(epoch)}"
        return f"{super().describe(epoch)}, validation score {score_text(epoch.metrics['score'])}"


def check_spread(untrained: Metrics, metrics: Metrics) -> None:
    """Check that the embeddings have not become alike.

    Args:
        untrained: Score and spread before training.
        metrics: Score and spread after an epoch.

    Raises:
        UserError: They have; what to change.
    """
    if all(metrics[name] < share * untrained[name] for name, share in COLLAPSED.items()):
        score = score_text(metrics["score"])
        raise UserError(
            f"all embeddings have become alike (their spread is {metrics['spread']:.1e}, untrained "
            f"{untrained['spread']:.1e}; the validation score {score}): lower --lr, take "
            "--miner semihard, or add an objective of classes (cross_entropy+triplet)"
        )


# ---- the stage ----------------------------------------------------------------------------------


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
    split = load_split(run.path("split.json"))
    validated = train_embedder(run, Part(split.train, split.validation))
    final, train = validated, run.settings.train
    if train.refit and validated.helps:
        epochs = validated.trainer.best_epoch.number
        everything = Part(split.labeled, None, epochs, REFIT)
        final = train_folds(run, split, epochs) if train.folds else train_embedder(run, everything)
    barrier()  # no checkpoint is deleted before all ranks have read it
    return finish(run, validated, final) if rank() == 0 else ""


def train_folds(run: Run, split: Split, epochs: int) -> Result:
    """Train a model without each fold of the labeled pictures, and average their weights.

    Args:
        run: A run whose pictures are split.
        split: Of its pictures.
        epochs: Of each training.

    Raises:
        UserError: There are too few pictures for so many folds.
    """
    count, metric = run.settings.train.folds, run_metric(run.settings)
    folds = folds_of(split, load_catalogue(run.path("training.csv")), count, run.seed)
    states, untrained, trained = [], [], []
    for number, fold in enumerate(folds, 1):
        log.info("fold %d of %d: %d pictures", number, count, len(fold.train))
        part = Part(fold.train, fold.task, epochs, FOLDS.replace("*", f"{number:03}"))
        result = train_embedder(run, part)
        states.append(result.trainer.best_state)
        untrained.append(result.trainer.history[0].metrics["score"])
        trained.append(result.trainer.history[-1].metrics["score"])
    before, after = (metric.show(sum(scores) / count) for scores in (untrained, trained))
    log.info("out of fold: mean score %s, untrained %s", after, before)
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


def prepare(
    extractor: FeatureExtractor,
    catalogue: pd.DataFrame,
    pictures: Pictures,
    validation: RetrievalTask | None,
    settings: Settings,
) -> MetricLearning:
    """Return how an embedder is trained; what is frozen is embedded here.

    Args:
        extractor: Of the embedder, which gets the projection that is trained.
        catalogue: Of the training pictures.
        pictures: {path: identity} to train on.
        validation: What scores the epochs; None: nothing.
        settings: Of the run.
    """
    train, embedder, seed = settings.train, extractor.embedder, settings.general.seed
    rows = rows_of(catalogue, pictures)
    targets, classes = classes_of(rows, pictures, train)
    embedder.set_projection(train.embed_dim)
    from_scratch = settings.embed.weights == "none"
    frozen, trainable = divide_embedder(embedder, train.unfreeze, learns_statistics=from_scratch)
    validator = None
    if validation is not None:
        steps, metric = validation_steps(settings.retrieve), run_metric(settings)
        validator = RetrievalValidator(validation, catalogue, extractor, frozen, steps, metric)
    views = training_views(train, seed, decodes=frozen is None)
    inputs = inputs_of(extractor, frozen, rows, views, train.train_image_size)
    fresh = frozen is None and train.train_views > 0
    data = TrainingData(inputs, torch.from_numpy(targets), classes, len(views), fresh)
    objective = Objective(train, trainable.dim, np.bincount(targets)).to(best_device())
    return MetricLearning(trainable.to(best_device()), objective, data, train, seed, validator)


def classes_of(
    rows: pd.DataFrame, pictures: Pictures, settings: TrainSettings
) -> tuple[np.ndarray, ClassIndex]:
    """Return (N,) numbers of the pictures' identities, and the pictures by identity.

    Args:
        rows: Of the catalogue.
        pictures: {path: identity}, in the order of the rows.
        settings: Of the batches.

    Raises:
        UserError: The pictures do not suffice for such batches.
    """
    names = sorted(set(pictures.values()))
    targets = np.array([names.index(identity) for identity in pictures.values()])
    classes = index_classes(targets, rows.domain.to_numpy(), names)
    check_batches(sampler_of(settings), classes, settings.batch_size, settings.samples_per_class)
    return targets, classes


def sampler_of(settings: TrainSettings) -> str:
    """Return the sampler by name: pk for objectives that compare pictures, unless one is named."""
    if settings.sampler != "auto":
        return settings.sampler
    return "pk" if compares_pairs(settings.objective) else "shuffled"


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
        refit_epochs=part.epochs,
        checkpoint=part.checkpoint,
    )


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
