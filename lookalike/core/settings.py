"""Settings of a run: one dataclass per stage, from which command line and config file are made.

    python main.py --help
    python main.py --stage all --config recipe.json --seed 1

A config file is a flat JSON or TOML table of the same names (`{"backbone": "resnet50"}`); the
`config.json` that every run writes is one. The command line wins over the config file.

A field's type says what is allowed: bounds of numbers are annotations (`Interval`), which
`lookalike.core.checks.check_bounds` enforces. A field's docstring is its help text.
"""

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Interval

Augmentation = Literal["weak", "strong"]

StageName = Literal[
    "extract",
    "split",
    "auto",
    "crop",
    "train",
    "index",
    "retrieve",
    "forecast",
    "evaluate",
    "report",
    "submit",
]

STAGES: tuple[StageName, ...] = get_args(StageName)

SourceName = Literal["competition", "archive", "folder", "lfw", "imdb", "demo"]

# The upper ends are far above what is useful, and below what memory or a library would refuse.
Natural = Annotated[int, Interval(ge=0, le=1_000_000)]
Positive = Annotated[int, Interval(ge=1, le=1_000_000)]
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]  # what NumPy, PyTorch and scikit-learn take
ImageSize = Annotated[int, Interval(ge=8, le=4096)]
Width = Annotated[int, Interval(ge=1, le=65_536)]  # of a layer
CosineThreshold = Annotated[float, Interval(gt=0, le=1)]

# What a backbone's name begins with where it is a file: a network, or embeddings.
ONNX, STORED = "onnx:", "embeddings:"
DETECTORS = ("yunet", "mtcnn")  # those of faces that come with a package; others are files

# Settings of earlier releases that nothing takes the place of; config files may still hold them.
REMOVED = ("auto", "auto_backbones")
# Names that options and settings had before, and have now. The old ones are read for one release.
RENAMED = {
    "side": "image_size",
    "train_side": "train_image_size",
    "batches": "sampler",
    "per_person": "samples_per_class",
    "memory": "memory_size",
    "clip": "clip_grad_norm",
    "backbone_rate": "backbone_lr_scale",
    "query_neighbours": "query_neighbors",
    "gallery_neighbours": "gallery_neighbors",
}


@dataclass
class RunSettings:
    """What to run, on which data, and where the results go."""

    stage: tuple[Literal["all"] | StageName, ...] = ("all",)
    """Stages, in order; `all` is every one of them. A single stage goes on with the settings that
    the run folder remembers; `all` starts from the defaults."""
    data: Path | None = None
    """Folder of the data set. Default: the one in data/; none there: the built-in demo."""
    run: Path | None = None
    """Run folder, for all results. Default: runs/<name of the data set>."""
    seed: Seed = 0
    """Seed of every random choice: layout, split, training."""
    cache: Path = Path("cache")
    """Folder of the embedding cache, shared by all runs."""
    time_limit: Annotated[float, Interval(ge=0, le=100_000)] = 10.0
    """Minutes for --stage all to find the best embedding and ranking, of what no option names; 0
    chooses nothing and keeps to the options and their defaults."""
    metric: str = "600*recall@1+300*recall@5+100*recall@10"
    """The competition's metric: recall@k, map@k, mp@k, mrr, map@r, ... or a weighted sum. It is the
    score that choices, early stopping, forecast and report are about."""
    k: Annotated[int, Interval(ge=1, le=10_000)] | None = None
    """Gallery names of each query in the submission. Default: as many as --metric looks at, at
    least ten."""
    sample_submission: Path | None = None
    """A competition's sample submission, CSV: submission.csv is written in its form."""
    reset: bool = False
    """Forget the settings that were named for this run folder before."""
    config: Path | None = None
    """File with settings, JSON or TOML; the command line wins over it."""
    force: bool = False
    """Redo the stages even where their inputs have not changed."""


