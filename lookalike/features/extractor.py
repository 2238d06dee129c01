"""Feature extraction: from pictures to embeddings, each picture computed only once.

    extractor = load_extractor("sface", root="data/lfw62")
    embeddings = extractor(["ada.jpg", Image.open("bob.png")])    # (2, 128) float32, of length 1

Pictures are decoded on all cores while the backbone runs, and its features are cached by content.
An embedding depends on the picture's content, the preprocessing, the weights and the engine, and on
nothing else: neither on the pictures that shared its batch nor on what was cached before.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from lookalike.core.checks import check, check_detector
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash
from lookalike.core.runs import Pace, Run
from lookalike.core.settings import STORED, EmbedSettings, Settings
from lookalike.data.catalogue import load_full_catalogue, readable
from lookalike.data.pictures import Picture, picture_rows
from lookalike.faces.dataset import detect
from lookalike.faces.detection import Detector, load_detector
from lookalike.faces.geometry import Crop, Face, crop_kind
from lookalike.features.embedding import embed
from lookalike.features.engine import Engine, Plan, build_engine, plans
from lookalike.features.loader import PLAIN, View
from lookalike.features.source import source_of
from lookalike.models.checkpoints import check_untrained, load_model
from lookalike.models.embedder import Embedder, embedder_of
from lookalike.models.onnx_models import OnnxBackbone
from lookalike.models.stored import StoredEmbeddings

KEPT = 20  # extractors that a run's session keeps


@dataclass(frozen=True)
class FeatureExtractor:
    """Turns pictures into embeddings, with a cache.

    Attributes:
        embedder: The backbone, its preprocessing and its projection.
        root: Folder that the pictures' relative paths start from.
        cache: Folder of the cache.
        compile: Whether to compile the backbone for the CPU: `on`, `off`, or `auto`, which does
            where `total` is large enough for it to save time.
        total: Number of all pictures that are to be embedded, in however many calls: a compiled
            backbone rounds in its own way, so that this is decided once for all of them.
        detector: What finds the crop, where the embedder sees one: `yunet`, `mtcnn` or a file.
        flip: Whether the mirror image counts too.
        scales: How large a picture is shown; one view for each.
        pace: Counts the pictures embedded, and the seconds.
    """

    embedder: Embedder
    root: Path
    cache: Path
    compile: str = "auto"
    total: int = 0
    detector: str = "yunet"
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    pace: Pace = field(default_factory=Pace, repr=False, compare=False)
    _engines: dict[Plan, Engine] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def views(self) -> list[View]:
        """The views whose embeddings are summed up."""
        if isinstance(self.embedder.backbone, StoredEmbeddings):
            return [PLAIN]
        sides = (False, True) if self.flip else (False,)
        return [View(mirrored=mirrored, scale=scale) for scale in self.scales for mirrored in sides]

    @property
    def plans(self) -> list[Plan]:
        """The ways to run the backbone, the best first; an ONNX file has its own runtime."""
        is_file = isinstance(self.embedder.backbone, OnnxBackbone | StoredEmbeddings)
        mode = "off" if is_file else self.compile
        return plans(mode, self.total)

    def engine(self, plan: Plan) -> Engine:
        """Return the engine of a plan, which is built once.

        Raises:
            Exception: The engine cannot be built; compilers raise what they like.
        """
        if plan not in self._engines:
            self._engines[plan] = build_engine(plan, self.embedder, self.cache)
        return self._engines[plan]

    @property
    def crop(self) -> Crop:
        """Which part of a picture the embedder sees."""
        return self.embedder.preprocessing.crop

    def faces(self, pictures: pd.DataFrame) -> dict[str, Face]:
        """Find the face in each picture.

        Args:
            pictures: Rows with `path` and `content`.

        Returns:
            {content: face}; empty where the embedder sees whole pictures.

        Raises:
            UserError: A file is gone, has changed since it was hashed, or cannot be decoded.
        """
        if self.crop.kind == "none":
            return {}
        return detect(pictures, self.root, self.cache, self.finder)

    @cached_property
    def finder(self) -> Detector:
        """The face detector, loaded when it is first needed."""
        return load_detector(self.detector, self.cache)

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.embedder.dim

    @property
    def factors(self) -> tuple[float, ...]:
        """Nothing: see `JointExtractor`."""
        return ()

    @property
    def widths(self) -> tuple[int, ...]:
        """Nothing: see `JointExtractor`."""
        return ()

    @property
    def members(self) -> "tuple[FeatureExtractor, ...]":
        """Itself, as the only member of a `JointExtractor`."""
        return (self,)

    def __call__(self, pictures: pd.DataFrame | Iterable[Picture]) -> np.ndarray:
        """Embed pictures of any kind; what is cached is not computed again.

        A picture in memory is embedded at its full size, a JPEG file is decoded no larger than
        needed: their embeddings differ a little.

        Args:
            pictures: Rows of a catalogue, or any DataFrame with `path` (and `content` where the
                hashes are known); or a list of paths, PIL images and (H, W, 3) uint8 RGB arrays,
                also mixed. Relative paths start from `root`.

        Returns:
            (N, D) float32 rows of length 1, in the order of the pictures.

        Raises:
            UserError: A picture cannot be read; it is named.
            TypeError: Something else than pictures was passed.
        """
        return embed(self, picture_rows(pictures, self.root))


@dataclass(frozen=True)
class JointExtractor:
    """Extractors of the same pictures, whose embeddings are concatenated.

    Attributes:
        members: The extractors; the cosine of two pictures is the mean of theirs.
        factors: How much the cosine of each counts; empty where all count the same.
    """

    members: tuple[FeatureExtractor, ...]
    factors: tuple[float, ...] = ()

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return sum(member.dim for member in self.members)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each member's embeddings, where they count differently; else empty."""
        return tuple(member.dim for member in self.members) if self.factors else ()

    def __call__(self, pictures: pd.DataFrame | Iterable[Picture]) -> np.ndarray:
        """Embed pictures as `FeatureExtractor` does."""
        return embed(self, picture_rows(pictures, self.members[0].root))


