"""Data sets of every usual form are understood, or refused with what would explain them."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from lookalike.core.errors import UserError
from lookalike.core.log import log_to
from lookalike.core.settings import ListingSettings
from lookalike.data.layout import class_folders
from lookalike.data.listing import is_dataset, list_pictures
from lookalike.data.tables import refuse_table
from lookalike.pipeline import main
from tests.conftest import FAST, SHARED, draw

Parts = dict[str, list[str]]


def draw_all(root: Path, *paths: str) -> Path:
    for path in paths:
        draw(root / path, 0, 0)
    return root


def parts_of(listed: pd.DataFrame) -> Parts:
    return {str(part): rows.path.tolist() for part, rows in listed.groupby("part")}


def identities_of(listed: pd.DataFrame) -> dict[str, str]:
    labeled = listed[listed.identity != ""]
    return dict(zip(labeled.path, labeled.identity, strict=True))


# ---- folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("training", "query", "gallery"),
    [
        ("training", "test/query", "test/gallery"),
        ("Train", "TEST/Query", "TEST/Gallery"),
        ("train", "test/queries", "test/index"),
        ("train", "test/probe", "test/database"),
        ("training", "query", "gallery"),
        ("train", "Probe", "References"),
        ("train", "test", "index"),  # Google Landmarks
    ],
)
def test_usual_names_of_folders_are_understood(
    training: str, query: str, gallery: str, tmp_path: Path
) -> None:
    draw_all(tmp_path, f"{training}/ada/1.jpg", f"{query}/q.jpg", f"{gallery}/g.jpg")
    listed = list_pictures(tmp_path)
    expected = {"gallery": gallery, "query": query, "training": f"{training}/ada"}
    assert {part: Path(paths[0]).parent.as_posix() for part, paths in parts_of(listed).items()} == (
        expected
    )
    assert identities_of(listed) == {f"{training}/ada/1.jpg": "ada"}


@pytest.mark.parametrize("name", ["_c1s1_000451_03.jpg", "_c2_f0046985.jpg"])
def test_person_reidentification_sets_are_understood(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Market-1501's names, and DukeMTMC's."""
    log_to(None)
    draw_all(tmp_path, f"query/0001{name}", f"bounding_box_test/0001{name}")
    draw_all(tmp_path / "bounding_box_train", f"0002{name}", f"0007{name}", f"-1{name}")
    assert sorted(identities_of(list_pictures(tmp_path)).values()) == ["0002", "0007"]
    assert "1 pictures show nobody by their names: left out" in capsys.readouterr().err


