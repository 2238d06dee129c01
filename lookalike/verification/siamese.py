"""Networks trained to tell whether two pictures show the same person: two branches, one trunk.

    network = make_network(embedder, asked)
    inputs = make_inputs(job, rows, asked, seed)
    scores = score_pairs(network, inputs, first, second)

Both pictures go through one trunk, the backbone, and perhaps a linear layer (`--branch-dim`). What
comes of them is compared by one of three heads (`--head`): a decision network with `two` outputs
(cross-entropy) or `one` (binary cross-entropy), which sees the features of both one after the
other, or by their `cosine` (cosine-embedding loss). A trunk that is not trained runs once a
picture, and its features are cached; one that is trained, all of it or its second half, runs at
every step.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from tqdm import tqdm

from lookalike.core.numeric import blocks
from lookalike.features.augmentation import weak
from lookalike.features.extractor import FeatureExtractor, embed_features
from lookalike.features.loader import PLAIN, load_pixels, random_views
from lookalike.models.embedder import Embedder
from lookalike.verification.settings import SiameseSettings

HIDDEN, DROPOUT = 512, 0.2
VIEWS = 4  # augmented views of each picture, where the trunk's features are cached


# ---- the network --------------------------------------------------------------------------------


class Siamese(nn.Module):
    """Two branches with the same weights, and what compares their ends.

    trunk: inputs -> features. dim: their width. The decision network is not symmetric by itself:
    training draws pairs in both orders, and a score is the mean of both.
    """

    def __init__(self, trunk: nn.Module, dim: int, settings: SiameseSettings) -> None:
        super().__init__()
        self.kind, self.margin, self.trunk = settings.head, settings.margin, trunk
        width = settings.branch_dim or dim
        self.branch = nn.Linear(dim, width) if settings.branch_dim else nn.Identity()
        outputs = {"two": 2, "one": 1}.get(settings.head)
        self.decision = nn.Identity() if outputs is None else decision_network(width, outputs)

    def rows(self, inputs: Tensor) -> Tensor:
        """Inputs of N pictures -> (N, width), the ends of their branches."""
        inputs = inputs.to(next(self.parameters()).device)
        ends: Tensor = self.branch(self.trunk(inputs).flatten(1))
        return ends

    def decide(self, first: Tensor, second: Tensor) -> Tensor:
        """(N, width) twice -> (N, outputs) of the decision network."""
        outputs: Tensor = self.decision(torch.cat([first, second], 1))
        return outputs

    def loss(self, first: Tensor, second: Tensor, same: Tensor) -> Tensor:
        """The mean loss of N pairs. same: (N,) bool."""
        loss: Tensor
        same = same.to(first.device)
        if self.kind == "cosine":
            target = same.float() * 2 - 1
            loss = nn.CosineEmbeddingLoss(self.margin)(first, second, target)
        elif self.kind == "one":
            loss = nn.BCEWithLogitsLoss()(self.decide(first, second)[:, 0], same.float())
        else:
            loss = nn.CrossEntropyLoss()(self.decide(first, second), same.long())
        return loss

    def score(self, first: Tensor, second: Tensor) -> Tensor:
        """(N,): the cosine, or the log-odds of "same", in both orders and averaged."""
        if self.kind == "cosine":
            return cosine_similarity(first, second)
        outputs = (self.decide(first, second) + self.decide(second, first)) / 2
        return outputs[:, 0] if self.kind == "one" else outputs[:, 1] - outputs[:, 0]


def decision_network(width: int, outputs: int) -> nn.Module:
    """(N, 2 · width) -> (N, outputs): two layers with ReLU and dropout between."""
    first, last = nn.Linear(2 * width, HIDDEN), nn.Linear(HIDDEN, outputs)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(DROPOUT), last)


def make_network(embedder: Embedder, settings: SiameseSettings) -> Siamese:
    """The network before training, on the GPU where there is one. Where no layer of the backbone is
    trained, its trunk passes on the features, which are cached; see `make_inputs`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if settings.layers == "none":
        return Siamese(nn.Identity(), embedder.features_dim, settings).to(device)
    network = Siamese(deepcopy(embedder.backbone), embedder.features_dim, settings)
    for part in frozen_part(network.trunk, settings.layers):
        part.requires_grad_(False)
    return network.to(device).to(memory_format=torch.channels_last)


