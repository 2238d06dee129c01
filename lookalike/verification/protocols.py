"""Protocols of pair verification, read into one table of pairs: two pictures, same or not, fold.

    pairs = read_pairs(PairSettings(Path("cfp"), protocol="cfp", kind="FP"))
    pairs.rows          # one Pair each: fold, a, b, same, where
    pairs.identities    # {path: identity} of all pictures that the protocol lists

`cfp` is Celebrities in Frontal-Profile (Sengupta et al., 2016): ten splits, frontal to frontal (FF)
or frontal to profile (FP). `lfw` is View 2 of Labeled Faces in the Wild (Huang et al., 2007), its
pairs.txt. `csv` is a file of your own with the columns a, b and same, and optionally fold.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from lookalike.core.errors import UserError
from lookalike.core.log import log, report_each
from lookalike.core.readers import read_text
from lookalike.data.catalogue import outside_pictures, readable
from lookalike.data.splits import Pictures
from lookalike.verification.settings import PairSettings

FOLDS = 10  # to which pairs without a fold are assigned, as CFP and LFW have
COLUMNS = ("a", "b", "same", "fold")  # that a CSV file of pairs may have; others are ignored
ANSWERS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Pair(NamedTuple):
    """Two pictures of a protocol.

    Attributes:
        fold: Number of the fold.
        a: Path of the first picture, relative to the folder of the pictures.
        b: Path of the second picture.
        same: Whether they show the same person.
        where: File and line of the protocol, for error messages.
    """

    fold: int
    a: str
    b: str
    same: bool
    where: str


class Pairs(NamedTuple):
    """A protocol.

    Attributes:
        rows: The pairs, in the order of the protocol.
        identities: {path: identity} of every picture that the protocol lists.
    """

    rows: list[Pair]
    identities: Pictures

    @property
    def table(self) -> pd.DataFrame:
        """One row per pair, with the columns of Pair."""
        return pd.DataFrame(self.rows, columns=list(Pair._fields))


def read_pairs(settings: PairSettings) -> Pairs:
    """Read and check the pairs of a protocol.

    Raises:
        UserError: A file is missing, a line cannot be understood or contradicts others, or a fold
            lacks pairs of one kind. The message says where.
    """
    if not settings.data.is_dir():
        raise UserError(f"--data {settings.data}: no such folder")
    pairs = READERS[settings.protocol](settings)
    for pair in pairs.rows:
        if pair.a == pair.b:
            raise UserError(f"{pair.where}: pairs {pair.a} with itself")
        if pair.same != (pairs.identities[pair.a] == pairs.identities[pair.b]):
            claim = "the same person" if pair.same else "different people"
            raise UserError(f"{pair.where}: {pair.a} and {pair.b} cannot be {claim}")
    _check_folds(pairs.table)
    return pairs


def _check_folds(table: pd.DataFrame) -> None:
    """Check that every fold has pairs of both kinds; report those with fewer than others."""
    counts = table.groupby(["fold", "same"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=[True, False], fill_value=0)
    for fold, (same, other) in counts.iterrows():
        if not same or not other:
            raise UserError(f"fold {fold} has {same} pairs that are the same, {other} that are not")
    short = counts[(counts < counts.max()).any(axis=1)]
    most = " and ".join(str(number) for number in counts.max())
    named = [f"fold {fold} ({same} + {other})" for fold, (same, other) in short.iterrows()]
    report_each(f"folds lack pairs (same + not same; others have {most})", named)


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ("file:number", text) for each line of a text file that is not empty.

    Raises:
        UserError: The file cannot be read, or is not UTF-8 text.
    """
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def is_number(text: str) -> bool:
    """Return whether a text is a whole number of at most nine digits.

    >>> [is_number(text) for text in ("07", "²", "-1", "9" * 5000)]
    [True, False, False, False]
    """
    return text.isdecimal() and len(text) <= 9


