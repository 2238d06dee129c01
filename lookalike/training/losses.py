"""The objectives of training: losses of embeddings and classes, alone or as a weighted sum.

    objective = Objective(settings, dim=512, counts=np.array([9, 4]))   # pictures of each class
    loss = objective(embeddings, targets)

The losses and miners are pytorch-metric-learning's (Musgrave, Belongie and Lim, 2020). Those of
classes (cross_entropy, arcface, subcenter_arcface, cosface) learn a center for each identity; those
of pairs (triplet, contrastive, cosine_pairs, multi_similarity, supcon, ntxent) compare the pictures
of a batch, and of earlier ones with a memory.
"""

import difflib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import BaseDistance, CosineSimilarity, LpDistance
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lookalike.core.errors import UserError
from lookalike.core.settings import TrainSettings

# Indices into a batch: anchors, positives and negatives, or two kinds of pairs; see samplers.Batch.
Tuples = tuple[Tensor, ...]
SUB_CENTERS = 3


class Term(NamedTuple):
    """One term of an objective."""

    weight: float
    name: str


def parse_objective(text: str) -> list[Term]:
    """Return the terms of an objective.

    Args:
        text: Names of `LOSSES`, each with a weight before it or none, joined by +.

    Raises:
        UserError: An unknown name (the nearest is named), a repeated one, or a weight that is not a
            number above 0.

    >>> parse_objective("arcface + 0.1*triplet")
    [Term(weight=1.0, name='arcface'), Term(weight=0.1, name='triplet')]
    """
    terms = [_parse_term(part.strip(), text) for part in text.split("+")]
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise UserError(f"--objective {text}: a name is repeated")
    return terms


def _parse_term(part: str, text: str) -> Term:
    """Return one term of the objective `text`."""
    weight, _, name = part.rpartition("*")
    name = name.strip()
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, n=1, cutoff=0.0)[0]
        names = ", ".join(LOSSES)
        raise UserError(
            f"--objective {text}: '{name}' is unknown; did you mean '{near}'? There are {names}"
        )
    try:
        value = float(weight or 1)
    except ValueError as error:
        raise UserError(f"--objective {text}: '{weight}' is not a number") from error
    if not 0 < value < math.inf:
        raise UserError(f"--objective {text}: the weight {weight} must be above 0")
    return Term(value, name)


def compares_pairs(text: str) -> bool:
    """Return whether an objective compares pictures: a batch must then hold several of an identity.

    >>> compares_pairs("arcface"), compares_pairs("arcface+0.1*triplet")
    (False, True)
    """
    return any(name in PAIR_LOSSES for _, name in parse_objective(text))


def projector(dim: int, width: int) -> nn.Module:
    """Return a projection head that only the loss sees.

    The loss removes information in the head, so that the features before it stay of more use (Chen
    et al., SimCLR, 2020, section 4.2).

    Args:
        dim: Width of its input.
        width: Width of its output.
    """
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, width))


class Objective(nn.Module):
    """A weighted sum of losses, with their weights and memory, and the projector before them.

    Args:
        settings: Which losses, and their parameters.
        dim: Width of the embeddings.
        counts: (C,) training pictures of each class.
    """

    def __init__(self, settings: TrainSettings, dim: int, counts: np.ndarray) -> None:
        super().__init__()
        self.terms = parse_objective(settings.objective)
        self.distance = _distance(settings)
        self.projector = projector(dim, settings.projector) if settings.projector else nn.Identity()
        dim = settings.projector or dim
        self.losses = nn.ModuleDict(
            {name: LOSSES[name](settings, dim, counts) for _, name in self.terms}
        )
        self.miner = _miner(settings)
        if settings.memory_size:
            for name in self.losses.keys() & PAIR_LOSSES:
                self.losses[name] = Memory(
                    self.losses[name], dim, settings.memory_size, miner=self.miner
                )

    def forward(self, embeddings: Tensor, targets: Tensor, tuples: Tuples | None = None) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            embeddings: (N, dim), of any length.
            targets: (N,) int64 classes.
            tuples: The pairs or triplets that were drawn; None: the miner chooses among all of the
                batch.
        """
        total, embeddings = embeddings.new_zeros(()), self.projector(embeddings)
        for weight, name in self.terms:
            total = total + weight * self._loss(name, embeddings, targets, tuples)
        return total

    def _loss(self, name: str, embeddings: Tensor, targets: Tensor, tuples: Tuples | None) -> Any:
        """Return the mean loss of one term."""
        loss = self.losses[name]
        if name not in PAIR_LOSSES:
            return loss(embeddings, targets)
        if tuples is None and self.miner is not None and not isinstance(loss, Memory):
            tuples = self.miner(embeddings, targets)
        return loss(embeddings, targets, tuples)


# ---- losses of classes --------------------------------------------------------------------------


class Classifier(nn.Module):
    """Cross-entropy of a linear classifier."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, classes)

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of (N, dim) embeddings and their (N,) classes."""
        return cross_entropy(self.linear(embeddings), targets)


class FrequencyMargins(losses.SubCenterArcFaceLoss):
    """Sub-center ArcFace with a margin for each class: rare classes have the wider ones.

    Deng et al., Sub-center ArcFace (2020); margins a * n^(-1/4) + b by the class's n pictures, as
    in Ha, Liu and Liu, Google Landmark Recognition 2020 competition third place solution (2020).

    Args:
        margins: (C,) in radians.
        options: Of the base class.
    """

    def __init__(self, margins: Tensor, **options: Any) -> None:
        super().__init__(num_classes=len(margins), **options)
        self.register_buffer("margins", margins)

    def compute_loss(self, embeddings: Tensor, labels: Tensor, *others: Any) -> Any:
        """Return the losses by reduction, after noting each picture's margin."""
        self.of_rows = self.margins[labels]
        return super().compute_loss(embeddings, labels, *others)

    def modify_cosine_of_target_classes(self, cosines: Tensor) -> Tensor:
        """Add the class's margin to (N,) cosines of each picture and its own class."""
        angles, margin = self.get_angles(cosines), self.of_rows
        beyond = torch.cos(angles) - margin * torch.sin(margin)
        return torch.where(angles <= math.pi - margin, torch.cos(angles + margin), beyond)


