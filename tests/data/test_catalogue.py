"""The catalogue names what is wrong with the pictures; splits keep people apart."""

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.core.files import listing
from lookalike.core.log import log_to
from lookalike.core.options import parse_settings
from lookalike.core.runs import Run
from lookalike.core.settings import Settings
from lookalike.data import catalogue as catalogue_module
from lookalike.data import images, splits
from lookalike.data.catalogue import load_catalogue, read_catalogue
from lookalike.data.images import (
    ORIENTATION,
    check_picture,
    read_picture,
    read_pixels,
)
from lookalike.data.splits import make_split
from tests.conftest import draw, draw_competition

PHOTO_OR_DRAWING = r"(?P<domain>photo|drawing)_"


def jpeg(path: Path, side: int = 64) -> bytes:
    draw(path, 1, 1, side=side)
    return path.read_bytes()


# ---- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "I", "YCbCr"])
def test_every_mode_is_read_as_rgb(mode: str) -> None:
    image = Image.new("L", (8, 6), 255)
    image = Image.fromarray(np.full((6, 8), 65535, np.uint16)) if mode == "I;16" else image
    image = Image.fromarray(np.full((6, 8), 65535, np.int32)) if mode == "I" else image
    image = image if mode in ("I;16", "I") else image.convert(mode)
    raw = io.BytesIO()
    image.save(raw, "TIFF" if mode in ("CMYK", "YCbCr", "I") else "PNG")
    picture = read_picture(raw.getvalue(), 224)
    assert (picture.mode, picture.size) == ("RGB", (8, 6))
    assert np.asarray(picture).min() > 250, "white stays white"


def test_transparent_parts_are_white() -> None:
    raw = io.BytesIO()
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    palette.save(raw, "PNG", transparency=0)
    assert read_picture(raw.getvalue(), 224).getpixel((0, 0)) == (255, 255, 255)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def test_a_rotated_photograph_stands_upright(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=turned(6))
    assert read_picture((tmp_path / "turned.jpg").read_bytes(), 224).size == (20, 40)


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_a_damaged_exif_block_turns_nothing(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (40, 20)).save(path, exif=b"Exif\0\0garbage")
    assert check_picture(path).problem == ""
    assert read_picture(path.read_bytes(), 224).size == (40, 20)


