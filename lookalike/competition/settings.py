"""Settings of the `lookalike competition` commands.

This module imports neither torch nor pandas, so that `--help` answers at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Interval

from lookalike.core.settings import Natural, Positive, Seed


@dataclass
class MakeCommand:
    """Make a competition from class folders: a zip for its participants, a folder for you."""

    source_path: Path
    """Folder with a folder of pictures for each identity."""
    out: Path
    """New folder for the package, <its name>.zip, and for organizer/, which stays with you."""
    identities: Positive | None = None
    """Identities of the test, which are in no training picture. Default: 30 % of those that can
    be."""
    queries: Positive = 5
    """Queries of an identity, at most."""
    gallery: Positive = 20
    """Gallery pictures of an identity, at most."""
    domain_pattern: str | None = None
    """Regular expression on a picture's path with a group named `domain`."""
    query_domain: str | None = None
    """With --domain-pattern: queries are of this domain, the gallery of all others."""
    distractors: Natural = 0
    """Further identities in the gallery, that no query shows."""
    unknown: Natural = 0
    """Further identities among the queries, that the gallery does not show."""
    public: Annotated[float, Interval(ge=0, le=1)] = 0.3
    """Share of the test's identities whose queries make the public score."""
    image_size: Annotated[int, Interval(ge=32, le=4096)] = 512
    """Longer side of all pictures in pixels, so that their size tells nothing."""
    seed: Seed = 0
    """Of the draw: the same seed and pictures make the same package."""


@dataclass
class LeaksCommand:
    """Print what a package gives away without being looked at."""

    folder: tyro.conf.Positional[Path]
    """Folder of a competition that was made."""
    seed: Seed = 0
    """Of the random rankings that chance is judged by."""


@dataclass
class CompetitionProgram:
    """One of the commands of `lookalike competition`."""

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[MakeCommand, tyro.conf.subcommand("make")]
        | Annotated[LeaksCommand, tyro.conf.subcommand("leaks")]
    ]
