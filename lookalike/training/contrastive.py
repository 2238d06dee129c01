"""SimCLR: learn a backbone from pictures without labels, by two views of each.

    pretrain(run, settings)   # runs/x/simclr/epoch_100.safetensors, for --weights

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020): the
embeddings of two views of a picture are to be alike, and those of all other pictures not. The
training is scored by P@9 on the validation, which shows whether identities are learned or poses.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from pytorch_metric_learning.losses import NTXentLoss
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.numeric import seeded
from lookalike.core.runs import Run
from lookalike.core.settings import TrainSettings
from lookalike.data.catalogue import load_catalogue, rows_of
from lookalike.data.splits import Split, load_split
from lookalike.features.extractor import FeatureExtractor, extractor_for
from lookalike.features.loader import PLAIN, random_views
from lookalike.models.embedder import Embedder, embedder_of
from lookalike.training.finetune import trainer_of
from lookalike.training.history import write_history
from lookalike.training.inputs import Pixels, pixels_of
from lookalike.training.losses import projector
from lookalike.training.simclr import SimclrSettings
from lookalike.training.trainable import TrainableEmbedder, divide_embedder
from lookalike.training.trainer import (
    Epoch,
    Metrics,
    StoppingRule,
    Trainer,
    TrainingMethod,
    best_device,
    fingerprint,
)

CHECKPOINT = "training.pt"
NEAREST = 9
SAVED_EVERY = 10  # epochs
CHUNK = 64  # pictures that are embedded at once


class NTXentHead(nn.Module):
    """A projection head of two layers, and the NT-Xent loss.

    Args:
        dim: Width of the features.
        width: Width of the projection that the loss sees.
        temperature: Divisor of the cosines.
    """

    def __init__(self, dim: int, width: int, temperature: float) -> None:
        super().__init__()
        self.head = projector(dim, width)
        self.loss = NTXentLoss(temperature)

    def forward(self, features: Tensor) -> Tensor:
        """Return the mean loss of (2N, dim) features, the second views behind the first ones."""
        pairs = torch.arange(len(features) // 2, device=features.device).repeat(2)
        loss: Tensor = self.loss(self.head(features), pairs)
        return loss


class SimCLR(TrainingMethod):
    """Two views of each picture, NT-Xent, and P@9 on the validation.

    Args:
        trainable: The whole backbone, on its device.
        criterion: The loss, on the same device.
        pictures: To train on, as they are (view 0) and in two views for each epoch.
        validation: The validation's pictures.
        identities: Of the validation's pictures.
        settings: Of the batches and the views.
        seed: All random numbers of an epoch come from it and the epoch's number.

    Raises:
        UserError: There are fewer pictures than a batch has.
    """

    def __init__(
        self,
        trainable: TrainableEmbedder,
        criterion: NTXentHead,
        pictures: Pixels,
        validation: Pixels,
        identities: list[str],
        settings: SimclrSettings,
        seed: int,
    ) -> None:
        self.trainable, self.criterion, self.pictures = trainable, criterion, pictures
        self.validation, self.identities = validation, identities
        self.settings, self.seed, self.device = settings, seed, best_device()
        count = len(pictures.rows)
        if count < settings.batch_size:
            raise UserError(
                f"--batch-size {settings.batch_size}: there are {count} training pictures; lower it"
            )
        self.steps = count // settings.batch_size

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Yield (2N, 3, side, side) pictures; a last smaller batch is left out."""
        rng = np.random.default_rng([self.seed, 7, epoch])
        torch.manual_seed(int(rng.integers(2**62)))
        order, size = rng.permutation(len(self.pictures.rows)), self.settings.batch_size
        for step in range(self.steps):
            chosen = order[step * size : (step + 1) * size]
            yield two_views(self.pictures, chosen, epoch, self.settings.views)

    def loss(self, batch: Tensor) -> Tensor:
        """Return the mean NT-Xent loss of a batch."""
        loss: Tensor = self.criterion(self.trainable(batch.to(self.device)))
        return loss

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> Metrics:
        """Return P@9 of the validation as `score`; `spread` is not measured."""
        count = len(self.identities)
        rows = []
        for chunk in np.array_split(np.arange(count), math.ceil(count / CHUNK)):
            inputs = self.validation.take(chunk, np.zeros_like(chunk)).to(self.device)
            rows.append(normalize(model(inputs), dim=1).cpu())
        return {"score": precision_at_9(torch.cat(rows).numpy(), self.identities), "spread": 0.0}

    def describe(self, epoch: Epoch) -> str:
        """Return the line that the log shows of an epoch."""
        return f"{super().describe(epoch)}, P@9 {epoch.metrics['score']:.3f}"


def two_views(
    pictures: Pixels, indices: np.ndarray, epoch: int, views: Literal["two", "one"]
) -> Tensor:
    """Return the two views of pictures in an epoch.

    Args:
        pictures: As they are, and in two views for each epoch.
        indices: (N,) numbers of the pictures.
        epoch: From 1.
        views: Whether both views are augmented, or one.

    Returns:
        (2N, 3, side, side), normalized: the first views, then the second ones.
    """
    first = 0 if views == "one" else 2 * epoch - 1
    return pictures.take(np.tile(indices, 2), np.repeat([first, 2 * epoch], len(indices)))


