"""List the pictures of a data set: which belong to which part, and whom they show.

    list_pictures(Path("data/celebrities"))                 # path, identity, domain and part
    list_pictures(Path("birds"), ListingSettings(train=Path("birds/train.csv")))

Folders tell, see `lookalike.data.layout`; or tables do, which are named or lie in the data set's
folder, see `lookalike.data.tables`; or it is a published one, see `lookalike.data.published`.
"""

from pathlib import Path

import pandas as pd

from lookalike.core.errors import UserError
from lookalike.core.files import files_below
from lookalike.core.log import report_each
from lookalike.core.settings import ListingSettings
from lookalike.data.layout import (
    LABELED,
    PARTS,
    QUERIES,
    TEST,
    find_layout,
    has_usable_name,
    nested_folders,
    read_origin,
    visible_folders,
    with_usable_names,
    without_clutter,
)
from lookalike.data.patterns import search_paths
from lookalike.data.published import find_published, list_published
from lookalike.data.tables import (
    Tables,
    find_tables,
    list_tables,
    named_tables,
    names_pictures,
    without_repeats,
)

# Names of files that hold the identity: person, camera, and more (Market-1501, DukeMTMC-reID).
PERSON_CAMERA = r"(?:^|/)(?P<identity>-?\d+)_c\d+[^/]*$"
MADE_OF_CLASSES = ("folder", "lfw", "imdb")  # sources whose class folders were laid out here
NO_PERSON = {"-1", "0000"}  # what these data sets call pictures of nobody, and distractors


def list_pictures(root: Path, settings: ListingSettings | None = None) -> pd.DataFrame:
    """List the files of a data set without opening them.

    Args:
        root: Folder of the data set, or one up to three levels above it.
        settings: What its folders do not tell.

    Returns:
        The columns path, identity, domain, session (both empty where nothing tells them) and part
        of its catalogue, sorted by path.

    Raises:
        UserError: `root` holds no competition, or a part of its test is empty; what was found
            instead, and which option would explain it.
    """
    settings = settings or ListingSettings()
    folders, tables = _find_parts(root, settings)
    published = None if folders or tables else list_published(root)
    if published is None:
        _require_test(root, {**folders, **tables})
    rows = [_list_part(root, *place, settings.identity_pattern) for place in folders.items()]
    if tables:
        rows.append(list_tables(root, tables, settings))
    rows += [] if published is None else [published]
    listed = without_repeats(pd.concat(rows, ignore_index=True))
    present = {*listed.part}
    for part in ("test",) if {*folders, *tables, *present} & {"test"} else ("query", "gallery"):
        if part not in present:
            place = folders.get(part) or tables.get(part) or tables.get("all") or root
            raise UserError(f"{place}: holds no pictures of the {part}")
    if "test" in present and present & {"query", "gallery"}:
        raise UserError(
            f"{root}: has rows of the part test and of query or gallery: call all of them query or "
            "gallery, or all of them test, which is both"
        )
    return listed.sort_values("path", ignore_index=True)


def _find_parts(root: Path, settings: ListingSettings) -> tuple[dict[str, Path], Tables]:
    """Return the folder or the table of each part; beside folders, tables that tell identities.

    A folder test/ without queries or gallery is no part of its own where tables name the test.
    """
    layout, named = find_layout(root), named_tables(root, settings)
    tables = find_tables(root if layout is None else layout.root)
    if named:
        tables.pop("all", None)
    if layout is not None and layout.test is not None and {*TEST, "all"} & {*tables, *named}:
        layout = None if "all" in tables else layout._replace(test=None)
    elif layout is not None:
        tables = {part: path for part, path in tables.items() if part in LABELED}
        tables = {part: path for part, path in tables.items() if names_pictures(path, root)}
    tables |= named
    if "gallery" in tables and "query" not in tables and "test" in tables:
        tables["query"] = tables.pop("test")
    folders = {part: folder for part in PARTS if (folder := getattr(layout, part, None))}
    return {part: folder for part, folder in folders.items() if part not in tables}, tables


def _require_test(root: Path, parts: dict[str, Path]) -> None:
    """Check that queries and gallery are known."""
    if not parts:
        raise UserError(_nothing_understood(root))
    known = {"query", "gallery"} & parts.keys()
    missing = [part for part in ("query", "gallery") if part not in parts]
    if "all" in parts or not missing or ("test" in parts and not known):
        return
    found = ", ".join(f"{part} {path}" for part, path in parts.items())
    options = " and ".join(f"--{part}" for part in missing)
    alone = "" if known else ", or one by --test that is searched among itself"
    raise UserError(
        f"{root}: which pictures are the {' and the '.join(missing)}? Found: {found}. Name a "
        f"table by {options}{alone}, or make folders test/query/ and test/gallery/"
    )


def is_dataset(root: Path) -> bool:
    """Return whether a folder holds a data set, by its folders or tables."""
    if find_layout(root) is not None or find_published(root) is not None:
        return True
    tables = find_tables(root)
    if {"query", "gallery"} <= tables.keys():
        return True
    return any(part in tables and names_pictures(tables[part], root) for part in ("test", "all"))