def frequency_margins(counts: np.ndarray, most: float) -> Tensor:
    """Return (C,) margins by the classes' numbers of pictures.

    Args:
        counts: (C,) numbers of pictures.
        most: The margin of the rarest class, and of all where they are equal; the commonest has a
            tenth of it.

    >>> [round(float(margin), 3) for margin in frequency_margins(np.array([1, 16, 81]), 0.5)]
    [0.5, 0.162, 0.05]
    """
    rarity = np.maximum(counts, 1) ** -0.25
    low, high = rarity.min(), rarity.max()
    share = (rarity - low) / (high - low) if high > low else np.ones(len(counts))
    return torch.tensor(most * (0.1 + 0.9 * share), dtype=torch.float32)


def _arcface(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    margin = math.degrees(_default(settings.class_margin, 0.5))
    return losses.ArcFaceLoss(len(counts), dim, margin, settings.logit_scale)


def _subcenter_arcface(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    margins = frequency_margins(counts, _default(settings.class_margin, 0.5))
    options = {"embedding_size": dim, "scale": settings.logit_scale, "sub_centers": SUB_CENTERS}
    return FrequencyMargins(margins, **options)


def _cosface(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    margin = _default(settings.class_margin, 0.35)
    return losses.CosFaceLoss(len(counts), dim, margin=margin, scale=settings.logit_scale)


# ---- losses of pairs and triplets ---------------------------------------------------------------


class Memory(losses.CrossBatchMemory):
    """Compares a batch with stored embeddings of earlier batches too.

    Wang et al., Cross-batch memory for embedding learning (2020).
    """

    def get_extra_state(self) -> dict[str, Any]:
        """Return the position in the memory, which the library keeps outside of its tensors."""
        return {"next": int(self.queue_idx), "full": bool(self.has_been_filled)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self.queue_idx, self.has_been_filled = state["next"], state["full"]


def _distance(settings: TrainSettings) -> BaseDistance:
    return CosineSimilarity() if settings.distance == "cosine" else LpDistance()


def _miner(settings: TrainSettings) -> TripletMarginMiner | None:
    """Return what chooses triplets; `all` needs none, since those without a loss do not count."""
    if settings.miner == "all":
        return None
    margin = _default(settings.margin, 0.2)
    return TripletMarginMiner(margin, type_of_triplets=settings.miner, distance=_distance(settings))


def _default(value: float | None, default: float) -> float:
    """Return a setting, or its default where it is None."""
    return default if value is None else value


def _triplet(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    return losses.TripletMarginLoss(_default(settings.margin, 0.2), distance=_distance(settings))


def _contrastive(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    """Return the loss of Hadsell, Chopra and LeCun (2006), on distances of unit embeddings."""
    return losses.ContrastiveLoss(0, _default(settings.margin, 1.0))


def _cosine_pairs(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    """Return the loss 1 - cos of a positive pair, max(0, cos - margin) of a negative one."""
    return losses.ContrastiveLoss(1, _default(settings.margin, 0.0), distance=CosineSimilarity())


def _multi_similarity(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    return losses.MultiSimilarityLoss()


def _supcon(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    return losses.SupConLoss(settings.temperature)


def _ntxent(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    return losses.NTXentLoss(settings.temperature)


Build = Callable[[TrainSettings, int, np.ndarray], nn.Module]

LOSSES: dict[str, Build] = {
    "cross_entropy": lambda settings, dim, counts: Classifier(dim, len(counts)),
    "arcface": _arcface,
    "subcenter_arcface": _subcenter_arcface,
    "cosface": _cosface,
    "triplet": _triplet,
    "contrastive": _contrastive,
    "cosine_pairs": _cosine_pairs,
    "multi_similarity": _multi_similarity,
    "supcon": _supcon,
    "ntxent": _ntxent,
}

PAIR_LOSSES = frozenset(LOSSES) - {"cross_entropy", "arcface", "subcenter_arcface", "cosface"}