def normalize_path(path: str, where: str) -> str:
    """Return a relative path in its shortest form, with forward slashes.

    Args:
        path: A path relative to the folder of the pictures.
        where: File and line, for the error message.

    Raises:
        UserError: It leads out of the folder of the pictures.

    >>> normalize_path("Protocol/../Data/Images/001/frontal/01.jpg", "list.txt:1")
    'Data/Images/001/frontal/01.jpg'
    """
    short = Path(os.path.normpath(path)).as_posix()
    if Path(short).is_absolute() or short.startswith("..") or short == ".":
        raise UserError(f"{where}: {path} is not a picture inside --data")
    return short


# ---- Celebrities in Frontal-Profile -------------------------------------------------------------


def read_cfp(settings: PairSettings) -> Pairs:
    """Read the splits of Celebrities in Frontal-Profile.

    Each line of Protocol/Split/<kind>/<NN>/{same,diff}.txt is a number in Pair_list_F.txt and one
    in the list of the other side. The identity is the folder above `frontal` and `profile`.

    Raises:
        UserError: A file is missing, or a line cannot be understood.
    """
    lists = {side: read_pair_list(settings.data, side) for side in sorted(set(settings.kind))}
    root = settings.data / "Protocol" / "Split" / settings.kind
    splits = sorted(p for p in root.glob("*") if p.is_dir() and is_number(p.name))
    if not splits:
        raise UserError(f"{root}: holds no splits 01, 02, …")
    first, second = (lists[side] for side in settings.kind)
    rows = [
        Pair(int(split.name), *parse_cfp_pair(line, where, first, second), same, where)
        for split in splits
        for name, same in (("same.txt", True), ("diff.txt", False))
        for where, line in numbered_lines(split / name)
    ]
    paths = [path for listed in lists.values() for path in listed.values()]
    return Pairs(rows, {path: Path(path).parts[-3] for path in paths})


def read_pair_list(root: Path, side: str) -> dict[int, str]:
    """Read Pair_list_F.txt or Pair_list_P.txt.

    Args:
        root: Folder of the data set.
        side: F or P.

    Returns:
        {number: path in `root`}.

    Raises:
        UserError: The file is missing, or a line cannot be understood.
    """
    pictures: dict[int, str] = {}
    for where, line in numbered_lines(root / "Protocol" / f"Pair_list_{side}.txt"):
        number, _, path = line.partition(" ")
        short = normalize_path(f"Protocol/{path.strip()}", where) if is_number(number) else ""
        if len(Path(short).parts) < 3:
            raise UserError(f"{where}: {line!r} is not like '1 ../Data/Images/001/frontal/01.jpg'")
        if int(number) in pictures:
            raise UserError(f"{where}: a second picture has the number {number}")
        pictures[int(number)] = short
    return pictures


def parse_cfp_pair(
    line: str, where: str, first: dict[int, str], second: dict[int, str]
) -> tuple[str, str]:
    """Return the paths of the two pictures of a line like "12,7".

    Args:
        line: Two numbers.
        where: File and line, for the error message.
        first: {number: path} of the list for the first number.
        second: The list for the second number.

    Raises:
        UserError: The line is not two numbers, or a list lacks one of them.
    """
    numbers = [word.strip() for word in line.split(",")]
    if len(numbers) != 2 or not all(map(is_number, numbers)):
        raise UserError(f"{where}: {line!r} is not two numbers like '12,7'")
    for number, pictures in zip(numbers, (first, second), strict=True):
        if int(number) not in pictures:
            raise UserError(f"{where}: the list of pictures has no number {number}")
    return first[int(numbers[0])], second[int(numbers[1])]


# ---- Labeled Faces in the Wild ------------------------------------------------------------------


