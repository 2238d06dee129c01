"""IMDB-WIKI: choose its useful pictures, by the Matlab file that comes with them.

    python data_extraction.py --source imdb --metadata imdb.mat --source-path imdb
    python data_extraction.py --source imdb --metadata wiki.mat --source-path wiki --min-pictures 5

The collection is of Rothe, Timofte and Van Gool, "Deep expectation of real and apparent age from a
single image without facial landmarks" (2018). Half of it is of little use for recognition: there is
no face in the picture, or there are several and the name may belong to any of them.
`choose_pictures` filters, and logs how many pictures and identities each filter leaves;
`extraction` lays them out by a protocol.

--source-path is the folder that holds the folders 00 to 99, of the whole pictures or the crops.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image
from tabulate import tabulate

from lookalike.core.errors import UserError
from lookalike.core.files import write_table
from lookalike.core.log import log, report_each
from lookalike.core.settings import ExtractSettings
from lookalike.data.images import map_images, strict_decoding

if TYPE_CHECKING:
    import pandas as pd  # slow to import, and this module is read for every --help

# Each is an array with one entry per picture; imdb.mat has celeb_id and celeb_names as well.
FIELDS = (
    "dob",
    "photo_taken",
    "full_path",
    "gender",
    "name",
    "face_location",
    "face_score",
    "second_face_score",
)
BOX = ["x1", "y1", "x2", "y2"]
FORMATS = ("JPEG", "PNG")  # the collection has no others
LONGEST_NAME = 255  # bytes, on most file systems
MATLAB_DAYS_BEFORE_YEAR_1 = 366


class Filter(NamedTuple):
    """A condition that pictures have to meet.

    Attributes:
        description: What is left after it.
        passes: From rows of the metadata to a boolean for each.
        warning: What the log says of the pictures that fail, where that is an anomaly.
    """

    description: str
    passes: Callable[[pd.DataFrame], Any]
    warning: str = ""


def choose_pictures(root: Path, settings: ExtractSettings) -> pd.DataFrame:
    """Choose the pictures that pass all filters, and log how many each of them leaves.

    Args:
        root: Folder of the pictures, to which the paths in the metadata are relative.
        settings: The metadata file and the filters' limits.

    Returns:
        The rows of `read_metadata` that are left.

    Raises:
        UserError: The metadata cannot be used, there is no such folder, or no picture is left.
    """
    metadata = metadata_file(settings)
    left = read_metadata(metadata)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --source-path is the one that holds 00 to 99")
    counts = [(f"in {metadata.name}", *_count(left))]
    for condition in filters(root, settings):
        passed = np.asarray(condition.passes(left), bool)
        if condition.warning:
            report_each(condition.warning, _printable(left.path[~passed]))
        left = left[passed]
        counts.append((condition.description, *_count(left)))
        if left.empty:
            break
    log.info("%s", tabulate(counts, ["IMDB-WIKI", "pictures", "identities"]))
    if left.empty:
        raise UserError(f"{metadata}: no picture is left by the filter '{counts[-1][0]}'")
    return left


def _printable(paths: Iterable[str]) -> list[str]:
    return [path if path.isprintable() else ascii(path) for path in paths]


def _count(pictures: pd.DataFrame) -> tuple[int, int]:
    return len(pictures), pictures.identity.nunique()


def filter_settings(settings: ExtractSettings) -> dict[str, Any]:
    """Return the settings that the choice depends on, beside the metadata and the pictures."""
    return {name: getattr(settings, name) for name in ("min_pictures", "min_size", "one_face")}


def filters(root: Path, settings: ExtractSettings) -> list[Filter]:
    """Return the filters in their order: those that read from the disk come when few are left.

    A face was found where `face_score` is finite, and a second one where `second_face_score` is.

    Args:
        root: Folder of the pictures.
        settings: The filters' limits.
    """
    alone = Filter("no second face (--one-face)", lambda rows: ~np.isfinite(rows.second_face_score))
    enough = Filter(
        f"{settings.min_pictures} pictures of the person (--min-pictures)",
        lambda rows: rows.groupby("identity").path.transform("size") >= settings.min_pictures,
    )
    return [
        Filter(
            "a path inside the folder",
            lambda rows: rows.path.map(stays_inside),
            "paths lead elsewhere and are left out",
        ),
        Filter(
            "listed once",
            lambda rows: ~rows.path.duplicated(),
            "pictures are listed more than once and used as they are listed first",
        ),
        Filter("a person's name", lambda rows: rows["name"].ne("")),
        Filter("a face found", lambda rows: np.isfinite(rows.face_score)),
        *([alone] if settings.one_face == "on" else []),
        enough,
        *_disk_filters(root, settings.min_size),
        enough,
    ]


def _disk_filters(root: Path, min_size: int) -> list[Filter]:
    """Return the filters that look at each file."""

    def exists(path: str) -> bool:
        return (root / path).is_file()

    def large_enough(path: str) -> bool:
        return shorter_side(root / path) >= min_size

    return [
        Filter(
            f"a file below {root} (--source-path)",
            lambda rows: list(map_images(exists, rows.path.tolist(), "looking")),
            "pictures are listed but not there",
        ),
        Filter(
            f"{min_size} x {min_size} pixels (--min-size)",
            lambda rows: list(map_images(large_enough, rows.path.tolist(), "measuring")),
        ),
    ]


def stays_inside(path: str) -> bool:
    r"""Return whether a path from the metadata names a visible file below the pictures' folder.

    >>> [stays_inside(p) for p in ("01/a.jpg", "/etc/a.jpg", "../a.jpg", r"..\a.jpg", "c:a", "")]
    [True, False, False, False, False, False]
    """
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith(".") for part in parts)  # `..` as well
    possible = path.isprintable() and len(path.encode()) <= LONGEST_NAME
    return bool(parts) and possible and not hidden and not re.search(r"^/|[\\:]", path)


def shorter_side(path: Path) -> int:
    """Return the height or width of a picture in pixels, from its header; 0 if it is unreadable.

    The whole picture is measured, not the face in it; in the collection's crops, that is the face
    with its surroundings.
    """
    try:
        with strict_decoding(), Image.open(path, formats=FORMATS) as image:
            return min(image.size)
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        log.debug("%s: not a picture (%s)", path, error)
        return 0


# ---- reading the metadata -----------------------------------------------------------------------


def read_metadata(path: Path) -> pd.DataFrame:
    """Read the table in imdb.mat or wiki.mat, unfiltered.

    Args:
        path: The Matlab file.

    Returns:
        One row per picture, with the columns

        - `path`: relative to the folder of the pictures.
        - `identity`: name of the person's folder, one for each celeb_id (imdb) or name (wiki).
        - `name`: the person's name, "" where it is unknown.
        - `dob`, `photo_taken`, `age`: date of birth, year of the picture, and years between them.
        - `gender`: female, male or "".
        - `face_score`, `second_face_score`: of the detector that the collection's authors used;
          -inf without a face, NaN without a second one.
        - `x1`, `y1`, `x2`, `y2`: face box in pixels, counted from 1 as Matlab does.

    Raises:
        UserError: No such file, or it is not IMDB-WIKI's metadata.
    """
    import pandas as pd

    fields = _load(path)
    try:
        numbers, names = _persons(fields)
        folders = folder_names(dict(zip(numbers, names, strict=True)))
        table = {
            "path": [str(PurePosixPath(text)) for text in _texts(fields["full_path"])],
            "identity": [folders[number] for number in numbers],
            "name": names,
            **_ages(fields),
            "gender": [{0: "female", 1: "male"}.get(g, "") for g in fields["gender"].ravel()],
            "face_score": fields["face_score"].astype(float),
            "second_face_score": fields["second_face_score"].astype(float),
        }
        boxes = np.array([_box(cell) for cell in fields["face_location"]]).reshape(-1, 4)
        return pd.DataFrame(table | dict(zip(BOX, boxes.T, strict=True)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: its fields are not as IMDB-WIKI's ({error})") from error


def _load(path: Path) -> dict[str, np.ndarray]:
    """Return the fields of the file's only struct, each as a flat array."""
    if not path.is_file():
        raise UserError(f"--metadata {path}: no such file")
    log.info("reading %s", path)
    struct = _load_struct(path)
    if struct is None or struct.dtype.names is None or struct.size != 1:
        raise UserError(f"{path}: holds no struct `imdb` or `wiki`; is it IMDB-WIKI's metadata?")
    missing = [name for name in FIELDS if name not in struct.dtype.names]
    if missing:
        raise UserError(f"{path}: the struct lacks {', '.join(missing)}")
    return {name: np.ravel(struct.flat[0][name]) for name in struct.dtype.names}


