"""Engines: run a frozen backbone as fast as the machine allows.

    plan = plans("auto", pictures=5_000)[0]               # OpenVINO on a CPU, PyTorch on a GPU
    engine = build_engine(plan, embedder, Path("cache"))
    features = list(engine.features(batches))             # (batch, features_dim) float32 each

On a GPU PyTorch runs in half precision. On a CPU the backbone is compiled by OpenVINO, at three to
four times the speed of PyTorch, where the pictures to embed outweigh the time to compile. The plan
is part of the cache's key, since each engine rounds in its own way. Every engine takes batches of
one fixed shape, so that the features of a picture do not depend on the others in its batch.
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

from lookalike.core.files import file_hash, write_json
from lookalike.core.log import log
from lookalike.core.readers import saved_record
from lookalike.models.embedder import Embedder
from lookalike.models.preprocessing import standardize

# Below this, converting a model (3 to 6 s) takes longer than it saves (about 20 ms a picture).
COMPILE_PAYS = 300
MODEL_FILES = ("model.xml", "model.bin")
CHECKSUMS = "sha256.json"  # {file of the compiled model: its SHA-256}
GPU_BATCHES = (512, 128, 32)  # the first that fits into the GPU's memory


@dataclass(frozen=True)
class Plan:
    """A way to run a backbone; all of it is part of the cache's key.

    Attributes:
        engine: `torch` or `openvino`.
        version: The engine's version.
        device: `cpu` or `cuda`.
        precision: `float32` or `float16`.
        batch: Pictures in a batch.
    """

    engine: str
    version: str
    device: str
    precision: str
    batch: int

    def __str__(self) -> str:
        return f"{self.engine} on {self.device} in {self.precision}, batch {self.batch}"


class Engine(Protocol):
    """A backbone that is ready to run by a plan."""

    def features(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Compute features, batch by batch, in order.

        Args:
            batches: (batch, image_size, image_size, 3) uint8 each, with the plan's batch.

        Yields:
            (batch, features_dim) float32.
        """


def plans(mode: str, pictures: int) -> list[Plan]:
    """Return the ways to embed, the best first; on a CPU the last one always works.

    Args:
        mode: `on` or `off` to compile or not; `auto` compiles where it saves time for this number
            of pictures.
        pictures: Number of pictures of the whole run, not of those that are still missing: a run
            that is resumed has to choose as the first one did.
    """
    if torch.cuda.is_available():
        return [Plan("torch", torch.__version__, "cuda", "float16", size) for size in GPU_BATCHES]
    eager = Plan("torch", torch.__version__, "cpu", "float32", 32)
    if mode == "off" or (mode == "auto" and pictures < COMPILE_PAYS):
        return [eager]
    try:
        return [Plan("openvino", version("openvino"), "cpu", "float32", 8), eager]
    except PackageNotFoundError:
        log.info("openvino is not installed: embedding without it is several times slower")
        return [eager]


def build_engine(plan: Plan, embedder: Embedder, cache: Path) -> Engine:
    """Build the engine of a plan.

    Args:
        plan: How to run the backbone.
        embedder: Its backbone and preprocessing.
        cache: Folder for compiled models.

    Raises:
        Exception: The compiler cannot translate this backbone (it raises what it likes), or a batch
            does not fit into the GPU's memory.
    """
    if plan.engine == "openvino":
        return OpenVinoEngine(embedder, plan, cache)
    engine = TorchEngine(embedder, plan)
    if plan.device == "cuda":  # find out now whether a batch fits into the GPU's memory
        list(engine.features([blank_batch(embedder, plan)]))
    return engine


def blank_batch(embedder: Embedder, plan: Plan) -> np.ndarray:
    """Return a batch of black pictures, (batch, image_size, image_size, 3) uint8."""
    return np.zeros((plan.batch, embedder.image_size, embedder.image_size, 3), np.uint8)