def read_lfw(settings: PairSettings) -> Pairs:
    """Read the pairs.txt of Labeled Faces in the Wild.

    Its first line is like "10 300" (folds, and pairs of each kind). Then come for each fold its
    same pairs, "name number number", and its different pairs, "name number name number".

    Raises:
        UserError: The file is missing, or a line cannot be understood.
    """
    path = settings.pairs or settings.data / "pairs.txt"
    (where, header), *lines = list(numbered_lines(path)) or [(f"{path}:1", "")]
    sizes = header.split()
    if len(sizes) != 2 or not all(is_number(word) and int(word) for word in sizes):
        raise UserError(f"{where}: {header!r} is not the folds and pairs of View 2, like '10 300'")
    folds, each = map(int, sizes)
    if len(lines) != 2 * folds * each:
        raise UserError(f"{where}: promises {2 * folds * each} pairs, {len(lines)} follow")
    rows: list[Pair] = []
    identities: Pictures = {}
    for i, (where, line) in enumerate(lines):
        same = i % (2 * each) < each
        pair = parse_lfw_pair(line, where, same)
        identities |= {picture: name for name, picture in pair}
        rows.append(Pair(1 + i // (2 * each), pair[0][1], pair[1][1], same, where))
    return Pairs(rows, identities)


def parse_lfw_pair(line: str, where: str, same: bool) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return ((identity, path), (identity, path)) of a line.

    Args:
        line: Three words for a same pair, four for a different one.
        where: File and line, for the error message.
        same: Which of the two is expected here.

    Raises:
        UserError: The line has another form.

    >>> parse_lfw_pair("Ada_L 1 Bo_R 12", "pairs.txt:9", same=False)[1]
    ('Bo_R', 'Bo_R/Bo_R_0012.jpg')
    """
    words = line.split("\t") if "\t" in line else line.split()
    if same and len(words) == 3:
        words = [*words[:2], words[0], words[2]]
    elif same or len(words) != 4:
        form = "a name and two numbers" if same else "a name, a number, a name, a number"
        raise UserError(f"{where}: {line!r} is not {form}, as expected here")
    found = []
    for name, number in (words[:2], words[2:]):
        if not is_number(number):
            raise UserError(f"{where}: {number!r} is not the number of a picture")
        found.append((name, normalize_path(f"{name}/{name}_{int(number):04}.jpg", where)))
    return found[0], found[1]


# ---- pairs of your own --------------------------------------------------------------------------


def read_csv(settings: PairSettings) -> Pairs:
    """Read a CSV file with a header line.

    Without a column `fold`, same and different pairs are each assigned to ten folds in turn. An
    identity is all pictures that same pairs link.

    Raises:
        UserError: The file is missing, or a line cannot be understood.
    """
    if settings.pairs is None:
        raise UserError("--protocol csv: name the file of the pairs with --pairs")
    table = csv.DictReader(io.StringIO(read_text(settings.pairs)), restval="")
    try:
        lines = [(f"{settings.pairs}:{table.line_num}", line) for line in table]
    except csv.Error as error:
        raise UserError(f"{settings.pairs}:{table.line_num + 1}: not CSV ({error})") from error
    columns = Counter(table.fieldnames or [])
    if missing := sorted({"a", "b", "same"} - set(columns)):
        raise UserError(f"{settings.pairs}:1: has no column {missing[0]}")
    if repeated := [name for name in COLUMNS if columns[name] > 1]:
        raise UserError(f"{settings.pairs}:1: has the column {repeated[0]} twice")
    if longer := [where for where, line in lines if None in line]:
        raise UserError(f"{longer[0]}: has more fields than there are columns")
    turns: dict[bool, Iterator[int]] = {True: count(), False: count()}
    rows = [_parse_csv_pair(line, where, turns) for where, line in lines]
    if not rows:
        raise UserError(f"{settings.pairs}: holds no pairs")
    return Pairs(rows, link_identities(rows))


def _parse_csv_pair(line: dict[str, str], where: str, turns: dict[bool, Iterator[int]]) -> Pair:
    """Return the pair of a line; `turns` counts the pairs of each kind so far."""
    same = ANSWERS.get(line["same"].strip().lower())
    if same is None:
        raise UserError(f"{where}: same is {line['same']!r}; it can be 1 or 0")
    fold = line["fold"] if "fold" in line else str(1 + next(turns[same]) % FOLDS)
    if not is_number(fold.strip()):
        raise UserError(f"{where}: fold is {fold!r}, which is not a number")
    a, b = (normalize_path(line[name].strip(), where) for name in "ab")
    return Pair(int(fold), a, b, same, where)


def link_identities(rows: list[Pair]) -> Pictures:
    """Return {path: identity}, where same pairs link the pictures of an identity.

    An identity is called by the path of its first picture.

    >>> link_identities([Pair(1, "x", "y", True, ""), Pair(1, "x", "z", False, "")])
    {'x': 'x', 'y': 'x', 'z': 'z'}
    """
    paths = list(dict.fromkeys(path for row in rows for path in (row.a, row.b)))
    index = {path: i for i, path in enumerate(paths)}
    links = np.array([(index[row.a], index[row.b]) for row in rows if row.same]).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(links)), links.T.astype(int)), (len(paths), len(paths)))
    groups = connected_components(graph, directed=False)[1]
    first = {group: path for path, group in reversed(list(zip(paths, groups, strict=True)))}
    return {path: first[group] for path, group in zip(paths, groups, strict=True)}


READERS: dict[str, Callable[[PairSettings], Pairs]] = {
    "cfp": read_cfp,
    "lfw": read_lfw,
    "csv": read_csv,
}


# ---- their pictures -----------------------------------------------------------------------------


def read_pictures(settings: PairSettings, pairs: Pairs) -> pd.DataFrame:
    """Open, hash and check all pictures of a protocol; unreadable ones are named in the log.

    Returns:
        Catalogue rows (`path`, `identity`, `content`, `problem`), sorted by path.

    Raises:
        UserError: A picture is missing and --missing is `error` (the message names the line that
            lists it), or no picture can be read.
    """
    paths = sorted(pairs.identities)
    absent = {path for path in paths if not (settings.data / path).is_file()}
    if absent and settings.missing == "error":
        _refuse_absent(settings.data, pairs, absent)
    rows = outside_pictures([settings.data / path for path in paths])
    rows = rows.assign(path=paths, identity=[pairs.identities[path] for path in paths])
    good = readable(rows)
    report_each(
        "pictures cannot be read: all their pairs count as answered wrong",
        rows.path[~good] + " (" + rows.problem[~good] + ")",
    )
    if not good.any():
        raise UserError(f"{settings.data}: none of the {len(paths)} pictures can be read")
    log.info("%d pairs in %d folds", len(pairs.rows), pairs.table.fold.nunique())
    return rows


def _refuse_absent(root: Path, pairs: Pairs, absent: set[str]) -> None:
    """Raise UserError for missing pictures; name the first line of the protocol that lists one."""
    how_many = f"{len(absent)} of {len(pairs.identities)} pictures of the protocol are missing"
    for pair in pairs.rows:
        for path in (pair.a, pair.b):
            if path in absent:
                raise UserError(
                    f"{pair.where}: {path} is not in {root}; {how_many}. "
                    "With --missing wrong, their pairs count as wrong"
                )
    raise UserError(f"{root}: {how_many}, first {min(absent)}; ignored with --missing wrong")


def row_indices(pairs: pd.DataFrame, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of pictures a and b of (N,) pairs among catalogue rows; -1 for none."""
    index = {path: i for i, path in enumerate(rows.path)}
    first, second = (np.array([index.get(path, -1) for path in pairs[name]]) for name in "ab")
    return first, second


def score_readable(
    pairs: pd.DataFrame,
    rows: pd.DataFrame,
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Score all pairs whose pictures are both among the catalogue rows.

    Args:
        pairs: N rows with the columns `a` and `b`.
        rows: Catalogue rows of the readable pictures.
        score: Returns the scores of pairs, given the (n,) row indices of both pictures.

    Returns:
        (N,) float scores; NaN where a picture is not among the rows.
    """
    first, second = row_indices(pairs, rows)
    found = (first >= 0) & (second >= 0)
    scores = np.full(len(pairs), np.nan)
    if found.any():
        scores[found] = score(first[found], second[found])
    return scores
