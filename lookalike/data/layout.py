"""TODO lookalike.data.layout."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from lookalike.core.errors import UserError
from lookalike.core.files import files_below
from lookalike.core.log import report_each

DATA = Path("data")
Classes = dict[str, list[Path]]  # identity -> pictures, as paths inside its folder
# What is opened as a picture. Pillow knows more, and starts another program for some (EPS).
PICTURE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")


class Layout(NamedTuple):
    """Where the parts of a competition lie; training and validation may be missing."""

    query: Path
    gallery: Path
    training: Path | None
    validation: Path | None

    @property
    def labels(self) -> Path:
        """Where the labels of the test lie, if they are known."""
        return self.query.parent.parent / "labels.json"


def find_layout(root: Path, depth: int = 3) -> Layout | None:
    """Looks for test/query and test/gallery in `root` and up to `depth` folders below it.

    Training pictures may lie in `training` or `train`, validation in `validation` or `val`.
    None where there is no such folder.
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
    """The folders in `folder`, sorted, without hidden ones."""
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def read_origin(data: Path) -> dict[str, Any] | None:
    """What `data` was made from; None where this program did not make it."""
    try:
        made_from = json.loads((data / "layout.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return made_from if isinstance(made_from, dict) and "source" in made_from else None


def class_folders(root: Path, at_least: int = 1) -> Classes:
    """The pictures of a folder with a folder per identity: {identity: paths inside its folder}.

    Files without a picture's suffix and identities with fewer than `at_least` pictures are left
    out; the files are reported, and so are folders without pictures.

    Raises:
        UserError: there is no such folder, or it holds no class folder with pictures.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; it should hold a folder of pictures per identity")
    classes: Classes = {}
    strangers = []
    for folder in visible_folders(root):
        files = files_below(folder)
        classes[folder.name] = [f.relative_to(folder) for f in files if named_as_picture(f)]
        strangers += [str(f) for f in files if not named_as_picture(f)]
    report_each("files are no pictures and are left out", strangers)
    report_each("folders hold no pictures", (name for name, found in classes.items() if not found))
    classes = {name: found for name, found in classes.items() if len(found) >= at_least}
    if not classes:
        raise UserError(f"{root}: holds no class folders with pictures (<identity>/*.jpg)")
    return classes


def named_as_picture(path: Path) -> bool:
    """Whether a file's name ends as a picture's does.

    >>> named_as_picture(Path("a.JPG")), named_as_picture(Path("Thumbs.db"))
    (True, False)
    """
    return Image.registered_extensions().get(path.suffix.lower()) in PICTURE_FORMATS
