"""Find the parts of a competition on the disk, and the pictures in class folders.

A competition is a folder with `test/query/`, `test/gallery/` and, where there are labeled pictures,
`training/<identity>/` and `validation/<identity>/`, or with the usual other names of these, in
upper or lower case; `test/` may be missing. Or the pictures of `test/` are searched among
themselves.
"""

import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from PIL import Image

from lookalike.core.errors import UserError
from lookalike.core.files import files_below
from lookalike.core.log import report_each
from lookalike.core.readers import saved_record

DATA = Path("data")  # the folder of data sets
Classes = dict[str, list[Path]]  # identity -> pictures, as paths inside its folder
# What is opened as a picture. Pillow knows more, and starts another program for some (EPS).
PICTURE_FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "HEIF"),
)
with suppress(ImportError):  # HEIC and HEIF are read where it is installed
    import pillow_heif

    pillow_heif.register_heif_opener()
# What systems and editors leave beside pictures, in lower case.
CLUTTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "._*", ".#*", "#*#", "*~", "*.swp")
CLUTTER_FOLDERS = {"__MACOSX", "@eaDir"}
# The usual names of each part, of folders and of tables, in lower case, the first one preferred.
PARTS = {
    "query": ("query", "queries", "probe", "probes"),
    "gallery": ("gallery", "index", "database", "reference", "references", "bounding_box_test"),
    "test": ("test", "testing"),  # queries and gallery at once, each searched among the others
    "training": ("training", "train", "bounding_box_train"),
    "validation": ("validation", "val", "valid"),
}
LABELED = ("training", "validation")  # the parts whose identities are known
TEST = ("query", "gallery", "test")
QUERIES, GALLERY = ("query", "test"), ("gallery", "test")  # parts that are searched for, or in


class Layout(NamedTuple):
    """The folders of a competition's parts.

    Attributes:
        query: The test's queries; None where there is no such folder.
        gallery: The test's gallery; None where there is no such folder.
        test: The pictures that are searched among themselves, where neither of these is known.
        training: Folder with a folder per identity, if there is one.
        validation: Folder with a folder per identity, if there is one.
        root: The folder that all of them lie in.
    """

    query: Path | None
    gallery: Path | None
    test: Path | None
    training: Path | None
    validation: Path | None
    root: Path

    @property
    def labels(self) -> Path:
        """The file with the labels of the test; it exists where they are known."""
        return self.root / "labels.json"


def find_layout(root: Path, depth: int = 3) -> Layout | None:
    """Find the competition in a folder or below it.

    Args:
        root: Where to look for its test; it may be missing.
        depth: How many folders below `root` to look at too. The nearest competition wins.

    Returns:
        Its parts, or None where there is none. Of several folders with a name of one part, the
        first of `PARTS` is taken.
    """
    level = [root] if root.is_dir() else []
    for _ in range(depth + 1):
        below = []
        for folder in level:
            folders = visible_folders(folder)
            layout = _layout_of(folder, folders)
            if layout is not None:
                return layout
            below += folders
        level = below
    return None


def _layout_of(root: Path, folders: list[Path]) -> Layout | None:
    """Return the competition in a folder with these folders, if there is one.

    Where the gallery lies beside a test that holds no query, the test is the queries; where neither
    is there, it is both.
    """
    test = _folder_named(folders, PARTS["test"])
    inside = visible_folders(test) if test is not None else []
    query, gallery = (_folder_named(inside, PARTS[part]) for part in ("query", "gallery"))
    if query is None and gallery is None:
        query, gallery = (_folder_named(folders, PARTS[part]) for part in ("query", "gallery"))
        if gallery is not None:
            query = query or test
    training, validation = (_folder_named(folders, PARTS[part]) for part in LABELED)
    if query is not None and gallery is not None:
        return Layout(query, gallery, None, training, validation, root)
    if query is None and gallery is None and test is not None and _is_all_of_a_test(test):
        return Layout(None, None, test, training, validation, root)
    return None


def _is_all_of_a_test(folder: Path) -> bool:
    """Return whether a folder holds pictures, and no competition of its own."""
    return find_layout(folder) is None and any(map(named_as_picture, files_below(folder)))


