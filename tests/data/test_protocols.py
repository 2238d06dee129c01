"""Class folders are divided by a protocol, and each picture gets a name of its own in the test."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lookalike.core.errors import UserError
from lookalike.core.settings import ExtractSettings
from lookalike.data.layout import Classes, class_folders
from lookalike.data.protocols import (
    Limits,
    Parts,
    disjoint_protocol,
    lay_out_classes,
    report_protocol,
)
from tests.conftest import draw, draw_classes

Labels = dict[str, dict[str, str]]
Protocol = Callable[[Classes, np.random.Generator, Limits], Parts]


def lay_out(root: Path, target: Path, protocol: str = "report", seed: int = 0) -> Labels:
    """Lay class folders out and return the labels of the test."""
    settings = ExtractSettings(protocol=protocol)  # type: ignore[arg-type]
    copies = lay_out_classes(root, class_folders(root), target, settings, seed)
    assert all(copy.read_bytes() == original.read_bytes() for copy, original in copies.items())
    labels: Labels = json.loads((target / "labels.json").read_text())
    for part, names in labels.items():
        assert set(names) == {path.name for path in (target / "test" / part).iterdir()}
    return labels


def numbered(identities: int, pictures: int) -> Classes:
    return {
        f"i{number}": [Path(f"i{number}_{i}.jpg") for i in range(pictures)]
        for number in range(identities)
    }


def test_the_report_protocol_shares_each_identity(classes: Path, tmp_path: Path) -> None:
    labels = lay_out(classes, tmp_path / "x")
    placed = [path.relative_to(tmp_path / "x") for path in (tmp_path / "x").rglob("*.jpg")]
    assert Counter(path.parts[0] for path in placed) == {
        "training": 20,
        "validation": 8,
        "test": 12,
    }
    assert len({path.name for path in placed}) == 40, "every picture is in one part"
    names = {f"person_{i:02}" for i in range(4)}
    assert Counter(labels["query"].values()) == dict.fromkeys(names, 1)
    assert Counter(labels["gallery"].values()) == dict.fromkeys(names, 2)


def test_the_disjoint_protocol_puts_whole_identities_into_the_test(tmp_path: Path) -> None:
    labels = lay_out(draw_classes(tmp_path / "c", 10, 5), tmp_path / "x", "disjoint")
    trained = {path.name for path in (tmp_path / "x" / "training").iterdir()}
    tested = set(labels["query"].values()) | set(labels["gallery"].values())
    assert len(tested) == 3 and len(trained) == 7 and not tested & trained


@pytest.mark.parametrize("protocol", [report_protocol, disjoint_protocol])
def test_limits_cut_what_a_part_has_of_an_identity(protocol: Protocol) -> None:
    parts = protocol(numbered(10, 20), np.random.default_rng(0), (3, 4))
    limits = {"training": 3, "validation": 3, "test/query": 1, "test/gallery": 3}
    for part, pictures in parts.items():
        counts = Counter(identity for identity, _ in pictures)
        assert set(counts.values()) == {limits[part]}, part


def test_the_seed_decides_the_layout(classes: Path, tmp_path: Path) -> None:
    a, b, c = (lay_out(classes, tmp_path / name, seed=int(name == "c")) for name in "abc")
    assert a == b != c


def test_repeated_names_carry_their_identity_and_stay_apart(tmp_path: Path) -> None:
    for name in ("ada", "bo"):
        for number in range(10):
            draw(tmp_path / "c" / name / f"{number}.jpg", 1, number)
            draw(tmp_path / "c" / name / "profile" / f"{number}.jpg", 2, number)
    labels = lay_out(tmp_path / "c", tmp_path / "x")
    names = [*labels["query"], *labels["gallery"]]
    assert len(set(names)) == 12
    assert all(name.startswith(("ada__", "bo__")) for name in names)
    for part in ("query", "gallery"):
        for name, identity in labels[part].items():
            original = tmp_path / "c" / identity / "/".join(name.split("__")[1:])
            placed = tmp_path / "x" / "test" / part / name
            assert placed.read_bytes() == original.read_bytes()


def test_two_pictures_that_would_get_one_name_are_named(tmp_path: Path) -> None:
    """A folder and a file may spell what another folder and file do."""
    for path in ("a/b__1.jpg", "a__b/1.jpg", "a/1.jpg", "c/b__1.jpg"):
        draw(tmp_path / "c" / path, 1, 1)
    settings = ExtractSettings(protocol="report")
    with pytest.raises(UserError, match=r"both become a__b__1\.jpg"):
        lay_out_classes(tmp_path / "c", class_folders(tmp_path / "c"), tmp_path / "x", settings, 0)
    assert not (tmp_path / "x").exists(), "nothing is copied before all names are known"


def test_identities_with_one_picture_are_too_few_for_a_test(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few pictures"):
        lay_out(draw_classes(tmp_path / "c", 2, 1), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_flat_paths_start_in_the_folder_itself(tmp_path: Path) -> None:
    for number in range(6):
        draw(tmp_path / "c" / "00" / f"{number}.jpg", 1, number)
    classes = {"ada": [Path("00") / f"{number}.jpg" for number in range(6)]}
    settings = ExtractSettings(protocol="report")
    copies = lay_out_classes(tmp_path / "c", classes, tmp_path / "x", settings, 0, flat=True)
    assert set(copies.values()) == set((tmp_path / "c").rglob("*.jpg"))
    assert len(list((tmp_path / "x" / "training" / "ada" / "00").iterdir())) == 3
