"""TODO lookalike.training.linear_head."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.log import log
from lookalike.core.numeric import one_thread, seeded
from lookalike.core.runs import Run
from lookalike.core.settings import TrainSettings
from lookalike.data.catalogue import load_catalogue, rows_of
from lookalike.data.splits import Split, load_split
from lookalike.features.extractor import FeatureExtractor, embed_features, run_extractor
from lookalike.features.loader import PLAIN, View, random_views
from lookalike.models.checkpoints import save_model
from lookalike.models.embedder import Embedder, embedder_of

DROPOUT = 0.2


class Head(nn.Module):
    """(N, features_dim) features -> (N, classes) logits: projection, dropout, linear classifier."""

    def __init__(self, projection: nn.Module, dim: int, classes: int) -> None:
        super().__init__()
        self.projection = projection
        self.classifier = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(dim, classes))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.projection(features))
        return logits


@dataclass(frozen=True)
class Examples:
    """Features to train on or to judge by.

    features: (views, N, features_dim) float32. targets: (N,) int64.
    """

    features: Tensor
    targets: Tensor


@dataclass
class Epoch:
    """What an epoch came to: mean losses, and the held-out accuracy from 0 to 1."""

    epoch: int
    train_loss: float
    holdout_loss: float
    holdout_accuracy: float


def train_report_head(run: Run) -> str:
    """The report's head; nothing where there are no pictures or no epochs."""
    settings = run.settings.train
    embedder = embedder_of(run.settings.embed, run.cache)
    split = load_split(run.path("split.json"))
    parts: dict[str, nn.Module] = {}
    history: list[Epoch] = []
    made = "no pictures or no epochs to train with: the untrained backbone"
    if split.train and settings.epochs:
        with seeded(run.seed):
            head, history = train_head(run, embedder, split)
        parts = {"projection": head.projection, "classifier": head.classifier}
        best = min(history, key=lambda epoch: epoch.holdout_loss)
        made = (
            f"head for {len(set(split.train.values()))} people, best after epoch {best.epoch}: "
            f"held-out accuracy {best.holdout_accuracy:.3f}"
        )
        if settings.embed_dim is None:
            log.info("train: the backbone is frozen and has no projection: its embedding stays")
    trained_dim = settings.embed_dim if parts else None
    identities = sorted(set(split.train.values())) if parts else []
    with whole_file(run.path("history.csv")) as beside:
        pd.DataFrame(history, columns=list(Epoch.__dataclass_fields__)).to_csv(beside, index=False)
    about = {"embed_dim": trained_dim, "identities": identities}
    save_model(run.path("model.safetensors"), embedder, parts, **about)
    return made


def train_head(run: Run, embedder: Embedder, split: Split) -> tuple[Head, list[Epoch]]:
    """Trains the projection, where there is one, and the classifier."""
    settings = run.settings.train
    embedder.set_projection(settings.embed_dim)
    extractor = run_extractor(run, embedder)
    views = random_views(settings.train_views, run.seed, settings.augmentation)
    train = read_examples(run, extractor, split.train, split.train, views or [PLAIN])
    holdout = read_examples(run, extractor, split.holdout, split.train, [PLAIN])
    head = Head(embedder.projection, embedder.dim, len(set(split.train.values())))
    with one_thread():
        return fit(head, train, holdout, settings, run.seed)


def read_examples(
    run: Run,
    extractor: FeatureExtractor,
    pictures: dict[str, str],
    classes: dict[str, str],
    views: list[View],
) -> Examples:
    """Features and targets of pictures {path: identity}; a target is the identity's number."""
    number = {identity: i for i, identity in enumerate(sorted(set(classes.values())))}
    rows = rows_of(load_catalogue(run.path("training.csv")), pictures)
    features = [embed_features(extractor, rows, view) for view in views]
    targets = torch.tensor([number[identity] for identity in pictures.values()], dtype=torch.long)
    return Examples(torch.from_numpy(np.stack(features)), targets)


def fit(
    head: Head, train: Examples, holdout: Examples, settings: TrainSettings, seed: int
) -> tuple[Head, list[Epoch]]:
    """Adam on cross-entropy; the head of the epoch with the lowest held-out loss.

    Training stops early after `settings.patience` epochs without a lower one. Where nothing is
    held out (a picture a person), the training loss judges.

    Raises:
        UserError: the loss is not finite.
    """
    optimizer = torch.optim.Adam(head.parameters(), lr=settings.lr)
    rng = np.random.default_rng([seed, 4])
    history: list[Epoch] = []
    best_loss, best_epoch, best_state = float("inf"), 0, head.state_dict()
    bar = tqdm(range(1, settings.epochs + 1), "training", unit=" epochs")
    for number in bar:
        loss = train_epoch(head, optimizer, train, settings.batch_size, rng)
        epoch = Epoch(number, loss, *judge(head, holdout if len(holdout.targets) else train))
        history.append(epoch)
        bar.set_postfix(loss=f"{loss:.3f}", held_out=f"{epoch.holdout_loss:.3f}")
        if not np.isfinite([epoch.train_loss, epoch.holdout_loss]).all():
            raise UserError(f"the loss of epoch {number} is no finite number: lower --lr")
        if epoch.holdout_loss < best_loss:
            best_loss, best_epoch = epoch.holdout_loss, number
            best_state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        elif number - best_epoch >= settings.patience:
            break
    head.load_state_dict(best_state)
    return head, history


def train_epoch(
    head: Head,
    optimizer: torch.optim.Optimizer,
    train: Examples,
    batch: int,
    rng: np.random.Generator,
) -> float:
    """One pass over the training pictures, each in one of its views; the mean loss."""
    head.train()
    views, count = train.features.shape[:2]
    view, order = torch.from_numpy(rng.integers(views, size=count)), rng.permutation(count)
    total = 0.0
    for start in range(0, count, batch):
        chosen = torch.from_numpy(order[start : start + batch])
        loss = cross_entropy(head(train.features[view[chosen], chosen]), train.targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(chosen)
    return total / count


@torch.inference_mode()
def judge(head: Head, examples: Examples) -> tuple[float, float]:
    """(mean cross-entropy, accuracy) on the examples' first view."""
    head.eval()
    logits = head(examples.features[0])
    accuracy = (logits.argmax(1) == examples.targets).float().mean()
    return float(cross_entropy(logits, examples.targets)), float(accuracy)