@dataclass
class ExtractSettings:
    """extract: lay a competition out in --data."""

    source: SourceName | None = None
    """Where the data come from: the Drive archive, any zip or tar, a folder of class folders,
    Labeled Faces in the Wild, IMDB-WIKI, or the built-in demo. None: --data is used as it is."""
    source_path: str | None = None
    """Path or URL for `archive`, path for `folder` and `imdb`."""
    protocol: Literal["report", "disjoint"] = "report"
    """How class folders become a competition: `report` shares each identity's pictures among
    training (50 %), validation (20 %) and test; `disjoint` puts 30 % of the identities, whole,
    into the test."""
    drive_id: str = "19e1sgLQHIV4ck5SIsfOQI2cz4V5eJqHh"
    """Google Drive id for `competition`."""
    keep_archive: bool = False
    """Keep the downloaded archive after it is unpacked."""
    lfw_home: Path | None = None
    """Folder that holds LFW already, for `lfw`. Default: scikit-learn's cache, downloaded once."""
    metadata: Path | None = None
    """imdb.mat or wiki.mat, for `imdb`."""
    min_pictures: Positive = 50
    """`imdb`: leave out identities with fewer usable pictures."""
    min_size: Positive = 100
    """`imdb`: leave out pictures with fewer pixels in height or width."""
    one_face: Literal["on", "off"] = "on"
    """`imdb`: leave out pictures in which a second face was found."""
    train_per_person: Positive | None = None
    """Class folders, `imdb`: draw at most this many pictures of an identity for training, and for
    validation. Default: all."""
    # A test of one picture would have a query and no gallery.
    test_per_person: Annotated[int, Interval(ge=2, le=1_000_000)] | None = None
    """Class folders, `imdb`: draw at most this many pictures of an identity for the test, query and
    gallery together. Default: all."""


@dataclass
class ListingSettings:
    """Which pictures belong to which part, and whom they show, where folders do not tell."""

    train: Path | None = None
    """Table of the training pictures: CSV, TSV, Parquet or JSON lines, a row for each. The pictures
    lie below --data. Default: the tables that the data set's folder holds."""
    query: Path | None = None
    """Table of the test's queries."""
    gallery: Path | None = None
    """Table of the test's gallery."""
    test: Path | None = None
    """Table of a test whose pictures are searched among themselves; beside a gallery, its
    queries."""
    image_column: str | None = None
    """Column that names the picture, with or without suffix. Default: the one whose values are
    files."""
    identity_column: str | None = None
    """Column that names the identity. Default: the one with a usual name, such as identity,
    individual_id or label."""
    domain_column: str | None = None
    """Column that names the domain. Default: domain, modality or style, where there is one."""
    session_column: str | None = None
    """Column that names the session, in which pictures were taken together. Default: session,
    encounter, date or camera, where there is one."""
    split_column: str | None = None
    """Column that tells the parts of a single table apart: training, validation, query or gallery.
    Default: the one with a usual name, such as split or part."""
    identity_pattern: str | None = None
    """Regular expression on a training picture's path with a group named `identity`, where its
    folder does not name it."""
    session_pattern: str | None = None
    """Regular expression on a training picture's path with a group named `session`: pictures of one
    are never query and gallery to each other. Default: the number that file names end in, where
    several pictures of one identity share it."""


@dataclass
class SplitSettings:
    """split: divide the training pictures into training and validation."""

    split: Literal["auto", "folder", "disjoint", "stratified"] = "auto"
    """`folder` is the data set's own validation/; `disjoint` holds out a fifth of the identities
    for validation (predicts a leaderboard of unseen identities); `stratified` a fifth of each
    identity's pictures; `auto` is `folder` where there is one, else `disjoint`."""
    domain_pattern: str | None = None
    """Regular expression on a training picture's path with a group named `domain`. Default: what
    the data set's layout.json says, else the domains that file names and looks tell."""
    query_domain: str | None = None
    """The domain that validation queries come from; all others are gallery. Default: the one that
    the test's queries look like."""


