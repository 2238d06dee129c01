"""A competition is found wherever it lies, and class folders are listed with what is wrong."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lookalike.core.errors import UserError
from lookalike.core.log import log_to
from lookalike.data.layout import class_folders, find_layout, named_as_picture, read_origin
from tests.conftest import draw


@pytest.mark.parametrize("above", ["", "one", "one/two/three"])
def test_a_competition_is_found_up_to_three_folders_below(above: str, tmp_path: Path) -> None:
    root = tmp_path / above
    for part in ("test/query", "test/gallery", "train", "val"):
        (root / part).mkdir(parents=True)
    layout = find_layout(tmp_path)
    assert layout is not None
    assert layout.query == root / "test" / "query" and layout.gallery == root / "test" / "gallery"
    assert (layout.training, layout.validation) == (root / "train", root / "val")
    assert layout.labels == root / "labels.json"
    if above:
        assert find_layout(tmp_path, depth=len(Path(above).parts) - 1) is None


def test_training_wins_over_train_and_may_be_missing(competition: Path) -> None:
    (competition / "train").mkdir()
    layout = find_layout(competition)
    assert layout and layout.training == competition / "training" and layout.validation is None


def test_where_there_is_no_competition_none_is_found(tmp_path: Path) -> None:
    (tmp_path / "test" / "query").mkdir(parents=True)
    (tmp_path / ".hidden" / "test" / "query").mkdir(parents=True)
    (tmp_path / ".hidden" / "test" / "gallery").mkdir(parents=True)
    assert find_layout(tmp_path) is None and find_layout(tmp_path / "nowhere") is None


def test_class_folders_are_listed_with_all_that_lies_below(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    for path in ("ada/1.jpg", "ada/profile/2.png", "bo/1.jpg", ".git/1.jpg"):
        draw(tmp_path / path, 1, 1)
    (tmp_path / "ada" / "notes.txt").write_text("mine")
    (tmp_path / "labels.csv").write_text("mine")
    (tmp_path / "empty").mkdir()
    pictures = {"ada": [Path("1.jpg"), Path("profile/2.png")], "bo": [Path("1.jpg")]}
    assert class_folders(tmp_path) == pictures
    said = capsys.readouterr().err
    assert "2 files are no pictures of a class folder: left out: " in said
    assert "notes.txt" in said and "labels.csv" in said and ".git/1.jpg" in said
    assert "1 folders hold no pictures: empty" in said
    assert list(class_folders(tmp_path, at_least=2)) == ["ada"]
    with pytest.raises(UserError, match="holds no class folders"):
        class_folders(tmp_path, at_least=3)


def test_no_identity_is_made_of_what_the_system_left(tmp_path: Path) -> None:
    for path in ("ada/1.jpg", "@eaDir/1.jpg", "__MACOSX/1.jpg", "bo/@eaDir/1.jpg"):
        draw(tmp_path / path, 1, 1)
    assert class_folders(tmp_path) == {"ada": [Path("1.jpg")]}


def test_class_folders_with_names_that_are_not_utf_8_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    for path in ("ada/1.jpg", os.fsdecode(b"bo\xff/1.jpg"), os.fsdecode(b"ada/\xff.jpg")):
        draw(tmp_path / path, 1, 1)
    assert class_folders(tmp_path) == {"ada": [Path("1.jpg")]}
    said = capsys.readouterr().err
    assert "2 files have names that are not UTF-8: left out: " in said
    assert "ada/\\udcff.jpg" in said and "bo\\udcff/1.jpg" in said


def test_a_folder_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: object = ".") -> Any:  # root may read everything: the mode would not do
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    for work in (class_folders, find_layout):
        with pytest.raises(UserError, match=r"the folder cannot be read \(Permission denied\)"):
            work(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.jpeg", True), ("a.WEBP", True), ("a.tif", True), ("a.eps", False), ("a", False)],
)
def test_a_picture_is_told_by_its_suffix(name: str, expected: bool) -> None:
    assert named_as_picture(Path(name)) is expected


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"seed": 1}'])
def test_a_folder_that_was_not_made_here_has_no_origin(content: str, tmp_path: Path) -> None:
    assert read_origin(tmp_path) is None
    (tmp_path / "layout.json").write_text(content)
    assert read_origin(tmp_path) is None
    (tmp_path / "layout.json").write_text(json.dumps({"source": "demo", "seed": 1}))
    assert read_origin(tmp_path) == {"source": "demo", "seed": 1}
