"""The catalogue lists every picture, and counts and names what is wrong with a data set."""

import os
import shutil
import socket
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.core.files import listing
from lookalike.core.log import log_to
from lookalike.data.catalogue import (
    COLUMNS,
    bare_names,
    list_pictures,
    load_catalogue,
    load_full_catalogue,
    outside_pictures,
    read_catalogue,
    readable,
    rows_of,
    write_catalogue,
)
from lookalike.data.images import TRAITS, content_hash
from tests.conftest import draw
from tests.data.test_images import jpeg, turned

PHOTO_OR_DRAWING = r"(?P<domain>photo|drawing)_"


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
    assert "1 queries cannot be read: their ranking is a guess: test/query/broken.jpg" in said
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
    Image.new("F", (9, 9), 0.5).save(folder / "f.tif")
    assert not read_catalogue(competition).problem.any()
    said = capsys.readouterr().err
    names = {"CMYK": "c.jpg", "palette": "p.png", "transparent": "t.png", "float": "f.tif"}
    names |= {"huge": "h.png", "rotated": "r.jpg"}
    for trait in TRAITS:
        name = names.get(trait)
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


def test_only_known_clutter_is_no_query(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    folder = competition / "test" / "query"
    clutter = ["Thumbs.db", "desktop.ini", "Icon\r", "a.jpg~", "#a.jpg#", "a.jpg.swp"]
    clutter += [".DS_Store", "._a.jpg", ".#a.jpg", "THUMBS.DB"]
    kept = ["a.heic", "b.jxl", "c.tga", "d.psd", "e.dng", "f.jpg_large", "empty", "notes.txt"]
    kept += [".hidden.jpg"]
    for name in (*clutter, *kept):
        (folder / name).write_bytes(b"" if name == "empty" else b"what Pillow does not know")
    (folder / "@eaDir").mkdir()
    draw(folder / "@eaDir" / "thumbnail.jpg", 1, 1)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    rows = read_catalogue(competition)
    queries = rows[(rows.part == "query") & ~readable(rows)]
    expected = {*kept, "pipe.jpg", "device.jpg"}
    assert set(bare_names(queries.path)) == expected
    said = capsys.readouterr().err
    assert f"{len(expected)} queries cannot be read: their ranking is a guess" in said
    assert "test/query/device.jpg (unreadable: not a regular file)" in said
    assert f"{len(clutter) + 1} files of the system or an editor" in said and "Icon\\r" in said


def test_what_is_no_regular_file_is_never_opened(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    folders = [competition / "training" / "person_00", competition / "test" / "gallery"]
    for folder in folders:
        os.mkfifo(folder / "pipe.jpg")
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(os.path.relpath(folder / "socket.jpg"))
    read_catalogue(competition)
    said = capsys.readouterr().err
    assert "4 files cannot be read as pictures: left out: " in said
    assert "training/person_00/pipe.jpg (unreadable: not a regular file)" in said
    assert "test/gallery/socket.jpg (unreadable: " in said


def test_copies_are_counted_and_named(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    people, test = competition / "training", competition / "test"
    copies = (
        (people / "person_00" / "photo_0.jpg", people / "person_01" / "same.jpg"),
        (test / "query" / "010.jpg", test / "gallery" / "same.jpg"),
        (people / "person_02" / "photo_0.jpg", test / "query" / "same.jpg"),
        (people / "person_03" / "photo_0.jpg", test / "gallery" / "again.jpg"),
        (people / "person_04" / "photo_0.jpg", competition / "validation" / "person_04" / "1.jpg"),
        (test / "query" / "041.jpg", competition / "validation" / "person_50" / "2.jpg"),
        (test / "gallery" / "042.jpg", competition / "validation" / "person_50" / "3.jpg"),
    )
    for source, target in copies:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    read_catalogue(competition)
    said = capsys.readouterr().err
    assert "2 copies of a picture under two identities: training/person_00/photo_0.jpg, " in said
    parts = ("training", "validation", "query", "gallery")
    for one, other in combinations(parts, 2):
        assert f"2 copies of a picture in both {one} and {other}: " in said


@pytest.mark.parametrize("name", ["a\rb.jpg", "a\nb.jpg", 'a"b,c.jpg', "a\r\nb.jpg", " NA .jpg"])
def test_every_name_comes_back_from_the_file(name: str, competition: Path, tmp_path: Path) -> None:
    draw(competition / "training" / f"p{name}" / name, 1, 1)
    rows = read_catalogue(competition)
    write_catalogue(tmp_path / "training.csv", rows)
    pd.testing.assert_frame_equal(load_catalogue(tmp_path / "training.csv"), rows)
    assert f"training/p{name}/{name}" in set(rows.path)


def test_a_name_that_no_file_can_hold_is_left_out(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    whole = (competition / "test" / "gallery").iterdir()
    os.rename(next(whole), os.fsencode(competition / "test" / "gallery") + b"/\xff.jpg")  # noqa: PTH104
    assert (read_catalogue(competition).part == "gallery").sum() == 11
    assert "not UTF-8: left out" in capsys.readouterr().err


def test_a_query_whose_name_no_submission_can_hold_is_an_error(competition: Path) -> None:
    draw(competition / "test" / "query" / os.fsdecode(b"\xff.jpg"), 1, 1)
    with pytest.raises(UserError, match=r"1 queries have names that are not UTF-8, .*rename"):
        read_catalogue(competition)


def test_a_data_set_may_lie_in_a_folder_with_any_name(competition: Path, tmp_path: Path) -> None:
    folder = competition.rename(tmp_path / os.fsdecode(b"\xff"))
    assert len(read_catalogue(folder)) == 80


def test_a_catalogue_is_read_back_as_text(tmp_path: Path) -> None:
    draw(tmp_path / "c" / "training" / "NA" / "001.jpg", 1, 1)
    draw(tmp_path / "c" / "test" / "query" / "q.jpg", 1, 1)
    draw(tmp_path / "c" / "test" / "gallery" / "g.jpg", 1, 1)
    catalogue = read_catalogue(tmp_path / "c")
    write_catalogue(tmp_path / "c.csv", catalogue)
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


def test_an_empty_test_is_an_error(competition: Path) -> None:
    for path in (competition / "test" / "query").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="query: holds no pictures"):
        read_catalogue(competition)


def test_a_missing_catalogue_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--stage split"):
        load_catalogue(tmp_path / "training.csv")


@pytest.mark.parametrize(
    "row",
    [
        "test/query/010.jpg,,query,query,0,",  # is there already
        "test/query/new.jpg,,query,querz,0,",
        "test/query/new.jpg",
        "test/query/new.jpg,,query,query,0,,one,more",
        '"test/query/new.jpg,,query,query,0,',
    ],
)
def test_a_damaged_catalogue_says_what_makes_it(
    row: str, competition: Path, tmp_path: Path
) -> None:
    write_catalogue(tmp_path / "test.csv", read_catalogue(competition))
    assert len(load_catalogue(tmp_path / "test.csv")) == 80
    with (tmp_path / "test.csv").open("a") as stream:
        stream.write(row + "\n")
    with pytest.raises(UserError, match=r"test\.csv: .*make it anew with --stage split"):
        load_catalogue(tmp_path / "test.csv")


def test_queries_that_are_all_alike_and_a_gallery_of_one_picture_are_listed(
    competition: Path,
) -> None:
    first, *others = sorted((competition / "test" / "query").iterdir())
    for query in others:
        shutil.copy(first, query)
    for picture in sorted((competition / "test" / "gallery").iterdir())[1:]:
        picture.unlink()
    rows = read_catalogue(competition)
    assert rows.part.value_counts()[["query", "gallery"]].tolist() == [8, 1]
    assert rows.content[rows.part == "query"].nunique() == 1


def test_listing_opens_no_picture(competition: Path) -> None:
    for path in competition.rglob("*.jpg"):
        path.write_bytes(b"broken")
    listed = list_pictures(competition)
    assert listed.part.value_counts().to_dict() == {"training": 60, "gallery": 12, "query": 8}
    assert listed.path.is_monotonic_increasing


def test_a_run_has_its_catalogue_in_two_files(competition: Path, tmp_path: Path) -> None:
    catalogue = read_catalogue(competition)
    test = catalogue.part.isin(["query", "gallery"])
    write_catalogue(tmp_path / "test.csv", catalogue[test])
    write_catalogue(tmp_path / "training.csv", catalogue[~test])
    both = load_full_catalogue(tmp_path)
    assert list(both) == COLUMNS and set(both.path) == set(catalogue.path)
    assert both.part.iloc[0] == "training" and both.part.iloc[-1] == "query"


def test_rows_come_in_the_order_of_their_paths(competition: Path) -> None:
    catalogue = read_catalogue(competition)
    paths = catalogue.path.iloc[[7, 3, 5]].tolist()
    rows = rows_of(catalogue, paths)
    assert rows.path.tolist() == paths and rows.index.tolist() == [0, 1, 2]
    with pytest.raises(UserError, match=r"1 pictures .* first nowhere\.jpg: make both"):
        rows_of(catalogue, ["nowhere.jpg", *paths])
    assert isinstance(rows_of(catalogue, []), pd.DataFrame)


def test_pictures_outside_of_a_data_set_are_checked_in_their_order(tmp_path: Path) -> None:
    content = jpeg(tmp_path / "b.jpg")
    (tmp_path / "a.jpg").write_bytes(b"broken")
    rows = outside_pictures([Path("b.jpg"), Path("a.jpg"), Path("missing.jpg")])
    assert rows.path.tolist() == [
        str(tmp_path / name) for name in ("b.jpg", "a.jpg", "missing.jpg")
    ]
    assert rows.content.tolist() == [content_hash(content), content_hash(b"broken"), ""]
    assert rows.problem.iloc[0] == "" and rows.problem.str.startswith("unreadable").sum() == 2
