"""Data sets given as tables: CSV, TSV, Parquet or JSON lines that name pictures and identities.

    tables = find_tables(Path("whales"))        # {"training": whales/train.csv, "query": …}
    list_tables(Path("whales"), tables, ListingSettings())

A table has a row for each picture. Which column names the picture is seen by its values being files
below the data set's folder, with or without suffix; the others by the usual names. Whatever stands
in a table is text: `001`, `NA` and `1e5` are names.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pandas as pd

from lookalike.core.errors import UserError
from lookalike.core.files import files_below
from lookalike.core.log import log, report_each
from lookalike.core.readers import TABLES, read_outside_table
from lookalike.core.settings import ListingSettings
from lookalike.data.layout import (
    PARTS,
    QUERIES,
    TEST,
    has_usable_name,
    is_clutter,
    named_as_picture,
)

Tables = dict[str, Path]  # part, or `all` -> the table of its pictures
SAMPLE = 200  # values of a column that are looked for among the files
MOSTLY = 0.9  # share of values that are files from which on a column names pictures
# The usual names of columns, the most telling first.
USUAL = {
    "image": (
        *("image", "image_id", "image_path", "image_name", "img", "img_path", "filename"),
        *("file_name", "file", "filepath", "file_path", "path", "picture", "photo", "id"),
    ),
    "identity": (
        *("identity", "individual_id", "individual", "person_id", "person", "pid", "label_group"),
        *("landmark_id", "product_id", "item_id", "hotel_id", "class_id", "super_label", "label"),
        *("class", "category", "target", "species", "name", "id"),
    ),
    "domain": ("domain", "modality", "style"),
    "session": ("session", "session_id", "encounter", "encounter_id", "date", "camera"),
    "usage": ("usage",),
    "split": ("split", "part", "partition", "subset", "set", "evaluation_status"),
}
NOT_DATA = ("sample", "submission", "solution", "labels")  # first words of other tables' names


def named_tables(root: Path, settings: ListingSettings) -> Tables:
    """Return the tables that --train, --query, --gallery and --test name.

    Args:
        root: Folder of the data set; a table that is not there is looked for in it.
        settings: The names.

    Raises:
        UserError: A table is missing.
    """
    named = {"training": settings.train, "query": settings.query, "gallery": settings.gallery}
    named["test"] = settings.test
    return {part: _existing(root, path) for part, path in named.items() if path is not None}


def _existing(root: Path, path: Path) -> Path:
    """Return the path of a table that was named."""
    for found in (path, root / path):
        if found.is_file():
            return found
    raise UserError(f"{path}: no such table, nor in {root}")


def find_tables(root: Path) -> Tables:
    """Find the tables of a data set in its folder, by their names.

    They are train.csv, query.csv and gallery.csv, or test.csv instead of both, or the usual other
    names of these parts; or a single table, with a column that tells the parts apart.

    Args:
        root: The folder; it may be missing.

    Returns:
        {part: table} of those that are there, or {"all": table}.

    Raises:
        UserError: Two tables have the name of one part.
    """
    if not root.is_dir():
        return {}
    files = _tables_in(root)
    tables: Tables = {}
    for part, names in PARTS.items():
        found = [path for path in files if _first_word(path) in names]
        if len(found) > 1:
            raise UserError(
                f"{found[0]} and {found[1]}: which one is the {part}? Remove or rename the other"
            )
        if found:
            tables[part] = found[0]
    return {"all": files[0]} if len(files) == 1 and not tables else tables


def _tables_in(root: Path) -> list[Path]:
    """Return the tables in a folder, without samples of submissions and solutions."""
    files = [path for path in sorted(root.iterdir()) if path.suffix.lower() in TABLES]
    return [path for path in files if path.is_file() and _first_word(path) not in NOT_DATA]


def refuse_table(root: Path) -> None:
    """Check that no table beside class folders names their pictures, and so may name identities.

    Raises:
        UserError: There is one.
    """
    if not root.is_dir():
        return
    for path in _tables_in(root):
        if names_pictures(path, root):
            raise UserError(
                f"{path}: names the pictures, so that folders may not be the identities: use it by "
                f"--data {root} --train {path}, or move it away"
            )


def names_pictures(path: Path, root: Path) -> bool:
    """Return whether a column of a table names pictures below a folder."""
    try:
        return bool(_image_column(path, read_outside_table(path), PictureFiles(root)))
    except UserError:
        return False  # a table of something else


def _first_word(path: Path) -> str:
    """Return the first word of a file's name.

    >>> _first_word(Path("train_labels.csv"))
    'train'
    """
    return re.split(r"[^a-z]+", path.stem.lower())[0]


def list_tables(root: Path, tables: Tables, settings: ListingSettings) -> pd.DataFrame:
    """List the pictures of a data set's tables.

    Args:
        root: Folder that the pictures lie in.
        tables: From `find_tables` or `named_tables`.
        settings: The names of columns that cannot be guessed.

    Returns:
        The columns path, identity, domain, session and part. Pictures that are missing are left out
        and reported.

    Raises:
        UserError: A table is damaged, a column cannot be found, or a query is missing.
    """
    files = PictureFiles(root)
    if "all" in tables:
        rows = _read(tables["all"], "all", files, settings)
        rows["part"] = _parts_of(tables["all"], rows.part)
        rows.loc[rows.part.isin(TEST), ["identity", "domain", "session"]] = ""
    else:
        rows = pd.concat(
            [_read(path, part, files, settings) for part, path in tables.items()],
            ignore_index=True,
        )
    return existing(root, rows)


def existing(root: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out, and report, pictures that are no files.

    Args:
        root: Folder of the data set.
        rows: What a table says of each picture; `value` is what it calls it, and `path` is empty
            where there is no such file.

    Raises:
        UserError: A query is missing.
    """
    lost = rows.path == ""
    queries = rows.value[lost & rows.part.isin(QUERIES)]
    if len(queries):
        raise UserError(
            f"{root}: {len(queries)} queries are no files in it, first {queries.iloc[0]!r}: a "
            "submission needs all of them"
        )
    report_each("pictures of the tables are no files: left out", rows.value[lost])
    return rows.loc[~lost, ["path", "identity", "domain", "session", "part"]]


