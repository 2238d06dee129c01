"""TODO lookalike.data.protocols."""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.core.files import write_json
from lookalike.core.settings import ExtractSettings
from lookalike.data.layout import Classes

Placed = dict[str, list[tuple[str, Path]]]  # part of the layout -> (identity, picture) pairs
Most = tuple[int | None, int | None]  # pictures of a person in training, in the test; None: all


def lay_out_classes(
    root: Path, classes: Classes, target: Path, how: ExtractSettings, seed: int, flat: bool = False
) -> dict[Path, Path]:
    """Copies pictures below `root` into a competition's layout, with its test's labels.

    flat: the paths start in `root` itself, not in a folder of the identity in it.
    Returns {place: picture}.
    """
    share = {"report": report_protocol, "disjoint": disjoint_protocol}[how.protocol]
    rng, most = np.random.default_rng(seed), (how.train_per_person, how.test_per_person)
    repeats = repeated_names(classes)
    labels: dict[str, dict[str, str]] = {"query": {}, "gallery": {}}
    copies: dict[Path, Path] = {}
    for part, pairs in share(classes, rng, most).items():
        for identity, picture in pairs:
            place = target / part / identity / picture
            if part.startswith("test/"):
                name = bare_name(identity, picture, repeats)
                labels[part.removeprefix("test/")][name] = identity
                place = target / part / name
            if place in copies:
                raise UserError(
                    f"{identity}/{picture} and {copies[place]}: both become {place.name}"
                )
            copies[place] = root / ("" if flat else identity) / picture
    if not labels["query"] or not labels["gallery"]:
        raise UserError(f"{root}: too few pictures for a test with queries and a gallery")
    copy_all(copies)
    write_json(target / "labels.json", labels)
    return copies


def repeated_names(classes: Classes) -> set[str]:
    """Bare file names that more than one picture has.

    >>> sorted(repeated_names({"ada": [Path("1.jpg")], "bo": [Path("1.jpg"), Path("2.jpg")]}))
    ['1.jpg']
    """
    counts = Counter(picture.name for pictures in classes.values() for picture in pictures)
    return {name for name, count in counts.items() if count > 1}


def bare_name(identity: str, picture: Path, repeats: set[str]) -> str:
    """The name in the test's flat folders: the picture's own unless several pictures share it.

    >>> bare_name("ada", Path("profile/1.jpg"), {"1.jpg"})
    'ada__profile__1.jpg'
    """
    return "__".join((identity, *picture.parts)) if picture.name in repeats else picture.name


def report_protocol(classes: Classes, rng: np.random.Generator, most: Most) -> Placed:
    """The report's shares of each identity's n pictures: n/2 training, n/5 validation, rest test.

    All identities are in every part (a closed set). Of the m test pictures, max(1, m/5) are
    queries and the others gallery; every share is rounded down, then cut to `most`, where
    validation may have as many as training.

    >>> classes = {"ada": [Path(str(i)) for i in range(20)]}
    >>> placed = report_protocol(classes, np.random.default_rng(0), (None, 5))
    >>> {part: len(pairs) for part, pairs in placed.items()}
    {'training': 10, 'validation': 4, 'test/query': 1, 'test/gallery': 4}
    """
    placed: Placed = {"training": [], "validation": [], "test/query": [], "test/gallery": []}
    for identity, pictures in sorted(classes.items()):
        pairs = [(identity, pictures[i]) for i in rng.permutation(len(pictures))]
        training, validation = len(pairs) // 2, len(pairs) // 5
        placed["training"] += pairs[:training][: most[0]]
        placed["validation"] += pairs[training : training + validation][: most[0]]
        _share_test(placed, pairs[training + validation :][: most[1]])
    return placed


def disjoint_protocol(classes: Classes, rng: np.random.Generator, most: Most) -> Placed:
    """30 % of the identities, whole, into the test, the others into training.

    Of the m pictures of a test identity, max(1, m/5) are queries and the others gallery; what
    training or the test gets of an identity is cut to `most`.

    >>> classes = {name: [Path(name + str(i)) for i in range(10)] for name in "abcdefghij"}
    >>> placed = disjoint_protocol(classes, np.random.default_rng(0), (None, None))
    >>> {part: len(pairs) for part, pairs in placed.items()}
    {'training': 70, 'test/query': 6, 'test/gallery': 24}
    """
    placed: Placed = {"training": [], "test/query": [], "test/gallery": []}
    names = sorted(classes)
    test = set(rng.permutation(names)[: max(1, round(0.3 * len(names)))].tolist())
    for identity in names:
        pairs = [(identity, classes[identity][i]) for i in rng.permutation(len(classes[identity]))]
        if identity in test:
            _share_test(placed, pairs[: most[1]])
        else:
            placed["training"] += pairs[: most[0]]
    return placed


def _share_test(placed: Placed, pairs: list[tuple[str, Path]]) -> None:
    queries = max(1, len(pairs) // 5)
    placed["test/query"] += pairs[:queries]
    placed["test/gallery"] += pairs[queries:]


def copy_all(copies: Mapping[Path, Path]) -> None:
    """Copies files, {place: picture}, making the folders they need."""
    for folder in {place.parent for place in copies}:
        folder.mkdir(parents=True, exist_ok=True)
    for place, picture in tqdm(copies.items(), "copying", unit=" pictures"):
        shutil.copy2(picture, place)
