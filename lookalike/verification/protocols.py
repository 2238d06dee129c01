"""Protocols of pair verification -> one table of pairs: two pictures, same person or not, a fold.

    pairs = read_pairs(PairSettings(Path("cfp"), protocol="cfp", kind="FP"))
    pairs.rows       # a Pair each: fold, a, b, same, where
    pairs.people     # {path: whom it shows} of all pictures that the protocol lists

`cfp` is Celebrities in Frontal-Profile (Sengupta et al., 2016): ten splits, frontal to frontal (FF)
or frontal to profile (FP). `lfw` is View 2 of Labeled Faces in the Wild (Huang et al., 2007), its
pairs.txt. `csv` is a file of your own with the columns a, b and same, and perhaps fold.
"""

import csv
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from lookalike.core.errors import UserError
from lookalike.core.log import log, report_each
from lookalike.data.catalogue import outside_pictures, readable
from lookalike.data.splits import Pictures

FOLDS = 10  # that pairs without a fold are dealt to, as CFP and LFW have
ANSWERS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass
class PairSettings:
    """Which pairs of pictures are asked about."""

    data: Path
    """Folder of the pictures."""
    protocol: Literal["cfp", "lfw", "csv"] = "cfp"
    """Celebrities in Frontal-Profile, LFW's pairs.txt (View 2), or a CSV file with the columns a, b
    (paths in --data), same (1 or 0), and perhaps fold."""
    kind: Literal["FF", "FP"] = "FP"
    """`cfp`: frontal against frontal pictures, or against profiles."""
    pairs: Path | None = None
    """The file of the pairs, for `lfw` (default: pairs.txt in --data) and `csv`."""
    missing: Literal["error", "wrong"] = "error"
    """A picture that is not there: refuse the protocol, or score all its pairs as wrong."""


class Pair(NamedTuple):
    """Two pictures by their paths in the folder of the pictures, whether they show the same person,
    and where that stands (file and line)."""

    fold: int
    a: str
    b: str
    same: bool
    where: str


class Pairs(NamedTuple):
    """A protocol. people: {path: identity} of every picture that it lists."""

    rows: list[Pair]
    people: Pictures

    @property
    def table(self) -> pd.DataFrame:
        """A row a pair, columns as in Pair."""
        return pd.DataFrame(self.rows, columns=list(Pair._fields))


def read_pairs(settings: PairSettings) -> Pairs:
    """The pairs of a protocol, checked.

    Raises:
        UserError: a file is missing, a line cannot be understood or contradicts others, or a fold
            lacks pairs of one kind; it says where.
    """
    if not settings.data.is_dir():
        raise UserError(f"--data {settings.data}: no such folder")
    pairs = READERS[settings.protocol](settings)
    for pair in pairs.rows:
        if pair.a == pair.b:
            raise UserError(f"{pair.where}: pairs {pair.a} with itself")
        if pair.same != (pairs.people[pair.a] == pairs.people[pair.b]):
            said = "the same person" if pair.same else "different people"
            raise UserError(f"{pair.where}: {pair.a} and {pair.b} cannot be {said}")
    _check_folds(pairs.table)
    return pairs