def test_flat_training_pictures_need_an_expression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    draw_all(tmp_path, "query/q.jpg", "gallery/g.jpg", "train/ada_1.jpg", "train/x.jpg")
    with pytest.raises(UserError, match=r"no folder of an identity.*--identity-pattern.*--train"):
        list_pictures(tmp_path)
    settings = ListingSettings(identity_pattern=r"(?P<identity>\pL+)_\d")
    assert identities_of(list_pictures(tmp_path, settings)) == {"train/ada_1.jpg": "ada"}
    assert "do not fit --identity-pattern: left out: train/x.jpg" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--identity-pattern 'x' has no group \(\?P<identity>"):
        list_pictures(tmp_path, ListingSettings(identity_pattern="x"))


def test_folders_in_folders_may_be_the_identities(tmp_path: Path) -> None:
    draw_all(tmp_path, "query/q.jpg", "gallery/g.jpg")
    draw_all(tmp_path / "train", "birds/crow/1.jpg", "birds/owl/1.jpg", "cats/lynx/1.jpg")
    with pytest.raises(UserError, match=r"hold folders, such as birds/crow: .*--identity-pattern"):
        list_pictures(tmp_path)
    lower = ListingSettings(identity_pattern=r"(?P<identity>[^/]+)/[^/]+$")
    assert set(identities_of(list_pictures(tmp_path, lower)).values()) == {"crow", "owl", "lynx"}
    upper = ListingSettings(identity_pattern=r"(?P<identity>[^/]+)/[^/]+/[^/]+$")
    assert set(identities_of(list_pictures(tmp_path, upper)).values()) == {"birds", "cats"}


def test_domains_in_identities_are_no_groups(tmp_path: Path) -> None:
    draw_all(tmp_path, "query/q.jpg", "gallery/g.jpg", "train/bo/photo/1.jpg")
    draw_all(tmp_path / "train" / "ada", "photo/1.jpg", "drawn/1.jpg")
    draw_all(tmp_path / "train" / "bo", "drawn/1.jpg")
    assert set(identities_of(list_pictures(tmp_path)).values()) == {"ada", "bo"}


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("birds/crow/1.jpg", "cats/lynx/1.jpg"), r"such as birds/crow: .*--source-path"),
        (("train_images/1.jpg", "test_images/1.jpg"), r"parts of a competition.*--data"),
    ],
)
def test_class_folders_that_may_be_something_else_are_refused(
    paths: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        class_folders(draw_all(tmp_path, *paths))


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ((), "found: nothing"),
        (("pictures/1.jpg",), r"found: pictures/\. Name the tables by --train, --query"),
        (("train/ada/1.jpg", "query.csv"), "found: train/, query.csv"),
    ],
)
def test_what_is_not_understood_is_said(
    paths: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    for path in paths:
        if path.endswith(".csv"):
            (tmp_path / path).write_text("image\n1.jpg\n")
        else:
            draw(tmp_path / path, 0, 0)
    with pytest.raises(UserError, match=message if "csv" not in message else "which pictures are"):
        list_pictures(tmp_path)
    assert not is_dataset(tmp_path)


def test_class_folders_beside_a_table_are_refused(whales: Path) -> None:
    with pytest.raises(UserError, match=r"\.csv: names the pictures.*--data .* --train"):
        refuse_table(whales)
    for name in ("train", "query", "gallery"):
        (whales / f"{name}.csv").unlink()
    refuse_table(whales)  # a sample of the submission says nothing of identities


# ---- tables -------------------------------------------------------------------------------------


@pytest.fixture
def whales(tmp_path: Path) -> Path:
    root = tmp_path / "whales"
    draw_all(root, *(f"images/{n:03d}.jpg" for n in range(8)))
    (root / "train.csv").write_text("image,species,individual_id\n000,orca,NA\n001,orca,1e5\n")
    (root / "query.csv").write_text("image\n002\n003\n")
    (root / "gallery.csv").write_text("image\n004\n005\n")
    (root / "sample_submission.csv").write_text("image,predictions\n002,1 2 3\n")
    return root


EXPECTED = {
    "gallery": ["images/004.jpg", "images/005.jpg"],
    "query": ["images/002.jpg", "images/003.jpg"],
    "training": ["images/000.jpg", "images/001.jpg"],
}


def test_tables_in_the_folder_are_found_and_read_as_text(
    whales: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    listed = list_pictures(whales)
    assert parts_of(listed) == EXPECTED and is_dataset(whales)
    assert identities_of(listed) == {"images/000.jpg": "NA", "images/001.jpg": "1e5"}
    said = capsys.readouterr().err
    assert "train.csv: 2 rows, pictures from image, identities from individual_id" in said


def as_tsv(root: Path) -> None:
    (root / "train.csv").unlink()
    (root / "train.tsv").write_text("id\tlabel\timage_path\n1\tNA\t./images/000.jpg\n")
    with (root / "train.tsv").open("a") as stream:
        stream.write("2\t1e5\timages\\001.jpg\n")


def as_json_lines(root: Path) -> None:
    (root / "train.csv").unlink()
    lines = '{"file": "x/images/000.jpg", "name": "NA"}\n{"file": "001.jpg", "name": 1e5}\n'
    (root / "train.jsonl").write_text(lines)


def as_one_table(root: Path) -> None:
    for name in ("train", "query", "gallery"):
        (root / f"{name}.csv").unlink()
    rows = ["Image;Split;Label", "000;train;NA", "001;train;1e5"]
    rows += [f"{n:03d};{'Query' if n < 4 else 'gallery'};" for n in range(2, 6)]
    (root / "metadata.csv").write_text("\n".join(rows))


@pytest.mark.parametrize("change", [as_tsv, as_json_lines, as_one_table])
def test_other_forms_of_tables_say_the_same(change: Callable[[Path], None], whales: Path) -> None:
    change(whales)
    listed = list_pictures(whales)
    assert parts_of(listed) == EXPECTED
    assert list(identities_of(listed).values()) == ["NA", "1e5"]


def test_parquet_is_read_where_pyarrow_is_installed(whales: Path) -> None:
    pytest.importorskip("pyarrow")
    (whales / "train.csv").unlink()
    table = pd.DataFrame({"image": ["000", "001"], "label": [7, 8]})
    table.to_parquet(whales / "train.parquet")
    assert list(identities_of(list_pictures(whales)).values()) == ["7", "8"]


def test_tables_and_columns_can_be_named(whales: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine.csv"
    other.write_text("a,b,c\n000,ada,photo\n001,bo,drawn\n")
    settings = ListingSettings(
        train=other, query=Path("query.csv"), gallery=whales / "gallery.csv", identity_column="b"
    )
    settings.domain_column = "c"
    listed = list_pictures(whales, settings)
    assert identities_of(listed) == {"images/000.jpg": "ada", "images/001.jpg": "bo"}
    assert listed.domain.tolist() == ["photo", "drawn", "", "", "", ""]


def test_a_table_beside_folders_names_the_identities(tmp_path: Path) -> None:
    draw_all(tmp_path, "train/0/1.jpg", "train/2/3.jpg", "test/q.jpg", "index/g.jpg")
    (tmp_path / "train.csv").write_text("id,landmark_id\n1,17\n3,18\n")
    listed = list_pictures(tmp_path)
    assert identities_of(listed) == {"train/0/1.jpg": "17", "train/2/3.jpg": "18"}
    assert parts_of(listed)["query"] == ["test/q.jpg"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("image,x\n000,1\n", r"which column names the identity\? It has image, x: .*--identity-"),
        ("picture,label\nzzz,1\n", r"which column names the pictures\?.*picture \(0%\), such as"),
        ("image,label\n", "has no rows"),
        ("image,label\n000,1,2\n", "more fields in a line than columns"),
        ("image,label\n../whales/images/000,1\n000\0,1\n", "holds a zero byte"),
    ],
)
def test_a_table_that_is_not_understood_is_explained(
    train: str, message: str, whales: Path
) -> None:
    (whales / "train.csv").write_text(train)
    with pytest.raises(UserError, match=message):
        list_pictures(whales)


def test_rows_that_cannot_be_used_are_reported(
    whales: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    rows = ["000,a", "000,a", "001,a", "001,b", "006,", "002,a", "007,c"]
    (whales / "train.csv").write_text("image,label\n" + "\n".join(rows))
    listed = list_pictures(whales)
    assert identities_of(listed) == {"images/000.jpg": "a", "images/007.jpg": "c"}
    said = capsys.readouterr().err
    for words in (
        "1 pictures are named again: counted once: images/000.jpg",
        "1 pictures have two identities: left out: images/001.jpg",
        "1 pictures have no identity: left out: images/006.jpg",
        "1 labeled pictures are in the test too: left out of it: images/002.jpg",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("lost", "1 queries are no files in it, first 'lost'"),
        ("004", "1 pictures are queries and in the gallery, first images/004.jpg"),
    ],
)
def test_a_query_that_cannot_be_answered_is_refused(query: str, message: str, whales: Path) -> None:
    (whales / "query.csv").write_text("image\n" + "003\n" * 20 + f"{query}\n")
    with pytest.raises(UserError, match=message):
        list_pictures(whales)


def test_names_that_several_pictures_share_are_refused(whales: Path) -> None:
    draw_all(whales, "more/000.jpg")
    with pytest.raises(UserError, match="several pictures are called '000'"):
        list_pictures(whales)


# ---- the whole way ------------------------------------------------------------------------------


def write_tables(root: Path, out: Path, form: str) -> list[str | Path]:
    """Write tables of a data set in folders; return the options that name them."""
    listed = list_pictures(root).sample(frac=1, random_state=0)
    listed["stem"] = listed.path.str.rsplit(".", n=1).str[0]
    listed["number"] = range(len(listed))
    columns = {
        "csv": {"path": "image", "identity": "identity"},
        "tsv": {"number": "id", "identity": "Individual ID", "stem": "file name"},
        "jsonl": {"identity": "label", "part": "usage", "path": "img_path"},
    }[form]
    words: list[str | Path] = []
    for part, option in {"training": "train", "query": "query", "gallery": "gallery"}.items():
        table = listed.loc[listed.part == part, list(columns)].rename(columns=columns)
        path = out / f"{option}.{form}"
        if form == "jsonl":
            table.to_json(path, orient="records", lines=True)
        else:
            table.to_csv(path, sep={"csv": ",", "tsv": "\t"}[form], index=False)
        words += [f"--{option}", path]
    return words


def compare_forms(root: Path, out: Path, *words: str | Path) -> None:
    """Check that a data set's tables give the submission of its folders."""
    all_words = ["--stage", "all", "--data", root, *FAST, *words]
    assert main([*map(str, all_words), "--run", "folders"]) == 0
    expected = Path("folders", "submission.json").read_bytes()
    for form in ("csv", "tsv", "jsonl"):
        named = write_tables(root, out, form)
        assert main([*map(str, [*all_words, *named]), "--run", form]) == 0
        assert Path(form, "submission.json").read_bytes() == expected


def test_tables_give_the_submission_of_folders(competition: Path, tmp_path: Path) -> None:
    compare_forms(competition, tmp_path, "--center", "--project-steps", "3")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not on this machine")
@pytest.mark.parametrize("name", ["grocery", "emoji"])
def test_tables_of_real_data_give_the_submission_of_folders(name: str, tmp_path: Path) -> None:
    compare_forms(SHARED / name, tmp_path, "--project-steps", "20")


def test_a_dry_run_says_how_the_data_were_understood(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--stage", "all", "--data", str(competition), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "dry run: nothing else is done" in said and "embedding" not in said
    assert re.search(r"training +.* +test/query/|query +\d+ +unknown +test/query/", said)
    assert not Path("runs/tiny/submission.json").exists()