Extractor = FeatureExtractor | JointExtractor


def load_extractor(
    backbone: str = "efficientnet_lite0",
    *,
    crop: Literal["auto", "none", "face", "aligned"] = "auto",
    flip: Literal["auto", "on", "off"] | bool = "auto",
    scales: Iterable[float] = (1.0,),
    weights: str | Path | None = None,
    image_size: int | None = None,
    normalization: Literal["auto", "none", "imagenet", "fixed", "whitening"] = "auto",
    pooling: Literal["auto", "avg", "max", "gem", "avg+gem", "cls", "mean"] = "auto",
    detector: str = "yunet",
    compile: Literal["auto", "on", "off"] = "auto",
    total: int = 0,
    root: str | Path = ".",
    cache: str | Path = "cache",
) -> FeatureExtractor:
    """Load a backbone by name, ready to embed pictures.

    Args:
        backbone: efficientnet_lite0 to lite2, mobilenet_v2, sface and dlib (no model hub needed),
            facenet, arcface, clip, styleid, siglip2, dinov3, megadescriptor, any timm name,
            torchvision:NAME, onnx:FILE, or embeddings:FILE, those of another program.
        crop: What the backbone sees: the whole picture (`none`), the `face` with a margin, or the
            face `aligned` by its eyes, nose and mouth; `auto` is what it was trained on.
        flip: Whether the mirror image counts too; `auto` does for faces.
        scales: How large a picture is shown; the embeddings of several scales are summed up.
        weights: File with the backbone's weights, "none" for random ones, or None for its
            pretrained ones.
        image_size: Height and width of what the backbone sees, in pixels; None for its own.
        normalization: How pixel values are normalized; `auto` is what it was trained with.
        pooling: How a timm backbone pools; `auto` is its own way.
        detector: What finds the crop: yunet, mtcnn where facenet-pytorch is installed, or the file
            of a detector of one's own.
        compile: Whether to compile the backbone for the CPU, three to four times as fast and a few
            seconds to begin with; `auto` does where `total` says that it saves time.
        total: Number of all pictures that are to be embedded, in however many calls, for instance
            `len(catalogue)`. With the default, 0, `compile="auto"` does not compile.
        root: Folder that the pictures' relative paths start from.
        cache: Folder of the cache.

    Raises:
        UserError: An unknown name or value, weights that do not fit, or a hub that cannot be
            reached.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = tempfile.mkdtemp()
        >>> extractor = load_extractor("test_efficientnet", weights="none", cache=folder)
        >>> embeddings = extractor([Image.new("RGB", (64, 48), name) for name in ("red", "blue")])
        >>> embeddings.shape, bool(np.allclose(np.linalg.norm(embeddings, axis=1), 1))
        ((2, 256), True)
    """
    settings = EmbedSettings(
        backbone=backbone,
        weights=None if weights is None else str(weights),
        crop=crop,
        detector=detector,
        image_size=image_size,
        normalization=normalization,
        flip=("on" if flip else "off") if isinstance(flip, bool) else flip,
        scales=tuple(scales),
        pooling=pooling,
        compile=compile,
    )
    _check_choices(settings)
    check(Settings(embed=settings))
    if len(settings.members) > 1:
        raise UserError(f"backbone={backbone!r}: load one extractor for each; see JointExtractor")
    embedder = embedder_of(settings, Path(cache))
    return make_extractor(settings, embedder, Path(root), Path(cache), total)


