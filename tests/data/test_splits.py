"""A split keeps its parts apart, follows the seed, and says why it cannot be made."""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lookalike import pipeline
from lookalike.core.errors import UserError
from lookalike.core.log import log_to
from lookalike.core.options import parse_settings
from lookalike.core.runs import Run
from lookalike.core.settings import Settings
from lookalike.data.catalogue import load_catalogue, read_catalogue
from lookalike.data.images import content_hash
from lookalike.data.sessions import find_sessions
from lookalike.data.splits import (
    RetrievalTask,
    Split,
    load_split,
    make_split,
    retrieval_task,
    run_split,
    unseen_split,
    validation_rows,
)
from lookalike.retrieval.labeled_tasks import divide_by_identity
from tests.conftest import draw, draw_competition
from tests.data.test_catalogue import PHOTO_OR_DRAWING


def identities(pictures: dict[str, str]) -> set[str]:
    return set(pictures.values())


def test_a_disjoint_split_keeps_validation_identities_out_of_training(competition: Path) -> None:
    split = make_split(read_catalogue(competition, PHOTO_OR_DRAWING), "auto", "photo", seed=0)
    unseen = identities(split.validation.query)
    assert split.kind == "disjoint" and not split.closed_set
    assert len(unseen) == 2 and len(identities(split.train)) == 8
    assert not unseen & identities(split.train)
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


def draw_validation(competition: Path, *people: int) -> None:
    for person in people:
        for number in range(5):
            folder = competition / "validation" / f"person_{person:02}"
            draw(folder / f"photo_{number}.jpg", person, 50 + number)


@pytest.mark.parametrize(
    ("people", "validated", "said"),
    [
        ((3, 20, 21), {"person_20", "person_21"}, "1 identities of validation/ are trained on"),
        (
            (3, 4, 20),
            {"person_03", "person_04"},
            "are trained on instead: the others there are all",
        ),
        ((3, 4), {"person_03", "person_04"}, ""),
    ],
)
def test_a_validation_is_unseen_as_a_whole_or_a_closed_set(
    competition: Path,
    capsys: pytest.CaptureFixture[str],
    people: tuple[int, ...],
    validated: set[str],
    said: str,
) -> None:
    log_to(None)
    draw_validation(competition, *people)
    split = make_split(read_catalogue(competition), "auto", "photo", seed=0)
    assert identities(split.validation.query) == validated
    trained = identities(split.train)
    assert split.closed_set == (validated <= trained) and (
        split.closed_set or not validated & trained
    )
    assert len(split.labeled) == 60 + 5 * len(people), "no labeled picture is lost"
    printed = capsys.readouterr().err
    assert said in printed and ("trained on" in printed) == bool(said)


def test_a_validation_folder_is_taken_as_it_is(competition: Path) -> None:
    draw_validation(competition, 20, 21)
    split = make_split(read_catalogue(competition), "auto", "photo", seed=0)
    assert split.kind == "folder" and not split.closed_set, "they are in no training"
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


def test_identities_with_one_picture_are_trained_on_and_never_held_out(tmp_path: Path) -> None:
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
    with pytest.raises(UserError, match="'random': must be auto, folder, disjoint or stratified"):
        make_split(catalogue, "random")


def test_the_stage_writes_two_catalogues_and_the_split(competition: Path, tmp_path: Path) -> None:
    settings = parse_settings(["--domain-pattern", PHOTO_OR_DRAWING])
    run = Run(tmp_path / "run", competition, settings)
    run.folder.mkdir()
    message = run_split(run)
    assert "8 identities" in message
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
    assert "none for training" in run_split(run)
    assert "used untrained" in capsys.readouterr().err
    assert load_split(run.path("split.json")).validation == ({}, {})
    assert isinstance(load_catalogue(run.path("training.csv")), pd.DataFrame)


@pytest.fixture
def run(competition: Path, tmp_path: Path) -> Run:
    settings = parse_settings(["--domain-pattern", PHOTO_OR_DRAWING])
    run = Run(tmp_path / "run", competition, settings)
    run_split(run)
    return run


def test_a_split_is_read_back_as_it_was_made(run: Run) -> None:
    split = make_split(read_catalogue(run.data, PHOTO_OR_DRAWING), "auto", "photo", seed=0)
    assert load_split(run.path("split.json")) == split
    assert isinstance(load_split(run.path("split.json")).validation, RetrievalTask)


