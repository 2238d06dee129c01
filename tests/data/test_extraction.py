"""Every source ends in the same layout, made once, never half."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lookalike.core.errors import UserError
from lookalike.core.log import log_to
from lookalike.core.settings import ExtractSettings
from lookalike.data import downloads
from lookalike.data.extraction import choose_data, extract, main
from lookalike.data.layout import find_layout
from lookalike.data.listing import list_pictures
from tests.conftest import SHARED, draw, draw_classes, draw_competition


def count(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def zipped(folder: Path, archive: Path, top: str) -> Path:
    with zipfile.ZipFile(archive, "w") as archive_file:
        for path in folder.rglob("*"):
            archive_file.write(path, Path(top) / path.relative_to(folder))
    return archive


def no_leftovers(folder: Path) -> bool:
    return not [p for p in folder.iterdir() if p.name.startswith(".") and p.suffix != ".lock"]


# ---- class folders ------------------------------------------------------------------------------


def test_class_folders_become_a_competition(classes: Path, tmp_path: Path) -> None:
    message = extract(tmp_path / "data" / "x", ExtractSettings("folder", str(classes)), seed=0)
    root = tmp_path / "data" / "x"
    assert message and message.endswith("x from folder")
    assert [count(root / part) for part in ("training", "validation", "test")] == [20, 8, 12]
    assert find_layout(root) and (root / "labels.json").is_file()


def test_files_that_are_no_pictures_and_empty_folders_are_named(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    (classes / "nobody").mkdir()
    (classes / "person_00" / "notes.txt").write_text("mine")
    extract(tmp_path / "x", ExtractSettings("folder", str(classes)), seed=0)
    said = capsys.readouterr().err
    assert "notes.txt" in said and "1 folders hold no pictures: nobody" in said
    assert not (tmp_path / "x" / "training" / "nobody").exists()


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir()])
def test_a_source_folder_that_holds_nothing_is_an_error(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "c")
    with pytest.raises(UserError, match=r"c: (no such folder|holds no class folders)"):
        extract(tmp_path / "x", ExtractSettings("folder", str(tmp_path / "c")), seed=0)
    assert not (tmp_path / "x").exists() and no_leftovers(tmp_path)


# ---- made once, never half ----------------------------------------------------------------------


def test_a_layout_is_reused_only_if_made_from_the_same(classes: Path, tmp_path: Path) -> None:
    data = tmp_path / "x"
    settings = ExtractSettings("folder", str(classes))
    assert extract(data, settings, seed=0)
    assert extract(data, settings, seed=0) is None
    assert extract(data, settings, seed=0, force=True)
    assert extract(data, settings, seed=1), "another seed"
    assert extract(data, ExtractSettings("folder", str(classes), "disjoint"), seed=1)
    draw(classes / "person_00" / "new.jpg", 0, 99)
    assert extract(data, ExtractSettings("folder", str(classes), "disjoint"), seed=1), (
        "more pictures"
    )


def test_what_another_source_made_is_replaced_by_force_only(classes: Path, tmp_path: Path) -> None:
    shutil.copytree(classes, tmp_path / "others")
    one, other = (ExtractSettings("folder", str(tmp_path / n)) for n in (classes.name, "others"))
    data = tmp_path / "x"
    assert extract(data, one, seed=0)
    with pytest.raises(UserError, match=rf"made from folder .*{classes.name}: .*others with --for"):
        extract(data, other, seed=0)
    assert extract(data, other, seed=0, force=True)


def test_a_folder_of_someone_else_is_never_overwritten(classes: Path, tmp_path: Path) -> None:
    mine = tmp_path / "x" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("precious")
    with pytest.raises(UserError, match="choose another --data"):
        extract(tmp_path / "x", ExtractSettings("folder", str(classes)), seed=0, force=True)
    assert mine.read_text() == "precious"


def test_a_layout_that_breaks_off_leaves_nothing(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / ".x.partial" / "training").mkdir(parents=True)  # left by a killed run
    monkeypatch.setattr(shutil, "copy2", disk_full)
    with pytest.raises(OSError, match="No space"):
        extract(tmp_path / "x", ExtractSettings("folder", str(classes)), seed=0)
    assert not (tmp_path / "x").exists() and no_leftovers(tmp_path)


def test_a_kill_while_a_layout_is_replaced_leaves_a_whole_one(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ExtractSettings("folder", str(classes))
    extract(tmp_path / "x", settings, seed=0)
    real = shutil.rmtree

    def killed(folder: Path, **_: object) -> None:
        if folder.name == ".x.old" and folder.exists():
            for path in list(folder.rglob("*.jpg"))[:10]:
                path.unlink()
            raise KeyboardInterrupt
        real(folder, ignore_errors=True)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "x", settings, seed=1)
    monkeypatch.setattr(shutil, "rmtree", real)
    assert count(tmp_path / "x") == 40 + 2
    assert extract(tmp_path / "x", settings, seed=1) is None, "the new one is in place"
    assert extract(tmp_path / "x", settings, seed=0) and count(tmp_path / "x") == 40 + 2
    assert no_leftovers(tmp_path)


# ---- other sources ------------------------------------------------------------------------------


@pytest.mark.parametrize(("top", "training"), [("", "training"), ("Comp v2/inner", "train")])
def test_an_archive_is_found_whatever_its_top_folder(
    top: str, training: str, competition: Path, tmp_path: Path
) -> None:
    (competition / "training").rename(competition / training)
    archive = zipped(competition, tmp_path / "c.zip", top)
    extract(tmp_path / "data" / "x", ExtractSettings("archive", str(archive)), seed=0)
    root = tmp_path / "data" / "x"
    assert count(root / "training") == 60 and count(root / "test") == 20
    assert (root / "labels.json").is_file()
    assert archive.is_file(), "a user's own archive is not deleted"


@pytest.mark.parametrize("top", ["", "training"])
def test_archives_in_an_archive_are_unpacked_by_the_same_rules(
    top: str, competition: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    zipped(competition / "training", whole / "training.zip", top)
    zipped(competition / "test", whole / "test.zip", "test")
    (competition / "test" / "query" / "odd.zip").write_bytes(b"a query, whatever it is")
    zipped(competition / "test", whole / "test.zip", "test")
    archive = zipped(whole, tmp_path / "competition.zip", "competition")
    extract(tmp_path / "data" / "x", ExtractSettings("archive", str(archive)), seed=0)
    for part in ("training", "test/query", "test/gallery"):
        assert count(tmp_path / "data" / "x" / part) == count(competition / part)


def test_an_unsafe_archive_in_an_archive_is_refused(competition: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(competition / "more.zip", "w") as file:
        file.writestr("../out.jpg", b"x")
    archive = zipped(competition, tmp_path / "competition.zip", "competition")
    with pytest.raises(UserError, match=r"more\.zip: member '\.\./out\.jpg'"):
        extract(tmp_path / "data" / "x", ExtractSettings("archive", str(archive)), seed=0)
    assert not (tmp_path / "data" / "x").exists() and no_leftovers(tmp_path / "data")


def test_an_archive_without_a_competition_is_explained(classes: Path, tmp_path: Path) -> None:
    archive = zipped(classes, tmp_path / "c.zip", "")
    with pytest.raises(UserError, match="--source folder"):
        extract(tmp_path / "x", ExtractSettings("archive", str(archive)), seed=0)
    assert not (tmp_path / "x").exists() and no_leftovers(tmp_path)


@pytest.mark.parametrize("keep", [False, True])
def test_a_downloaded_archive_goes_when_all_is_in_place(
    keep: bool, competition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch_drive(drive_id: str, folder: Path) -> Path:
        assert drive_id == "the-id"
        folder.mkdir(parents=True, exist_ok=True)
        return zipped(competition, folder / "c.zip", "")

    monkeypatch.setattr(downloads, "fetch_drive", fetch_drive)
    settings = ExtractSettings("competition", drive_id="the-id", keep_archive=keep)
    extract(tmp_path / "data" / "x", settings, seed=0)
    assert (tmp_path / "data" / ".downloads" / "c.zip").exists() is keep
    assert find_layout(tmp_path / "data" / "x")


def test_a_damaged_download_is_fetched_anew(
    competition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = zipped(competition, tmp_path / "c.zip", "").read_bytes()
    fetched: list[int] = []

    def fetch_drive(drive_id: str, folder: Path) -> Path:
        archive = folder / "c.archive"
        if not archive.exists():
            fetched.append(1)
            folder.mkdir(parents=True, exist_ok=True)
            archive.write_bytes(good[: len(good) // 2] if len(fetched) == 1 else good)
        return archive

    monkeypatch.setattr(downloads, "fetch_drive", fetch_drive)
    with pytest.raises(UserError):
        extract(tmp_path / "data" / "x", ExtractSettings("competition"), seed=0)
    assert extract(tmp_path / "data" / "x", ExtractSettings("competition"), seed=0)
    assert len(fetched) == 2


def test_a_changed_archive_behind_a_file_url_is_unpacked_anew(
    competition: Path, tmp_path: Path
) -> None:
    archive = zipped(competition, tmp_path / "c.zip", "")
    settings = ExtractSettings("archive", archive.as_uri())
    assert extract(tmp_path / "data" / "x", settings, seed=0)
    assert extract(tmp_path / "data" / "x", settings, seed=0) is None
    draw(competition / "test" / "gallery" / "new.jpg", 1, 1)
    zipped(competition, archive, "")
    assert extract(tmp_path / "data" / "x", settings, seed=0)
    assert (tmp_path / "data" / "x" / "test" / "gallery" / "new.jpg").exists()


def test_lfw_takes_the_identities_with_twenty_pictures(tmp_path: Path) -> None:
    home = tmp_path / "lfw_home" / "lfw_funneled"
    draw_classes(home, 2, 20)
    draw(home / "rare" / "rare_0001.jpg", 9, 1)
    extract(tmp_path / "x", ExtractSettings("lfw", lfw_home=tmp_path), seed=0)
    assert sorted(p.name for p in (tmp_path / "x" / "training").iterdir()) == [
        "person_00",
        "person_01",
    ]


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not on this machine")
def test_lfw62_has_the_reports_numbers(tmp_path: Path) -> None:
    extract(tmp_path / "x", ExtractSettings("folder", str(SHARED / "lfw62")), seed=0)
    labels = json.loads((tmp_path / "x" / "labels.json").read_text())
    assert count(tmp_path / "x") == 3023 + 2 and len(set(labels["query"].values())) == 62
    assert len(labels["query"]) == 163


# ---- which data set -----------------------------------------------------------------------------


def test_the_default_is_the_one_data_set_else_the_demo(tmp_path: Path) -> None:
    settings = ExtractSettings()
    data, chosen = choose_data(None, settings)
    assert data == Path("data/demo") and chosen.source == "demo" and settings.source is None
    draw_competition(tmp_path / "data" / "only")
    (tmp_path / "data" / ".x.partial").mkdir()
    settings = ExtractSettings()
    assert choose_data(None, settings) == (Path("data/only"), settings)
    draw_competition(tmp_path / "data" / "other")
    with pytest.raises(UserError, match="--data data/only or --data data/other"):
        choose_data(None, ExtractSettings())
    assert choose_data(None, ExtractSettings("folder", "/some/lfw62"))[0] == Path("data/lfw62")
    assert choose_data(None, ExtractSettings("archive", "/some/c.tar.gz"))[0] == Path("data/c")


def test_data_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--source"):
        extract(tmp_path / "nowhere", ExtractSettings(), seed=0)
    with pytest.raises(UserError, match="needs --source-path"):
        extract(tmp_path / "x", ExtractSettings("folder"), seed=0)


def test_the_program_lays_out_and_says_so(
    classes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--source", "folder", "--source-path", str(classes), "--data", "data/x"]
    assert main(words) == 0 and "laid out data/x" in capsys.readouterr().err
    assert main(words) == 0 and "nothing to do" in capsys.readouterr().err
    assert main([*words[:3], "nowhere"]) == 1 and "error: nowhere" in capsys.readouterr().err


def test_an_archive_of_tables_is_laid_out_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "whales" / "whales"
    for name in "123":
        draw(root / "images" / f"{name}.jpg", 0, int(name))
    for number, part in enumerate(("train", "query", "gallery"), 1):
        (root / f"{part}.csv").write_text(f"image,label\n{number},ada\n")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "whales")
    data = tmp_path / "data"
    assert extract(data, ExtractSettings("archive", archive), seed=0)
    assert list_pictures(data).part.tolist() == ["training", "query", "gallery"]
