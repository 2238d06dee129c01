"""The command `lookalike data`, which is data.py: count and check a data set's pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse
from lookalike.core.settings import ListingSettings


@dataclass
class DataCommand:
    """Options of data.py, which is also `lookalike data`."""

    folder: tyro.conf.Positional[Path]
    """Folder of the data set."""
    listing: ListingSettings = field(default_factory=ListingSettings)
    domain_pattern: str | None = None
    """Regular expression on a training picture's path with a group named `domain`. Default: what
    the data set's layout.json says, else the domains that file names and looks tell."""


def show(command: DataCommand) -> None:
    """Check every picture, log what is wrong, and print the counts."""
    from tabulate import tabulate

    from lookalike.data.catalogue import readable
    from lookalike.data.dataset import read_dataset

    catalogue = read_dataset(command.folder, command.domain_pattern, command.listing).catalogue
    catalogue["readable"] = readable(catalogue)
    rows = [
        (part, domain, len(rows), rows.readable.sum(), len({*rows.identity} - {""}) or "unknown")
        for (part, domain), rows in catalogue.groupby(["part", "domain"])
    ]
    print(tabulate(rows, ["part", "domain", "pictures", "readable", "identities"]))


def main(arguments: Sequence[str]) -> int:
    """Count a data set's pictures.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        The exit code: 0, 1 for a mistake or bad input, 130 for Ctrl-C.
    """
    command = parse(arguments, "data.py", DataCommand, "Count and check a data set's pictures.")
    log_to(None)
    return exit_code(lambda: show(command))
