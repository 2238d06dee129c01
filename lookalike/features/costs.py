"""What a backbone costs: parameters, floating-point operations, pictures a second.

    measure_costs("efficientnet_lite0", Path("cache"))

Whatever the weights, these are the same: random ones do, and no model hub is needed.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lookalike.core.log import log
from lookalike.features.engine import Plan, build_engine
from lookalike.features.extractor import FeatureExtractor
from lookalike.models.embedder import Embedder, load_embedder
from lookalike.models.onnx_models import OnnxBackbone

PICTURES = 96  # enough for a figure, and a second or two of a slow backbone


def measure_costs(name: str, cache: Path, image_size: int | None = None) -> dict[str, float | None]:
    """{parameters, flops, pictures_per_second} of a backbone. cache: where a compiled one is kept.
    side: of its pictures. Default: its own.

    flops: of one picture; a multiplication and an addition are two, as PyTorch counts them. None
    for an ONNX file, which PyTorch cannot look into.

    Raises:
        UserError: an unknown name, or pictures of a size that the backbone cannot see.
    """
    embedder = load_embedder(name, "none", cache)
    embedder.set_image_size(image_size)
    plan = FeatureExtractor(embedder, cache, cache, total=10**6).plans[0]
    known = not isinstance(embedder.backbone, OnnxBackbone)
    return {
        "parameters": sum(p.numel() for p in embedder.backbone.parameters()) if known else None,
        "flops": count_flops(embedder) if known else None,
        "pictures_per_second": time_engine(embedder, plan, cache),
    }


def count_flops(embedder: Embedder) -> int:
    """Floating-point operations of one picture."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        embedder.features(torch.zeros(1, 3, embedder.image_size, embedder.image_size))
    return int(counter.get_total_flops())


def time_engine(embedder: Embedder, plan: Plan, cache: Path) -> float | None:
    """Blank pictures a second through the engine that would embed them; None if it has none."""
    try:
        engine = build_engine(plan, embedder, cache)
    except Exception as error:  # compilers raise what they like
        log.warning("warning: no %s for %s (%s)", plan, embedder.name, error)
        return None
    batch = np.zeros((plan.batch, embedder.image_size, embedder.image_size, 3), np.uint8)
    list(engine.features([batch] * 2))  # the first batches also fill memory and caches
    count = -(-PICTURES // plan.batch)
    start = time.perf_counter()
    list(engine.features([batch] * count))
    return round(count * plan.batch / (time.perf_counter() - start), 1)
