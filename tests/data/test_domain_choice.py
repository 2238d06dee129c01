"""Domains that nobody names: by file names, by folders, by looks; and where there are none."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lookalike.core.log import log_to
from lookalike.data.appearance import describe_looks, difference_of_looks
from lookalike.data.catalogue import read_catalogue
from lookalike.data.domain_choice import LIKE_GALLERY, LIKE_QUERIES, domains_by_name, with_domains
from lookalike.data.images import content_hash

COLORS = {"photo": (170, 120, 90), "drawing": (240, 240, 250)}


def paint(path: Path, kind: str, number: int) -> None:
    """Paint noise in the colors of a kind: photographs are dark and coarse, drawings light."""
    rng = np.random.default_rng([number, *kind.encode()])
    noise = rng.normal(0, 30 if kind == "photo" else 4, (32, 32, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(COLORS[kind] + noise, 0, 255).astype(np.uint8)).save(path)


def paint_competition(root: Path, name: str, query: str, gallery: str) -> Path:
    """Paint 12 identities with three photographs and three drawings each, and a test of 20 + 20.

    Args:
        root: The folder.
        name: Of a training picture below its identity, with {kind} and {number}.
        query: The kind of the test's queries.
        gallery: That of its gallery.
    """
    number = 0
    for identity in range(12):
        for kind in COLORS:
            for i in range(3):
                number += 1
                file = name.format(kind=kind, number=i + 3 * (kind == "photo"))
                paint(root / "training" / f"id{identity:02}" / file, kind, number)
    for part, kind in (("query", query), ("gallery", gallery)):
        for i in range(20):
            paint(root / "test" / part / f"{i:03}.png", kind, 1000 + i + 100 * (part == "query"))
    return root


def choose(
    root: Path, pattern: str | None = None, named: str | None = None
) -> tuple[dict[str, int], str]:
    log_to(None)
    catalogue, domain = with_domains(read_catalogue(root, pattern), root, pattern, named)
    training = catalogue[catalogue.part == "training"]
    return dict(Counter(training.domain.tolist())), domain


@pytest.mark.parametrize(
    "name", ["{kind}_{number}.png", "{kind}/{number}.png", "{kind}-a{number}.png"]
)
@pytest.mark.parametrize(("query", "gallery"), [("photo", "drawing"), ("drawing", "photo")])
def test_names_say_the_domains_and_looks_that_of_the_queries(
    tmp_path: Path, name: str, query: str, gallery: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = paint_competition(tmp_path, name, query, gallery)
    assert choose(root) == ({"photo": 36, "drawing": 36}, query)
    assert f"the queries are of the domain {query}" in capsys.readouterr().err


def test_what_is_named_stays(tmp_path: Path) -> None:
    root = paint_competition(tmp_path, "{kind}_{number}.png", "photo", "drawing")
    assert choose(root, named="drawing") == ({"photo": 36, "drawing": 36}, "drawing")
    counts, domain = choose(root, pattern=r"(?P<domain>[a-z])[a-z]+_")
    assert (counts, domain) == ({"p": 36, "d": 36}, "p")


def test_prefixes_that_do_not_divide_the_test_are_no_domains(tmp_path: Path) -> None:
    """As left and right flanks of an animal, both among the queries and in the gallery."""
    root = paint_competition(tmp_path, "{kind}_{number}.png", "photo", "photo")
    assert choose(root) == ({"": 72}, "")


def test_looks_say_the_domains_where_names_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = paint_competition(tmp_path, "{number}.png", "photo", "drawing")
    assert choose(root) == ({LIKE_QUERIES: 36, LIKE_GALLERY: 36}, LIKE_QUERIES)
    assert "domains by their looks" in capsys.readouterr().err


def test_a_validation_that_cannot_resemble_the_test_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = paint_competition(tmp_path, "{number}.png", "photo", "drawing")
    for path in (root / "training").rglob("[012].png"):
        path.unlink()
    assert choose(root) == ({"": 36}, "")
    assert "the validation cannot resemble the test" in capsys.readouterr().err


def test_a_data_set_without_training_or_with_few_pictures_is_left_alone(tmp_path: Path) -> None:
    paint(tmp_path / "test" / "query" / "a.png", "photo", 1)
    paint(tmp_path / "test" / "gallery" / "b.png", "drawing", 2)
    assert choose(tmp_path) == ({}, "")


@pytest.mark.parametrize(
    "names",
    [
        ["Ada_1", "Ada_2", "Ada_3"],  # a name for each identity
        ["photo_1", "photo_2", "photo_3"],  # a single domain
        ["1", "2", "3"],
        ["photo_1", "2", "drawing_3"],  # many without
    ],
)
def test_names_that_are_no_domains(names: list[str]) -> None:
    rows = [
        (f"training/{who}/{name.replace('Ada', who)}.jpg", who)
        for who in ("ada", "bo")
        for name in names
    ]
    assert domains_by_name(pd.DataFrame(rows, columns=["path", "identity"])) is None


def test_alike_pictures_cannot_be_told_apart_and_unlike_ones_can(tmp_path: Path) -> None:
    paths = [tmp_path / f"{kind}_{i}.png" for kind in COLORS for i in range(24)]
    for number, path in enumerate(paths):
        paint(path, path.name.partition("_")[0], number)
    content = [content_hash(path.read_bytes()) for path in paths]
    rows = pd.DataFrame({"path": [path.name for path in paths], "content": content})
    photos, drawings = np.split(describe_looks(tmp_path, rows), 2)
    assert difference_of_looks(photos, drawings) > 0.99
    assert difference_of_looks(photos[::2], photos[1::2]) < 0.85
    assert difference_of_looks(photos[:3], drawings) == 0.5