@dataclass
class EmbedSettings:
    """How a picture becomes an embedding, in every stage that embeds."""

    backbone: str = "efficientnet_lite0"
    """efficientnet_lite0 to lite2, mobilenet_v2, sface and dlib (no model hub needed), facenet,
    arcface, clip, styleid, siglip2, dinov3, megadescriptor, any timm name, torchvision:NAME,
    onnx:FILE, or embeddings:FILE, those of another program; `lookalike backbones` lists them.
    Several, joined by +, embed a picture each, and their cosines are added, with a factor where
    there is one: sface+0.5*dlib."""
    weights: str | None = None
    """File with the backbone's weights (safetensors or a PyTorch state dict), or `none` for random
    ones. Default: the backbone's pretrained weights."""
    crop: Literal["auto", "none", "face", "aligned"] = "auto"
    """Input of the backbone: the whole picture (none), the face with a margin, or the face warped
    to the eye, nose and mouth positions that face backbones expect. `auto` is what the backbone
    was trained on."""
    crop_margin: Annotated[float, Interval(ge=0, le=5)] = 0.1
    """Margin on each side of a `face`, as a share of the face's longer side."""
    detector: str = "yunet"
    """What finds the crop: yunet (faces, no hub needed), mtcnn (faces, where facenet-pytorch is
    installed), or a file of `lookalike detector train`, of anything, whose crop is `face`."""
    image_size: ImageSize | None = None
    """Height and width of the backbone's input, in pixels. Default: its own; 128 costs a third of
    what 224 does, which leaves time for more epochs."""
    normalization: Literal["auto", "none", "imagenet", "fixed", "whitening"] = "auto"
    """Pixel values: as they are from 0 to 1, by ImageNet's mean and deviation, (x - 127.5) / 128,
    or by each picture's own mean and deviation. `auto` is what the backbone was trained with."""
    flip: Literal["auto", "on", "off"] = "auto"
    """Embed a picture's mirror image too, and sum both; `auto` does so for faces."""
    scales: tuple[Annotated[float, Interval(ge=0.1, le=10)], ...] = (1.0,)
    """Embed a picture at each of these scales, and sum: above 1 shows the face larger (or the
    center of a whole picture), below 1 more of the face's surroundings."""
    resolutions: tuple[Annotated[float, Interval(ge=0.25, le=4)], ...] = (1.0,)
    """Embed a picture at each of these multiples of the image size, in whole steps of 32 pixels."""
    pooling: Literal["auto", "avg", "max", "gem", "avg+gem", "cls", "mean"] = "auto"
    """How a timm backbone pools its feature map: a CNN by avg, max, gem or both (avg+gem), a ViT
    by its class token (cls) or the mean of the other tokens. `auto` is the backbone's own."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the backbone for the CPU; `auto` does where the run has enough pictures for it."""

    @property
    def backbones(self) -> tuple[str, ...]:
        """The names in `backbone`.

        >>> EmbedSettings("sface+0.5*dlib").backbones
        ('sface', 'dlib')
        """
        return tuple(name for name, _ in self._terms)

    @property
    def factors(self) -> tuple[float, ...]:
        """How much the cosines of each of `members` count.

        >>> EmbedSettings("sface+0.5*dlib", resolutions=(1.0, 1.4)).factors
        (1.0, 1.0, 0.5, 0.5)
        """
        return tuple(factor for _, factor, _ in self._parts)

    @property
    def networks(self) -> tuple[str, ...]:
        """The backbones that run on pictures; the others are embeddings of another program."""
        return tuple(name for name in self.backbones if not name.startswith(STORED))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are named as backbones, or as the detector.

        >>> EmbedSettings("sface+embeddings:clip.npz").files
        (PosixPath('clip.npz'),)
        """
        names = (name for name in self.backbones if name.startswith((ONNX, STORED)))
        files = [Path(name.partition(":")[2]) for name in names]
        return (*files, *filter(None, [self.detector_file]))

    @property
    def detector_file(self) -> Path | None:
        """The file of a detector of one's own, which finds boxes and no points."""
        return None if self.detector in DETECTORS else Path(self.detector)

    @property
    def _parts(self) -> list[tuple[str, float, float]]:
        """The name, factor and resolution of each member.

        Embeddings of another program have one resolution, and count as much as all of a network's.
        """
        parts = []
        for name, factor in self._terms:
            if name.startswith(STORED):
                parts.append((name, factor * len(self.resolutions), 1.0))
            else:
                parts += [(name, factor, resolution) for resolution in self.resolutions]
        return parts

    @property
    def _terms(self) -> list[tuple[str, float]]:
        """The name and the factor of each backbone; NaN where that is no number."""
        if self.backbone.startswith(ONNX):  # a path, which may hold any sign
            return [(self.backbone, 1.0)]
        parts = [part.rpartition("*") for part in self.backbone.split("+")]
        return [(name, _number(factor) if star else 1.0) for factor, star, name in parts]

    @property
    def members(self) -> "list[EmbedSettings]":
        """The settings of each backbone at each resolution, whose embeddings are concatenated.

        What a network sees of a picture does not concern embeddings of another program.
        """
        return [
            EmbedSettings(name)
            if name.startswith(STORED)
            else replace(self, backbone=name, resolutions=(resolution,))
            for name, _, resolution in self._parts
        ]

    def located(self) -> "EmbedSettings":
        """Return the same settings with the absolute paths of their `files`.

        >>> EmbedSettings("sface+0.5*embeddings:/tmp/../x.npz").located().backbone
        'sface+0.5*embeddings:/tmp/../x.npz'
        """
        alone = self.backbone.startswith(ONNX)
        terms = [self.backbone] if alone else self.backbone.split("+")
        own = self.detector_file
        detector = self.detector if own is None else str(own.absolute())
        return replace(self, backbone="+".join(map(_located, terms)), detector=detector)


