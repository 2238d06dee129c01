"""Find the parts of a competition on the disk, and the pictures in class folders.

A competition is a folder with `test/query/`, `test/gallery/` and, where there are labeled pictures,
`training/<identity>/` and `validation/<identity>/`.
"""

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
PICTURE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")


# What systems and editors leave beside pictures; no other file is left out unseen.
CLUTTER = ("Thumbs.db", ".DS_Store", "desktop.ini", "Icon\r", "._*", ".#*", "#*#", "*~", "*.swp")
CLUTTER_FOLDERS = {"__MACOSX", "@eaDir"}


def is_clutter(path: PurePath) -> bool:
    """Return whether a path is that of a file which systems or editors leave beside pictures.

    >>> is_clutter(PurePath("query/._ada.jpg")), is_clutter(PurePath("query/ada.heic"))
    (True, False)
    """
    in_folder = not CLUTTER_FOLDERS.isdisjoint(path.parts)
    return in_folder or any(fnmatchcase(path.name, pattern) for pattern in CLUTTER)


class Layout(NamedTuple):
    """The folders of a competition's parts.

    Attributes:
        query: The test's queries.
        gallery: The test's gallery.
        training: Folder with a folder per identity, if there is one.
        validation: Folder with a folder per identity, if there is one.
    """

    query: Path
    gallery: Path
    training: Path | None
    validation: Path | None

    @property
    def labels(self) -> Path:
        """The file with the labels of the test; it exists where they are known."""
        return self.query.parent.parent / "labels.json"


def find_layout(root: Path, depth: int = 3) -> Layout | None:
    """Find the competition in a folder or below it.

    Args:
        root: Where to look for `test/query/` and `test/gallery/`; it may be missing.
        depth: How many folders below `root` to look at too. The nearest competition wins.

    Returns:
        Its parts, or None where there is none. Training pictures may lie in `training` or `train`,
        validation pictures in `validation` or `val`.
    """
    level = [root]
    for _ in range(depth + 1):
        for folder in level:
            test = folder / "test"
            if (test / "query").is_dir() and (test / "gallery").is_dir():
                training = _first_folder(folder, "training", "train")
                validation = _first_folder(folder, "validation", "val")
                return Layout(test / "query", test / "gallery", training, validation)
        level = [sub for folder in level if folder.is_dir() for sub in visible_folders(folder)]
    return None


def _first_folder(parent: Path, *names: str) -> Path | None:
    return next((parent / name for name in names if (parent / name).is_dir()), None)


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones.

    Raises:
        UserError: The folder cannot be read.
    """
    try:
        inside = list(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read ({error.strerror})") from error
    return sorted(f for f in inside if f.is_dir() and not f.name.startswith("."))


def read_origin(data: Path) -> dict[str, Any] | None:
    """Read the layout.json of a data set: what `lookalike extract` made it from.

    Returns:
        The table, or None where there is none, as in a folder that was not made by this package.
    """
    origin = saved_record(data / "layout.json")
    return origin if isinstance(origin.get("source"), str) else None


def class_folders(root: Path, at_least: int = 1) -> Classes:
    """List the pictures of a folder that holds a folder per identity.

    Files without a picture's suffix are left out and reported, and so are folders without pictures.

    Args:
        root: The folder that holds them.
        at_least: Identities with fewer pictures are left out.

    Returns:
        {identity: paths of its pictures inside its folder}.

    Raises:
        UserError: There is no such folder, or it holds no class folder with pictures.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; it should hold a folder of pictures per identity")
    classes: Classes = {}
    others = []
    for folder in visible_folders(root):
        files = [file for file in files_below(folder) if not is_clutter(file.relative_to(root))]
        classes[folder.name] = [f.relative_to(folder) for f in files if named_as_picture(f)]
        others += [str(f) for f in files if not named_as_picture(f)]
    report_each("files are no pictures and are left out", others)
    report_each("folders hold no pictures", (name for name, found in classes.items() if not found))
    classes = {name: found for name, found in classes.items() if len(found) >= at_least}
    if not classes:
        raise UserError(f"{root}: holds no class folders with pictures (<identity>/*.jpg)")
    return classes


def named_as_picture(path: Path) -> bool:
    """Return whether a file's name ends as a picture's does.

    >>> named_as_picture(Path("a.JPG")), named_as_picture(Path("Thumbs.db"))
    (True, False)
    """
    return Image.registered_extensions().get(path.suffix.lower()) in PICTURE_FORMATS
