"""The built-in demo competition: layout, labels, and the same bytes for the same seed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image

from lookalike.data import demo

Files = dict[str, bytes]


def read(root: Path) -> Files:
    """Path inside root -> content of every picture."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.jpg")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A competition of three identities in training and two in the test."""
    root = tmp_path_factory.mktemp("demo")
    demo.draw_competition(root, 0, 3, 2)
    return root


def test_layout_and_counts(root: Path) -> None:
    persons = sorted((root / "training").iterdir())
    assert len(persons) == 3
    for person in persons:
        names = sorted(path.name for path in person.iterdir())
        assert len(names) == len(demo.TRAINING)
        assert {"photo_01.jpg", "photo_04.jpg", "line_02.jpg", "flat_01.jpg"} <= set(names)
    assert len(list((root / "test/query").iterdir())) == 2 * 3
    assert len(list((root / "test/gallery").iterdir())) == 2 * 10


def test_labels_cover_the_test_and_share_nobody_with_training(root: Path) -> None:
    labels = json.loads((root / "labels.json").read_text())
    assert set(labels) == {"query", "gallery"}
    for part, identities in labels.items():
        assert set(identities) == {path.name for path in (root / "test" / part).iterdir()}
    assert set(labels["query"].values()) == set(labels["gallery"].values())
    training = {path.name for path in (root / "training").iterdir()}
    assert training.isdisjoint(labels["query"].values())


def test_pictures_are_rgb_of_one_size(root: Path) -> None:
    for path in root.rglob("*.jpg"):
        with Image.open(path) as picture:
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
            assert picture.size == (demo.SIZE, demo.SIZE)


def test_a_seed_gives_the_same_bytes_in_another_process(root: Path, tmp_path: Path) -> None:
    call = (
        "import pathlib; from lookalike.data import demo; "
        f"demo.draw_competition(pathlib.Path({str(tmp_path)!r}), 0, 3, 2)"
    )
    project = Path(demo.__file__).parents[2]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", call], cwd=project, env=environment, check=True)
    assert read(tmp_path) == read(root)
    assert (tmp_path / "labels.json").read_bytes() == (root / "labels.json").read_bytes()


def test_another_seed_gives_other_files(root: Path, tmp_path: Path) -> None:
    demo.draw_competition(tmp_path, 1, 3, 2)
    first, second = read(root), read(tmp_path)
    assert set(first).isdisjoint(second)
    assert set(first.values()).isdisjoint(second.values())


def test_fewer_identities_give_a_part_of_the_same_files(root: Path, tmp_path: Path) -> None:
    demo.draw_competition(tmp_path, 0, 2, 1)
    small = read(tmp_path)
    assert len(small) == 2 * len(demo.TRAINING) + len(demo.TEST)
    assert small.items() <= read(root).items()


def test_names_are_unique_and_hashes_say_nothing(root: Path) -> None:
    indices = [*range(2000), *range(demo.FIRST_TEST_INDEX, demo.FIRST_TEST_INDEX + 2000)]
    assert len({demo.make_name(5, index) for index in indices}) == len(indices)
    for path in (root / "test").rglob("*.jpg"):
        assert len(path.stem) == 16
        int(path.stem, 16)


def test_every_picture_of_a_person_is_another_one(root: Path) -> None:
    pictures = read(root)
    assert len(set(pictures.values())) == len(pictures)


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("domain", demo.RENDERERS)
def test_a_picture_shows_something(domain: str, index: int) -> None:
    picture = demo.draw_picture(demo.make_person(2, index), domain, default_rng(index))
    gray = np.asarray(picture.convert("L"), int)
    assert gray.max() - gray.min() > 60


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="10000"):
        demo.draw_competition(tmp_path, 0, demo.FIRST_TEST_INDEX + 1, 1)
    with pytest.raises(KeyError):
        demo.draw_picture(demo.make_person(0, 0), "sculpture", default_rng(0))
    assert not list(tmp_path.iterdir())


def test_an_overview_has_a_row_per_person(tmp_path: Path) -> None:
    demo.draw_overview(rows=2).save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 5 * demo.SIZE
        assert sheet.height > 2 * demo.SIZE


def test_the_command_draws_an_overview(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["overview/demo.jpg", "3", "--rows", "1"]) == 0
    assert "drawn: overview/demo.jpg" in capsys.readouterr().err
    with Image.open(tmp_path / "overview" / "demo.jpg") as overview:
        assert overview.format == "JPEG" and overview.height == demo.SIZE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo"], "no picture format has this suffix"),
        (["demo.txt"], "no picture format has this suffix"),
        (["demo.jpg", "-1"], "seed -1: must be at least 0"),
        (["demo.jpg", "--rows", "0"], "--rows 0: must be at least 1"),
    ],
)
def test_the_command_explains_what_it_cannot_do(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and not Path("demo.jpg").exists()