def _load_struct(path: Path) -> np.ndarray | None:
    """Return the array `imdb` or `wiki` of a Matlab file, if there is one."""
    from scipy.io import loadmat

    try:
        stored = loadmat(path, appendmat=False, variable_names=("imdb", "wiki"))
    except NotImplementedError as error:  # what SciPy says to a file of HDF5
        raise UserError(
            f"{path}: the format of Matlab 7.3 is not supported: save it with Matlab's -v7 first"
        ) from error
    except Exception as error:  # a file of another kind makes SciPy raise nearly anything
        raise UserError(f"{path}: cannot be read as a Matlab file ({error})") from error
    return stored.get("imdb", stored.get("wiki"))


def _persons(fields: Mapping[str, np.ndarray]) -> tuple[list[int], list[str]]:
    """Return each picture's person: a number of their own, and the name, "" if it is unknown."""
    if "celeb_id" not in fields or "celeb_names" not in fields:
        import pandas as pd

        names = _texts(fields["name"])
        return pd.factorize(np.array(names, object))[0].tolist(), names
    all_names = ["", *_texts(fields["celeb_names"])]  # so that Matlab's 1 is the first of them
    numbers = fields["celeb_id"].astype(float)
    person = np.where((numbers >= 1) & (numbers < len(all_names)), numbers, 0).astype(int).tolist()
    return person, [all_names[number] for number in person]


