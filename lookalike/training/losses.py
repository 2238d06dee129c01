"""What training minimises: a name, or a weighted sum of names, -> a loss of embeddings and classes.

    objective = Objective(asked, dim=512, counts=np.array([9, 4]))   # pictures of each class
    loss = objective(embeddings, targets)

The losses and miners are pytorch-metric-learning's (Musgrave, Belongie and Lim, 2020). Those of
classes (cross_entropy, arcface, subcenter_arcface, cosface) learn a centre for each person; those
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

Tuples = tuple[
    Tensor, ...
]  # places in a batch: (anchor, positive, negative), or two kinds of pairs
SUB_CENTRES = 3


class Term(NamedTuple):
    """One summand of an objective."""

    weight: float
    name: str


def parse_objective(text: str) -> list[Term]:
    """The summands of an objective.

    Raises:
        UserError: an unknown name (the nearest is named), one that stands there twice, or a weight
            that is no number above 0.

    >>> parse_objective("arcface + 0.1*triplet")
    [Term(weight=1.0, name='arcface'), Term(weight=0.1, name='triplet')]
    """
    terms = [_parse_term(part.strip(), text) for part in text.split("+")]
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise UserError(f"--objective {text}: a name stands there twice")
    return terms


def _parse_term(part: str, text: str) -> Term:
    weight, _, name = part.rpartition("*")
    name = name.strip()
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, n=1, cutoff=0.0)[0]
        known = ", ".join(LOSSES)
        raise UserError(
            f"--objective {text}: '{name}' is unknown; did you mean '{near}'? There are {known}"
        )
    try:
        value = float(weight or 1)
    except ValueError as error:
        raise UserError(f"--objective {text}: '{weight}' is no number") from error
    if not 0 < value < math.inf:
        raise UserError(f"--objective {text}: the weight {weight} must be above 0")
    return Term(value, name)


def compares_pairs(text: str) -> bool:
    """Whether an objective compares pictures, so that a batch must hold several of a person.

    >>> compares_pairs("arcface"), compares_pairs("arcface+0.1*triplet")
    (False, True)
    """
    return any(name in PAIRS for _, name in parse_objective(text))


def projector(dim: int, width: int) -> nn.Module:
    """A projection head that only the loss sees. What the loss wants forgotten, it forgets in the
    head, and the features before it stay of more use (Chen et al., SimCLR, 2020, section 4.2).

    dim: width of what comes in.
    """
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, width))


class Objective(nn.Module):
    """A weighted sum of losses, with what they learn and remember, and the projector before them.

    dim: width of the embeddings that come in. counts: (C,) training pictures of each class.
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
            for name in self.losses.keys() & PAIRS:
                self.losses[name] = Memory(
                    self.losses[name], dim, settings.memory_size, miner=self.miner
                )

    def forward(self, embeddings: Tensor, targets: Tensor, tuples: Tuples | None = None) -> Tensor:
        """The mean loss of a batch.

        embeddings: (N, dim), of any length. targets: (N,) int64 classes. tuples: the pairs or
        triplets that were drawn; where there are none, the miner chooses among all of the batch.
        """
        total, embeddings = embeddings.new_zeros(()), self.projector(embeddings)
        for weight, name in self.terms:
            total = total + weight * self._loss(name, embeddings, targets, tuples)
        return total

    def _loss(self, name: str, embeddings: Tensor, targets: Tensor, tuples: Tuples | None) -> Any:
        loss = self.losses[name]
        if name not in PAIRS:
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
        """(N, dim) of any length, (N,) classes -> the mean cross-entropy."""
        return cross_entropy(self.linear(embeddings), targets)


