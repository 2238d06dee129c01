"""IMDB-WIKI: which of its pictures are of use, read from the Matlab file that comes with them.

    python data_extraction.py --source imdb --metadata imdb.mat --source-path imdb
    python data_extraction.py --source imdb --metadata wiki.mat --source-path wiki --min-pictures 5

The collection is of Rothe, Timofte and Van Gool, "Deep expectation of real and apparent age from a
single image without facial landmarks" (2018). Half of it is of little use for recognition: no face
in the picture, or several, and nobody knows whose name it is. `choose_pictures` filters and says
how many pictures and people each filter leaves; data_extraction lays them out by a protocol.

--source-path is the folder that holds the folders 00 to 99, of the whole pictures or the crops.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.log import log, report_each
from lookalike.core.settings import ExtractSettings

# Each is an array with one entry for a picture; imdb.mat has celeb_id and celeb_names as well.
FIELDS = (
    *("dob", "photo_taken", "full_path", "gender", "name"),
    *("face_location", "face_score", "second_face_score"),
)
BOX = ["x1", "y1", "x2", "y2"]
FORMATS = ("JPEG", "PNG")  # more is not in the collection
LONGEST_NAME = 255  # bytes, on most file systems
MATLAB_DAYS_BEFORE_YEAR_1 = 366


class Filter(NamedTuple):
    """What a picture must be; `complaint` names those that are not, where that is an anomaly."""

    what: str
    keeps: Callable[[pd.DataFrame], Any]
    complaint: str = ""


def choose_pictures(root: Path, settings: ExtractSettings) -> pd.DataFrame:
    """The pictures that pass all filters; the log says how many each of them left.

    root: folder of the pictures, to which the paths in the metadata are relative.
    Returns the rows of `read_metadata` that are left.

    Raises:
        UserError: the metadata cannot be used, there is no such folder, or no picture is left.
    """
    metadata = metadata_file(settings)
    left = read_metadata(metadata)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --source-path is the one that holds 00 to 99")
    counts = [(f"in {metadata.name}", *_count(left))]
    for what, keeps, complaint in filters(root, settings):
        kept = np.asarray(keeps(left), bool)
        if complaint:
            report_each(complaint, (p if p.isprintable() else ascii(p) for p in left.path[~kept]))
        left = left[kept]
        counts.append((what, *_count(left)))
        if left.empty:
            break
    log.info("%s", tabulate(counts, ["IMDB-WIKI", "pictures", "people"]))
    if left.empty:
        raise UserError(f"{metadata}: no picture is left by the filter '{counts[-1][0]}'")
    return left


def _count(pictures: pd.DataFrame) -> tuple[int, int]:
    return len(pictures), pictures.identity.nunique()


def filter_settings(settings: ExtractSettings) -> dict[str, Any]:
    """The settings that the choice depends on, beside the metadata and the pictures."""
    return {name: getattr(settings, name) for name in ("min_pictures", "min_size", "one_face")}


def filters(root: Path, settings: ExtractSettings) -> list[Filter]:
    """The filters in their order: those that read from the disk come when few are left to read.

    A face was found where `face_score` is finite, and a second one where `second_face_score` is.
    """
    side = settings.min_size
    enough = Filter(
        f"{settings.min_pictures} pictures of the person (--min-pictures)",
        lambda rows: rows.groupby("identity").path.transform("size") >= settings.min_pictures,
    )
    alone = Filter("no second face (--one-face)", lambda rows: ~np.isfinite(rows.second_face_score))
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
        Filter(
            f"a file below {root} (--source-path)",
            lambda rows: [(root / p).is_file() for p in tqdm(rows.path, "looking", unit=" files")],
            "pictures are listed but not there",
        ),
        Filter(
            f"{side} x {side} pixels (--min-size)",
            lambda rows: [
                shorter_side(root / p) >= side for p in tqdm(rows.path, "measuring", unit=" files")
            ],
        ),
        enough,
    ]


def stays_inside(path: str) -> bool:
    r"""Whether a path from the metadata names a visible file below the folder it is relative to.

    >>> [stays_inside(p) for p in ("01/a.jpg", "/etc/a.jpg", "../a.jpg", r"..\a.jpg", "c:a", "")]
    [True, False, False, False, False, False]
    """
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith(".") for part in parts)  # `..` as well
    possible = path.isprintable() and len(path.encode()) <= LONGEST_NAME
    return bool(parts) and possible and not hidden and not re.search(r"^/|[\\:]", path)


def shorter_side(path: Path) -> int:
    """Height or width of a picture in pixels, from its header; 0 where it cannot be read.

    It is the whole picture that is measured, not the face in it; in the collection's crops, that
    is the face with its surroundings.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return min(image.size)
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        log.debug("%s: not a picture (%s)", path, error)
        return 0