def frozen_part(trunk: nn.Module, layers: str) -> list[nn.Module]:
    """The layers with weights that are not trained: of `half` the first half, in the order in which
    the backbone lists them."""
    own = [part for part in trunk.modules() if list(part.parameters(recurse=False))]
    return own[: len(own) // 2] if layers == "half" else []


def set_training(network: Siamese, on: bool) -> None:
    """As nn.Module.train, but for the layers that are frozen: those go on with the statistics that
    they were trained with."""
    network.train(on)
    for part in network.trunk.modules():
        weights = list(part.parameters(recurse=False))
        if weights and not any(weight.requires_grad for weight in weights):
            part.eval()


# ---- what it sees -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """What the trunk is given of a picture, by the picture's row.

    plain: places (n,) -> tensor of n inputs. shown: the same of a random view each, for training.
    """

    plain: Callable[[np.ndarray], Tensor]
    shown: Callable[[np.ndarray, np.random.Generator], Tensor]


def make_inputs(
    extractor: FeatureExtractor, rows: pd.DataFrame, settings: SiameseSettings, seed: int
) -> Inputs:
    """The inputs of catalogue rows that can be read. Raises: see embed_features."""
    if settings.layers == "none":
        return feature_inputs(extractor, rows, settings.augment, seed)
    return pixel_inputs(extractor, rows, settings.augment)


def feature_inputs(
    extractor: FeatureExtractor, rows: pd.DataFrame, augmented: bool, seed: int
) -> Inputs:
    """Cached features of the frozen trunk; augmented: of VIEWS random views of each picture."""
    plain = torch.from_numpy(embed_features(extractor, rows))
    if not augmented:
        return Inputs(lambda indices: plain[indices], lambda indices, rng: plain[indices])
    views = random_views(VIEWS, seed, "weak")
    stacked = torch.from_numpy(np.stack([embed_features(extractor, rows, view) for view in views]))
    return Inputs(
        lambda indices: plain[indices],
        lambda indices, rng: stacked[rng.integers(VIEWS, size=len(indices)), indices],
    )


def pixel_inputs(extractor: FeatureExtractor, rows: pd.DataFrame, augmented: bool) -> Inputs:
    """Pixels, kept in memory at the size that the trunk sees, normalised when asked for."""
    faces, preprocessing = extractor.faces(rows), extractor.embedder.preprocessing
    files = zip(rows.path, rows.content, strict=True)
    bar = tqdm(files, "reading", len(rows), unit=" pictures")
    pixels = np.stack(
        [load_pixels(extractor.root / p, c, faces.get(c), preprocessing, PLAIN) for p, c in bar]
    )

    def plain(indices: np.ndarray) -> Tensor:
        return preprocessing.normalize(torch.from_numpy(pixels[indices]))

    def random_view(pixel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return preprocessing.resize(weak(pixel, rng))

    def shown(indices: np.ndarray, rng: np.random.Generator) -> Tensor:
        seen = np.stack([random_view(pixels[place], rng) for place in indices])
        return preprocessing.normalize(torch.from_numpy(seen))

    return Inputs(plain, shown if augmented else lambda indices, rng: plain(indices))


@torch.inference_mode()
def score_pairs(
    network: Siamese, inputs: Inputs, first: np.ndarray, second: np.ndarray, batch: int = 256
) -> np.ndarray:
    """(N,) float scores of pairs of places; each picture goes through its branch once."""
    set_training(network, False)
    indices, where = np.unique(np.concatenate([first, second]), return_inverse=True)
    parts = [indices[block] for block in blocks(len(indices), batch)]
    ends = torch.cat([network.rows(inputs.plain(part)) for part in parts])
    a, b = np.split(where, 2)
    scores: np.ndarray = network.score(ends[a], ends[b]).cpu().numpy().astype(float)
    return scores