def read_label_table(path: Path) -> dict[str, dict[str, str]]:
    """Read the labels of a test from a table: pictures, their identities, and which part they are.

    Args:
        path: The table; its columns are found by their usual names. Rows of training and
            validation do not count.

    Returns:
        {"query": {picture: identity}, "gallery": {picture: identity}}; {"test": ...} where rows are
        of both parts, called test.

    Raises:
        UserError: The table is damaged, a column is missing, a picture has two identities, or rows
            are of the part test and others of query or gallery.
    """
    table = read_outside_table(path)
    image, identity, split = _label_columns(path, table)
    rows = pd.DataFrame({"name": table[image], "identity": table[identity]})
    rows["part"] = _parts_of(path, table[split])
    rows = rows[rows.part.isin(TEST)].drop_duplicates()
    repeated = rows.name[rows.duplicated(["part", "name"])]
    if len(repeated):
        raise UserError(f"{path}: {repeated.iloc[0]} has two identities")
    together = (rows.part == "test").any()
    if together and (rows.part != "test").any():
        raise UserError(
            f"{path}: has rows of the part test and of query or gallery: which are they?"
        )
    parts = {p: rows[rows.part == p] for p in (["test"] if together else ["query", "gallery"])}
    return {p: dict(zip(r.name, r.identity, strict=True)) for p, r in parts.items()}


def read_usage(path: Path) -> dict[str, str]:
    """Return what a table of labels says of the use of each query's score, as Kaggle's Usage does.

    Args:
        path: The table.

    Returns:
        {query: Public, Private or Ignored}; empty where there is no such column.

    Raises:
        UserError: The table is damaged, or a column of labels is missing.
    """
    table = read_outside_table(path)
    image, identity, split = _label_columns(path, table)
    usage = _usual_column(table, "usage", {image, identity, split})
    if usage is None:
        return {}
    rows = table[_parts_of(path, table[split]).isin(QUERIES)]
    return dict(zip(rows[image], rows[usage], strict=True))


