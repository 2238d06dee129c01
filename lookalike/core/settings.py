"""The settings of a run: one dataclass per stage; command line and config file are made from them.

    python main.py --help
    python main.py --stage all --config recipe.json --seed 1

A config file is a flat JSON or TOML table of the same names (`{"backbone": "resnet50"}`); the
`config.json` that every run writes is one. The command line wins over the config file.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

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


@dataclass
class RunSettings:
    """What to run, on which data, and where the results go."""

    stage: tuple[Literal["all"] | StageName, ...] = ("all",)
    """Stages, in order; `all` is every one of them. A single stage goes on with the settings that
    the run folder remembers; `all` starts from the defaults."""
    data: Path | None = None
    """Folder of the data set. Default: the one in data/; none there: the built-in demo."""
    run: Path | None = None
    """Run folder, for all that the run makes. Default: runs/<name of the data set>."""
    seed: int = 0
    """Seed of every random choice: layout, split, training."""
    cache: Path = Path("cache")
    """Folder of the embedding cache, shared by all runs."""
    auto: bool = False
    """Choose backbone, crop and the steps of retrieve on labelled people (stage auto)."""
    auto_backbones: tuple[str, ...] = ("efficientnet_lite0", "sface")
    """The backbones that --auto chooses from."""
    config: Path | None = None
    """File with settings, JSON or TOML; the command line wins over it."""
    force: bool = False
    """Redo the stages even where their inputs have not changed."""


@dataclass
class ExtractSettings:
    """extract: gets a competition into --data."""

    source: Literal["competition", "archive", "folder", "lfw", "imdb", "demo"] | None = None
    """Where the data come from: the Drive archive, any zip or tar, a folder of class folders,
    Labeled Faces in the Wild, IMDB-WIKI, or the built-in demo. None: --data is used as it lies."""
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
    min_pictures: int = 50
    """`imdb`: leave out people with fewer pictures of use."""
    min_size: int = 100
    """`imdb`: leave out pictures with fewer pixels in height or width."""
    one_face: Literal["on", "off"] = "on"
    """`imdb`: leave out pictures in which a second face was found."""
    train_per_person: int | None = None
    """Class folders, `imdb`: draw at most this many pictures of a person for training, and for
    validation. Default: all."""
    test_per_person: int | None = None
    """The same for the test, query and gallery together."""


@dataclass
class SplitSettings:
    """split: divides the training pictures into training and validation."""

    split: Literal["auto", "folder", "disjoint", "stratified"] = "auto"
    """`folder` is the data set's own validation/; `disjoint` keeps a fifth of the identities for
    validation (predicts a leaderboard of unseen people); `stratified` a fifth of each identity's
    pictures; `auto` is `folder` where there is one, else `disjoint`."""
    domain_pattern: str | None = None
    """Regular expression on a training picture's path with a group named `domain`. Default: what
    the data set's layout.json says, else domains are unknown."""
    query_domain: str = "photo"
    """The domain that validation queries come from; all others are gallery."""


