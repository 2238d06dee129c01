"""A name -> an Embedder: a batch of picture tensors -> unit vectors.

    embedder = load_embedder("efficientnet_lite0")
    rows = embedder(embedder.transform(image)[None])   # (1, 1280), of length 1

Names: `efficientnet_lite0` to `lite2`, `mobilenet_v2` and `sface` need no model hub;
`efficientnet_b0`, `resnet50`, `vit_b16` and every other timm name are loaded from timm's hub,
`torchvision:NAME` from torchvision's; `inception_resnet_v1` and `onnx:FILE` from a file.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from lookalike.core.errors import UserError
from lookalike.core.numeric import one_thread
from lookalike.core.settings import EmbedSettings
from lookalike.core.weights import CARRIERS, fingerprint, load_into, load_state
from lookalike.faces.geometry import WHOLE, Crop, crop_kind
from lookalike.models.backbones import _load_carried, build_backbone
from lookalike.models.face_models import sface_state
from lookalike.models.onnx_models import OnnxBackbone
from lookalike.models.pooling import set_pooling
from lookalike.models.preprocessing import Preprocessing


class Embedder(nn.Module):
    """A backbone, an optional projection, and length 1.

    name: the backbone's name, as the command line knows it.
    preprocessing: how pictures become its input; side: height and width of that in pixels.
    features_dim, dim: width of the backbone's features and of the embedding.
    weights_id: hash of the backbone's weights, and how it pools where that is not its own way:
        the same weights_id and preprocessing make the same features.
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
        with torch.inference_mode():
            self.features_dim = int(
                self.features(torch.zeros(1, 3, self.image_size, self.image_size)).shape[1]
            )
        self.dim = self.features_dim
        self.pooling = pooling
        self.identify()

    @property
    def image_size(self) -> int:
        """Height and width in pixels of what it sees."""
        return self.preprocessing.image_size

    def identify(self) -> None:
        """Takes the hash of the backbone's weights as they are now."""
        own = "" if self.pooling == "auto" else f"-{self.pooling}"
        self.weights_id = fingerprint(self.backbone) + own

    def transform(self, image: Image.Image) -> Tensor:
        """An RGB picture, cropped already -> (3, side, side) float32, as the backbone wants it."""
        pixels = torch.from_numpy(self.preprocessing.resize(np.array(image)))
        return self.preprocessing.normalize(pixels[None])[0]

    def features(self, pictures: Tensor) -> Tensor:
        """(N, 3, side, side) -> (N, features_dim): what the backbone makes, of any length."""
        features: Tensor = self.backbone(pictures)
        return features.flatten(1)

    def project(self, features: Tensor) -> Tensor:
        """(N, features_dim) -> (N, dim), rows of length 1 (a row of zeros stays one)."""
        return normalize(self.projection(features), dim=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, side, side) -> (N, dim), rows of length 1."""
        return self.project(self.features(pictures))

    def set_projection(self, dim: int | None) -> None:
        """Puts a new linear projection to `dim` numbers before the embedding; None takes it off."""
        self.projection = nn.Identity() if dim is None else nn.Linear(self.features_dim, dim)
        self.dim = dim or self.features_dim

    def preprocessing_at(self, image_size: int | None) -> Preprocessing:
        """What it sees at another size of pictures; None for its own.

        Raises:
            UserError: the backbone takes only its own size.
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
                f"--image-size or --train-image-size {image_size}: --backbone {self.name} takes only its own "
                f"{self.image_size}, or needs a larger picture"
            )
        return replace(self.preprocessing, image_size=image_size)

    def set_image_size(self, image_size: int | None) -> None:
        """Has it see pictures of another size, None for its own; the features keep their width.

        Raises: see preprocessing_at.
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
    """Builds a backbone and loads its weights.

    weights: a file, "none" for random ones (always the same), or None for the pretrained ones.
    cache: folder where weights that a package carries are kept.
    crop: what of a picture it sees. normalization, pooling: see config.EmbedSettings.

    Raises:
        UserError: an unknown name, weights that do not fit, a hub that cannot be reached, or a
            pooling that the backbone does not have.
    """
    from_hub = weights is None and name not in CARRIERS
    backbone, preprocessing = build_backbone(name, from_hub)
    if weights is None and name in CARRIERS:
        _load_carried(backbone, name, cache)
    elif weights is not None and weights != "none":
        state = load_state(Path(weights))
        load_into(backbone, sface_state(state) if name == "sface" else state, weights)
    if crop.kind == "aligned" and isinstance(backbone, OnnxBackbone):
        crop = replace(crop, template=backbone.template)
    preprocessing = replace(preprocessing, crop=crop)
    if normalization != "auto":
        preprocessing = preprocessing.normalized_by(normalization)
    return Embedder(name, backbone, preprocessing, pooling)


def embedder_of(settings: EmbedSettings, cache: Path) -> Embedder:
    """The untrained embedder that the settings ask for. Raises: see load_embedder, set_side."""
    crop = Crop(crop_kind(settings), settings.crop_margin)
    embedder = load_embedder(
        settings.backbone, settings.weights, cache, crop, settings.normalization, settings.pooling
    )
    embedder.set_image_size(settings.image_size)
    return embedder


def project_rows(embedder: Embedder, features: np.ndarray) -> np.ndarray:
    """Cached features (N, features_dim) -> embeddings (N, dim), float32 rows of length 1."""
    with torch.inference_mode(), one_thread():
        device = next(embedder.parameters()).device
        rows = [
            embedder.project(torch.from_numpy(features[i : i + 4096]).to(device)).cpu()
            for i in range(0, len(features), 4096)
        ]
    return torch.cat(rows).numpy() if rows else np.zeros((0, embedder.dim), np.float32)