class TorchEngine:
    """The backbone in PyTorch, with channels last in memory, which convolutions prefer.

    Args:
        embedder: Its backbone moves to the plan's device.
        plan: How to run it.
    """

    def __init__(self, embedder: Embedder, plan: Plan) -> None:
        self.device = torch.device(plan.device)
        self.embedder = embedder.to(memory_format=torch.channels_last).to(self.device)

    def features(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Compute features, batch by batch, in order.

        Args:
            batches: (batch, image_size, image_size, 3) uint8 each.

        Yields:
            (batch, features_dim) float32.
        """
        cuda = self.device.type == "cuda"
        for batch in batches:
            half = torch.autocast("cuda", torch.float16) if cuda else nullcontext()
            with torch.inference_mode(), half:
                pixels = torch.from_numpy(batch).to(self.device, non_blocking=True)
                pictures = self.embedder.preprocessing.normalize(pixels)
                features: np.ndarray = self.embedder.features(pictures).float().cpu().numpy()
            yield features


class OpenVinoEngine:
    """The backbone compiled for this CPU, with as many batches in flight as OpenVINO prefers.

    Args:
        embedder: Its backbone is compiled once and saved.
        plan: How to run it.
        cache: Folder for compiled models.
    """

    def __init__(self, embedder: Embedder, plan: Plan, cache: Path) -> None:
        import openvino

        folder = cache / "engines" / _key(embedder, plan)
        if folder.is_dir() and not _is_whole(folder):
            log.warning("warning: %s is damaged, or has no checksums: compiled again", folder)
            shutil.rmtree(folder)
        if not folder.is_dir():
            log.info("compiling %s for %s, saved for later runs", embedder.name, plan)
            _save_model(to_openvino(embedder, plan.batch), folder)
        os.utime(folder / "model.xml")  # `lookalike cache prune` reads it as the time of last use
        # A stream per core, each of one thread: how busy the machine is must not decide how a sum
        # is split.
        cores = os.cpu_count() or 1
        options: dict[str, Any] = {"NUM_STREAMS": cores, "INFERENCE_NUM_THREADS": cores}
        options["INFERENCE_PRECISION_HINT"] = "f32"
        self.compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", options)

    def features(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Compute features, several batches in flight, in order.

        Args:
            batches: (batch, image_size, image_size, 3) uint8 each.

        Yields:
            (batch, features_dim) float32.
        """
        # Requests in turn and no callbacks: those take the interpreter's lock from other threads,
        # which has been seen to end in a deadlock.
        count = self.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 2
        idle = deque(self.compiled.create_infer_request() for _ in range(count))
        running: deque[Any] = deque()

        def finish_first() -> np.ndarray:
            request = running.popleft()
            request.wait()
            idle.append(request)
            rows: np.ndarray = request.get_output_tensor(0).data.copy()
            return rows

        for batch in batches:
            if not idle:
                yield finish_first()
            request = idle.popleft()
            request.start_async({0: batch})
            running.append(request)
        while running:
            yield finish_first()


def _key(embedder: Embedder, plan: Plan) -> str:
    """Return the name of a compiled model: of its weights, and of what is built into it.

    Equal weights do not make equal models: the same tensors fit several architectures.
    """
    p = embedder.preprocessing
    libraries = f"{version('torch')} {version('timm')} {version('torchvision')}"
    built_in = f"{p.image_size} {p.mean} {p.std} {p.standardized} {plan.batch}"
    built_in += f" {embedder.name} {libraries}"
    digest = hashlib.blake2b(built_in.encode(), digest_size=4).hexdigest()
    return f"{embedder.weights_id}-{digest}-openvino{plan.version}".replace("/", "_")


def to_openvino(embedder: Embedder, batch: int) -> Any:
    """Convert a backbone, normalization included, to an OpenVINO model.

    Args:
        embedder: Its backbone and preprocessing.
        batch: Pictures in a batch.

    Returns:
        A model from (batch, image_size, image_size, 3) uint8 to (batch, features_dim) float32.
    """
    import openvino
    from openvino.preprocess import PrePostProcessor

    example = torch.zeros(batch, 3, embedder.image_size, embedder.image_size)
    preprocessing, backbone = embedder.preprocessing, embedder.backbone.eval()
    if preprocessing.standardized:
        backbone = nn.Sequential(Standardization(), backbone)
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


class Standardization(nn.Module):
    """`standardize` as a layer."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Bring each picture (N, C, H, W) to mean 0 and deviation 1."""
        return standardize(pictures)


def _is_whole(folder: Path) -> bool:
    """Return whether the files of a compiled model are what was saved."""
    return saved_record(folder / CHECKSUMS) == {n: file_hash(folder / n) for n in MODEL_FILES}


def _save_model(model: Any, folder: Path) -> None:
    """Save a compiled model, whole or not at all; another run may do so at the same time."""
    import openvino

    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir(parents=True)
    try:
        openvino.save_model(model, partial / "model.xml", compress_to_fp16=False)
        write_json(partial / CHECKSUMS, {name: file_hash(partial / name) for name in MODEL_FILES})
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
