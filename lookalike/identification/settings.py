"""Settings of the `lookalike identify` commands.

This module imports neither torch nor OpenCV, so that `--help` answers at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro
from annotated_types import Interval

from lookalike.core.settings import Positive

Method = Literal["medoid", "centroid", "kmeans", "knn"]
METHODS: tuple[Method, ...] = get_args(Method)
# Those of lookalike.faces.detection, which takes seconds to import; a test compares them.
MIN_CONFIDENCE, MAX_OVERLAP = 0.3, 0.4


@dataclass
class ReferenceSettings:
    """Which identities are known, and how each is represented."""

    run: Path
    """Run folder: its embedder makes the embeddings, its labeled pictures are the references."""
    folder: Path | None = None
    """References to use instead: a folder that holds a folder of pictures for each identity."""
    method: Method = "centroid"
    """What represents an identity: the picture nearest to all its others, the mean of its pictures,
    several means (--representatives), or all pictures, of which the nearest vote (--neighbors)."""
    representatives: Positive = 3
    """Means of each identity, for `kmeans`; never more than it has pictures."""
    neighbors: Positive = 5
    """Pictures that vote, each weighted by its similarity, for `knn`."""


@dataclass
class WhoCommand:
    """Find every face in photographs and identify it."""

    photo: tyro.conf.Positional[tuple[Path, ...]]
    """Photographs, or folders of them."""
    references: ReferenceSettings
    threshold: Annotated[float, Interval(ge=-1, le=1)] | None = None
    """Similarity below which a face is "unknown". Default: calibrated on the run's validation."""
    false_accept: Annotated[float, Interval(ge=0, lt=1)] = 0.01
    """Share of unknown people's pictures to which the calibrated threshold may give a name."""
    confidence: Annotated[float, Interval(ge=MIN_CONFIDENCE, le=1)] = MIN_CONFIDENCE
    """Minimum confidence of the detector in a face."""
    overlap: Annotated[float, Interval(ge=0, le=1)] = MAX_OVERLAP
    """Of two boxes with a higher intersection over union, the less confident is dropped."""
    output: Path | None = None
    """Folder for the annotated pictures and their JSON. Default: identify/ in the run folder."""
    json: bool = False
    """Print one JSON object and nothing else on standard output."""


@dataclass
class LikeCommand:
    """Find the known identity that each picture resembles most."""

    picture: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures, or folders of them."""
    references: ReferenceSettings
    nearest: Positive = 5
    """Most similar reference pictures to show beside each picture."""
    output: Path | None = None
    """Folder for the panels and their JSON. Default: like/ in the run folder."""
    json: bool = False
    """Print one JSON object and nothing else on standard output."""


@dataclass
class NamesCommand:
    """Name the identity of each picture of a run's test, or call it new."""

    run: Path
    """Run folder: its labeled pictures are the known identities; its test is named."""
    sample_submission: Path | None = None
    """The competition's sample, which tells the form of identities.csv in the run folder."""
    labels: Path | None = None
    """Labels of the test, to score the names."""
    new_name: str = "new_individual"
    """What a new identity is called."""
    new_share: Annotated[float, Interval(ge=0, le=1)] | None = None
    """Share of the test that shows new identities, which sets the threshold. Default: the threshold
    that is best for labeled pictures, half of which should be called new."""
    threshold: Annotated[float, Interval(ge=-1, le=1)] | None = None
    """Similarity below which an identity is less likely than a new one."""
    count: Positive = 5
    """Names for each picture, where no sample tells."""


@dataclass
class ClusterCommand:
    """Put the pictures of a run's test that show one identity into one cluster."""

    run: Path
    """Run folder, whose test is clustered."""
    sample_submission: Path | None = None
    """The competition's sample, which tells the form of clusters.csv in the run folder."""
    labels: Path | None = None
    """Labels of the test, to score the clusters by the adjusted Rand index."""
    height: Annotated[float, Interval(ge=0, le=2)] | None = None
    """Mean cosine distance below which two clusters are one. Default: what divides labeled pictures
    best."""


@dataclass
class IdentifyProgram:
    """One of the commands of `lookalike identify`."""

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[WhoCommand, tyro.conf.subcommand("who")]
        | Annotated[LikeCommand, tyro.conf.subcommand("like")]
        | Annotated[NamesCommand, tyro.conf.subcommand("test")]
        | Annotated[ClusterCommand, tyro.conf.subcommand("cluster")]
    ]
