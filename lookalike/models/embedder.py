"""The embedder: one interface for every backbone, from pictures to unit vectors.

    embedder = load_embedder("efficientnet_lite0")
    embeddings = embedder(embedder.transform(image)[None])   # (1, 1280), of length 1

Names: `efficientnet_lite0` to `lite2`, `mobilenet_v2`, `sface` and `dlib` need no model hub;
`efficientnet_b0`, `resnet50`, `vit_b16` and every other timm name are loaded from timm's hub,
`torchvision:NAME` from torchvision's; `facenet` and `arcface` are downloaded from their releases,
`inception_resnet_v1` and `onnx:FILE` read from a file, and `embeddings:FILE` holds what another
program has made of the pictures. `lookalike backbones` lists them.
"""

import logging
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from lookalike.core.carriers import CARRIERS
from lookalike.core.errors import UserError
from lookalike.core.log import report_each
from lookalike.core.numeric import one_thread
from lookalike.core.settings import EmbedSettings
from lookalike.core.weights import fingerprint, load_into
from lookalike.faces.geometry import WHOLE, Crop, crop_kind
from lookalike.models.backbones import HUB_FILES, build_backbone, hub_file, load_carried, read_state
from lookalike.models.dlib_model import DlibFace
from lookalike.models.onnx_models import OnnxBackbone
from lookalike.models.pooling import set_pooling
from lookalike.models.preprocessing import Preprocessing
from lookalike.models.releases import RELEASES, released_file
from lookalike.models.stored import StoredEmbeddings