def _check_choices(settings: EmbedSettings) -> None:
    """Raise UserError for a value that is not among a setting's choices."""
    for name, kind in get_type_hints(EmbedSettings).items():
        value, choices = getattr(settings, name), get_args(kind)
        if get_origin(kind) is Literal and value not in choices:
            raise UserError(f"{name}={value!r}: must be one of {', '.join(choices)}")


def make_extractor(
    settings: EmbedSettings, embedder: Embedder, root: Path, cache: Path, total: int
) -> FeatureExtractor:
    """Build a feature extractor for an embedder, by the settings.

    Args:
        settings: Detector, flip, scales and compilation.
        embedder: The backbone, its preprocessing and its projection.
        root: Folder that the pictures' relative paths start from.
        cache: Folder of the cache.
        total: Number of all pictures that are to be embedded.

    Raises:
        UserError: A scale below 1 for whole pictures, which have nothing around them to show.
    """
    check_scales(settings)
    check_detector(settings)
    return FeatureExtractor(
        embedder,
        root,
        cache,
        compile=settings.compile,
        total=total,
        detector=settings.detector,
        flip=flips(settings),
        scales=settings.scales,
    )


def check_scales(settings: EmbedSettings) -> None:
    """Raise UserError for a scale below 1 of whole pictures, which have nothing around them."""
    if crop_kind(settings) == "none" and min(settings.scales) < 1:
        raise UserError(
            f"--scales {min(settings.scales)}: a whole picture has nothing around it that a scale "
            "below 1 could show; name scales from 1, or crop faces (--crop aligned)"
        )


def flips(settings: EmbedSettings) -> bool:
    """Return whether mirror images are embedded too; `auto` is for faces."""
    return settings.flip == "on" or (settings.flip == "auto" and crop_kind(settings) != "none")


def extractor_for(run: Run, embedder: Embedder) -> FeatureExtractor:
    """Build the feature extractor of a run's pictures for an embedder.

    Args:
        run: Its settings, data, cache and catalogue are used.
        embedder: Trained or not.

    Raises:
        UserError: The run has no catalogue, or its settings do not go together.
    """
    total = len(load_full_catalogue(run.folder))
    extractor = make_extractor(run.settings.embed, embedder, run.data, run.cache, total)
    return replace(extractor, pace=run.session.pace)


