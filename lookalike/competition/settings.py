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
    """Make a competition: a zip for its participants, a folder for you."""

    source_path: Path
    """Folder with a folder of pictures for each identity; or a table (CSV, TSV, Parquet, JSON
    lines) that names pictures below its folder, and their identities."""
    out: Path
    """New folder for the package, <its name>.zip, and for organizer/, which stays with you."""
    identities: Positive | None = None
    """Identities of the test, which are in no training picture. Default: 30 % of those that can
    be."""
    queries: Positive = 5
    """Queries of an identity, at most."""
    gallery: Positive = 20
    """Gallery pictures of an identity, at most."""
    image_column: str | None = None
    """Column of the table that names the picture. Default: the one whose values are files."""
    identity_column: str | None = None
    """Column of the table that names the identity. Default: by the usual names."""
    domain_pattern: str | None = None
    """Regular expression on a picture's path with a group named `domain`. Default: the table's
    column of that name."""
    query_domain: str | None = None
    """With --domain-pattern: queries are of this domain, the gallery of all others."""
    distractors: Natural = 0
    """Further identities in the gallery, that no query shows."""
    unknown: Natural = 0
    """Further identities among the queries, that the gallery does not show."""
    public: Annotated[float, Interval(ge=0, le=1)] = 0.3
    """Share of the test's identities whose queries make the public score."""
    image_size: Annotated[int, Interval(ge=32, le=4096)] | None = None
    """Longer side of all pictures in pixels, so that their size tells nothing. Default: the median
    of theirs, at most 512."""
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
class ServeCommand:
    """Hold a competition that was made: pages, uploads, a public ranking and a final one."""

    folder: tyro.conf.Positional[Path]
    """Folder of a competition that was made."""
    opens: str | None = None
    """When it begins to take submissions, such as '2026-12-04 10:00'. Default: as before, at
    first now."""
    closes: str | None = None
    """When it ends, and the final ranking is shown. Default: as before, at first never."""
    per_hour: Natural = 20
    """Submissions of a team that are taken within an hour; 0: no limit."""
    per_day: Natural = 50
    """Submissions of a team that are taken within a day; 0: no limit."""
    open: bool = False
    """Anybody may send in any name, without a token and a quota."""
    title: str = ""
    """Heading of the pages. Default: the folder's name."""
    metric: str | None = None
    """What the score is, such as map@100, see evaluate.py. Default: as before, at first that of the
    original competition."""
    k: Positive | None = None
    """Gallery names that each query must have. Default: as before, at first as many as the metric
    looks at, at least ten."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets other machines in."""
    port: Annotated[int, Interval(ge=0, le=65_535)] = 8000
    """Port to listen at; 0 takes a free one."""
    proxy: str | None = None
    """Address of a proxy in front, such as 127.0.0.1: its X-Forwarded-For and -Proto are
    believed, of nobody else."""


@dataclass
class TeamsCommand:
    """Add teams to a competition and print their tokens, or list its teams."""

    folder: tyro.conf.Positional[Path]
    """Folder of a competition that was made."""
    add: tuple[str, ...] = ()
    """Names of new teams."""


@dataclass
class ResultsCommand:
    """Print a competition's private ranking, and write its tables and submissions."""

    folder: tyro.conf.Positional[Path]
    """Folder of a competition that was made."""
    out: Path | None = None
    """New folder for ranking.csv, teams.csv, submissions.csv, audit.csv and every submission as
    JSON."""


@dataclass
class CompetitionProgram:
    """One of the commands of `lookalike competition`."""

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[MakeCommand, tyro.conf.subcommand("make")]
        | Annotated[LeaksCommand, tyro.conf.subcommand("leaks")]
        | Annotated[ServeCommand, tyro.conf.subcommand("serve")]
        | Annotated[TeamsCommand, tyro.conf.subcommand("teams")]
        | Annotated[ResultsCommand, tyro.conf.subcommand("results")]
    ]