def test_no_other_program_is_started_for_a_picture(tmp_path: Path) -> None:
    """Pillow hands EPS to Ghostscript, which would run what stands in it."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    assert check_picture(tmp_path / "a.jpg").problem == "unreadable: not a picture"


def test_a_huge_jpeg_is_decoded_no_larger_than_needed(tmp_path: Path) -> None:
    image = Image.effect_noise((4000, 3000), 60).convert("RGB")
    image.save(tmp_path / "huge.jpg")
    picture = read_picture((tmp_path / "huge.jpg").read_bytes(), 224)
    assert picture.size == (1000, 750), "the smallest eighth that is not below twice the need"


JPEGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "progressive": {"progressive": True},
    "no subsampling": {"subsampling": 0},
    "turned": {"exif": turned(6)},
    "damaged EXIF": {"exif": b"Exif\0\0garbage"},
}


@pytest.mark.parametrize("least", [1, 60, 120, 240, 1000])
@pytest.mark.parametrize("kind", [*JPEGS, "grey", "cmyk", "png", "truncated", "spoilt"])
def test_pixels_are_those_of_pillow_however_a_file_is_decoded(kind: str, least: int) -> None:
    image = Image.effect_noise((1000, 803), 90).convert("RGB")
    mode = {"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB")
    stream = io.BytesIO()
    image.convert(mode).save(stream, "PNG" if kind == "png" else "JPEG", **JPEGS.get(kind, {}))
    raw = bytearray(stream.getvalue())
    if kind == "truncated":
        del raw[len(raw) // 2 :]
    if kind == "spoilt":
        raw[5000:5040] = bytes(40)
    expected = np.asarray(read_picture(bytes(raw), least))
    assert np.array_equal(read_pixels(bytes(raw), least), expected)


# ---- the catalogue ------------------------------------------------------------------------------


def test_damaged_files_are_told_apart(tmp_path: Path) -> None:
    whole = jpeg(tmp_path / "whole.jpg", side=256)
    files = {
        "truncated.jpg": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "text.jpg": b"not a picture at all",
        "head.jpg": whole[:20],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert check_picture(tmp_path / "whole.jpg").problem == ""
    assert check_picture(tmp_path / "truncated.jpg").problem == images.TRUNCATED
    for name in ("empty.jpg", "text.jpg", "head.jpg", "missing.jpg"):
        problem = check_picture(tmp_path / name).problem
        assert problem.startswith("unreadable: ")
        assert not re.search("0x[0-9a-f]+", problem), "an address would change in every run"


def test_the_catalogue_of_a_bad_data_set_counts_and_names_all(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    training, test = competition / "training", competition / "test"
    (training / "empty_person").mkdir()
    (training / "notes.txt").write_text("mine")
    (training / "person_00" / "notes.txt").write_text("mine")
    (training / "person_00" / ".DS_Store").write_text("x")
    (test / "query" / "broken.jpg").write_bytes(b"broken")
    whole = jpeg(test / "gallery" / "half.jpg", side=256)
    (test / "gallery" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    before = sorted(competition.rglob("*"))
    catalogue = read_catalogue(competition, PHOTO_OR_DRAWING)
    said = capsys.readouterr().err
    assert "1 folders" in said and "empty_person" in said
    assert "outside of an identity's folder" in said and "training/notes.txt" in said
    assert "files cannot be read as pictures: left out: training/person_00/notes.txt" in said
    assert "1 queries cannot be read: their ten are a guess: test/query/broken.jpg" in said
    assert "1 truncated pictures" in said and "test/gallery/half.jpg" in said
    assert "domain is unknown: training/person_00/notes.txt" in said
    assert sorted(competition.rglob("*")) == before, "a data set is only read"
    assert set(catalogue.domain) == {"photo", "drawing", "query", "gallery", ""}
    assert not catalogue.path.str.contains("DS_Store").any()


def test_what_is_unusual_is_counted_and_named(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    folder = competition / "training" / "person_77"
    folder.mkdir()
    Image.new("CMYK", (9, 9)).save(folder / "c.jpg")
    Image.new("P", (9, 9)).save(folder / "p.png")
    Image.new("RGBA", (9, 9)).save(folder / "t.png")
    Image.new("RGB", (9, 9)).save(folder / "r.jpg", exif=turned(3))
    Image.new("1", (8000, 7000)).save(folder / "h.png")
    alone = competition / "training" / "person_88" / "one.jpg"
    draw(alone, 88, 1)
    assert not read_catalogue(competition).problem.any()
    said = capsys.readouterr().err
    for trait, name in zip(
        images.TRAITS, ("c.jpg", "p.png", "t.png", None, "h.png", "r.jpg"), strict=True
    ):
        line = f"1 pictures are {trait}: read as upright RGB: training/person_77/{name}"
        assert (line in said) is (name is not None)
    assert "1 identities have a single training picture: person_88" in said


def test_clutter_is_no_query_and_links_are_followed(competition: Path, tmp_path: Path) -> None:
    (competition / "test" / "query" / "Thumbs.db").write_bytes(b"clutter")
    (competition / "test" / "query" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (competition / "test" / "gallery").rename(tmp_path / "gallery")
    (competition / "test" / "gallery").symlink_to(tmp_path / "gallery")
    (competition / "training" / "loop").symlink_to(competition / "training")
    before = listing(competition)
    draw(tmp_path / "gallery" / "new.jpg", 1, 1)
    assert listing(competition) != before
    catalogue = read_catalogue(competition).set_index("path")
    assert "test/gallery/new.jpg" in catalogue.index
    assert "test/query/Thumbs.db" not in catalogue.index
    assert catalogue.problem["test/query/gone.jpg"].startswith("unreadable")


def test_a_name_that_no_file_can_hold_is_left_out(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    whole = (competition / "test" / "gallery").iterdir()
    os.rename(next(whole), os.fsencode(competition / "test" / "gallery") + b"/\xff.jpg")  # noqa: PTH104
    assert (read_catalogue(competition).part == "gallery").sum() == 11
    assert "not UTF-8: left out" in capsys.readouterr().err


def test_a_catalogue_is_read_back_as_text(tmp_path: Path) -> None:
    draw(tmp_path / "c" / "training" / "NA" / "001.jpg", 1, 1)
    draw(tmp_path / "c" / "test" / "query" / "q.jpg", 1, 1)
    draw(tmp_path / "c" / "test" / "gallery" / "g.jpg", 1, 1)
    catalogue = read_catalogue(tmp_path / "c")
    catalogue_module.write_catalogue(tmp_path / "c.csv", catalogue)
    again = load_catalogue(tmp_path / "c.csv")
    assert again.to_dict("list") == catalogue.to_dict("list")
    assert set(again.identity) == {"NA", ""}


def test_bare_names_may_repeat_in_training_but_not_in_one_folder_of_the_test(
    competition: Path,
) -> None:
    assert (read_catalogue(competition).part == "training").sum() == 60
    draw(competition / "test" / "gallery" / "sub" / "1730.jpg", 1, 1)
    draw(competition / "test" / "gallery" / "1730.jpg", 1, 1)
    with pytest.raises(UserError, match=r"2 pictures of the gallery share their name: .*1730"):
        read_catalogue(competition)


@pytest.mark.parametrize(
    ("pattern", "said"), [("(", "is no regular expression"), ("photo", "has no group")]
)
def test_a_bad_domain_pattern_is_explained(competition: Path, pattern: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_catalogue(competition, pattern)


def test_an_empty_test_is_an_error(competition: Path) -> None:
    for path in (competition / "test" / "query").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="query: holds no pictures"):
        read_catalogue(competition)


def test_a_missing_catalogue_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--stage split"):
        load_catalogue(tmp_path / "training.csv")


# ---- splits -------------------------------------------------------------------------------------


def identities(pictures: dict[str, str]) -> set[str]:
    return set(pictures.values())


def test_a_disjoint_split_keeps_validation_people_out_of_training(competition: Path) -> None:
    split = make_split(read_catalogue(competition, PHOTO_OR_DRAWING), "auto", "photo", seed=0)
    people = identities(split.validation.query)
    assert split.kind == "disjoint" and not split.closed_set
    assert len(people) == 2 and len(identities(split.train)) == 8
    assert not people & identities(split.train)
    assert identities(split.holdout) == identities(split.train)
    assert all("photo_" in path for path in split.validation.query)
    assert all("drawing_" in path for path in split.validation.gallery)
    parts = [*split.validation, split.train, split.holdout]
    assert sum(map(len, parts)) == 60 == len({path for part in parts for path in part})


def test_a_stratified_split_is_a_closed_set(competition: Path) -> None:
    split = make_split(read_catalogue(competition), "stratified", "photo", seed=0)
    validation = split.validation.query | split.validation.gallery
    assert split.closed_set and identities(validation) == identities(split.train)
    assert split.holdout == validation


def test_a_validation_folder_is_taken_as_it_is(competition: Path) -> None:
    for person in (3, 20):
        for number in range(5):
            folder = competition / "validation" / f"person_{person:02}"
            draw(folder / f"photo_{number}.jpg", person, 50 + number)
    split = make_split(read_catalogue(competition), "auto", "photo", seed=0)
    assert split.kind == "folder" and not split.closed_set, "person_20 is in no training"
    validation = split.validation.query | split.validation.gallery
    assert len(validation) == 10 and all(path.startswith("validation/") for path in validation)
    assert len(split.validation.query) == 2


def test_splits_follow_the_seed_and_nothing_else(competition: Path) -> None:
    catalogue = read_catalogue(competition)
    shuffled = catalogue.sample(frac=1, random_state=1)
    one, same, other = (
        json.dumps(make_split(rows, "disjoint", "photo", seed).as_json())
        for rows, seed in ((catalogue, 0), (shuffled, 0), (catalogue, 1))
    )
    assert one == same != other


def test_people_with_one_picture_are_trained_on_and_never_held_out(tmp_path: Path) -> None:
    root = draw_competition(tmp_path / "c")
    for path in (root / "training").rglob("*.jpg"):
        if path.name != "photo_0.jpg":
            path.unlink()
    split = make_split(read_catalogue(root), "disjoint", "photo", seed=0)
    assert len(split.train) == 8 and not split.holdout
    assert len(split.validation.query) == 2 and not split.validation.gallery


def test_broken_pictures_are_in_no_split(competition: Path) -> None:
    path = competition / "training" / "person_00" / "photo_0.jpg"
    path.write_bytes(b"broken")
    split = make_split(read_catalogue(competition), "stratified", "photo", seed=0)
    assert path.relative_to(competition).as_posix() not in json.dumps(split.as_json())


def test_a_split_that_cannot_be_made_says_why(competition: Path) -> None:
    catalogue = read_catalogue(competition, PHOTO_OR_DRAWING)
    with pytest.raises(UserError, match="no validation/"):
        make_split(catalogue, "folder", "photo", 0)
    with pytest.raises(UserError, match="only the domains drawing, photo"):
        make_split(catalogue, "disjoint", "painting", 0)


def test_the_stage_writes_two_catalogues_and_the_split(competition: Path, tmp_path: Path) -> None:
    settings = parse_settings(["--domain-pattern", PHOTO_OR_DRAWING])
    run = Run(tmp_path / "run", competition, settings)
    run.folder.mkdir()
    made = splits.run_split(run)
    assert "8 people" in made
    test, training = (load_catalogue(run.path(name)) for name in ("test.csv", "training.csv"))
    assert len(test) == 20 and len(training) == 60
    assert set(json.loads(run.path("split.json").read_text())["train"]) < set(training.path)


def test_a_data_set_without_training_has_an_empty_split(
    competition: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    (competition / "training").rename(tmp_path / "elsewhere")
    run = Run(tmp_path / "run", competition, Settings())
    run.folder.mkdir()
    assert "none for training" in splits.run_split(run)
    assert "used untrained" in capsys.readouterr().err
    assert splits.load_split(run.path("split.json")).validation == ({}, {})
    assert isinstance(load_catalogue(run.path("training.csv")), pd.DataFrame)