def precision_at_9(rows: np.ndarray, identities: Sequence[str]) -> float:
    """Return P@9: the mean share of each picture's nine nearest others with the same identity.

    Args:
        rows: (N, D) embeddings of length 1. Of fewer than ten pictures, all others count.
        identities: Of the N pictures.

    >>> rows = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    >>> round(precision_at_9(rows, ["ada", "ada", "bob", "bob"]), 3)
    0.333
    """
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    names = np.unique(np.asarray(identities), return_inverse=True)[1]
    near = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEAREST, len(rows) - 1)]
    return float((names[near] == names[:, None]).mean())


def pretrain(run: Run, settings: SimclrSettings) -> str:
    """Train a backbone; save it every ten epochs and at the end in the run's folder simclr.

    Args:
        run: A run whose pictures are split.
        settings: Of the training.

    Returns:
        One line about the result.

    Raises:
        UserError: Too few pictures to train on or to evaluate by, or a loss that is not finite.
    """
    folder, split = run.path("simclr"), load_split(run.path("split.json"))
    embedder = embedder_of(run.settings.embed, run.cache)
    catalogue, extractor = load_catalogue(run.path("training.csv")), extractor_for(run, embedder)
    from_scratch = run.settings.embed.weights == "none"
    made_from = origin(run, embedder, settings)
    with seeded(run.seed):
        method = prepare(extractor, catalogue, split, settings, run.seed, from_scratch)
        trainer = trainer_for(method, settings)

        def after_epoch(epoch: Epoch) -> None:
            if epoch.number % SAVED_EVERY == 0 or epoch.number == settings.epochs:
                save_backbone(embedder, folder / f"epoch_{epoch.number:03}.safetensors")
            # Last: the epoch's weights are saved before it counts as done.
            trainer.save(folder / CHECKPOINT, made_from)

        if not trainer.resume(folder / CHECKPOINT, made_from):
            trainer.record_untrained(method.evaluate(method.trainable.eval()))
        first, *_, last = trainer.fit(method, after_epoch)
    write_history(folder / "history.csv", trainer.history)
    scores = f"P@9 {first.metrics['score']:.3f} -> {last.metrics['score']:.3f}"
    return f"{scores} after {last.number} epochs: {folder}/"


def origin(run: Run, embedder: Embedder, settings: SimclrSettings) -> str:
    """Return the fingerprint of a training."""
    return fingerprint(
        [run.path("training.csv"), run.path("split.json")],
        simclr={name: value for name, value in asdict(settings).items() if name != "run"},
        embed=asdict(run.settings.embed),
        seed=run.seed,
        weights=embedder.weights_id,
        torch=torch.__version__,
    )


def prepare(
    extractor: FeatureExtractor,
    catalogue: pd.DataFrame,
    split: Split,
    settings: SimclrSettings,
    seed: int,
    from_scratch: bool,
) -> SimCLR:
    """Return how a backbone is trained.

    Args:
        extractor: Of the backbone.
        catalogue: Of the training pictures.
        split: What is trained on, and the validation.
        settings: Of the training.
        seed: Of views and batches.
        from_scratch: Whether the weights are random.

    Raises:
        UserError: Too few pictures to train on or to evaluate by.
    """
    known = split.validation.query | split.validation.gallery
    if len(known) < 2:
        raise UserError("the validation has no two pictures to score: run --stage split anew")
    _, trainable = divide_embedder(extractor.embedder, "all", learns_statistics=from_scratch)
    criterion = NTXentHead(trainable.dim, settings.width, settings.temperature)
    views = [PLAIN, *random_views(2 * settings.epochs, seed, "strong")]
    pictures = pixels_of(extractor, rows_of(catalogue, split.train), views)
    validation = pixels_of(extractor, rows_of(catalogue, known), [PLAIN])
    trainable, criterion = trainable.to(best_device()), criterion.to(best_device())
    identities = list(known.values())
    return SimCLR(trainable, criterion, pictures, validation, identities, settings, seed)


def trainer_for(method: SimCLR, settings: SimclrSettings) -> Trainer:
    """Return a trainer as the stage train has it, where all blocks learn at one rate."""
    train = TrainSettings(
        epochs=settings.epochs, lr=settings.lr, backbone_lr_scale=1.0, layer_decay=1.0
    )
    rule = StoppingRule(settings.epochs)
    parts = (method.trainable, method.criterion)
    return trainer_of(*parts, method.steps, train, rule, remedy="lower --lr")


def save_backbone(embedder: Embedder, path: Path) -> None:
    """Write the backbone's weights as --weights takes them."""
    state = {k: v.detach().cpu().contiguous() for k, v in embedder.backbone.state_dict().items()}
    with whole_file(path) as beside:
        save_file(state, beside)
