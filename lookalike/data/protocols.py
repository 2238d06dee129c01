"""Divide class folders into training, validation and a test, and copy them into that layout."""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.core.files import write_json
from lookalike.core.settings import ExtractSettings
from lookalike.data.layout import Classes

Parts = dict[str, list[tuple[str, Path]]]  # folder of the layout -> (identity, picture) pairs
Limits = tuple[int | None, int | None]  # pictures per identity in training, in the test; None: all
TestLabels = dict[str, dict[str, str]]  # query or gallery -> {file name: identity}


def lay_out_classes(
    root: Path,
    classes: Classes,
    target: Path,
    settings: ExtractSettings,
    seed: int,
    flat: bool = False,
) -> dict[Path, Path]:
    """Copy class folders into a competition's layout, with the labels of its test.

    Args:
        root: The folder that holds the class folders.
        classes: {identity: paths of its pictures inside its folder}.
        target: The folder to make the layout in.
        settings: `protocol` says how pictures are divided; `train_per_person` and
            `test_per_person` limit them.
        seed: Of the division.
        flat: Whether the paths start in `root` itself, not in a folder of the identity in it.

    Returns:
        {copy: original} of all pictures that were copied.

    Raises:
        UserError: Two pictures would get one name, or there are too few for a test.
    """
    divide: Callable[[Classes, np.random.Generator, Limits], Parts]
    divide = {"report": report_protocol, "disjoint": disjoint_protocol}[settings.protocol]
    limits = (settings.train_per_person, settings.test_per_person)
    parts = divide(classes, np.random.default_rng(seed), limits)
    originals, labels = _name_copies(parts, repeated_names(classes))
    if not labels["query"] or not labels["gallery"]:
        raise UserError(f"{root}: too few pictures for a test with queries and a gallery")
    copies = {
        target / copy: root / ("" if flat else identity) / picture
        for copy, (identity, picture) in originals.items()
    }
    copy_all(copies)
    write_json(target / "labels.json", labels)
    return copies


def _name_copies(
    parts: Parts, repeats: set[str]
) -> tuple[dict[Path, tuple[str, Path]], TestLabels]:
    """Return {path in the layout: (identity, picture)} and the labels of the test."""
    originals: dict[Path, tuple[str, Path]] = {}
    labels: TestLabels = {"query": {}, "gallery": {}}
    for part, pictures in parts.items():
        for identity, picture in pictures:
            copy = Path(part, identity, picture)
            if part.startswith("test/"):
                name = bare_name(identity, picture, repeats)
                labels[part.removeprefix("test/")][name] = identity
                copy = Path(part, name)
            if copy in originals:
                other = Path(*originals[copy])
                raise UserError(f"{identity}/{picture} and {other}: both become {copy.name}")
            originals[copy] = identity, picture
    return originals, labels


def repeated_names(classes: Classes) -> set[str]:
    """Return the file names that more than one picture has.

    >>> sorted(repeated_names({"ada": [Path("1.jpg")], "bo": [Path("1.jpg"), Path("2.jpg")]}))
    ['1.jpg']
    """
    counts = Counter(picture.name for pictures in classes.values() for picture in pictures)
    return {name for name, count in counts.items() if count > 1}


def bare_name(identity: str, picture: Path, repeats: set[str]) -> str:
    """Return a picture's name in the test's flat folders: its own, unless others share it.

    >>> bare_name("ada", Path("profile/1.jpg"), {"1.jpg"})
    'ada__profile__1.jpg'
    """
    return "__".join((identity, *picture.parts)) if picture.name in repeats else picture.name


def report_protocol(classes: Classes, rng: np.random.Generator, limits: Limits) -> Parts:
    """Divide each identity's pictures as the baseline report does; all identities are in each part.

    Of n pictures, n/2 are for training, n/5 for validation and the others for the test; of its m
    pictures, max(1, m/5) are queries and the others gallery. All shares are rounded down.

    Args:
        classes: {identity: its pictures}.
        rng: Of the division.
        limits: The most pictures of an identity in training, and also in validation, and in the
            test.

    Returns:
        The (identity, picture) pairs of training, validation, test/query and test/gallery.

    >>> classes = {"ada": [Path(str(i)) for i in range(20)]}
    >>> parts = report_protocol(classes, np.random.default_rng(0), (None, 5))
    >>> {part: len(pictures) for part, pictures in parts.items()}
    {'training': 10, 'validation': 4, 'test/query': 1, 'test/gallery': 4}
    """
    parts: Parts = {"training": [], "validation": [], "test/query": [], "test/gallery": []}
    for identity, pictures in sorted(classes.items()):
        pairs = _shuffled(identity, pictures, rng)
        training, validation = len(pairs) // 2, len(pairs) // 5
        parts["training"] += pairs[:training][: limits[0]]
        parts["validation"] += pairs[training : training + validation][: limits[0]]
        _divide_test(parts, pairs[training + validation :][: limits[1]])
    return parts


def disjoint_protocol(classes: Classes, rng: np.random.Generator, limits: Limits) -> Parts:
    """Divide the identities: 30 % of them, whole, are the test, the others training.

    Of the m pictures of a test identity, max(1, m/5) are queries and the others gallery.

    Args:
        classes: {identity: its pictures}.
        rng: Of the division.
        limits: The most pictures of an identity in training, and in the test.

    Returns:
        The (identity, picture) pairs of training, test/query and test/gallery.

    >>> classes = {name: [Path(name + str(i)) for i in range(10)] for name in "abcdefghij"}
    >>> parts = disjoint_protocol(classes, np.random.default_rng(0), (None, None))
    >>> {part: len(pictures) for part, pictures in parts.items()}
    {'training': 70, 'test/query': 6, 'test/gallery': 24}
    """
    parts: Parts = {"training": [], "test/query": [], "test/gallery": []}
    names = sorted(classes)
    test = set(rng.permutation(names)[: count_test_identities(len(names))].tolist())
    for identity in names:
        pairs = _shuffled(identity, classes[identity], rng)
        if identity in test:
            _divide_test(parts, pairs[: limits[1]])
        else:
            parts["training"] += pairs[: limits[0]]
    return parts


def count_test_identities(count: int) -> int:
    """Return how many of so many identities are the test where it has its own: 30 %, at least 1."""
    return max(1, round(0.3 * count))


def count_test_queries(count: int) -> int:
    """Return how many of an identity's pictures in a test are queries: a fifth, at least 1."""
    return max(1, count // 5)


def _shuffled(
    identity: str, pictures: list[Path], rng: np.random.Generator
) -> list[tuple[str, Path]]:
    return [(identity, pictures[i]) for i in rng.permutation(len(pictures))]


def _divide_test(parts: Parts, pairs: list[tuple[str, Path]]) -> None:
    """Add an identity's pictures to the queries and the gallery of the test."""
    queries = count_test_queries(len(pairs))
    parts["test/query"] += pairs[:queries]
    parts["test/gallery"] += pairs[queries:]


def copy_all(copies: Mapping[Path, Path]) -> None:
    """Copy files, {copy: original}, and make the folders they need."""
    for folder in {copy.parent for copy in copies}:
        folder.mkdir(parents=True, exist_ok=True)
    for copy, picture in tqdm(copies.items(), "copying", unit=" pictures"):
        shutil.copy2(picture, copy)
