"""Networks that tell whether two pictures show the same person: two branches with one backbone.

    network = make_network(embedder, settings)
    inputs = make_inputs(extractor, rows, settings, seed)
    scores = score_pairs(network, inputs, first, second)

Both pictures go through the same backbone, and perhaps a linear layer (`--branch-dim`). The two
embeddings are compared by one of three heads (`--head`): a decision network with `two` outputs
(cross-entropy) or `one` (binary cross-entropy) on both, concatenated, or their `cosine`
(cosine-embedding loss). A backbone that is not trained runs once a picture, and its features are
cached; one that is trained, all of it or its second half, runs in every step.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from tqdm import tqdm

from lookalike.core.numeric import blocks
from lookalike.core.weights import load_into, load_state
from lookalike.features.augmentation import weak
from lookalike.features.embedding import embed_features
from lookalike.features.extractor import FeatureExtractor
from lookalike.features.loader import PLAIN, load_pixels, random_views
from lookalike.models.embedder import Embedder
from lookalike.training.inputs import FeatureMaps
from lookalike.training.trainer import best_device
from lookalike.verification.settings import SiameseSettings

HIDDEN, DROPOUT = 512, 0.2
VIEWS = 4  # augmented views of each picture, where the backbone's features are cached
CHUNK = 256  # pictures that are embedded at once


# ---- the network --------------------------------------------------------------------------------


class Siamese(nn.Module):
    """Two branches with the same weights, and what compares their embeddings.

    The decision network is not symmetric by itself: training draws pairs in both orders, and a
    score is the mean of both.

    Args:
        backbone: From inputs to features.
        dim: Width of the features.
        settings: The head and the branches' linear layer.
    """

    def __init__(self, backbone: nn.Module, dim: int, settings: SiameseSettings) -> None:
        super().__init__()
        self.kind, self.margin, self.backbone = settings.head, settings.margin, backbone
        width = settings.branch_dim or dim
        self.branch = nn.Linear(dim, width) if settings.branch_dim else nn.Identity()
        outputs = {"two": 2, "one": 1}.get(settings.head)
        self.decision = nn.Identity() if outputs is None else decision_network(width, outputs)

    def train(self, mode: bool = True) -> "Siamese":
        """Switch between training and evaluation; frozen layers keep their statistics."""
        super().train(mode)
        for part in self.backbone.modules():
            weights = list(part.parameters(recurse=False))
            if weights and not any(weight.requires_grad for weight in weights):
                part.training = False  # and not eval(): layers inside it may be trained
        return self

    def embed(self, inputs: Tensor) -> Tensor:
        """Map the inputs of N pictures to (N, width) embeddings of any length."""
        inputs = inputs.to(next(self.parameters()).device)
        embeddings: Tensor = self.branch(self.backbone(inputs).flatten(1))
        return embeddings

    def decide(self, first: Tensor, second: Tensor) -> Tensor:
        """Map two times (N, width) embeddings to (N, outputs) of the decision network."""
        outputs: Tensor = self.decision(torch.cat([first, second], 1))
        return outputs

    def loss(self, first: Tensor, second: Tensor, same: Tensor) -> Tensor:
        """Return the mean loss of N pairs.

        Args:
            first: (N, width) embeddings.
            second: (N, width) embeddings.
            same: (N,) bool, whether both show the same person.
        """
        same = same.to(first.device)
        loss: Tensor
        if self.kind == "cosine":
            target = same.float() * 2 - 1
            loss = nn.CosineEmbeddingLoss(self.margin)(first, second, target)
        elif self.kind == "one":
            loss = nn.BCEWithLogitsLoss()(self.decide(first, second)[:, 0], same.float())
        else:
            loss = nn.CrossEntropyLoss()(self.decide(first, second), same.long())
        return loss

    def score(self, first: Tensor, second: Tensor) -> Tensor:
        """Return (N,) cosines, or log-odds of "same", averaged over both orders."""
        if self.kind == "cosine":
            return cosine_similarity(first, second)
        outputs = (self.decide(first, second) + self.decide(second, first)) / 2
        return outputs[:, 0] if self.kind == "one" else outputs[:, 1] - outputs[:, 0]


def decision_network(width: int, outputs: int) -> nn.Module:
    """Return two layers with ReLU and dropout between: (N, 2 · width) to (N, outputs)."""
    first, last = nn.Linear(2 * width, HIDDEN), nn.Linear(HIDDEN, outputs)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(DROPOUT), last)


def make_network(embedder: Embedder, settings: SiameseSettings) -> Siamese:
    """Return the network before training, on the GPU where there is one.

    Where no layer of the backbone is trained, the network takes its features, see `make_inputs`.

    Args:
        embedder: Has the backbone, which is copied.
        settings: Of the network.
    """
    if settings.layers == "none":
        return Siamese(nn.Identity(), embedder.features_dim, settings).to(best_device())
    network = Siamese(deepcopy(embedder.backbone), embedder.features_dim, settings)
    for layer in frozen_layers(network.backbone, settings.layers):
        for weight in layer.parameters(recurse=False):  # a ViT has weights of its own, and layers
            weight.requires_grad_(False)
    return network.to(best_device()).to(memory_format=torch.channels_last)


def frozen_layers(backbone: nn.Module, layers: str) -> list[nn.Module]:
    """Return the layers with weights that are not trained.

    Args:
        backbone: A network.
        layers: `all` freezes none, `half` the first half in the backbone's own order.
    """
    own = [part for part in backbone.modules() if list(part.parameters(recurse=False))]
    return own[: len(own) // 2] if layers == "half" else []


def load_network(path: Path, embedder: Embedder, settings: SiameseSettings) -> Siamese:
    """Return a trained network from its file.

    Args:
        path: A fold's model.safetensors.
        embedder: What it was trained from.
        settings: What it was trained with.

    Raises:
        UserError: The file holds no such network.
    """
    network = make_network(embedder, settings)
    load_into(network, {_own_name(k): v for k, v in load_state(path).items()}, str(path))
    return network


def _own_name(name: str) -> str:
    """Return a tensor's name in the network.

    >>> _own_name("network.branch.weight"), _own_name("network.trunk.conv1.weight")
    ('branch.weight', 'backbone.conv1.weight')
    """
    name = name.removeprefix("network.")
    # Files of earlier versions call the backbone "trunk".
    return f"backbone.{name.removeprefix('trunk.')}" if name.startswith("trunk.") else name


# ---- its inputs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class AugmentedInputs:
    """The network's inputs of pictures by row, as they are or in random views.

    Attributes:
        plain: Maps (n,) row indices to n inputs.
        augmented: The same in a random view each, for training.
    """

    plain: Callable[[np.ndarray], Tensor]
    augmented: Callable[[np.ndarray, np.random.Generator], Tensor]


def make_inputs(
    extractor: FeatureExtractor, rows: pd.DataFrame, settings: SiameseSettings, seed: int
) -> AugmentedInputs:
    """Return the network's inputs of pictures.

    Args:
        extractor: Of the embedder that the network is made from.
        rows: Of the catalogue, of pictures that can be read.
        settings: Whether the backbone is trained, and whether training augments.
        seed: Of the views of cached features.
    """
    if settings.layers == "none":
        return feature_inputs(extractor, rows, settings.augment, seed)
    return pixel_inputs(extractor, rows, settings.augment)


def feature_inputs(
    extractor: FeatureExtractor, rows: pd.DataFrame, augment: bool, seed: int
) -> AugmentedInputs:
    """Return cached features of a frozen backbone; augmented: of one of VIEWS random views."""
    views = [PLAIN, *(random_views(VIEWS, seed, "weak") if augment else [])]
    maps = FeatureMaps([embed_features(extractor, rows, view) for view in views])

    def plain(indices: np.ndarray) -> Tensor:
        return maps.take(indices, np.zeros_like(indices))

    def augmented(indices: np.ndarray, rng: np.random.Generator) -> Tensor:
        return maps.take(indices, 1 + rng.integers(VIEWS, size=len(indices)))

    return AugmentedInputs(plain, augmented if augment else lambda indices, rng: plain(indices))


def pixel_inputs(extractor: FeatureExtractor, rows: pd.DataFrame, augment: bool) -> AugmentedInputs:
    """Return pictures, which are kept in memory and normalized when they are taken."""
    faces, preprocessing = extractor.faces(rows), extractor.embedder.preprocessing
    files = zip(rows.path, rows.content, strict=True)
    bar = tqdm(files, "reading", len(rows), unit=" pictures")
    pixels = np.stack(
        [load_pixels(extractor.root / p, c, faces.get(c), preprocessing, PLAIN) for p, c in bar]
    )

    def plain(indices: np.ndarray) -> Tensor:
        return preprocessing.normalize(torch.from_numpy(pixels[indices]))

    def augmented(indices: np.ndarray, rng: np.random.Generator) -> Tensor:
        views = [preprocessing.resize(weak(pixels[index], rng)) for index in indices]
        return preprocessing.normalize(torch.from_numpy(np.stack(views)))

    return AugmentedInputs(plain, augmented if augment else lambda indices, rng: plain(indices))


@torch.inference_mode()
def score_pairs(
    network: Siamese, inputs: AugmentedInputs, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Return the scores of pairs; each picture goes through its branch once.

    Args:
        network: The network, which is switched to evaluation.
        inputs: Of the pictures.
        first: (N,) row indices of the pairs' first pictures.
        second: (N,) row indices of the second ones.

    Returns:
        (N,) float.
    """
    network.eval()
    indices, where = np.unique(np.concatenate([first, second]), return_inverse=True)
    parts = [indices[block] for block in blocks(len(indices), CHUNK)]
    embeddings = torch.cat([network.embed(inputs.plain(part)) for part in parts])
    a, b = np.split(where, 2)
    scores: np.ndarray = network.score(embeddings[a], embeddings[b]).cpu().numpy().astype(float)
    return scores