@dataclass
class EmbedSettings:
    """How a picture becomes an embedding, in every stage that embeds."""

    backbone: str = "efficientnet_lite0"
    """efficientnet_lite0 to lite2, mobilenet_v2 and sface (no model hub needed), efficientnet_b0,
    resnet50, vit_b16, any timm name, torchvision:NAME, inception_resnet_v1, or onnx:FILE."""
    weights: str | None = None
    """File with the backbone's weights (safetensors or a PyTorch state dict), or `none` for random
    ones. Default: the backbone's pretrained weights."""
    crop: Literal["auto", "none", "face", "aligned"] = "auto"
    """What the backbone sees: the picture, the face with a margin, or the face moved so that eyes,
    nose and mouth come to lie where face backbones want them. `auto` is what it was trained on."""
    crop_margin: float = 0.1
    """Margin on each side of a `face`, as a share of the face's longer side."""
    detector: Literal["yunet", "mtcnn"] = "yunet"
    """What finds faces: yunet (no hub needed), or mtcnn where facenet-pytorch is installed."""
    image_size: int | None = None
    """Height and width of what the backbone sees, in pixels. Default: its own; at 128 a picture
    costs a third of what it does at 224, which leaves a training more epochs."""
    normalization: Literal["auto", "none", "imagenet", "fixed", "whitening"] = "auto"
    """Pixel values: as they are from 0 to 1, by ImageNet's mean and deviation, (x - 127.5) / 128,
    or by each picture's own mean and deviation. `auto` is what the backbone was trained with."""
    flip: Literal["auto", "on", "off"] = "auto"
    """Embed a picture's mirror image too, and take the sum; `auto` does for faces."""
    scales: tuple[float, ...] = (1.0,)
    """Embed a picture at each of these scales, and take the sum: above 1 shows the face larger (or
    the middle of a whole picture), below 1 more of what is around the face."""
    pooling: Literal["auto", "avg", "max", "gem", "cls", "mean"] = "auto"
    """How a timm backbone makes one vector of a picture's places: a CNN by avg, max or gem, a ViT
    by its class token (cls) or the mean of the others. `auto` is the backbone's own."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the backbone for the CPU; `auto` does where the run has pictures enough for it."""


@dataclass
class TrainSettings:
    """train: what is learnt from the training pictures."""

    objective: str = "cross_entropy"
    """cross_entropy (with a frozen backbone: the report's head), arcface, subcenter_arcface,
    cosface, triplet, contrastive, cosine_pairs, multi_similarity, supcon, ntxent; or a weighted sum
    of them, like arcface+0.1*triplet."""
    unfreeze: int | Literal["all"] = 0
    """So many of the backbone's last blocks are trained too, or all."""
    embed_dim: int | None = None
    """Width of a linear projection that is trained: it is then the embedding."""
    epochs: int = 3
    """Passes over the training pictures."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    batch_size: int = 32
    """Pictures in a training step."""
    patience: int = 2
    """Epochs without a lower held-out loss, or a better validation score, before training stops
    early."""
    train_views: int = 0
    """Augmented views of each training picture, embedded once and cached; with --unfreeze all, any
    number is a new view in every epoch; 0 trains without."""
    train_image_size: int | None = None
    """Height and width of what is trained on, with --unfreeze all. Default: --image-size. Cropped views
    of whole pictures show things larger, so that a larger --image-size suits what was trained with them
    (Touvron et al., 2019)."""
    augmentation: Augmentation = "weak"
    """What --train-views changes of a picture: a little, or as much as SimCLR does: a crop of 30 %
    and more, other colours, grey, blur."""
    projector: int | None = None
    """Width of a projection head, two layers, that only the loss sees: it is thrown away, and the
    embedding is what comes before it."""
    max_minutes: float | None = None
    """Stop training after the epoch in which so many minutes are over."""
    refit: bool = False
    """When the best epoch is known, train anew on all labelled pictures, the validation's too, for
    as many epochs. Nothing is then left to score the model by, or to forecast the test from."""
    sampler: Literal["auto", "shuffled", "pk", "triplets", "pairs"] = "auto"
    """Which pictures make a batch: all in turn, P people with K pictures each, triplets or pairs;
    `auto` is pk where the objective compares pictures."""
    samples_per_class: int = 4
    """K of P×K, shared among the domains where they are known."""
    miner: Literal["all", "semihard", "hard"] = "all"
    """Which triplets of a batch count: all within the margin, those whose negative is further away
    than the positive, or nearer."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """What triplets and miners measure."""
    margin: float | None = None
    """Margin of triplets and miners (default 0.2), contrastive (1) and cosine_pairs (0)."""
    class_margin: float | None = None
    """Margin of arcface in radians (default 0.5; subcenter_arcface: of the rarest class), of
    cosface as a cosine (0.35)."""
    logit_scale: float = 32.0
    """What arcface, subcenter_arcface and cosface multiply cosines by."""
    temperature: float = 0.1
    """What supcon and ntxent divide cosines by."""
    memory_size: int = 0
    """Pictures of earlier batches that pairs and triplets are made with too."""
    backbone_lr_scale: float = 0.1
    """Learning rate of the backbone's last block, as a share of --lr."""
    layer_decay: float = 0.9
    """Learning rate of each earlier block, as a share of the next one's."""
    weight_decay: float = 0.01
    """AdamW's weight decay, without norms and biases."""
    warmup: float = 0.1
    """Share of all steps in which the learning rate rises; after it, half a cosine down to 0."""
    clip_grad_norm: float = 5.0
    """Longest gradient that a step takes; a longer one is shortened."""
    accumulate: int = 1
    """Batches whose gradients a step sums up."""
    ema: float = 0.0
    """Decay of a moving average of the weights, which is then judged and kept; 0 for none."""
    log_to: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"
    """Log the learning curves there too."""

    @property
    def is_linear_probe(self) -> bool:
        """Whether the report's head is asked for, which the held-out loss judges."""
        return self.objective == "cross_entropy" and self.unfreeze == 0

    @property
    def all_seen(self) -> bool:
        """Whether the model has been trained on every labelled picture."""
        return self.refit and self.epochs > 0

    @property
    def changes_embedding(self) -> bool:
        """Whether what is learnt becomes part of the embedding."""
        return self.embed_dim is not None or not self.is_linear_probe