def _texts(cells: np.ndarray) -> list[str]:
    """Return the strings in a cell array; an empty cell is ""."""
    return ["".join(map(str, np.ravel(cell)[:1])) for cell in cells]


def _ages(fields: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the columns dob, photo_taken and age."""
    import pandas as pd

    born = [birth_date(number) for number in fields["dob"].astype(float)]
    taken = [int(t) if np.isfinite(t) else None for t in fields["photo_taken"].astype(float)]
    age = [age_when_taken(*pair) for pair in zip(born, taken, strict=True)]
    return {"dob": born, "photo_taken": pd.array(taken, "Int64"), "age": pd.array(age, "Int64")}


def _box(cell: Any) -> np.ndarray:
    box = np.ravel(cell).astype(float)
    return box if box.size == 4 else np.full(4, np.nan)


def birth_date(number: float) -> date | None:
    """Return the day of a Matlab date number, which counts from the year 0; None if out of range.

    >>> birth_date(693726)
    datetime.date(1899, 5, 10)
    >>> birth_date(float("nan")), birth_date(0)
    (None, None)
    """
    day = number - MATLAB_DAYS_BEFORE_YEAR_1
    return date.fromordinal(int(day)) if 1 <= day <= date.max.toordinal() else None


def age_when_taken(born: date | None, year: int | None) -> int | None:
    """Return the age in years in the middle of a year, as the collection's authors count.

    Only the year is known of a picture.

    >>> age_when_taken(date(1899, 5, 10), 1968), age_when_taken(date(1899, 8, 1), 1968)
    (69, 68)
    """
    if born is None or year is None:
        return None
    return year - born.year - (born.month >= 7)


def folder_names(names: Mapping[int, str]) -> dict[int, str]:
    """Return a folder name for each person, also where two have the same name.

    Args:
        names: {the person's number: name}.

    Returns:
        {the person's number: folder name}.

    >>> folder_names({1: "Chris Evans", 2: "AC/DC", 7: "Chris Evans"})
    {1: 'Chris Evans~1', 2: 'AC_DC', 7: 'Chris Evans~7'}
    """
    safe = {number: safe_name(name) for number, name in names.items()}
    # Some file systems do not tell capitals from small letters.
    count = Counter(name.casefold() for name in safe.values())
    return {n: f"{name}~{n}" if count[name.casefold()] > 1 else name for n, name in safe.items()}


def safe_name(name: str) -> str:
    """Return a name that every file system takes as one visible folder; other scripts are kept.

    >>> safe_name("Beyoncé"), safe_name("../etc"), safe_name("a:b~1"), safe_name("..")
    ('Beyoncé', '_etc', 'a_b_1', '_')
    """
    composed = unicodedata.normalize("NFC", name)
    safe = "".join("_" if c in '/\\:*?"<>|~' or not c.isprintable() else c for c in composed)
    return safe.strip(" .")[:50].strip(" .") or "_"  # 50 letters are at most 200 bytes of 255


# ---- what the layout gets -----------------------------------------------------------------------


def metadata_file(settings: ExtractSettings) -> Path:
    """Return the setting --metadata, which this source needs.

    Raises:
        UserError: It is not set.
    """
    if settings.metadata is None:
        raise UserError("--source imdb needs --metadata: the file imdb.mat or wiki.mat")
    return settings.metadata


def by_identity(pictures: pd.DataFrame) -> dict[str, list[Path]]:
    """Return {identity: paths of its pictures, relative to the folder of them all}."""
    groups = pictures.groupby("identity").path
    return {str(identity): list(map(Path, paths)) for identity, paths in groups}


def write_metadata(
    target: Path, pictures: pd.DataFrame, root: Path, copies: Mapping[Path, Path]
) -> None:
    """Write metadata.csv: the rows of the pictures that were copied, with the copies' paths.

    Args:
        target: The folder of the copies, which gets the file.
        pictures: Rows of `read_metadata`.
        root: The folder of the originals.
        copies: {copy below `target`: original below `root`}.
    """
    paths = {
        picture.relative_to(root).as_posix(): copy.relative_to(target).as_posix()
        for copy, picture in copies.items()
    }
    used = pictures.assign(path=pictures.path.map(paths)).dropna(subset="path")
    write_table(target / "metadata.csv", used.sort_values("path"))
