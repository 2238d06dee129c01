"""TODO lookalike.data.catalogue."""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from lookalike.core.errors import UserError
from lookalike.core.files import files_below, whole_file
from lookalike.core.log import report_each
from lookalike.core.runs import Run
from lookalike.data.images import (
    TRAITS,
    TRUNCATED,
    Checked,
    check_picture,
    map_images,
)
from lookalike.data.layout import Layout, find_layout, named_as_picture, visible_folders

COLUMNS = ["path", "identity", "domain", "part", "content", "problem"]


def list_pictures(root: Path) -> pd.DataFrame:
    """The catalogue's path, identity and part of every file in a data set, sorted by path.

    Raises:
        UserError: `root` is no competition, or a part of its test is empty.
    """
    layout = find_layout(root)
    if layout is None:
        raise UserError(f"{root}: holds no test/query/ and test/gallery/")
    rows = [row for part in Layout._fields for row in _list_part(root, layout, part)]
    catalogue = pd.DataFrame(rows, columns=["path", "identity", "part"], dtype=str)
    for part in ("query", "gallery"):
        if not (catalogue.part == part).any():
            raise UserError(f"{getattr(layout, part)}: holds no pictures")
    return catalogue.sort_values("path", ignore_index=True)


def _list_part(root: Path, layout: Layout, part: str) -> list[tuple[str, str, str]]:
    folder: Path | None = getattr(layout, part)
    if folder is None:
        return []
    classed = part in ("training", "validation")
    files = _usable_names(files_below(folder))
    if part == "query":
        # A broken picture keeps its place among the queries; what is no picture never had one.
        clutter = [file for file in files if not named_as_picture(file)]
        clutter = [file for file in clutter if check_picture(file).problem]
        report_each("files among the queries are no pictures: left out", map(str, clutter))
        files = sorted(set(files) - set(clutter))
    if classed:
        full = {file.relative_to(folder).parts[0] for file in files if file.parent != folder}
        empty = [f.name for f in visible_folders(folder) if f.name not in full]
        report_each(f"folders in {folder} hold no files", empty)
        loose = [file for file in files if file.parent == folder]
        report_each("files lie outside of an identity's folder: left out", map(str, loose))
        files = [file for file in files if file.parent != folder]
    return [
        (
            file.relative_to(root).as_posix(),
            file.relative_to(folder).parts[0] if classed else "",
            part,
        )
        for file in files
    ]


def _usable_names(files: list[Path]) -> list[Path]:
    """Leaves out names that are not UTF-8: neither a catalogue nor a submission can hold them."""

    def usable(path: Path) -> bool:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            return False
        return True

    refused = [ascii(str(file)) for file in files if not usable(file)]
    report_each("files have names that are not UTF-8: left out", refused)
    return [file for file in files if usable(file)]


def read_catalogue(root: Path, domain_pattern: str | None = None) -> pd.DataFrame:
    """The whole catalogue of a data set: every file opened, hashed and checked.

    domain_pattern: regular expression with a group named `domain`, searched in the path.

    Raises:
        UserError: no competition there, a bad pattern, or repeated names in the test.
    """
    catalogue = list_pictures(root)
    catalogue["domain"] = _domains(catalogue, domain_pattern)
    checks = list(map_images(check_picture, [root / path for path in catalogue.path], "checking"))
    catalogue = catalogue.assign(**pd.DataFrame(checks, columns=Checked._fields, dtype=str))
    _refuse_repeats(catalogue)
    _report_problems(catalogue)
    _report_traits(catalogue)
    return catalogue[COLUMNS]


def _domains(catalogue: pd.DataFrame, pattern: str | None) -> pd.Series:
    in_test = catalogue.part.isin(["query", "gallery"])
    domains = catalogue.part.where(in_test, "")
    if pattern is None:
        return domains
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--domain-pattern {pattern!r} is no regular expression: {error}"
        ) from error
    if "domain" not in compiled.groupindex:
        raise UserError(f"--domain-pattern {pattern!r} has no group (?P<domain>...)")
    found = catalogue.path[~in_test].map(compiled.search)
    report_each(
        "training pictures do not fit --domain-pattern: their domain is unknown",
        catalogue.path[~in_test][[match is None for match in found]],
    )
    domains[~in_test] = [match.group("domain") or "" if match else "" for match in found]
    return domains


def _refuse_repeats(catalogue: pd.DataFrame) -> None:
    """A submission holds bare names: in one folder of the test each may stand for one picture."""
    for part in ("query", "gallery"):
        paths = catalogue.path[catalogue.part == part]
        repeated = paths[bare_names(paths).duplicated(keep=False).to_numpy()]
        if len(repeated):
            pair = " and ".join(repeated.iloc[:2])
            raise UserError(f"{len(repeated)} pictures of the {part} share their name: {pair}")


def bare_names(paths: Iterable[str]) -> pd.Series:
    """The file names that the leaderboard knows.

    >>> bare_names(["test/query/ada.jpg"]).tolist()
    ['ada.jpg']
    """
    return pd.Series([path.rpartition("/")[2] for path in paths], dtype=str)


def _report_problems(catalogue: pd.DataFrame) -> None:
    broken = ~readable(catalogue)
    truncated = catalogue.problem == TRUNCATED
    query = catalogue.part == "query"
    report_each("truncated pictures: used as far as they go", catalogue.path[truncated])
    named = catalogue.path + " (" + catalogue.problem + ")"
    report_each("files cannot be read as pictures: left out", named[broken & ~query])
    report_each("queries cannot be read: their ten are a guess", named[broken & query])


def _report_traits(catalogue: pd.DataFrame) -> None:
    for trait in TRAITS:
        names = catalogue.path[catalogue.traits.str.contains(trait, regex=False)]
        report_each(f"pictures are {trait}: read as upright RGB", names, logging.INFO)
    training = catalogue[(catalogue.part == "training") & readable(catalogue)]
    counts = training.identity.value_counts()
    alone = counts.index[counts == 1]
    report_each("identities have a single training picture", sorted(alone), logging.INFO)


def readable(catalogue: pd.DataFrame) -> pd.Series:
    """Which rows can be embedded: truncated pictures too, as far as they go."""
    return catalogue.problem.isin(["", TRUNCATED])


def rows_of(catalogue: pd.DataFrame, paths: Iterable[str]) -> pd.DataFrame:
    """The rows of these pictures, in their order."""
    return catalogue.set_index("path", drop=False).loc[list(paths)].reset_index(drop=True)


def write_catalogue(path: Path, catalogue: pd.DataFrame) -> None:
    """Writes a catalogue as CSV."""
    with whole_file(path) as beside:
        catalogue.to_csv(beside, index=False)


def load_catalogue(path: Path) -> pd.DataFrame:
    """Reads a catalogue back, every value as text.

    Raises:
        UserError: it is not there.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: make it with --stage split")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def count_pictures(run: Run) -> int:
    """Number of files in the run's catalogue."""
    return sum(len(load_catalogue(run.path(name))) for name in ("training.csv", "test.csv"))


def outside_pictures(paths: Sequence[Path]) -> pd.DataFrame:
    """Rows like a catalogue's of pictures that belong to no data set: absolute `path`, `content`
    and `problem`."""
    checks = map_images(check_picture, paths, "checking")
    found = [
        (str(path.resolve()), check.content, check.problem)
        for path, check in zip(paths, checks, strict=True)
    ]
    return pd.DataFrame(found, columns=["path", "content", "problem"], dtype=str)