@dataclass
class RetrieveSettings:
    """index, retrieve: ranks the gallery for every query."""

    format: Literal["mapping", "list", "csv"] = "mapping"
    """Form of the submission: {query: [names]}, the report's list of {filename, gallery_images},
    or, beside the mapping, Kaggle's submission.csv."""
    index: Literal["auto", "exact", "ivf", "hnsw"] = "exact"
    """How the gallery is searched: every picture, the nearest of its lists (ivf), or a graph of
    neighbors (hnsw); both look as far as 99 % of what exact search finds takes. `auto` is hnsw for
    a million pictures or more. The steps below that need all scores search exactly."""
    center: bool = False
    """Move the queries and the gallery each to a mean of zero first: what is common to all
    photographs, or to all drawings, says nothing of who it is."""
    whiten: int | None = None
    """Keep this many principal directions of the training's pictures, each with deviation 1."""
    query_neighbors: float | None = None
    """Sum each query with all other queries of at least this cosine."""
    gallery_neighbors: float | None = None
    """Sum each gallery picture with all others of at least this cosine."""
    expand: float | None = None
    """Sum each query with the gallery pictures of at least this cosine (α-query expansion)."""
    hubs: Literal["none", "csls", "softmax"] = "none"
    """Take off what a gallery picture is to everybody, by CSLS or an inverted softmax."""
    gallery_clusters: float | None = None
    """Cluster the gallery down to this cosine; pictures of a cluster come up together."""
    rerank: Literal["none", "reciprocal"] = "none"
    """Re-rank by the neighbors that two pictures have in common (k-reciprocal encoding)."""
    no_transductive: bool = False
    """Answer each query from itself, the gallery and the training alone, for rules that forbid to
    learn from the test's other queries."""
    ensemble: tuple[Path, ...] = ()
    """Folders of finished runs on the same data and split, to be ranked by together."""
    fusion: Literal["concat", "scores", "ranks"] = "concat"
    """How: by their embeddings one after the other, the mean of their normalised scores, or
    reciprocal rank fusion. `concat` takes the steps above; the others those of each run."""
    ensemble_weights: tuple[float, ...] = ()
    """How much each run of the ensemble counts, in their order. Default: all the same."""


@dataclass
class EvaluateSettings:
    """evaluate: scores the submission and the validation."""

    labels: Path | None = None
    """Labels of the test. Default: labels.json in the data set, where there is one."""