def labels_of(root: Path) -> Path:
    """Return where the labels of a data set's test would lie."""
    layout = find_layout(root)
    if layout is not None:
        return layout.labels
    return find_published(root) or root / "labels.json"


def _nothing_understood(root: Path) -> str:
    """Say what lies in a folder that holds no competition, and what would explain it."""
    folders = [folder.name + "/" for folder in visible_folders(root)] if root.is_dir() else []
    files = sorted(path.name for path in root.glob("*") if path.is_file()) if folders else []
    found = ", ".join([*folders[:8], *files[:8]]) or "nothing"
    return (
        f"{root}: holds no test/query/ and test/gallery/, nor query/ and gallery/, nor tables "
        f"train.csv, query.csv and gallery.csv; found: {found}. Name the tables by --train, "
        "--query and --gallery; class folders become a competition by --source folder "
        f"--source-path {root}"
    )


# ---- folders ------------------------------------------------------------------------------------


def _list_part(root: Path, part: str, folder: Path, pattern: str | None) -> pd.DataFrame:
    """List the pictures of one part."""
    files = without_clutter(folder, files_below(folder, hidden=True))
    if part in QUERIES:
        _refuse_unusable_names(folder, files)
    files = with_usable_names(folder, files)
    if part in LABELED:
        files, identities = _identities(root, folder, files, pattern)
    else:
        identities = [""] * len(files)
    paths = [file.relative_to(root).as_posix() for file in files]
    table = {"path": paths, "identity": identities, "domain": "", "session": "", "part": part}
    return pd.DataFrame(table, dtype=str)


def _refuse_unusable_names(folder: Path, queries: list[Path]) -> None:
    """Raise where a query could not keep its place in the submission, which cannot hold its name.

    Everything else but clutter does, whether it is a picture or not: a leaderboard may count it,
    and refuses a submission that lacks a query.
    """
    refused = [str(file) for file in queries if not has_usable_name(file.relative_to(folder))]
    if refused:
        raise UserError(
            f"{len(refused)} queries have names that are not UTF-8, which no submission can hold: "
            f"rename them, first {refused[0]}"
        )


def _identities(
    root: Path, folder: Path, files: list[Path], pattern: str | None
) -> tuple[list[Path], list[str]]:
    """Return the files whose identity is known, and these identities; the others are reported."""
    if pattern is None:
        inside = [file for file in files if file.parent != folder]
        if inside or not files:
            return _in_class_folders(folder, files, inside)
        pattern = _pattern_of_names(folder, files)
    paths = [file.relative_to(root).as_posix() for file in files]
    found = search_paths(paths, pattern, "--identity-pattern", "identity")
    unknown = [path for path, name in zip(paths, found, strict=True) if not name]
    report_each("pictures do not fit --identity-pattern: left out", unknown)
    pairs = [(file, name) for file, name in zip(files, found, strict=True) if name]
    if pattern == PERSON_CAMERA:
        nobody = [str(file) for file, name in pairs if name in NO_PERSON]
        report_each("pictures show nobody by their names: left out", nobody)
        pairs = [(file, name) for file, name in pairs if name not in NO_PERSON]
    return [file for file, _ in pairs], [name for _, name in pairs]


def _pattern_of_names(folder: Path, files: list[Path]) -> str:
    """Return the expression of a known naming scheme that all files follow.

    Raises:
        UserError: They follow none.
    """
    names = [file.name for file in files]
    if all(search_paths(names, PERSON_CAMERA, "--identity-pattern", "identity")):
        return PERSON_CAMERA
    raise UserError(
        f"{folder}: {len(files)} files and no folder of an identity, such as {names[0]}: say where "
        r"the identity stands by --identity-pattern '(?P<identity>\d+)_', or name a table by "
        "--train"
    )


def _in_class_folders(
    folder: Path, files: list[Path], inside: list[Path]
) -> tuple[list[Path], list[str]]:
    """Return the files in identities' folders, and the identities; report what lies elsewhere."""
    identities = [file.relative_to(folder).parts[0] for file in inside]
    empty = [sub.name for sub in visible_folders(folder) if sub.name not in set(identities)]
    report_each(f"folders in {folder} hold no files", empty)
    loose = [file for file in files if file.parent == folder]
    report_each("files lie outside of an identity's folder: left out", map(str, loose))
    pair = nested_folders([file.relative_to(folder) for file in inside])
    made_from = (read_origin(folder.parent) or {}).get("source")
    if pair is not None and made_from not in MADE_OF_CLASSES:
        raise UserError(
            f"{folder}: its folders hold folders, such as {pair}: say which are the identities by "
            "--identity-pattern, '(?P<identity>[^/]+)/[^/]+/[^/]+$' for the upper, "
            "'(?P<identity>[^/]+)/[^/]+$' for the lower ones"
        )
    return inside, identities