# ---- reading the metadata -----------------------------------------------------------------------


def read_metadata(path: Path) -> pd.DataFrame:
    """The table in imdb.mat or wiki.mat, a row for a picture, nothing filtered.

    path: relative to the folder of the pictures; identity: the name of the person's folder, one
        for each celeb_id (imdb) or name (wiki); name: the person's, "" where it is not known.
    dob: date of birth; photo_taken: year; age: in years when it was taken; gender: female or male.
    face_score, second_face_score: of the detector that the collection's authors used, -inf without
        a face, NaN without a second one.
    x1, y1, x2, y2: face box in pixels, counted from 1 as Matlab does.

    Raises:
        UserError: no such file, or it is not IMDB-WIKI's metadata.
    """
    fields = _load(path)
    try:
        person, names = _people(fields)
        folders = folder_names(dict(zip(person, names, strict=True)))
        dob = [birth_date(number) for number in fields["dob"].astype(float)]
        taken = [int(t) if np.isfinite(t) else None for t in fields["photo_taken"].astype(float)]
        age = [age_when_taken(*pair) for pair in zip(dob, taken, strict=True)]
        boxes = np.array([_box(cell) for cell in fields["face_location"]]).reshape(-1, 4)
        table = {
            "path": [str(PurePosixPath(text)) for text in _texts(fields["full_path"])],
            "identity": [folders[number] for number in person],
            "name": names,
            "dob": dob,
            "photo_taken": pd.array(taken, "Int64"),
            "age": pd.array(age, "Int64"),
            "gender": [{0: "female", 1: "male"}.get(g, "") for g in fields["gender"].ravel()],
            "face_score": fields["face_score"].astype(float),
            "second_face_score": fields["second_face_score"].astype(float),
        }
        return pd.DataFrame(table | dict(zip(BOX, boxes.T, strict=True)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: its fields are not as IMDB-WIKI's ({error})") from error


def _load(path: Path) -> dict[str, np.ndarray]:
    """The fields of the file's one struct, each as a flat array."""
    from scipy.io import loadmat

    if not path.is_file():
        raise UserError(f"--metadata {path}: no such file")
    log.info("reading %s", path)
    try:
        stored = loadmat(path, appendmat=False, variable_names=("imdb", "wiki"))
    except NotImplementedError as error:  # what SciPy says to a file of HDF5
        raise UserError(
            f"{path}: of Matlab 7.3, which is not read here: save it with Matlab's -v7 first"
        ) from error
    except Exception as error:  # a file of another kind makes SciPy raise nearly anything
        raise UserError(f"{path}: cannot be read as a Matlab file ({error})") from error
    struct = stored.get("imdb", stored.get("wiki"))
    if struct is None or struct.dtype.names is None or struct.size != 1:
        raise UserError(f"{path}: holds no struct `imdb` or `wiki`; is it IMDB-WIKI's metadata?")
    missing = [name for name in FIELDS if name not in struct.dtype.names]
    if missing:
        raise UserError(f"{path}: the struct lacks {', '.join(missing)}")
    return {name: np.ravel(struct.flat[0][name]) for name in struct.dtype.names}


def _people(fields: Mapping[str, np.ndarray]) -> tuple[list[int], list[str]]:
    """For each picture, a number that is the person's own and the name, "" for an unknown one."""
    if "celeb_id" not in fields or "celeb_names" not in fields:
        names = _texts(fields["name"])
        return pd.factorize(np.array(names, object))[0].tolist(), names
    known = ["", *_texts(fields["celeb_names"])]  # so that Matlab's 1 is the first of them
    numbers = fields["celeb_id"].astype(float)
    person = np.where((numbers >= 1) & (numbers < len(known)), numbers, 0).astype(int).tolist()
    return person, [known[number] for number in person]


def _texts(cells: np.ndarray) -> list[str]:
    """The strings in a cell array; an empty cell is ""."""
    return ["".join(map(str, np.ravel(cell)[:1])) for cell in cells]


def _box(cell: Any) -> np.ndarray:
    box = np.ravel(cell).astype(float)
    return box if box.size == 4 else np.full(4, np.nan)


def birth_date(number: float) -> date | None:
    """The day of a Matlab date number, which counts from the year 0; None if it is none of ours.

    >>> birth_date(693726)
    datetime.date(1899, 5, 10)
    >>> birth_date(float("nan")), birth_date(0)
    (None, None)
    """
    day = number - MATLAB_DAYS_BEFORE_YEAR_1
    return date.fromordinal(int(day)) if 1 <= day <= date.max.toordinal() else None


def age_when_taken(born: date | None, year: int | None) -> int | None:
    """Years of age in the middle of `year`, as the collection's authors count; only the year is
    known of a picture.

    >>> age_when_taken(date(1899, 5, 10), 1968), age_when_taken(date(1899, 8, 1), 1968)
    (69, 68)
    """
    if born is None or year is None:
        return None
    return year - born.year - (born.month >= 7)


def folder_names(people: Mapping[int, str]) -> dict[int, str]:
    """A folder's name for each person, also where two have the same name.

    >>> folder_names({1: "Chris Evans", 2: "AC/DC", 7: "Chris Evans"})
    {1: 'Chris Evans~1', 2: 'AC_DC', 7: 'Chris Evans~7'}
    """
    safe = {number: safe_name(name) for number, name in people.items()}
    # Some file systems do not tell capitals from small letters.
    count = Counter(name.casefold() for name in safe.values())
    return {n: f"{name}~{n}" if count[name.casefold()] > 1 else name for n, name in safe.items()}


def safe_name(name: str) -> str:
    """A name that every file system takes as one visible folder; other scripts are kept.

    >>> safe_name("Beyoncé"), safe_name("../etc"), safe_name("a:b~1"), safe_name("..")
    ('Beyoncé', '_etc', 'a_b_1', '_')
    """
    whole = unicodedata.normalize("NFC", name)
    kept = "".join("_" if c in '/\\:*?"<>|~' or not c.isprintable() else c for c in whole)
    return kept.strip(" .")[:50].strip(" .") or "_"  # 50 letters are at most 200 bytes of 255


# ---- what the layout gets -----------------------------------------------------------------------


def metadata_file(settings: ExtractSettings) -> Path:
    """The setting, which this source cannot do without; raises UserError where it is not there."""
    if settings.metadata is None:
        raise UserError("--source imdb needs --metadata: the file imdb.mat or wiki.mat")
    return settings.metadata


def by_identity(pictures: pd.DataFrame) -> dict[str, list[Path]]:
    """{identity: paths of the pictures, relative to the folder of them all}."""
    groups = pictures.groupby("identity").path
    return {str(identity): list(map(Path, paths)) for identity, paths in groups}


def write_table(
    target: Path, pictures: pd.DataFrame, root: Path, copies: Mapping[Path, Path]
) -> None:
    """Writes `target`/metadata.csv: the rows of those pictures that were copied, with their paths
    in `target`.

    copies: {place below `target`: picture below `root`}.
    """
    indices = {
        picture.relative_to(root).as_posix(): place.relative_to(target).as_posix()
        for place, picture in copies.items()
    }
    used = pictures.assign(path=pictures.path.map(indices)).dropna(subset="path")
    with whole_file(target / "metadata.csv") as beside:
        used.sort_values("path").to_csv(beside, index=False)