class FrequencyMargins(losses.SubCenterArcFaceLoss):
    """Sub-centre ArcFace with a margin for each class: rare classes are kept further off.

    Deng et al., Sub-center ArcFace (2020); margins a * n^(-1/4) + b by the class's n pictures, as
    in Ha, Liu and Liu, Google Landmark Recognition 2020 competition third place solution (2020).

    margins: (C,) in radians.
    """

    def __init__(self, margins: Tensor, **options: Any) -> None:
        super().__init__(num_classes=len(margins), **options)
        self.register_buffer("margins", margins)

    def compute_loss(self, embeddings: Tensor, labels: Tensor, *others: Any) -> Any:
        """See the base class."""
        self.of_rows = self.margins[labels]
        return super().compute_loss(embeddings, labels, *others)

    def modify_cosine_of_target_classes(self, cosines: Tensor) -> Tensor:
        """(N,) cosines of each picture and its own class -> the same with the class's margin."""
        angles, margin = self.get_angles(cosines), self.of_rows
        beyond = torch.cos(angles) - margin * torch.sin(margin)
        return torch.where(angles <= math.pi - margin, torch.cos(angles + margin), beyond)


def frequency_margins(counts: np.ndarray, most: float) -> Tensor:
    """(C,) margins: `most` for the rarest class, a tenth of it for the commonest; equal classes all
    have `most`.

    >>> [round(float(margin), 3) for margin in frequency_margins(np.array([1, 16, 81]), 0.5)]
    [0.5, 0.162, 0.05]
    """
    rarity = np.maximum(counts, 1) ** -0.25
    low, high = rarity.min(), rarity.max()
    share = (rarity - low) / (high - low) if high > low else np.ones(len(counts))
    return torch.tensor(most * (0.1 + 0.9 * share), dtype=torch.float32)


def _arcface(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    margin = math.degrees(_or(settings.class_margin, 0.5))
    loss: nn.Module = losses.ArcFaceLoss(len(counts), dim, margin, settings.logit_scale)
    return loss


def _subcenter_arcface(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    margins = frequency_margins(counts, _or(settings.class_margin, 0.5))
    options = {"embedding_size": dim, "scale": settings.logit_scale, "sub_centers": SUB_CENTRES}
    return FrequencyMargins(margins, **options)


def _cosface(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    margin = _or(settings.class_margin, 0.35)
    loss: nn.Module = losses.CosFaceLoss(
        len(counts), dim, margin=margin, scale=settings.logit_scale
    )
    return loss


# ---- losses of pairs and triplets ---------------------------------------------------------------


class Memory(losses.CrossBatchMemory):
    """Compares a batch with the embeddings of earlier batches too, as they were then.

    Wang et al., Cross-batch memory for embedding learning (2020).
    """

    def get_extra_state(self) -> dict[str, Any]:
        """Where the memory stands: the library keeps that outside of its tensors."""
        return {"next": int(self.queue_idx), "full": bool(self.has_been_filled)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """See get_extra_state."""
        self.queue_idx, self.has_been_filled = state["next"], state["full"]


def _distance(settings: TrainSettings) -> BaseDistance:
    return CosineSimilarity() if settings.distance == "cosine" else LpDistance()


def _miner(settings: TrainSettings) -> TripletMarginMiner | None:
    """What chooses triplets; `all` needs none, since those without a loss do not count."""
    if settings.miner == "all":
        return None
    margin = _or(settings.margin, 0.2)
    return TripletMarginMiner(margin, type_of_triplets=settings.miner, distance=_distance(settings))


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _triplet(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    loss: nn.Module = losses.TripletMarginLoss(
        _or(settings.margin, 0.2), distance=_distance(settings)
    )
    return loss


def _contrastive(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    """Hadsell, Chopra and LeCun (2006), on the Euclidean distance of unit embeddings."""
    loss: nn.Module = losses.ContrastiveLoss(0, _or(settings.margin, 1.0))
    return loss


def _cosine_pairs(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    """1 - cos of a positive pair, max(0, cos - margin) of a negative one."""
    loss: nn.Module = losses.ContrastiveLoss(
        1, _or(settings.margin, 0.0), distance=CosineSimilarity()
    )
    return loss


def _multi_similarity(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    loss: nn.Module = losses.MultiSimilarityLoss()
    return loss


def _supcon(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    loss: nn.Module = losses.SupConLoss(settings.temperature)
    return loss


def _ntxent(settings: TrainSettings, dim: int, counts: np.ndarray) -> nn.Module:
    loss: nn.Module = losses.NTXentLoss(settings.temperature)
    return loss


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

PAIRS = frozenset(LOSSES) - {"cross_entropy", "arcface", "subcenter_arcface", "cosface"}
