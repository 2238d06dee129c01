"""The catalogue of a data set: a table with one row per picture, checked and hashed.

It is a pandas DataFrame of strings:

    path       relative to the data set's folder, with forward slashes; identifies the picture
    identity   whom or what it shows; empty in the test
    domain     photo, caricature, ...; empty where unknown; the part in the test
    session    of pictures that were taken together; empty where unknown, and in the test
    part       training, validation, query or gallery; or test, which is both of these
    content    hash of the file's bytes
    problem    empty, or why the picture is damaged or cannot be read

A data set is only read, never written. What is wrong with it is counted and named in the log.
"""

import logging
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd

from lookalike.core.errors import UserError
from lookalike.core.files import write_table
from lookalike.core.log import report_each
from lookalike.core.readers import read_table
from lookalike.core.settings import ListingSettings
from lookalike.data.domains import find_domains
from lookalike.data.images import (
    DAMAGED,
    TRAITS,
    TRUNCATED,
    UNREADABLE,
    Checked,
    check_picture,
    map_images,
)
from lookalike.data.layout import GALLERY, LABELED, QUERIES, TEST
from lookalike.data.listing import list_pictures
from lookalike.data.sessions import find_sessions

COLUMNS = ["path", "identity", "domain", "session", "part", "content", "problem"]


def read_catalogue(
    root: Path, domain_pattern: str | None = None, listing: ListingSettings | None = None
) -> pd.DataFrame:
    r"""Read the whole catalogue of a data set: every file is opened, hashed and checked.

    Damaged files, names and pictures of note (CMYK, transparent, rotated, ...) are counted and
    named in the log.

    Args:
        root: Folder of the data set, with `test/query/`, `test/gallery/` and, where there are
            labeled pictures, `training/<identity>/` and `validation/<identity>/`.
        domain_pattern: Regular expression with a group named `domain`, searched in the path of
            each labeled picture. Without one, domains are known where a table tells them.
        listing: How its parts and identities are told apart, where folders do not.

    Returns:
        One row per picture, sorted by path, with the columns path, identity, domain, session, part,
        content and problem, all strings.

    Raises:
        UserError: There is no competition, the pattern is no regular expression with such a group,
            or two queries, or two gallery pictures, share a file name.

    >>> from tempfile import TemporaryDirectory
    >>> from lookalike.data.demo import draw_competition
    >>> with TemporaryDirectory() as folder:
    ...     draw_competition(Path(folder), seed=0, train_identities=1, test_identities=1)
    ...     catalogue = read_catalogue(Path(folder), r"(?P<domain>[a-z]+)_\d+\.jpg$")
    >>> catalogue.groupby("part").size().to_dict()
    {'gallery': 10, 'query': 3, 'training': 10}
    >>> sorted(set(catalogue.domain[catalogue.part == "training"]))
    ['flat', 'line', 'photo', 'poster', 'texture']
    """
    catalogue = list_pictures(root, listing)
    catalogue["domain"] = _domains(catalogue, domain_pattern)
    catalogue["session"] = find_sessions(catalogue, listing.session_pattern if listing else None)
    checks = list(map_images(check_picture, [root / path for path in catalogue.path], "checking"))
    catalogue = catalogue.assign(**pd.DataFrame(checks, columns=Checked._fields, dtype=str))
    _refuse_repeats(catalogue)
    _report_problems(catalogue)
    _report_traits(catalogue)
    _report_copies(catalogue)
    return catalogue[COLUMNS]


def _domains(catalogue: pd.DataFrame, pattern: str | None) -> pd.Series:
    """Return each picture's domain; in the test that is its part."""
    in_test = catalogue.part.isin(TEST)
    domains = catalogue.part.where(in_test, catalogue.domain)
    if pattern is None:
        return domains
    domains[~in_test] = find_domains(catalogue.path[~in_test].tolist(), pattern)
    return domains


def _refuse_repeats(catalogue: pd.DataFrame) -> None:
    """Raise where a file name, all that a submission holds, would stand for two pictures."""
    for part in TEST:
        paths = catalogue.path[catalogue.part == part]
        repeated = paths[bare_names(paths).duplicated(keep=False).to_numpy()]
        if len(repeated):
            pair = " and ".join(repeated.iloc[:2])
            raise UserError(
                f"{len(repeated)} pictures of the {part} share their name: {pair}. A submission "
                "holds names without folders: rename them, by their folder's name in front of it"
            )


def bare_names(paths: Iterable[str]) -> pd.Series:
    """Return the file names of paths, which is all that a leaderboard knows.

    >>> bare_names(["test/query/ada.jpg"]).tolist()
    ['ada.jpg']
    """
    return pd.Series([path.rpartition("/")[2] for path in paths], dtype=str)


def _report_problems(catalogue: pd.DataFrame) -> None:
    """Log the pictures that are damaged."""
    broken = ~readable(catalogue)
    truncated = catalogue.problem == TRUNCATED
    query = catalogue.part.isin(QUERIES)
    damaged = catalogue.problem.str.startswith(DAMAGED)
    report_each("truncated pictures: used as far as they go", catalogue.path[truncated])
    named = catalogue.path + " (" + catalogue.problem + ")"
    report_each("damaged pictures: used as far as they go", named[damaged])
    report_each("files cannot be read as pictures: left out", named[broken & ~query])
    report_each("queries cannot be read: their ranking is a guess", named[broken & query])


def _report_traits(catalogue: pd.DataFrame) -> None:
    """Log the pictures and identities of note."""
    for trait in TRAITS:
        names = catalogue.path[catalogue.traits.str.contains(trait, regex=False)]
        report_each(f"pictures are {trait}: read as upright RGB", names, logging.INFO)
    training = catalogue[(catalogue.part == "training") & readable(catalogue)]
    counts = training.identity.value_counts()
    alone = counts.index[counts == 1]
    report_each("identities have a single training picture", sorted(alone), logging.INFO)