class Embedder(nn.Module):
    """A backbone and an optional linear projection, with embeddings scaled to length 1.

    Args:
        name: The backbone's name, as on the command line.
        backbone: A network from (N, 3, H, W) to features, (N, D) or (N, D, 1, 1).
        preprocessing: How pictures become its input.
        pooling: How the backbone pools, one of `poolings(backbone)`; `auto` is its own way.

    Attributes:
        features_dim: Width of the backbone's features.
        dim: Width of the embeddings.
        weights_id: Hash of the backbone's weights, and how it pools where that is not its own way.
            The same `weights_id` and `preprocessing` give the same features.

    Raises:
        UserError: The backbone has no such pooling.
    """

    def __init__(
        self, name: str, backbone: nn.Module, preprocessing: Preprocessing, pooling: str = "auto"
    ) -> None:
        super().__init__()
        if pooling != "auto":
            set_pooling(backbone, pooling, name)
        self.name, self.preprocessing = name, preprocessing
        self.backbone = backbone.eval()
        self.projection: nn.Module = nn.Identity()
        self.pooling = pooling
        self.features_dim = self._measure_features()
        self.dim = self.features_dim
        self.identify()

    def _measure_features(self) -> int:
        """Return the width of the features, which takes a picture to find out."""
        if isinstance(self.backbone, StoredEmbeddings):
            return self.backbone.dim
        blank = torch.zeros(1, 3, self.image_size, self.image_size)
        try:
            with torch.inference_mode():
                return int(self.features(blank).shape[1])
        except RuntimeError as error:
            if self.pooling == "avg+gem":
                raise UserError(
                    f"--pooling avg+gem: --backbone {self.name} has layers behind its pooling, "
                    "which take one of the two: name avg or gem"
                ) from error
            raise

    @property
    def image_size(self) -> int:
        """Height and width of its input, in pixels."""
        return self.preprocessing.image_size

    def identify(self) -> None:
        """Update `weights_id` after the backbone's weights have changed."""
        own = "" if self.pooling == "auto" else f"-{self.pooling}"
        self.weights_id = fingerprint(self.backbone) + own

    def transform(self, image: Image.Image) -> Tensor:
        """Turn an RGB picture, already cropped, into the backbone's input: (3, H, W) float32."""
        pixels = torch.from_numpy(self.preprocessing.resize(np.array(image)))
        return self.preprocessing.normalize(pixels[None])[0]

    def features(self, pictures: Tensor) -> Tensor:
        """Map (N, 3, H, W) to the backbone's features, (N, features_dim), which have any length."""
        features: Tensor = self.backbone(pictures)
        return features.flatten(1)

    def project(self, features: Tensor) -> Tensor:
        """Map features (N, features_dim) to embeddings (N, dim) of length 1; zeros stay zeros."""
        return normalize(self.projection(features), dim=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map (N, 3, H, W) to embeddings (N, dim) of length 1."""
        return self.project(self.features(pictures))

    def set_projection(self, dim: int | None) -> None:
        """Add a new linear projection to `dim` dimensions; None removes it."""
        self.projection = nn.Identity() if dim is None else nn.Linear(self.features_dim, dim)
        self.dim = dim or self.features_dim

    def preprocessing_at(self, image_size: int | None) -> Preprocessing:
        """Return its preprocessing for another size of pictures.

        Args:
            image_size: Height and width in pixels; None for its own.

        Raises:
            UserError: The backbone does not take pictures of this size.
        """
        if image_size in (None, self.image_size):
            return self.preprocessing
        try:
            with torch.inference_mode():
                width = self.features(torch.zeros(1, 3, image_size, image_size)).shape[1]
        except Exception:  # a backbone, or its runtime, raises what it likes
            width = 0
        if width != self.features_dim:
            raise UserError(
                f"--image-size or --train-image-size {image_size}: --backbone {self.name} takes "
                f"only its own {self.image_size}, or needs a larger picture"
            )
        return replace(self.preprocessing, image_size=image_size)

    def set_image_size(self, image_size: int | None) -> None:
        """Change the size of its pictures; the features keep their width.

        Args:
            image_size: Height and width in pixels; None for its own.

        Raises:
            UserError: The backbone does not take pictures of this size.
        """
        self.preprocessing = self.preprocessing_at(image_size)


def load_embedder(
    name: str,
    weights: str | None = None,
    cache: Path = Path("cache"),
    crop: Crop = WHOLE,
    normalization: str = "auto",
    pooling: str = "auto",
) -> Embedder:
    """Build a backbone by name and load its weights.

    Args:
        name: The backbone's name.
        weights: A file, "none" for random weights (always the same ones), or None for the
            pretrained weights.
        cache: Folder for pretrained weights whose package is not installed.
        crop: Which part of a picture is seen. The template of an `aligned` crop is replaced by the
            backbone's own, where it has one.
        normalization: One of NORMALIZATIONS; `auto` is what the backbone was trained with.
        pooling: One of `poolings(backbone)`; `auto` is the backbone's own.

    Raises:
        UserError: An unknown name, weights that do not fit, a hub that cannot be reached, or a
            pooling that the backbone does not have.
    """
    network, weights = _released(name, weights, cache)
    from_hub = weights is None and name not in CARRIERS
    backbone, preprocessing = build_backbone(network, from_hub)
    if weights is None and name in CARRIERS:
        load_carried(backbone, name, cache)
    elif weights is not None and weights != "none":
        state = read_state(Path(weights), name)
        load_into(backbone, state, weights)
        others = sorted(state.keys() - backbone.state_dict().keys())
        report_each(f"tensors of {weights} are not the backbone's: left out", others, logging.INFO)
    if crop.kind == "aligned" and isinstance(backbone, OnnxBackbone | DlibFace):
        crop = replace(crop, template=backbone.template)
    preprocessing = replace(preprocessing, crop=crop)
    if normalization != "auto":
        preprocessing = preprocessing.normalized_by(normalization)
    return Embedder(name, backbone, preprocessing, pooling)


def _released(name: str, weights: str | None, cache: Path) -> tuple[str, str | None]:
    """Return the network and the weights of a backbone; of one that is a file, that file."""
    if name in HUB_FILES:
        return name, weights or str(hub_file(name))
    if name not in RELEASES:
        return name, weights
    if name == "arcface" and weights == "none":
        raise UserError(
            "--backbone arcface is an ONNX file, which holds its weights: no --weights none"
        )
    weights = weights or str(released_file(name, cache))
    return (f"onnx:{weights}", None) if name == "arcface" else (name, weights)


def embedder_of(settings: EmbedSettings, cache: Path) -> Embedder:
    """Build the untrained embedder that the settings choose.

    Args:
        settings: A single backbone at a single resolution, see `EmbedSettings.members`; weights,
            crop, normalization, pooling and image size.
        cache: Folder for pretrained weights whose package is not installed.

    Raises:
        UserError: An unknown name, weights that do not fit, a hub that cannot be reached, or a
            pooling or an image size that the backbone does not have.
    """
    crop = Crop(crop_kind(settings), settings.crop_margin)
    embedder = load_embedder(
        settings.backbone, settings.weights, cache, crop, settings.normalization, settings.pooling
    )
    embedder.set_image_size(settings.image_size)
    (resolution,) = settings.resolutions
    if resolution != 1:
        embedder.set_image_size(max(1, round(embedder.image_size * resolution / 32)) * 32)
    return embedder


def project_rows(embedder: Embedder, features: np.ndarray) -> np.ndarray:
    """Map features (N, features_dim) to embeddings (N, dim), float32 rows of length 1.

    On one thread: a sum that several threads share depends on how they share it.
    """
    with torch.inference_mode(), one_thread():
        # The projection's own: it alone may have been trained, and moved to a GPU.
        parts = (embedder.projection, embedder)
        device = next(t.device for p in parts for t in chain(p.parameters(), p.buffers()))
        rows = [
            embedder.project(torch.from_numpy(features[i : i + 4096]).to(device)).cpu()
            for i in range(0, len(features), 4096)
        ]
    return torch.cat(rows).numpy() if rows else np.zeros((0, embedder.dim), np.float32)
