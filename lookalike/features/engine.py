"""Runs a frozen backbone as fast as the machine allows: one place decides how, and says so.

On a GPU: PyTorch in half precision. On a CPU: compiled by OpenVINO where the pictures to embed
outweigh the time to compile (three to four times the speed of PyTorch), else PyTorch itself. What
was chosen is part of the cache's key, since each rounds in its own way. Every engine takes batches
of one fixed shape, so that what it makes of a picture does not depend on the others in its batch.
"""

import hashlib
import os
import shutil
import uuid
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from lookalike.core.log import log
from lookalike.models.embedder import Embedder
from lookalike.models.preprocessing import whiten

# Below this, converting a model (3 to 6 s) takes longer than it saves (about 20 ms a picture).
COMPILE_PAYS = 300
GPU_BATCHES = (512, 128, 32)  # the first that fits into the GPU's memory


@dataclass(frozen=True)
class Plan:
    """How pictures go through a backbone; all of it is part of the cache's key.

    engine: torch or openvino. version: its version. device: cpu or cuda. batch: pictures at once.
    """

    engine: str
    version: str
    device: str
    precision: str
    batch: int

    def __str__(self) -> str:
        return f"{self.engine} on {self.device} in {self.precision}, {self.batch} at once"


class Engine(Protocol):
    """A backbone made ready by a plan."""

    def features(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Batches (batch, side, side, 3) uint8 -> (batch, features_dim) float32, in order."""


def plans(mode: str, pictures: int) -> list[Plan]:
    """The ways to embed, the best first; on a CPU the last one always works.

    mode: `on` and `off` decide whether to compile; `auto` does where it pays for this number of
        pictures. It must be that of the whole run, not of what is still missing: a run that goes
        on after a kill has to choose as the first one did.
    """
    if torch.cuda.is_available():
        return [Plan("torch", torch.__version__, "cuda", "float16", size) for size in GPU_BATCHES]
    eager = Plan("torch", torch.__version__, "cpu", "float32", 32)
    if mode == "off" or (mode == "auto" and pictures < COMPILE_PAYS):
        return [eager]
    try:
        return [Plan("openvino", version("openvino"), "cpu", "float32", 8), eager]
    except PackageNotFoundError:
        log.info("openvino is not installed: embedding goes on without it, several times slower")
        return [eager]


def build_engine(plan: Plan, embedder: Embedder, cache: Path) -> Engine:
    """Makes the engine of a plan; compiled models are kept in `cache`.

    Raises:
        Exception: the compiler cannot translate this backbone (it raises what it likes), or a batch
            does not fit into the GPU's memory.
    """
    if plan.engine == "openvino":
        return OpenVinoEngine(embedder, plan, cache)
    engine = TorchEngine(embedder, plan)
    if plan.device == "cuda":
        list(
            engine.features(
                [np.zeros((plan.batch, embedder.image_size, embedder.image_size, 3), np.uint8)]
            )
        )
    return engine


class TorchEngine:
    """The backbone in PyTorch, pixels in the order that convolutions like (channels last)."""

    def __init__(self, embedder: Embedder, plan: Plan) -> None:
        self.device = torch.device(plan.device)
        self.embedder = embedder.to(memory_format=torch.channels_last).to(self.device)

    def features(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """See Engine."""
        cuda = self.device.type == "cuda"
        for batch in batches:
            half = torch.autocast("cuda", torch.float16) if cuda else nullcontext()
            with torch.inference_mode(), half:
                pixels = torch.from_numpy(batch).to(self.device, non_blocking=True)
                pictures = self.embedder.preprocessing.normalize(pixels)
                features: np.ndarray = self.embedder.features(pictures).float().cpu().numpy()
            yield features


class OpenVinoEngine:
    """The backbone compiled for this CPU, with as many batches under way as it likes."""

    def __init__(self, embedder: Embedder, plan: Plan, cache: Path) -> None:
        import openvino

        folder = cache / "engines" / _key(embedder, plan)
        if not folder.is_dir():
            log.info("compiling %s for %s, kept for later runs", embedder.name, plan)
            _keep_model(convert(embedder, plan.batch), folder)
        os.utime(folder / "model.xml")  # its time is its last use, see cache.py
        # A stream a core, each of one thread: no sum is split in a way that the load decides.
        cores = os.cpu_count() or 1
        options: dict[str, Any] = {"NUM_STREAMS": cores, "INFERENCE_NUM_THREADS": cores}
        options["INFERENCE_PRECISION_HINT"] = "f32"
        self.compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", options)

    def features(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """See Engine."""
        # Requests in turn and no callbacks: those take the interpreter's lock from other threads,
        # which has been seen to end in a deadlock.
        count = self.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 2
        idle = deque(self.compiled.create_infer_request() for _ in range(count))
        at_work: deque[Any] = deque()

        def finish_first() -> np.ndarray:
            request = at_work.popleft()
            request.wait()
            idle.append(request)
            rows: np.ndarray = request.get_output_tensor(0).data.copy()
            return rows

        for batch in batches:
            if not idle:
                yield finish_first()
            request = idle.popleft()
            request.start_async({0: batch})
            at_work.append(request)
        while at_work:
            yield finish_first()


def _key(embedder: Embedder, plan: Plan) -> str:
    """The name of a converted model: of its weights, and of what is built into it with them."""
    seen = embedder.preprocessing
    built_in = f"{seen.image_size} {seen.mean} {seen.std} {seen.whitening} {plan.batch}"
    digest = hashlib.blake2b(built_in.encode(), digest_size=4).hexdigest()
    return f"{embedder.weights_id}-{digest}-openvino{plan.version}".replace("/", "_")


def convert(embedder: Embedder, batch: int) -> Any:
    """An OpenVINO model: (batch, side, side, 3) uint8 -> (batch, features_dim) float32."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    example = torch.zeros(batch, 3, embedder.image_size, embedder.image_size)
    preprocessing, backbone = embedder.preprocessing, embedder.backbone.eval()
    if preprocessing.whitening:
        backbone = nn.Sequential(Whitening(), backbone)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        exported = torch.export.export(backbone, (example,))
        model = openvino.convert_model(exported)
    steps = PrePostProcessor(model)
    pixels = steps.input(0)
    pixels.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    pixels.model().set_layout(openvino.Layout("NCHW"))
    as_float = pixels.preprocess().convert_element_type(openvino.Type.f32)
    as_float.scale(255.0).mean(list(preprocessing.mean)).scale(list(preprocessing.std))
    return steps.build()


class Whitening(nn.Module):
    """`whiten` as a layer."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """See model.whiten."""
        return whiten(pictures)


def _keep_model(model: Any, folder: Path) -> None:
    """Saves a converted model, whole or not at all; another run may do so at the same time."""
    import openvino

    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir(parents=True)
    try:
        openvino.save_model(model, partial / "model.xml", compress_to_fp16=False)
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