@dataclass
class ReportSettings:
    """report: report.html, a page to look at that opens offline."""

    report_queries: int = 150
    """Queries shown of the test, and of the validation; of more, a third each are the worst, the
    best and drawn by --seed."""
    projection: Literal["tsne", "umap"] = "tsne"
    """Map of the embeddings: t-SNE, or UMAP where umap-learn is installed."""
    points: int = 1500
    """Pictures on the map at most; of more, as many are drawn by --seed."""
    perplexity: float = 30.0
    """About how many neighbors of a picture t-SNE keeps near; UMAP's n_neighbors."""
    iterations: int = 1000
    """Steps of t-SNE; epochs of UMAP."""
    benchmark: Path = Path("runs/benchmark")
    """Folder that lookalike sweep wrote to; the report shows its table where there is one."""


@dataclass
class SubmitSettings:
    """submit: checks the submission and sends it to a leaderboard."""

    url: str | None = None
    """Where the leaderboard takes submissions. Default: the environment's LEADERBOARD_URL."""
    group: str | None = None
    """Your group's name there. Default: the environment's LEADERBOARD_GROUP."""
    kaggle: str | None = None
    """Name of a Kaggle competition, to send there instead of to --url."""
    dry_run: bool = False
    """Check, and show what would be sent; send nothing."""
    again: bool = False
    """Send the file even if this leaderboard has had it from this group before."""
    timeout: float = 60.0
    """Seconds to wait for the leaderboard's reply."""
    submissions: Path = Path("runs/submissions.csv")
    """The history of what was sent, shared by all runs."""


@dataclass
class Settings:
    """Everything that can be set. The groups only order the help page: every name is unique."""

    general: RunSettings = field(default_factory=RunSettings)
    extract: ExtractSettings = field(default_factory=ExtractSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    embed: EmbedSettings = field(default_factory=EmbedSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    retrieve: RetrieveSettings = field(default_factory=RetrieveSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    submit: SubmitSettings = field(default_factory=SubmitSettings)

    def flat(self) -> dict[str, Any]:
        """All settings by name, in the order of the help page, as JSON holds them.

        >>> Settings().flat()["backbone"]
        'efficientnet_lite0'
        """
        merged = {name: value for group in asdict(self).values() for name, value in group.items()}
        return {name: _plain(value) for name, value in merged.items()}


def _plain(value: Any) -> Any:
    """Paths as strings, tuples as lists: what a JSON file gives back is what was put in."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


# What says whether training changes the embedding, and whom it leaves unseen.
CHANGED = ("objective", "unfreeze", "embed_dim", "refit")
# What a recipe does not hold: which stages to run now is the command's business, and a recipe that
# is handed on must neither send under its author's name nor carry a secret that stands in a URL.
NOT_REMEMBERED = ("stage", "config", "force", "url", "group", "kaggle", "dry_run", "again")


def recipe(settings: Settings) -> dict[str, Any]:
    """The settings that `config.json` keeps; a file of them can be handed to --config."""
    return {k: v for k, v in settings.flat().items() if k not in NOT_REMEMBERED}


def benchmark_summary(report: ReportSettings) -> Path:
    """Where the table lies that a report shows of a benchmark."""
    return report.benchmark / "summary.csv"


def with_choice(settings: Settings, chosen: Mapping[str, Any]) -> Settings:
    """The settings with other values for some of the embedding's and ranking's, by name."""

    def changed(group: Any) -> Any:
        known = {k: v for k, v in chosen.items() if hasattr(group, k)}
        return replace(
            group, **{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()}
        )

    embed, retrieve = changed(settings.embed), changed(settings.retrieve)
    return replace(settings, embed=embed, retrieve=retrieve)


def judging_steps(settings: RetrieveSettings) -> RetrieveSettings:
    """The steps of the ranking by which a training is judged: those asked for, but for the form of
    the submission, the index, an ensemble, and what would learn from embeddings that still change.
    """
    plain = RetrieveSettings()
    others = ("format", "index", "whiten", "ensemble", "fusion", "ensemble_weights")
    kept = {name: getattr(plain, name) for name in (*others, "no_transductive")}
    return replace(settings, **kept)