def _located(term: str) -> str:
    """Return a term of a backbone's name with the absolute path of its file, if it is one."""
    head, colon, path = term.partition(":")
    if not f"{head}{colon}".endswith((ONNX, STORED)):
        return term
    return f"{head}:{Path(path).absolute()}"


def _number(text: str) -> float:
    """Return the number that a text is, NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


@dataclass
class TrainSettings:
    """train: what is learned from the training pictures."""

    objective: str = "cross_entropy"
    """cross_entropy (with a frozen backbone: the linear probe), arcface, subcenter_arcface,
    cosface, triplet, contrastive, cosine_pairs, multi_similarity, supcon, ntxent; or a weighted sum
    of them, like arcface+0.1*triplet."""
    unfreeze: Natural | Literal["all"] = 0
    """Train so many of the backbone's last blocks too, or all."""
    lora: Natural = 0
    """Train only a change of this rank of each linear layer in the blocks of --unfreeze, at --lr
    (LoRA), for transformers; 0: all of their weights."""
    embed_dim: Width | None = None
    """Width of a trained linear projection, whose output is then the embedding."""
    epochs: Natural = 3
    """Passes over the training pictures."""
    lr: Annotated[float, Interval(gt=0, le=1000)] = 1e-3
    """Learning rate of Adam."""
    batch_size: Positive = 32
    """Pictures in a training step."""
    patience: Positive = 2
    """Epochs without a lower held-out loss, or a better validation score, before training stops
    early."""
    train_views: Natural = 0
    """Augmented views of each training picture, embedded once and cached; with --unfreeze all, any
    number is a new view in every epoch; 0 trains without."""
    train_image_size: ImageSize | None = None
    """Height and width of the training pictures, with --unfreeze all. Default: --image-size.
    Cropped views of whole pictures show things larger, so that a larger --image-size suits what
    was trained with them (Touvron et al., 2019)."""
    augmentation: Augmentation = "weak"
    """How --train-views changes a picture: a little, or as strongly as SimCLR: a crop of 30 % and
    more, other colors, gray, blur."""
    projector: Width | None = None
    """Width of a projection head, two layers, that only the loss sees: it is discarded, and the
    embedding is its input."""
    max_minutes: Annotated[float, Interval(gt=0, le=1_000_000)] | None = None
    """Stop training after the epoch in which so many minutes are over; --refit, and each of
    --folds, then takes as many epochs."""
    refit: bool = False
    """When the best epoch is known, train anew on all labeled pictures, the validation's too, for
    as many epochs. Nothing is then left to score the model by, or to forecast the test from."""
    folds: Natural = 0
    """With --refit: train so many models, each without a share of the labeled pictures, which
    scores it, and average their weights (a model soup), instead of one on all of them."""
    sampler: Literal["auto", "shuffled", "pk", "triplets", "pairs"] = "auto"
    """Which pictures make a batch: all in turn, P identities with K pictures each (pk), triplets or
    pairs; `auto` is pk where the objective compares pictures."""
    samples_per_class: Annotated[int, Interval(ge=2, le=10_000)] = 4
    """K of P×K, drawn evenly from the domains where they are known."""
    miner: Literal["all", "semihard", "hard"] = "all"
    """Which triplets of a batch count: all within the margin, those whose negative is further away
    than the positive, or nearer."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """Distance of triplets and miners."""
    margin: Annotated[float, Interval(ge=0, le=2)] | None = None
    """Margin of triplets and miners (default 0.2), contrastive (1) and cosine_pairs (0)."""
    class_margin: Annotated[float, Interval(ge=0, le=1.5)] | None = None
    """Margin of arcface in radians (default 0.5; subcenter_arcface: of the rarest class), of
    cosface as a cosine (0.35)."""
    logit_scale: Annotated[float, Interval(gt=0, le=1000)] = 32.0
    """Factor of the cosines in arcface, subcenter_arcface and cosface."""
    temperature: Annotated[float, Interval(gt=0, le=100)] = 0.1
    """Divisor of the cosines in supcon and ntxent."""
    memory_size: Natural = 0
    """Embeddings of earlier batches that pairs and triplets are formed with too (cross-batch
    memory); 0 for none."""
    backbone_lr_scale: Annotated[float, Interval(gt=0, le=100)] = 0.1
    """Learning rate of the backbone's last block, as a share of --lr."""
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 0.9
    """Learning rate of each earlier block, as a share of the next one's."""
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 0.01
    """AdamW's weight decay, without norms and biases."""
    warmup: Annotated[float, Interval(ge=0, le=1)] = 0.1
    """Share of all steps in which the learning rate rises; after it, half a cosine down to 0."""
    clip_grad_norm: Annotated[float, Interval(gt=0, le=1_000_000)] = 5.0
    """Largest norm of a step's gradient; a larger one is scaled down to it."""
    accumulate: Positive = 1
    """Batches whose gradients a step sums up."""
    ema: Annotated[float, Interval(ge=0, le=0.99999)] = 0.0
    """Decay of a moving average of the weights, which is then validated and saved; 0 for none."""
    log_to: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"
    """Log the learning curves there too."""

    @property
    def is_linear_probe(self) -> bool:
        """Whether a linear probe is trained, which the held-out loss scores."""
        return self.objective == "cross_entropy" and self.unfreeze == 0

    @property
    def all_seen(self) -> bool:
        """Whether the model has been trained on every labeled picture."""
        return self.refit and self.epochs > 0

    @property
    def changes_embedding(self) -> bool:
        """Whether training changes the embedding."""
        return self.embed_dim is not None or not self.is_linear_probe


