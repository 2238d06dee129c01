"""The linear probe: dropout and a linear classifier on the features of a frozen backbone.

The backbone runs once a picture (and augmented view), not once an epoch: training reads cached
features. Without --embed-dim only the classifier is trained, and the embedding stays the
backbone's own; with it, a linear projection before the classifier is trained too, and becomes the
embedding. Cross-entropy, Adam; the epoch with the lowest held-out loss is kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lookalike.core.log import log
from lookalike.core.numeric import one_thread, seeded
from lookalike.core.runs import Run
from lookalike.core.settings import TrainSettings
from lookalike.data.catalogue import load_catalogue, rows_of
from lookalike.data.splits import Pictures, Split, load_split
from lookalike.features.embedding import embed_features
from lookalike.features.extractor import FeatureExtractor, extractor_for
from lookalike.features.loader import PLAIN, View
from lookalike.models.checkpoints import save_model
from lookalike.models.embedder import embedder_of
from lookalike.training.history import write_history
from lookalike.training.inputs import training_views
from lookalike.training.trainer import (
    Epoch,
    Metrics,
    StoppingRule,
    Trainer,
    TrainingMethod,
)

DROPOUT = 0.2
COLUMNS = ("epoch", "train_loss", "holdout_loss", "holdout_accuracy")


class LinearHead(nn.Module):
    """Projection, dropout, linear classifier: (N, features_dim) features to (N, classes) logits.

    Args:
        projection: From features to embeddings.
        dim: Width of the embeddings.
        classes: Number of identities.
    """

    def __init__(self, projection: nn.Module, dim: int, classes: int) -> None:
        super().__init__()
        self.projection = projection
        self.classifier = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(dim, classes))

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, features_dim) features to (N, classes) logits."""
        logits: Tensor = self.classifier(self.projection(features))
        return logits


@dataclass(frozen=True)
class Examples:
    """Features to train on or to evaluate by.

    Attributes:
        features: (views, N, features_dim) float32.
        targets: (N,) int64, numbers of identities.
    """

    features: Tensor
    targets: Tensor


class LinearProbe(TrainingMethod):
    """Cross-entropy on features, each picture in a random one of its views.

    Where nothing is held out (an identity has one picture), the training examples evaluate.

    Args:
        head: What is trained.
        train: Examples to train on.
        holdout: Examples to evaluate by; may be empty.
        batch_size: Pictures in a step.
        seed: Of the order and the views.
    """

    def __init__(
        self, head: LinearHead, train: Examples, holdout: Examples, batch_size: int, seed: int
    ) -> None:
        self.head, self.train, self.batch_size = head, train, batch_size
        self.holdout = holdout if len(holdout.targets) else train
        self.rng = np.random.default_rng([seed, 4])
        self.starts = range(0, len(train.targets), batch_size)
        self.steps = len(self.starts)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (n, features_dim) features and (n,) targets."""
        views, count = self.train.features.shape[:2]
        view = torch.from_numpy(self.rng.integers(views, size=count))
        order = torch.from_numpy(self.rng.permutation(count))
        for start in self.starts:
            chosen = order[start : start + self.batch_size]
            yield self.train.features[view[chosen], chosen], self.train.targets[chosen]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        features, targets = batch
        return cross_entropy(self.head(features), targets)

    def mean_loss(self, losses: Sequence[float]) -> float:
        """Return the mean over the pictures: the last batch may be smaller."""
        total, count = 0.0, len(self.train.targets)
        for start, loss in zip(self.starts, losses, strict=True):
            total += loss * min(self.batch_size, count - start)
        return total / count

    def evaluate(self, model: nn.Module) -> Metrics:
        """Return the held-out loss and accuracy, from 0 to 1."""
        loss, accuracy = evaluate_head(model, self.holdout)
        return {"holdout_loss": loss, "holdout_accuracy": accuracy}

    def describe(self, epoch: Epoch) -> str:
        """Return the line that the log shows of an epoch."""
        loss, accuracy = epoch.metrics["holdout_loss"], epoch.metrics["holdout_accuracy"]
        return f"{super().describe(epoch)}, held-out loss {loss:.3f}, accuracy {accuracy:.3f}"


@torch.inference_mode()
def evaluate_head(head: nn.Module, examples: Examples) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy on the examples' first view."""
    logits = head(examples.features[0])
    accuracy = (logits.argmax(1) == examples.targets).float().mean()
    return float(cross_entropy(logits, examples.targets)), float(accuracy)