def _report_copies(catalogue: pd.DataFrame) -> None:
    """Log the pictures that are there twice where that makes a score or a label doubtful."""
    rows = catalogue[readable(catalogue)]
    rows = rows[rows.content.duplicated(keep=False)]
    labeled = rows[rows.part.isin(LABELED)]
    identities = labeled.groupby("content").identity.transform("nunique")
    report_each("copies of a picture under two identities", labeled.path[identities > 1])
    for one, other in combinations((*LABELED, *TEST), 2):
        both = {*rows.content[rows.part == one]} & {*rows.content[rows.part == other]}
        paths = rows.path[rows.content.isin(both) & rows.part.isin([one, other])]
        report_each(f"copies of a picture in both {one} and {other}", paths)


def queries_of(catalogue: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the test's queries."""
    return catalogue[catalogue.part.isin(QUERIES)]


def gallery_of(catalogue: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the test's gallery; of a test that searches among itself, all of them."""
    return catalogue[catalogue.part.isin(GALLERY)]


def searches_itself(catalogue: pd.DataFrame) -> bool:
    """Return whether each picture of the test is searched for among the others."""
    return bool((catalogue.part == "test").any())


def readable(catalogue: pd.DataFrame) -> pd.Series:
    """Return which rows can be embedded; damaged pictures can, as far as they go.

    >>> rows = pd.DataFrame({"problem": ["", "truncated", "unreadable: not a picture"]})
    >>> readable(rows).tolist()
    [True, True, False]
    """
    return ~catalogue.problem.str.startswith(UNREADABLE.rstrip(": "))


def overview(catalogue: pd.DataFrame) -> pd.DataFrame:
    """Return how a data set was understood: a row for each part and domain.

    Args:
        catalogue: What `read_catalogue` returns.

    Returns:
        The columns part, domain, pictures, identities and example.

    >>> rows = {"path": ["training/ada/1.jpg"], "identity": ["ada"], "part": ["training"]}
    >>> overview(pd.DataFrame(rows | {"domain": ["photo"]})).astype(str).iloc[0].tolist()
    ['training', 'photo', '1', '1', 'training/ada/1.jpg']
    """
    domains = catalogue.domain.where(~catalogue.part.isin(TEST), "")
    groups = catalogue.assign(domain=domains).groupby(["part", "domain"], sort=False)
    table = groups.agg(
        pictures=("path", "size"),
        identities=("identity", lambda names: str(names[names != ""].nunique() or "unknown")),
        example=("path", "first"),
    ).reset_index()
    order = {part: number for number, part in enumerate((*LABELED, *TEST))}
    return table.sort_values(
        ["part", "domain"], key=lambda names: names.map(lambda name: order.get(name, name))
    )


def rows_of(catalogue: pd.DataFrame, paths: Iterable[str]) -> pd.DataFrame:
    """Return the rows of some pictures, in the order of their paths as passed.

    Args:
        catalogue: What `read_catalogue` returns, or any rows of it.
        paths: Paths as in its column `path`; also a {path: identity} part of a `Split`.

    Returns:
        One row per path, with all columns and a new index from 0.

    Raises:
        UserError: A path is not in the catalogue.

    >>> catalogue = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "identity": ["ada", "bo"]})
    >>> rows_of(catalogue, ["b.jpg", "a.jpg"]).identity.tolist()
    ['bo', 'ada']
    """
    by_path, paths = catalogue.set_index("path", drop=False), list(paths)
    unknown = [path for path in paths if path not in by_path.index]
    if unknown:
        raise UserError(
            f"{len(unknown)} pictures of the split are not in the catalogue, first {unknown[0]}: "
            "make both anew with --stage split"
        )
    return by_path.loc[paths].reset_index(drop=True)


def write_catalogue(path: Path, catalogue: pd.DataFrame) -> None:
    """Write a catalogue as CSV, whole or not at all."""
    write_table(path, catalogue)


def load_catalogue(path: Path) -> pd.DataFrame:
    """Read a catalogue's CSV file, every value as a string.

    Args:
        path: training.csv or test.csv of a run folder.

    Returns:
        The rows, with the columns of `read_catalogue`.

    Raises:
        UserError: The file is missing or damaged.
    """
    table: pd.DataFrame = read_table(path, "--stage split", dict.fromkeys(COLUMNS, str))
    wrong = table.path[table.path.duplicated() | ~table.part.isin([*LABELED, *TEST])]
    if len(wrong):
        raise UserError(
            f"{path}: {wrong.iloc[0]!r} is there twice or belongs to no part; make it anew with "
            "--stage split"
        )
    return table


def load_full_catalogue(folder: Path) -> pd.DataFrame:
    """Read both parts of a run folder's catalogue: training.csv, then test.csv.

    Raises:
        UserError: A file is missing.
    """
    parts = [load_catalogue(folder / name) for name in ("training.csv", "test.csv")]
    return pd.concat(parts, ignore_index=True)


def outside_pictures(paths: Sequence[Path]) -> pd.DataFrame:
    """Check pictures that belong to no data set.

    Args:
        paths: The files.

    Returns:
        One row per file, in their order, with some of a catalogue's columns: `path`, which is
        absolute, `content` and `problem`.
    """
    checks = map_images(check_picture, paths, "checking")
    found = [
        (str(path.resolve()), check.content, check.problem)
        for path, check in zip(paths, checks, strict=True)
    ]
    return pd.DataFrame(found, columns=["path", "content", "problem"], dtype=str)