@dataclass
class RetrieveSettings:
    """index, retrieve: rank the gallery for every query."""

    format: Literal["mapping", "list", "csv", "trec"] = "mapping"
    """Form of the submission: {query: [names]}, a list of {filename, gallery_images}, or, beside
    the mapping, Kaggle's submission.csv or submission.trec, a run that trec_eval reads."""
    index: Literal["auto", "exact", "ivf", "hnsw"] = "exact"
    """How the gallery is searched: every picture, the nearest of its lists (ivf), or a graph of
    neighbors (hnsw); both search until they find 99 % of what exact search does. `auto` is hnsw
    for a million pictures or more. The steps below that need all scores search exactly."""
    center: bool = False
    """Move the queries and the gallery each to a mean of zero first: what is common to all
    photographs, or to all drawings, does not tell identities apart."""
    project_steps: Natural | None = None
    """Learn a linear projection across domains from the labeled pictures, in so many steps; it
    centers by itself, and 0 steps reduce to the principal directions alone."""
    project_dim: Positive = 512
    """Principal directions of the labeled pictures that the projection sees."""
    whiten: Positive | None = None
    """Keep this many principal directions of the training's pictures, each with deviation 1."""
    query_neighbors: CosineThreshold | None = None
    """Sum each query with all other queries of at least this cosine."""
    gallery_neighbors: CosineThreshold | None = None
    """Sum each gallery picture with all others of at least this cosine."""
    expand: CosineThreshold | None = None
    """Sum each query with the gallery pictures of at least this cosine (α-query expansion)."""
    hubs: Literal["none", "csls", "softmax"] = "none"
    """Lower the scores of gallery pictures that are near to every query, by CSLS or an inverted
    softmax."""
    gallery_clusters: CosineThreshold | None = None
    """Cluster the gallery down to this cosine; pictures of a cluster are ranked together."""
    rerank: Literal["none", "reciprocal"] = "none"
    """Re-rank by the neighbors that two pictures have in common (k-reciprocal encoding)."""
    local_weight: Annotated[float, Interval(ge=0, le=100)] = 0.0
    """Score by local features too (RootSIFT points that two pictures share): how much they count
    beside the embedding, for stripes, packages, buildings; 0 for not at all."""
    no_transductive: bool = False
    """Answer each query from itself, the gallery and the training alone, for rules that forbid
    learning from the test's other queries."""
    ensemble: tuple[Path, ...] = ()
    """Folders of finished runs on the same data and split, to be fused into one ranking."""
    fusion: Literal["concat", "scores", "ranks", "learned"] = "concat"
    """How to fuse: concatenated embeddings, the mean of normalized scores, reciprocal rank fusion,
    or the mean by weights that are learned on the validation. `concat` takes the steps above; the
    others those of each run."""
    ensemble_weights: tuple[Annotated[float, Interval(gt=0, le=1_000_000)], ...] = ()
    """Weight of each run of the ensemble, in their order. Default: all the same."""