def _folder_named(folders: list[Path], names: tuple[str, ...]) -> Path | None:
    """Return the folder with the first of these names, in upper or lower case."""
    ranked = [(names.index(f.name.lower()), f) for f in folders if f.name.lower() in names]
    return min(ranked)[1] if ranked else None


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones and those of the system.

    Raises:
        UserError: The folder cannot be read.
    """
    return [f for f in _inside(folder) if f.is_dir() and not _is_clutter_folder(f.name)]


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read ({error.strerror})") from error


def read_origin(data: Path) -> dict[str, Any] | None:
    """Read the layout.json of a data set: what `lookalike extract` made it from.

    Returns:
        The table, or None where there is none, as in a folder that was not made by this package.
    """
    origin = saved_record(data / "layout.json")
    return origin if isinstance(origin.get("source"), str) else None


def nested_folders(files: list[Path]) -> str | None:
    """Return a folder in a class folder, where either of them may be the identity's.

    Folders of the same names inside of most class folders are domains (ada/photo, bo/photo).

    Args:
        files: Pictures, as paths inside the folder of the class folders.

    Returns:
        A folder and one inside; None where a class folder holds pictures itself, or what lies in
        class folders is called the same.

    >>> nested_folders([Path("ada/photo/1.jpg"), Path("bo/photo/2.jpg")])
    >>> nested_folders([Path("birds/crow/1.jpg"), Path("cats/lynx/2.jpg")])
    'birds/crow'
    """
    nested = [file.parts for file in files if len(file.parts) > 2]
    if not nested or len(nested) < len(files):
        return None
    pairs = {parts[:2] for parts in nested}
    lower = {name for _, name in pairs}
    if len(pairs) >= 2 * len(lower) or len(pairs) == 1:
        return None
    return "/".join(min(pairs))


def _refuse_parts(root: Path, names: Iterable[str]) -> None:
    """Check that class folders are no parts of a competition, such as train_images."""
    words = {name: re.split(r"[^a-z]+", name.lower())[0] for name in names}
    training = [name for name, word in words.items() if word in PARTS["training"]]
    tests = [name for part in TEST for name in PARTS[part]]
    test = [name for name, word in words.items() if word in tests]
    if training and test:
        raise UserError(
            f"{root}: {training[0]} and {test[0]} are parts of a competition, not identities: name "
            f"the folder by --data {root}, without --source, and its tables by --train, --query "
            "and --gallery"
        )


def class_folders(root: Path, at_least: int = 1) -> Classes:
    """List the pictures of a folder that holds a folder per identity.

    What is left out is reported: files that lie in no class folder or have no picture's suffix, and
    folders without pictures.

    Args:
        root: The folder that holds them.
        at_least: Identities with fewer pictures are left out.

    Returns:
        {identity: paths of its pictures inside its folder}.

    Raises:
        UserError: There is no such folder, it holds no class folder with pictures, or the class
            folders hold folders, or are parts of a competition.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; it should hold a folder of pictures per identity")
    files = [file for entry in _inside(root) for file in _files_of(entry)]
    classes: Classes = {f.name: [] for f in visible_folders(root) if has_usable_name(f.name)}
    others = []
    for file in with_usable_names(root, without_clutter(root, files)):
        if named_as_picture(file) and file.parent != root:
            path = file.relative_to(root)
            classes[path.parts[0]].append(path.relative_to(path.parts[0]))
        else:
            others.append(str(file))
    report_each("files are no pictures of a class folder: left out", others)
    report_each("folders hold no pictures", (name for name, found in classes.items() if not found))
    _refuse_parts(root, (name for name, found in classes.items() if found))
    pair = nested_folders([Path(name, file) for name, found in classes.items() for file in found])
    if pair is not None:
        raise UserError(
            f"{root}: its folders hold folders, such as {pair}: name the one whose folders are the "
            f"identities by --source-path, such as {root / Path(pair).parts[0]}"
        )
    classes = {name: found for name, found in classes.items() if len(found) >= at_least}
    if not classes:
        raise UserError(f"{root}: holds no class folders with pictures (<identity>/*.jpg)")
    return classes


def _files_of(entry: Path) -> list[Path]:
    """Return the files below a folder, or the file itself."""
    return files_below(entry, hidden=True) if entry.is_dir() else [entry]


# ---- what the names of files say ----------------------------------------------------------------


def is_clutter(path: PurePath) -> bool:
    """Return whether a path is that of a file which systems or editors leave beside pictures.

    Hidden files are clutter, except those that are named as pictures.

    Args:
        path: Inside a folder of pictures.

    >>> is_clutter(PurePath("sub/._ada.jpg")), is_clutter(PurePath("@eaDir/ada.jpg"))
    (True, True)
    >>> is_clutter(PurePath(".ada.jpg")), is_clutter(PurePath("ada.heic"))
    (False, False)
    """
    name = path.name
    is_hidden = name.startswith(".") and not named_as_picture(PurePath(f"hidden{name}"))
    is_known = any(fnmatchcase(name.lower(), pattern) for pattern in CLUTTER)
    return is_hidden or is_known or any(map(_is_clutter_folder, path.parts[:-1]))


def _is_clutter_folder(name: str) -> bool:
    return name.startswith(".") or name in CLUTTER_FOLDERS


def without_clutter(folder: Path, files: list[Path]) -> list[Path]:
    """Leave out the clutter among the files of a folder; the log counts it."""
    clutter = {file for file in files if is_clutter(file.relative_to(folder))}
    report_each(
        f"files of the system or an editor in {folder}: left out",
        [str(file.relative_to(folder)) for file in files if file in clutter],
        logging.INFO,
    )
    return [file for file in files if file not in clutter]


def has_usable_name(name: str | PurePath) -> bool:
    r"""Return whether a name can be written in UTF-8, as catalogues and submissions are.

    >>> has_usable_name("é"), has_usable_name("\udce9")
    (True, False)
    """
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def with_usable_names(folder: Path, files: list[Path]) -> list[Path]:
    """Leave out, and report, the files of a folder with names that are not UTF-8."""
    usable = {file for file in files if has_usable_name(file.relative_to(folder))}
    refused = [str(file) for file in files if file not in usable]
    report_each("files have names that are not UTF-8: left out", refused)
    return [file for file in files if file in usable]


def named_as_picture(path: PurePath) -> bool:
    """Return whether a file's name ends as a picture's does.

    >>> named_as_picture(Path("a.JPG")), named_as_picture(Path("Thumbs.db"))
    (True, False)
    """
    return Image.registered_extensions().get(path.suffix.lower()) in PICTURE_FORMATS