def _check_folds(table: pd.DataFrame) -> None:
    """Every fold has pairs of both kinds; those with fewer than others are named."""
    counts = table.groupby(["fold", "same"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=[True, False], fill_value=0)
    for fold, (same, other) in counts.iterrows():
        if not same or not other:
            raise UserError(f"fold {fold} has {same} pairs that are the same, {other} that are not")
    short = counts[(counts < counts.max()).any(axis=1)]
    most = " and ".join(str(number) for number in counts.max())
    named = [f"fold {fold} ({same} + {other})" for fold, (same, other) in short.iterrows()]
    report_each(f"folds lack pairs (same + not same; others have {most})", named)


def text_of(path: Path) -> str:
    """What a text file holds. Raises UserError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text file ({error})") from error


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """("file:number", text) of a text file's lines that are not empty. Raises: see text_of."""
    for number, line in enumerate(text_of(path).splitlines(), 1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def inside(path: str, where: str) -> str:
    """A relative path in its shortest form, with forward slashes.

    Raises:
        UserError: it leads out of the folder of the pictures.

    >>> inside("Protocol/../Data/Images/001/frontal/01.jpg", "list.txt:1")
    'Data/Images/001/frontal/01.jpg'
    """
    short = Path(os.path.normpath(path)).as_posix()
    if Path(short).is_absolute() or short.startswith("..") or short == ".":
        raise UserError(f"{where}: {path} is no picture inside of --data")
    return short


# ---- Celebrities in Frontal-Profile -------------------------------------------------------------


def read_cfp(settings: PairSettings) -> Pairs:
    """Protocol/Split/<kind>/<NN>/{same,diff}.txt: each line is a number in Pair_list_F.txt and one
    in the list of the other side. A person is the folder above `frontal` and `profile`."""
    lists = {side: read_pair_list(settings.data, side) for side in sorted(set(settings.kind))}
    root = settings.data / "Protocol" / "Split" / settings.kind
    splits = sorted(p for p in root.glob("*") if p.is_dir() and p.name.isdigit())
    if not splits:
        raise UserError(f"{root}: holds no splits 01, 02, …")
    first, second = (lists[side] for side in settings.kind)
    rows = [
        Pair(int(split.name), *numbered_pair(line, where, first, second), same, where)
        for split in splits
        for name, same in (("same.txt", True), ("diff.txt", False))
        for where, line in lines_of(split / name)
    ]
    paths = [path for listed in lists.values() for path in listed.values()]
    return Pairs(rows, {p: Path(p).parts[-3] for p in paths})


def read_pair_list(root: Path, side: str) -> dict[int, str]:
    """{number: path in `root`} of Pair_list_F.txt or Pair_list_P.txt."""
    pictures: dict[int, str] = {}
    for where, line in lines_of(root / "Protocol" / f"Pair_list_{side}.txt"):
        number, _, path = line.partition(" ")
        short = inside(f"Protocol/{path.strip()}", where) if number.isdigit() else ""
        if len(Path(short).parts) < 3:
            raise UserError(f"{where}: {line!r} is not like '1 ../Data/Images/001/frontal/01.jpg'")
        if int(number) in pictures:
            raise UserError(f"{where}: a second picture has the number {number}")
        pictures[int(number)] = short
    return pictures


def numbered_pair(
    line: str, where: str, first: dict[int, str], second: dict[int, str]
) -> tuple[str, str]:
    """The two pictures of a line like "12,7"."""
    numbers = [word.strip() for word in line.split(",")]
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        raise UserError(f"{where}: {line!r} is not two numbers like '12,7'")
    for number, pictures in zip(numbers, (first, second), strict=True):
        if int(number) not in pictures:
            raise UserError(f"{where}: the list of pictures has no number {number}")
    return first[int(numbers[0])], second[int(numbers[1])]


# ---- Labeled Faces in the Wild ------------------------------------------------------------------


def read_lfw(settings: PairSettings) -> Pairs:
    """pairs.txt: "10 300" (folds, and pairs of each kind), then for each fold its same pairs, "name
    number number", and its others, "name number name number"."""
    path = settings.pairs or settings.data / "pairs.txt"
    (where, head), *lines = list(lines_of(path)) or [(f"{path}:1", "")]
    sizes = head.split()
    if len(sizes) != 2 or not all(word.isdigit() and int(word) for word in sizes):
        raise UserError(f"{where}: {head!r} is not the folds and pairs of View 2, like '10 300'")
    folds, each = map(int, sizes)
    if len(lines) != 2 * folds * each:
        raise UserError(f"{where}: promises {2 * folds * each} pairs, {len(lines)} follow")
    rows: list[Pair] = []
    people: Pictures = {}
    for i, (where, line) in enumerate(lines):
        same = i % (2 * each) < each
        pair = lfw_pair(line, where, same)
        people |= {picture: name for name, picture in pair}
        rows.append(Pair(1 + i // (2 * each), pair[0][1], pair[1][1], same, where))
    return Pairs(rows, people)


def lfw_pair(line: str, where: str, same: bool) -> tuple[tuple[str, str], tuple[str, str]]:
    """((name, path), (name, path)) of a line.

    >>> lfw_pair("Ada_L 1 Bo_R 12", "pairs.txt:9", same=False)[1]
    ('Bo_R', 'Bo_R/Bo_R_0012.jpg')
    """
    words = line.split("\t") if "\t" in line else line.split()
    if same and len(words) == 3:
        words = [*words[:2], words[0], words[2]]
    elif same or len(words) != 4:
        form = "a name and two numbers" if same else "a name, a number, a name, a number"
        raise UserError(f"{where}: {line!r} is not {form}, as is due here")
    found = []
    for name, number in (words[:2], words[2:]):
        if not number.isdigit():
            raise UserError(f"{where}: {number!r} is no picture's number")
        found.append((name, inside(f"{name}/{name}_{int(number):04}.jpg", where)))
    return found[0], found[1]


# ---- pairs of your own --------------------------------------------------------------------------


def read_csv(settings: PairSettings) -> Pairs:
    """A CSV file with a head line; without a column `fold`, the same pairs and the others are each
    dealt to ten folds in turn. A person is all pictures that same pairs link."""
    if settings.pairs is None:
        raise UserError("--protocol csv: name the file of the pairs with --pairs")
    table = csv.DictReader(io.StringIO(text_of(settings.pairs)), restval="")
    try:
        lines = [(f"{settings.pairs}:{table.line_num}", line) for line in table]
    except csv.Error as error:
        raise UserError(f"{settings.pairs}:{table.line_num + 1}: no CSV ({error})") from error
    if missing := sorted({"a", "b", "same"} - set(table.fieldnames or [])):
        raise UserError(f"{settings.pairs}:1: has no column {missing[0]}")
    turns = {True: count(), False: count()}
    rows = []
    for where, line in lines:
        same = ANSWERS.get(line["same"].strip().lower())
        if same is None:
            raise UserError(f"{where}: same is {line['same']!r}; it can be 1 or 0")
        fold = line["fold"] if "fold" in line else str(1 + next(turns[same]) % FOLDS)
        if not fold.strip().isdigit():
            raise UserError(f"{where}: fold is {fold!r}, which is no number")
        a, b = (inside(line[name].strip(), where) for name in "ab")
        rows.append(Pair(int(fold), a, b, same, where))
    if not rows:
        raise UserError(f"{settings.pairs}: holds no pairs")
    return Pairs(rows, linked_people(rows))


def linked_people(rows: list[Pair]) -> Pictures:
    """{path: the first picture of its person}: same pairs link the pictures of a person.

    >>> linked_people([Pair(1, "x", "y", True, ""), Pair(1, "x", "z", False, "")])
    {'x': 'x', 'y': 'x', 'z': 'z'}
    """
    paths = list(dict.fromkeys(path for row in rows for path in (row.a, row.b)))
    place = {path: i for i, path in enumerate(paths)}
    links = np.array([(place[row.a], place[row.b]) for row in rows if row.same]).reshape(-1, 2)
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
    """Catalogue rows (`path`, `identity`, `content`, `problem`) of all pictures of a protocol, each
    opened, hashed and checked; what cannot be read is counted and named in the log.

    Raises:
        UserError: a picture is not there, and --missing does not say what to do then; it says which
            line wants it. Or none can be read.
    """
    paths = sorted(pairs.people)
    absent = {path for path in paths if not (settings.data / path).is_file()}
    if absent and settings.missing == "error":
        _refuse_absent(settings.data, pairs, absent)
    rows = outside_pictures([settings.data / path for path in paths])
    rows = rows.assign(path=paths, identity=[pairs.people[path] for path in paths])
    good = readable(rows)
    report_each(
        "pictures cannot be read: all their pairs count as answered wrong",
        rows.path[~good] + " (" + rows.problem[~good] + ")",
    )
    if not good.any():
        raise UserError(f"{settings.data}: not one of the {len(paths)} pictures can be read")
    log.info("%d pairs in %d folds", len(pairs.rows), pairs.table.fold.nunique())
    return rows


def _refuse_absent(root: Path, pairs: Pairs, absent: set[str]) -> None:
    """Raises UserError for pictures that are not there, and names the first line that wants one."""
    how_many = f"{len(absent)} of {len(pairs.people)} pictures of the protocol are not there"
    for pair in pairs.rows:
        for path in (pair.a, pair.b):
            if path in absent:
                raise UserError(
                    f"{pair.where}: {path} is not in {root}; {how_many}. "
                    "--missing wrong goes on, and scores their pairs as wrong"
                )
    raise UserError(f"{root}: {how_many}, first {min(absent)}; --missing wrong goes on")


def places_of(pairs: pd.DataFrame, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Where the pictures a and b of pairs stand among catalogue rows; -1: they do not."""
    place = {path: i for i, path in enumerate(rows.path)}
    first, second = (np.array([place.get(path, -1) for path in pairs[name]]) for name in "ab")
    return first, second


def score_known(
    pairs: pd.DataFrame,
    rows: pd.DataFrame,
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """(N,) scores of pairs; NaN where a picture is not among the catalogue rows.

    score: the scores of pairs of row numbers.
    """
    first, second = places_of(pairs, rows)
    known = (first >= 0) & (second >= 0)
    scores = np.full(len(pairs), np.nan)
    if known.any():
        scores[known] = score(first[known], second[known])
    return scores