def _label_columns(path: Path, table: pd.DataFrame) -> tuple[str, str, str]:
    """Return the columns of pictures, identities and parts of a table of labels."""
    image = _usual_column(table, "image", ())
    identity = _usual_column(table, "identity", {image})
    split = _usual_column(table, "split", {image, identity})
    if image is None or identity is None or split is None:
        raise UserError(
            f"{path}: labels need columns of pictures, identities and parts, such as image, "
            f"identity and split (query or gallery); it has {_names(table)}"
        )
    return image, identity, split


def without_repeats(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out, and report, pictures that were named before, or show two identities or none.

    Args:
        rows: Path, identity, domain and part.

    Raises:
        UserError: A picture is a query and in the gallery.
    """
    test = rows.part.isin(TEST)
    both = rows.path[rows.part == "gallery"]
    both = both[both.isin(rows.path[rows.part == "query"])]
    if len(both):
        raise UserError(
            f"{len(both)} pictures are queries and in the gallery, first {both.iloc[0]}: where all "
            "of them are searched among themselves, name them by one table, --test, or as the part "
            "test; else leave each out of one part"
        )
    tested = rows.path[~test].isin(rows.path[test]).reindex(rows.index, fill_value=False)
    report_each("labeled pictures are in the test too: left out of it", rows.path[~test & tested])
    rows = rows[~tested]
    labeled = rows[~rows.part.isin(TEST)]
    counts = labeled.groupby("path").identity.nunique()
    torn = set(counts.index[counts > 1])
    report_each("pictures have two identities: left out", sorted(torn))
    nobody = labeled.path[labeled.identity == ""]
    report_each("pictures have no identity: left out", nobody)
    rows = rows[~rows.path.isin(torn | set(nobody))]
    report_each("pictures are named again: counted once", rows.path[rows.path.duplicated()])
    return rows.drop_duplicates("path")


# ---- one table ----------------------------------------------------------------------------------


def _read(path: Path, part: str, files: "PictureFiles", settings: ListingSettings) -> pd.DataFrame:
    """Read a table: path (empty where there is no file), identity, domain, part, and its value."""
    table = read_outside_table(path)
    image = settings.image_column or _image_column(path, table, files)
    values = _column(path, table, image, "--image-column")
    rows = pd.DataFrame({"value": values, "path": [files.find(value) or "" for value in values]})
    identity = settings.identity_column or _usual_column(table, "identity", {image})
    said = f"pictures from {image}"
    if part in TEST:
        rows["identity"] = ""
    else:
        if identity is None:
            raise UserError(
                f"{path}: which column names the identity? It has {_names(table)}: name it by "
                "--identity-column"
            )
        rows["identity"] = _column(path, table, identity, "--identity-column")
        said += f", identities from {identity}"
    domain = settings.domain_column or _usual_column(table, "domain", {image, identity})
    rows["domain"] = ""
    if domain is not None and domain in table and part not in TEST:
        rows["domain"], said = table[domain], f"{said}, domains from {domain}"
    session = settings.session_column or _usual_column(table, "session", {image, identity, domain})
    rows["session"] = ""
    if session is not None and session in table and part not in TEST:
        rows["session"], said = table[session], f"{said}, sessions from {session}"
    rows["part"] = part
    if part == "all":
        split = settings.split_column or _usual_column(table, "split", {image, identity, domain})
        if split is None:
            raise UserError(
                f"{path}: which rows are training, query and gallery? It has {_names(table)}: name "
                "the column by --split-column, or a table for each by --train, --query, --gallery"
            )
        rows["part"], said = (
            _column(path, table, split, "--split-column"),
            f"{said}, parts from {split}",
        )
    log.info("%s: %d rows, %s", path, len(table), said)
    return rows


def _column(path: Path, table: pd.DataFrame, name: str, option: str) -> pd.Series:
    """Return a column of a table, or say which ones it has."""
    if name not in table:
        raise UserError(f"{path}: has no column {name!r} ({option}), but {_names(table)}")
    return table[name]


def _names(table: pd.DataFrame) -> str:
    return ", ".join(map(str, table.columns))


def _image_column(path: Path, table: pd.DataFrame, files: "PictureFiles") -> str:
    """Return the column whose values are files; of several, the one with the usual name."""
    if table.empty:
        raise UserError(f"{path}: has no rows")
    sample = table.iloc[: SAMPLE * max(1, len(table) // SAMPLE) : max(1, len(table) // SAMPLE)]
    shares = {
        name: sum(files.find(value) is not None for value in sample[name]) / len(sample)
        for name in table.columns
    }
    found = [name for name, share in shares.items() if share >= MOSTLY]
    if found:
        return min(found, key=lambda name: _rank(name, "image"))
    best = max(shares, key=lambda name: shares[name])
    example = sample[best].iloc[0]
    raise UserError(
        f"{path}: which column names the pictures? No column's values are files in "
        f"{files.root}, with or without suffix; nearest is {best} ({shares[best]:.0%}), such as "
        f"{example!r}. Name it by --image-column, and the folder of the pictures by --data"
    )


def _usual_column(table: pd.DataFrame, kind: str, others: Iterable[str | None]) -> str | None:
    """Return the column with the most telling of the usual names, without others; None if none."""
    names = [name for name in table.columns if name not in set(others)]
    known = [name for name in names if _rank(name, kind) < len(USUAL[kind])]
    return min(known, key=lambda name: _rank(name, kind), default=None)


def _rank(name: str, kind: str) -> int:
    """Return the place of a column's name among the usual ones, the number of these if not there.

    >>> _rank("Individual ID", "identity"), _rank("x", "domain")
    (1, 3)
    """
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    usual = USUAL[kind]
    return usual.index(plain) if plain in usual else len(usual)


def _parts_of(path: Path, values: pd.Series) -> pd.Series:
    """Return the part that each value of a split column stands for."""
    part_of = {name: part for part, names in PARTS.items() for name in names}
    parts = values.str.strip().str.lower().map(part_of)
    unknown = sorted(set(values[parts.isna()]))
    if unknown:
        raise UserError(
            f"{path}: rows of {', '.join(map(repr, unknown[:5]))}: which part is that? Parts are "
            "training, validation, query and gallery, or test for queries and gallery at once"
        )
    return parts


# ---- files --------------------------------------------------------------------------------------


class PictureFiles:
    r"""The pictures below a folder, found by what tables say of them.

    Args:
        root: The folder. Nothing outside of it is ever found.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "images", "007.jpg")
    ...     path.parent.mkdir()
    ...     path.touch()
    ...     files = PictureFiles(Path(folder))
    >>> [files.find(text) for text in ("007", "images/007.jpg", r"data\\images\\007.jpg", "7")]
    ['images/007.jpg', 'images/007.jpg', 'images/007.jpg', None]
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        paths = [path.relative_to(root) for path in files_below(root)]
        named = [p for p in paths if named_as_picture(p) and not is_clutter(p)]
        self._paths = [path.as_posix() for path in named if has_usable_name(path)]
        self._exact = {path: path for path in self._paths}
        keys = [key for path in self._paths for key in _short_names(path)]
        counts = Counter(keys)
        self._short = {
            key: path for path in self._paths for key in _short_names(path) if counts[key] == 1
        }
        self._repeated = {key for key, count in counts.items() if count > 1}

    def find(self, value: str) -> str | None:
        """Return the path of a picture, relative to the folder; None where there is none.

        Args:
            value: Its path, or the end of it, with or without suffix.

        Raises:
            UserError: Several pictures have this name.
        """
        parts = [part for part in value.replace("\\", "/").split("/") if part not in ("", ".")]
        for start in range(len(parts)):
            text = "/".join(parts[start:])
            if text in self._exact:
                return text
            if text in self._short:
                return self._short[text]
            if text in self._repeated and start == len(parts) - 1:
                raise UserError(
                    f"{self.root}: several pictures are called {text!r}: tables have to name more "
                    "of the path"
                )
        return None


def _short_names(path: str) -> set[str]:
    """Return what a picture may be called instead of its path.

    >>> sorted(_short_names("a/b.x.jpg"))
    ['a/b.x', 'b.x', 'b.x.jpg']
    """
    whole = PurePosixPath(path)
    return {whole.with_suffix("").as_posix(), whole.name, whole.stem} - {path}