@pytest.mark.parametrize("content", ["{}", '{"validation": {"query": {}}}', "not JSON", "[]"])
def test_a_damaged_split_says_what_makes_it(content: str, tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(UserError, match="--stage split"):
        load_split(tmp_path / "split.json")


def test_after_a_refit_everything_has_been_trained_on() -> None:
    task = RetrievalTask({"q.jpg": "c"}, {"g.jpg": "c"})
    split = Split("disjoint", False, {"a.jpg": "a"}, {"b.jpg": "a"}, task)
    assert split.refitted().train == split.labeled == split.refitted().labeled
    assert not split.refitted().holdout and split.refitted().validation == ({}, {})


def test_with_refit_no_validation_is_unseen(run: Run) -> None:
    assert len(validation_rows(run, "query")) == len(unseen_split(run).validation.query) == 6
    run.settings.train.objective, run.settings.train.refit = "arcface", True
    assert len(unseen_split(run).train) == 60
    assert validation_rows(run, "query").empty and validation_rows(run, "gallery").empty


@pytest.mark.parametrize(
    ("kind", "sizes"), [("disjoint", (5, 1, 0, 0)), ("stratified", (5, 1, 1, 0))]
)
def test_one_identity_is_divided_as_far_as_it_goes(
    kind: str, sizes: tuple[int, ...], competition: Path
) -> None:
    catalogue = read_catalogue(competition)
    split = make_split(catalogue[catalogue.identity.isin(["person_00", ""])], kind, "photo", 0)
    assert (len(split.train), len(split.holdout), *map(len, split.validation)) == sizes
    assert not split.validation.answerable


def test_a_query_that_was_replaced_in_place_is_read_again(
    competition: Path, tmp_path: Path
) -> None:
    """Its size and its time are those of before, as after `cp --preserve`."""
    first, second, *_ = sorted((competition / "test" / "query").iterdir())
    size = max(first.stat().st_size, second.stat().st_size)
    for path in (first, second):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    words = ["--stage", "split", "--data", competition, "--run", tmp_path / "run"]
    contents = []
    for raw in (first.read_bytes(), second.read_bytes()):
        state = first.stat()
        first.write_bytes(raw)
        os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert pipeline.main([str(word) for word in words]) == 0
        rows = load_catalogue(tmp_path / "run" / "test.csv").set_index("path")
        contents.append(rows.content[f"test/query/{first.name}"])
        assert contents[-1] == content_hash(raw)
    assert contents[0] != contents[1]


def test_a_folder_that_cannot_be_read_ends_the_stage(
    competition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def refuse(folder: str) -> Any:  # root may read everything: the mode alone would not do
        if str(folder).endswith("person_03"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="person_03: the folder cannot be read"):
        run_split(Run(tmp_path / "run", competition, Settings()))


def test_pictures_of_a_session_are_never_query_and_gallery_to_each_other() -> None:
    names = [f"{side}_{10 * i + j:03}" for i in range(20) for j in range(5) for side in "lr"]
    rows = pd.DataFrame({"identity": [f"animal{i:02}" for i in range(20) for _ in range(10)]})
    rows["path"] = [f"training/{n}/{m}.jpg" for n, m in zip(rows.identity, names, strict=True)]
    rows = rows.assign(domain="", part="training", problem="")
    rows["session"] = find_sessions(rows, None)
    assert set(rows.session) == {name[-3:] for name in names}
    task = make_split(rows, "disjoint", "", seed=0).validation
    assert len(task.query) == 4 * 2 and len(task.gallery) == 4 * 8
    session = dict(zip(rows.path, rows.session, strict=True))
    assert not {session[path] for path in task.query} & {session[path] for path in task.gallery}
    divided = divide_by_identity(
        rows, dict(zip(rows.path, rows.identity, strict=True)), "", 2, seed=0
    )
    for part in divided:
        assert not {session[p] for p in part.query} & {session[p] for p in part.gallery}


@pytest.mark.parametrize(
    "names",
    [
        ["photo_1", "drawing_1", "photo_2", "drawing_2"],  # numbers begin anew with each identity
        ["0001", "0002", "0003", "0004"],  # and number pictures
        ["ada", "bo", "cy", "di"],
    ],
)
def test_numbers_of_pictures_are_no_sessions(names: list[str]) -> None:
    rows = pd.DataFrame({"path": [f"training/{i}/{name}.jpg" for i in "ab" for name in names]})
    rows = rows.assign(identity=list("aaaabbbb"), part="training")
    assert (find_sessions(rows, None) == "").all()


def test_the_only_session_of_an_identity_is_in_the_gallery() -> None:
    groups = {"ada": ["a1.jpg", "a2.jpg"], "bo": ["b1.jpg", "b2.jpg"]}
    sessions = {"a1.jpg": "s", "a2.jpg": "s", "b1.jpg": "t", "b2.jpg": "u"}
    domains = dict.fromkeys([*sessions], "")
    task = retrieval_task(groups, domains, "", 0, sessions)
    assert set(task.query.values()) == {"bo"} and {"a1.jpg", "a2.jpg"} < set(task.gallery)


def catalogue_of(**columns: list[str]) -> pd.DataFrame:
    rows = {"identity": ["a"] * 12 + ["b"] * 12 + ["c"] * 2, "part": "training", "problem": ""}
    table = pd.DataFrame(rows | {"domain": ""} | columns)
    table["path"] = [f"training/{name}/{i}.jpg" for i, name in enumerate(table.identity)]
    return table


@pytest.mark.parametrize("column", ["session", "content"])
@pytest.mark.parametrize("kind", ["disjoint", "stratified"])
@pytest.mark.parametrize("seed", range(5))
def test_sessions_and_copies_are_on_one_side_of_every_part(
    column: str, kind: str, seed: int
) -> None:
    """Of each identity two pictures are together; c has these two only."""
    together = [str(number // 2) for number in range(26)]
    rows = catalogue_of(**{column: together})
    split = make_split(rows, kind, "photo", seed)
    of = dict(zip(rows.path, together, strict=True))
    parts = (split.train, split.holdout, split.validation.query, split.validation.gallery)
    sides = [{of[path] for path in part} for part in parts]
    held, (query, gallery) = sides[1], sides[2:]
    assert not sides[0] & held and not query & gallery
    assert split.holdout and not [path for path in split.holdout if "/c/" in path]
    assert len(split.labeled) == 26
