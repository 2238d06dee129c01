"""What a backbone costs: parameters, floating-point operations and pictures per second.

    measure_costs("efficientnet_lite0", Path("cache"))    # Costs(image_size=224, dim=1280, …)

They do not depend on the weights: random ones are used, and no model hub is needed.
"""

import time
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from lookalike.core.log import log
from lookalike.features.engine import Plan, blank_batch, build_engine
from lookalike.features.extractor import FeatureExtractor
from lookalike.models.embedder import Embedder, load_embedder
from lookalike.models.onnx_models import OnnxBackbone

PICTURES = 96  # enough for a stable rate, and a few seconds of a slow backbone


@dataclass(frozen=True)
class Costs:
    """What a backbone costs.

    Attributes:
        image_size: Height and width of its input, in pixels.
        dim: Width of its features.
        parameters: Number of parameters; None for an ONNX file, which PyTorch cannot look into.
        flops: Floating-point operations for one picture, a multiplication and an addition counted
            as two; None for an ONNX file.
        pictures_per_second: Through the engine that would embed many pictures on this machine,
            without decoding; None where that engine cannot be built.
    """

    image_size: int
    dim: int
    parameters: int | None
    flops: int | None
    pictures_per_second: float | None


def measure_costs(name: str, cache: Path, image_size: int | None = None) -> Costs:
    """Measure what a backbone costs.

    Args:
        name: The backbone's name.
        cache: Folder for compiled models.
        image_size: Height and width of its pictures; None for its own.

    Raises:
        UserError: An unknown name, or pictures of a size that the backbone does not take.
    """
    embedder = load_embedder(name, "none", cache)
    embedder.set_image_size(image_size)
    plan = FeatureExtractor(embedder, cache, cache, total=10**6).plans[0]
    transparent = not isinstance(embedder.backbone, OnnxBackbone)
    return Costs(
        image_size=embedder.image_size,
        dim=embedder.dim,
        parameters=count_parameters(embedder) if transparent else None,
        flops=count_flops(embedder) if transparent else None,
        pictures_per_second=time_engine(embedder, plan, cache),
    )


def count_parameters(embedder: Embedder) -> int:
    """Count the backbone's parameters."""
    return sum(parameter.numel() for parameter in embedder.backbone.parameters())


def count_flops(embedder: Embedder) -> int:
    """Count the floating-point operations of the backbone for one picture."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        embedder.features(torch.zeros(1, 3, embedder.image_size, embedder.image_size))
    return int(counter.get_total_flops())


def time_engine(embedder: Embedder, plan: Plan, cache: Path) -> float | None:
    """Return how many blank pictures per second a plan's engine takes; None if it has none."""
    try:
        engine = build_engine(plan, embedder, cache)
    except Exception as error:  # compilers raise what they like
        log.warning("warning: no %s for %s (%s)", plan, embedder.name, error)
        return None
    batch, count = blank_batch(embedder, plan), ceil(PICTURES / plan.batch)
    list(engine.features([batch] * 2))  # warm-up: memory and caches
    start = time.perf_counter()
    list(engine.features([batch] * count))
    return round(count * plan.batch / (time.perf_counter() - start), 1)
