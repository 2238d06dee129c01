"""A data set as a notebook reads it."""

import json
import shutil
from pathlib import Path

import pytest

from lookalike.core.errors import UserError
from lookalike.data.dataset import read_dataset


def test_parts_hold_the_pictures_that_can_be_read(competition: Path) -> None:
    broken = competition / "test" / "query" / "zz.jpg"
    broken.write_bytes(b"no picture")
    shutil.copytree(
        competition / "training" / "person_00", competition / "validation" / "person_00"
    )
    data = read_dataset(str(competition))
    assert len(data.query) == 8 and "zz.jpg" not in set(data.query.name)
    assert data.unreadable.path.tolist() == ["test/query/zz.jpg"]
    assert len(data.training) == 66 and set(data.training.part) == {"training", "validation"}
    assert len(data.catalogue) == len(data.training) + len(data.query) + len(data.gallery) + 1
    assert (data.gallery.path == "test/gallery/" + data.gallery.name).all()


def test_the_domain_pattern_of_the_layout_is_the_default(competition: Path) -> None:
    assert set(read_dataset(competition).training.domain) == {"photo", "drawing"}, "by name"
    origin = {"source": "demo", "domain_pattern": "(?P<domain>photo|draw)"}
    (competition / "layout.json").write_text(json.dumps(origin))
    assert set(read_dataset(competition).training.domain) == {"photo", "draw"}
    named = read_dataset(competition, r"person_0(?P<domain>\d)")
    assert len(set(named.training.domain)) == 10


def test_a_split_follows_its_seed(competition: Path) -> None:
    data = read_dataset(competition, "(?P<domain>photo|drawing)_")
    one, same, other = (data.split(seed=seed) for seed in (0, 0, 1))
    assert one == same != other
    assert all("photo_" in path for path in one.validation.query)


def test_a_folder_that_is_no_competition_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no test/query/ and test/gallery/"):
        read_dataset(tmp_path)