def train_linear_probe(run: Run) -> str:
    """Train the linear probe and save model.safetensors and history.csv.

    Where there are no pictures or no epochs to train with, the embedder is saved as it is.

    Args:
        run: A run whose pictures are split.

    Returns:
        One line about the result.

    Raises:
        UserError: A loss is not finite.
    """
    settings, split = run.settings.train, load_split(run.path("split.json"))
    embedder = embedder_of(run.settings.embed, run.cache)
    parts: dict[str, nn.Module] = {}
    history: list[Epoch] = []
    identities: list[str] = []
    result = "no pictures or no epochs to train with: the untrained backbone"
    if split.train and settings.epochs:
        catalogue, extractor = (
            load_catalogue(run.path("training.csv")),
            extractor_for(run, embedder),
        )
        with seeded(run.seed):
            head, trainer = train_head(extractor, catalogue, split, settings, run.seed)
        parts = {"projection": head.projection, "classifier": head.classifier}
        history, identities = trainer.history, sorted(set(split.train.values()))
        result = describe_result(trainer.best_epoch, len(identities))
        if settings.embed_dim is None:
            log.info("train: the backbone is frozen and has no projection: its embedding stays")
    write_history(run.path("history.csv"), history, COLUMNS)
    about = {"embed_dim": settings.embed_dim if parts else None, "identities": identities}
    save_model(run.path("model.safetensors"), embedder, parts, **about)
    return result


def describe_result(best: Epoch, identities: int) -> str:
    """Return the line about a trained head."""
    return (
        f"head for {identities} identities, best after epoch {best.number}: "
        f"held-out accuracy {best.metrics['holdout_accuracy']:.3f}"
    )


def train_head(
    extractor: FeatureExtractor,
    catalogue: pd.DataFrame,
    split: Split,
    settings: TrainSettings,
    seed: int,
) -> tuple[LinearHead, Trainer]:
    """Train the embedder's projection, where `embed_dim` names one, and a classifier.

    Args:
        extractor: Of the embedder, which gets the projection.
        catalogue: Of the training pictures.
        split: What is trained on, and what is held out.
        settings: Of the training.
        seed: Of views and batches.

    Returns:
        The head with the weights of the best epoch, and its trainer.
    """
    embedder = extractor.embedder
    embedder.set_projection(settings.embed_dim)
    views = training_views(settings, seed, decodes=False)
    identities = sorted(set(split.train.values()))
    train = read_examples(extractor, catalogue, split.train, identities, views)
    holdout = read_examples(extractor, catalogue, split.holdout, identities, [PLAIN])
    # On the CPU, as the features are: an engine has moved the whole embedder to the GPU.
    head = LinearHead(embedder.projection, embedder.dim, len(identities)).cpu()
    with one_thread():
        return head, fit_head(head, train, holdout, settings, seed)


def read_examples(
    extractor: FeatureExtractor,
    catalogue: pd.DataFrame,
    pictures: Pictures,
    identities: list[str],
    views: list[View],
) -> Examples:
    """Return the features of pictures in each view, and the numbers of their identities.

    Args:
        extractor: Of the features.
        catalogue: Of the training pictures.
        pictures: {path: identity}.
        identities: The classes, in the order of their numbers.
        views: Of each picture.
    """
    number = {identity: i for i, identity in enumerate(identities)}
    rows = rows_of(catalogue, pictures)
    features = [embed_features(extractor, rows, view) for view in views]
    targets = torch.tensor([number[identity] for identity in pictures.values()], dtype=torch.long)
    return Examples(torch.from_numpy(np.stack(features)), targets)


def fit_head(
    head: LinearHead, train: Examples, holdout: Examples, settings: TrainSettings, seed: int
) -> Trainer:
    """Train a head by Adam, and leave it with the weights of the lowest held-out loss.

    Args:
        head: What is trained.
        train: Examples to train on.
        holdout: Examples to evaluate by; may be empty.
        settings: Learning rate, batch size, epochs and patience.
        seed: Of the order and the views.

    Raises:
        UserError: A loss is not finite.
    """
    rule = StoppingRule(
        settings.epochs, monitor="holdout_loss", mode="min", patience=settings.patience
    )
    optimizer = torch.optim.Adam(head.parameters(), lr=settings.lr)
    trainer = Trainer(head, optimizer, rule)
    trainer.fit(LinearProbe(head, train, holdout, settings.batch_size, seed))
    head.load_state_dict(trainer.best_state)
    return trainer
