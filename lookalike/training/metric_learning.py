"""Metric learning as a training method: pictures by identity, an objective, retrieval to score it.

    method = prepare(extractor, catalogue, pictures, validation, settings)
    trainer.fit(method)                     # epochs of batches; see trainer.Trainer

What is frozen is embedded once; a validation's gallery is ranked for its queries after each epoch.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lookalike.core.errors import UserError
from lookalike.core.numeric import score_text
from lookalike.core.settings import Settings, TrainSettings, validation_steps
from lookalike.data.catalogue import rows_of
from lookalike.data.splits import Pictures, RetrievalTask
from lookalike.evaluation.metrics import run_metric
from lookalike.features.extractor import FeatureExtractor
from lookalike.training.distributed import (
    broadcast,
    gather,
    own_share,
    rank,
)
from lookalike.training.inputs import Inputs, inputs_of, training_views, views_of_epoch
from lookalike.training.lora import add_lora
from lookalike.training.losses import Objective, compares_pairs
from lookalike.training.samplers import (
    Batch,
    ClassIndex,
    batches,
    check_batches,
    index_classes,
    steps_per_epoch,
)
from lookalike.training.trainable import TrainableEmbedder, divide_embedder
from lookalike.training.trainer import (
    Epoch,
    Metrics,
    TrainingMethod,
    best_device,
)
from lookalike.training.validation import Embed, RetrievalValidator

NOT_SCORED = {"score": float("nan"), "spread": float("nan")}
# Embeddings have collapsed where spread and score are below these shares of the untrained ones: a
# small spread alone may be a projection's bias.
COLLAPSED = {"spread": 0.01, "score": 0.5}


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
    if train.lora:
        add_lora(trainable.blocks, train.lora)
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