def untrained_extractor(run: Run, settings: EmbedSettings) -> Extractor:
    """Build the extractor of a run's pictures that settings choose, with nothing trained.

    Args:
        run: Its data, cache and catalogue are used.
        settings: Of one backbone, or of several.

    Raises:
        UserError: A backbone cannot be loaded, or settings do not go together.
    """
    return _joined([_untrained_member(run, member) for member in settings.members], settings)


def _untrained_member(run: Run, member: EmbedSettings) -> FeatureExtractor:
    """Return the extractor of a single backbone at a single resolution, loaded once a session."""
    its_run = replace(run, settings=replace(run.settings, embed=member))
    return _kept(run, member, lambda: extractor_for(its_run, embedder_of(member, run.cache)))


def make_extractors(settings: EmbedSettings, root: Path, cache: Path, total: int) -> Extractor:
    """Load what settings choose, one backbone or several, with nothing trained.

    Args:
        settings: Of the embedding.
        root: Folder that the pictures' relative paths start from.
        cache: Folder of the cache.
        total: Number of all pictures that are to be embedded.

    Raises:
        UserError: A backbone cannot be loaded, or settings do not go together.
    """
    members = [
        make_extractor(member, embedder_of(member, cache), root, cache, total)
        for member in settings.members
    ]
    return _joined(members, settings)


def _joined(members: Sequence[FeatureExtractor], settings: EmbedSettings) -> Extractor:
    """Return the one extractor of the members that settings have."""
    if len(members) == 1:
        return members[0]
    differ = len(set(settings.factors)) > 1
    return JointExtractor(tuple(members), settings.factors if differ else ())


def trained_extractor(run: Run) -> Extractor:
    """Load a run's trained model, ready to embed the run's pictures.

    Raises:
        UserError: The model is missing or broken, or was made with other settings.
    """
    settings, model = run.settings.embed, run.path("model.safetensors")
    if len(settings.members) > 1:  # several backbones are never trained
        extractor = untrained_extractor(run, settings)
        check_untrained(model, [member.embedder for member in extractor.members])
        return extractor
    key = settings, run.folder.resolve(), file_hash(model)
    return _kept(run, key, lambda: extractor_for(run, load_model(model, settings, run.cache)))


def _kept(run: Run, key: object, load: Callable[[], FeatureExtractor]) -> FeatureExtractor:
    """Return an extractor of the run's session, loaded when it is first asked for.

    To load and compile a backbone takes seconds, and several stages embed.
    """
    kept: dict[str, FeatureExtractor] = run.session.extractors
    name = f"{key} {run.data} {run.cache} {file_hash(Path(run.settings.embed.weights or ''))}"
    if name not in kept:
        if len(kept) >= KEPT:
            kept.clear()
        kept[name] = load()
    return kept[name]


def require_stored(run: Run) -> None:
    """Check that a run's embeddings of other programs are there for all its pictures.

    Raises:
        UserError: A file cannot be used, or lacks a picture.
    """
    catalogue = load_full_catalogue(run.folder)
    pictures = catalogue[readable(catalogue)]
    for member in run.settings.embed.members:
        if member.backbone.startswith(STORED):
            source_of(_untrained_member(run, member), pictures, PLAIN)


def single_extractor(run: Run) -> FeatureExtractor:
    """Load a run's trained model, where it is a single backbone.

    Raises:
        UserError: It is several; see also `trained_extractor`.
    """
    extractor = trained_extractor(run)
    if isinstance(extractor, JointExtractor):
        raise UserError(
            f"--run {run.folder}: has several backbones or resolutions; faces are named by one: "
            "make a run with --backbone sface"
        )
    return extractor