@dataclass
class EvaluateSettings:
    """evaluate: score the submission and the validation."""

    labels: Path | None = None
    """Labels of the test. Default: labels.json in the data set, where there is one."""


@dataclass
class ReportSettings:
    """report: write report.html, a page that opens offline."""

    report_queries: Positive = 150
    """Queries shown of the test, and of the validation; of more, a third each are the worst, the
    best and drawn by --seed."""
    projection: Literal["tsne", "umap"] = "tsne"
    """Map of the embeddings: t-SNE, or UMAP where umap-learn is installed."""
    points: Positive = 1500
    """Pictures on the map at most; of more, as many are drawn by --seed."""
    perplexity: Annotated[float, Interval(gt=1, le=10_000)] = 30.0
    """About how many neighbors of a picture t-SNE keeps near; UMAP's n_neighbors."""
    iterations: Annotated[int, Interval(ge=250, le=1_000_000)] = 1000
    """Steps of t-SNE; epochs of UMAP."""
    benchmark: Path = Path("runs/benchmark")
    """Folder that lookalike sweep wrote to; the report shows its table where there is one."""


@dataclass
class SubmitSettings:
    """submit: check the submission and send it to a leaderboard."""

    url: str | None = None
    """Where the leaderboard takes submissions. Default: the environment's LEADERBOARD_URL."""
    group: str | None = None
    """Your group's name there. Default: the environment's LEADERBOARD_GROUP."""
    token: str | None = None
    """Your team's token, where the leaderboard gave it one. Default: the environment's
    LEADERBOARD_TOKEN, which other users of this machine do not see."""
    kaggle: str | None = None
    """Name of a Kaggle competition, to send there instead of to --url."""
    dry_run: bool = False
    """Check, and show what would be sent; send nothing. With --stage all: say how the data were
    understood, and stop."""
    again: bool = False
    """Send the file even if this leaderboard has had it from this group before."""
    timeout: Annotated[float, Interval(gt=0, le=3600)] = 60.0
    """Seconds to wait for the leaderboard's reply."""
    submissions: Path = Path("runs/submissions.csv")
    """The history of what was sent, shared by all runs."""


@dataclass
class Settings:
    """Everything that can be set. The groups only order the help page: every name is unique."""

    general: RunSettings = field(default_factory=RunSettings)
    extract: ExtractSettings = field(default_factory=ExtractSettings)
    listing: ListingSettings = field(default_factory=ListingSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    embed: EmbedSettings = field(default_factory=EmbedSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    retrieve: RetrieveSettings = field(default_factory=RetrieveSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    submit: SubmitSettings = field(default_factory=SubmitSettings)

    def flat(self) -> dict[str, Any]:
        """Return all settings by name, in the order of the help page, as JSON holds them.

        >>> Settings().flat()["backbone"]
        'efficientnet_lite0'
        """
        merged = {name: value for group in asdict(self).values() for name, value in group.items()}
        return {name: plain(value) for name, value in merged.items()}


def plain(value: Any) -> Any:
    """Return a setting as a JSON file gives it back: paths as strings, tuples as lists."""
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


# Settings of training that say whether it changes the embedding, and which pictures it leaves
# unseen.
OBJECTIVE_SETTINGS = ("objective", "unfreeze", "embed_dim", "refit")
# Not part of a recipe: which stages to run now is the command's business, and a recipe that is
# handed on must neither send under its author's name nor carry a secret that stands in a URL.
NOT_REMEMBERED = (
    *("stage", "config", "force", "reset", "dry_run", "again"),
    *("url", "group", "token", "kaggle"),
)


def recipe(settings: Settings) -> dict[str, Any]:
    """Return the settings that `config.json` keeps; a file of them can be passed to --config."""
    return {k: v for k, v in settings.flat().items() if k not in NOT_REMEMBERED}


def benchmark_summary(report: ReportSettings) -> Path:
    """Return the path of the table of a sweep that the report shows."""
    return report.benchmark / "summary.csv"


def validation_steps(settings: RetrieveSettings) -> RetrieveSettings:
    """Return the ranking steps by which training is validated.

    They are those of the run, without the form of the submission, the index, an ensemble, local
    features, which training does not change, and the steps that would be fitted on embeddings that
    still change.
    """
    defaults = RetrieveSettings()
    others = (
        "format",
        "index",
        "whiten",
        "ensemble",
        "fusion",
        "ensemble_weights",
        "local_weight",
        "no_transductive",
    )
    return replace(settings, **{name: getattr(defaults, name) for name in others})
