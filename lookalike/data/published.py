"""Published data sets whose files tell in forms of their own which pictures show what.

    list_published(Path("CUB_200_2011"))    # None where the folder holds none of them

- Caltech-UCSD Birds (CUB-200-2011): `images.txt`, `image_class_labels.txt`. As retrieval is
  measured on it (Oh Song et al., CVPR 2016), the first half of the classes is the training, the
  other half the test, searched among itself.
- Stanford Online Products: `Ebay_train.txt` and `Ebay_test.txt`, searched among itself.
- DeepFashion In-Shop: `Eval/list_eval_partition.txt` and `Img/`, with queries and a gallery.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from lookalike.core.errors import UserError
from lookalike.core.files import files_below
from lookalike.core.readers import read_text
from lookalike.data.layout import TEST, visible_folders
from lookalike.data.tables import existing

Row = tuple[str, str, str]  # picture, identity and part
IN_SHOP_PARTS = {"train": "training", "query": "query", "gallery": "gallery"}


def list_published(root: Path) -> pd.DataFrame | None:
    """List the pictures of a published data set.

    Args:
        root: Its folder, or one that holds it; it may be missing.

    Returns:
        The columns path, identity, domain, session and part; None where there is no such data set.

    Raises:
        UserError: A file of it is damaged, or a picture of its test is missing.
    """
    path = find_published(root)
    if path is None:
        return None
    rows = READERS[path.name](path)
    table = pd.DataFrame(rows, columns=["value", "identity", "part"], dtype=str)
    folder = _folder_of(path)
    known = {file.relative_to(folder).as_posix(): file for file in files_below(folder)}
    found = [known.get(value) or known.get(f"Img/{value}") for value in table.value]
    table["path"] = ["" if file is None else file.relative_to(root).as_posix() for file in found]
    table.loc[table.part.isin(TEST), "identity"] = ""
    return existing(root, table.assign(domain="", session=""))


def find_published(root: Path) -> Path | None:
    """Return the file that tells a published data set, which also holds its test's labels.

    Args:
        root: Folder of the data set, or one that holds it; it may be missing.
    """
    folders = [root, *visible_folders(root)] if root.is_dir() else []
    places = [
        folder / where / name for folder in folders for where in ("", "Eval") for name in READERS
    ]
    return next((path for path in places if path.is_file()), None)


def read_published_labels(path: Path) -> dict[str, dict[str, str]]:
    """Read the labels of a published data set's test.

    Args:
        path: From `find_published`.

    Returns:
        {part: {picture: identity}}, the parts `query` and `gallery`, or `test` for both.

    Raises:
        UserError: The file is damaged, or of no data set that is known.
    """
    if path.name not in READERS:
        raise UserError(f"{path}: labels are JSON, a table, or one of {', '.join(READERS)}")
    labels: dict[str, dict[str, str]] = {}
    for picture, identity, part in READERS[path.name](path):
        if part in TEST:
            labels.setdefault(part, {})[picture] = identity
    return labels


def _folder_of(path: Path) -> Path:
    """Return the folder that a data set's pictures lie in."""
    return path.parent.parent if path.parent.name == "Eval" else path.parent


def _read_birds(labels: Path) -> list[Row]:
    """Read CUB."""
    numbers, names = zip(*_columns(labels, 2), strict=True)
    identities = dict(zip(numbers, names, strict=True))
    classes = sorted(set(identities.values()), key=lambda name: (len(name), name))
    training = set(classes[: len(classes) // 2])
    pictures = _columns(labels.with_name("images.txt"), 2)
    unknown = [number for number, _ in pictures if number not in identities]
    if unknown:
        raise UserError(f"{labels}: lacks picture {unknown[0]}")
    parts = {name: "training" if name in training else "test" for name in classes}
    shown = [(f"images/{path}", identities[number]) for number, path in pictures]
    return [(path, identity, parts[identity]) for path, identity in shown]


def _read_products(test: Path) -> list[Row]:
    """Read Stanford Online Products."""
    rows: list[Row] = []
    for path, part in ((test.with_name("Ebay_train.txt"), "training"), (test, "test")):
        words = _columns(path, 4, skipped=1)  # a header
        rows += [(path, identity, part) for _, identity, _, path in words]
    return rows


def _read_in_shop(path: Path) -> list[Row]:
    """Read In-Shop."""
    words = _columns(path, 3, skipped=2)  # their number, and a header
    unknown = [word for _, _, word in words if word not in IN_SHOP_PARTS]
    if unknown:
        raise UserError(f"{path}: {unknown[0]!r} is no part: it is train, query or gallery")
    return [(name, item, IN_SHOP_PARTS[part]) for name, item, part in words]


def _columns(path: Path, count: int, skipped: int = 0) -> list[list[str]]:
    """Return the words of each line of a file, all of them as many."""
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()][skipped:]
    wrong = [number for number, words in enumerate(lines, skipped + 1) if len(words) != count]
    if wrong or not lines:
        where = f"line {wrong[0]} has not {count} words" if wrong else "has no rows"
        raise UserError(f"{path}: {where}: unpack the data set anew")
    return lines


READERS: dict[str, Callable[[Path], list[Row]]] = {  # by a file that tells the data set
    "image_class_labels.txt": _read_birds,
    "Ebay_test.txt": _read_products,
    "list_eval_partition.txt": _read_in_shop,
}
