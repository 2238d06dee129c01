"""Count a data set's pictures by part and domain, and name what is wrong with them.

    python data.py data/demo
    python data.py data/celebrities --domain-pattern '(?P<domain>photo|drawing)_'

The first opens and checks every picture and prints

    part      domain      pictures    readable  identities
    --------  --------  ----------  ----------  ------------
    gallery   gallery          400         400  unknown
    query     query            120         120  unknown
    training  flat              80          80  80
    …

Above the table, files that cannot be read, truncated pictures, empty folders, files outside of an
identity's folder and identities with a single picture are counted and named. Two pictures of one
name in the query or in the gallery are an error. The parts of this program are in lookalike/data.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse


@dataclass
class DataCommand:
    """Options of data.py."""

    folder: tyro.conf.Positional[Path]
    """Folder of the data set, with test/query and test/gallery."""
    domain_pattern: str | None = None
    """Regular expression on a training picture's path with a group named `domain`. Default: what
    the data set's layout.json says, else domains are unknown."""


def show(command: DataCommand) -> None:
    """Check every picture, log what is wrong, and print the counts."""
    from tabulate import tabulate

    from lookalike.data.catalogue import readable
    from lookalike.data.dataset import read_dataset

    catalogue = read_dataset(command.folder, command.domain_pattern).catalogue
    catalogue["readable"] = readable(catalogue)
    rows = [
        (part, domain, len(rows), rows.readable.sum(), len({*rows.identity} - {""}) or "unknown")
        for (part, domain), rows in catalogue.groupby(["part", "domain"])
    ]
    print(tabulate(rows, ["part", "domain", "pictures", "readable", "identities"]))


def main(arguments: Sequence[str]) -> int:
    """Run the program and return its exit code."""
    command = parse(arguments, "data.py", DataCommand, "Count and check a data set's pictures.")
    log_to(None)
    return exit_code(lambda: show(command))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
