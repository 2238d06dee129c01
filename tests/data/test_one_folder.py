"""Tests whose pictures are searched among themselves: CUB, SOP, one folder or table."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from werkzeug.exceptions import UnprocessableEntity

from lookalike.core.errors import UserError
from lookalike.core.readers import read_json
from lookalike.core.settings import ListingSettings
from lookalike.data.extraction import lay_out_archive
from lookalike.data.listing import is_dataset, list_pictures
from lookalike.evaluation.evaluate import main as evaluate
from lookalike.evaluation.scoring import as_labels, read_labels
from lookalike.leaderboard.results import Results
from lookalike.leaderboard.server import Scorer
from lookalike.pipeline import main
from tests.conftest import FAST, draw
from tests.data.test_listing import draw_all, identities_of, parts_of

# ---- forms --------------------------------------------------------------------------------------


def as_flat_folder(root: Path) -> None:
    draw_all(root, "train/ada/1.jpg", "test/2.jpg", "test/3.jpg")


def as_class_folders(root: Path) -> None:
    draw_all(root, "Train/ada/1.jpg", "TEST/bo/2.jpg", "TEST/cy/3.jpg")


def as_tables(root: Path) -> None:
    draw_all(root, "all/1.jpg", "all/2.jpg", "all/3.jpg")
    (root / "train.csv").write_text("image,label\n1,ada\n")
    (root / "test.csv").write_text("image,label\n2,bo\n3,cy\n")


def as_one_table(root: Path) -> None:
    draw_all(root, "all/1.jpg", "all/2.jpg", "all/3.jpg")
    (root / "meta.csv").write_text("image,label,split\n1,ada,train\n2,bo,test\n3,bo,test\n")


def as_table_and_folder(root: Path) -> None:
    draw_all(root, "train/1.jpg", "test/2.jpg", "test/3.jpg")
    (root / "train.csv").write_text("image,label\n1,ada\n")


FORMS = [as_flat_folder, as_class_folders, as_tables, as_one_table, as_table_and_folder]


@pytest.mark.parametrize("make", FORMS)
def test_a_test_in_one_place_is_searched_among_itself(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "set")
    listed = list_pictures(tmp_path / "set")
    parts = {part: [Path(path).name for path in paths] for part, paths in parts_of(listed).items()}
    assert parts == {"training": ["1.jpg"], "test": ["2.jpg", "3.jpg"]}
    assert list(identities_of(listed).values()) == ["ada"]
    assert is_dataset(tmp_path / "set")


def test_tables_of_queries_and_gallery_win_over_the_folder_they_name(tmp_path: Path) -> None:
    as_table_and_folder(tmp_path)
    (tmp_path / "query.csv").write_text("image\n2\n")
    (tmp_path / "gallery.csv").write_text("image\n3\n")
    expected = {"training": ["train/1.jpg"], "query": ["test/2.jpg"], "gallery": ["test/3.jpg"]}
    assert parts_of(list_pictures(tmp_path)) == expected
    (tmp_path / "query.csv").rename(tmp_path / "test.csv")
    assert parts_of(list_pictures(tmp_path)) == expected
    (tmp_path / "gallery.csv").rename(tmp_path / "mine.csv")
    named = ListingSettings(test=Path("test.csv"), gallery=Path("mine.csv"))
    assert parts_of(list_pictures(tmp_path, named)) == expected
    (tmp_path / "test.csv").write_text("image\n2\n3\n")
    (tmp_path / "mine.csv").unlink()
    named = ListingSettings(test=Path("test.csv"))
    assert parts_of(list_pictures(tmp_path, named))["test"] == ["test/2.jpg", "test/3.jpg"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,ada,train\n2,,test\n3,,query\n", "rows of the part test and of query or gallery"),
        ("1,ada,train\n2,,query\n", "holds no pictures of the gallery"),
        ("1,ada,train\n2,,query\n2,,gallery\n", r"searched among themselves.*--test"),
        ("1,ada,train\n2,,holdout\n", "'holdout'.*or test for queries and gallery at once"),
    ],
)
def test_what_is_half_of_both_is_refused(rows: str, message: str, tmp_path: Path) -> None:
    as_one_table(tmp_path)
    (tmp_path / "meta.csv").write_text(f"image,label,split\n{rows}")
    with pytest.raises(UserError, match=message):
        list_pictures(tmp_path)


def test_a_folder_without_pictures_or_with_queries_only_is_no_test(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "notes.txt").touch()
    assert not is_dataset(tmp_path)
    draw_all(tmp_path, "test/query/1.jpg")
    assert not is_dataset(tmp_path)


def test_an_archive_with_one_test_folder_is_laid_out(tmp_path: Path) -> None:
    as_flat_folder(tmp_path / "made" / "birds")
    packed = shutil.make_archive(str(tmp_path / "birds"), "zip", tmp_path / "made")
    (tmp_path / "out").mkdir()
    lay_out_archive(Path(packed), tmp_path / "out")
    assert parts_of(list_pictures(tmp_path / "out"))["test"] == ["test/2.jpg", "test/3.jpg"]


# ---- published data sets ------------------------------------------------------------------------


def make_birds(root: Path) -> None:
    names = [f"{c:03d}.Bird/Bird_{c}_{n}.jpg" for c in (1, 2, 3, 4) for n in (1, 2)]
    draw_all(root / "CUB_200_2011", *(f"images/{name}" for name in names))
    lines: dict[str, list[str]] = {"images": names, "image_class_labels": list("11223344")}
    for file, values in lines.items():
        text = "".join(f"{n} {value}\n" for n, value in enumerate(values, 1))
        (root / "CUB_200_2011" / f"{file}.txt").write_text(text)


def make_products(root: Path) -> None:
    head = "image_id class_id super_class_id path\n"
    for part, number in (("train", 1), ("test", 3)):
        rows = [(n, n, f"chair_final/{n}_{v}.JPG") for n in (number, number + 1) for v in (0, 1)]
        draw_all(root, *(path for _, _, path in rows))
        text = "".join(f"{n} {c} 1 {path}\n" for n, c, path in rows)
        (root / f"Ebay_{part}.txt").write_text(head + text)


@pytest.mark.parametrize("make", [make_birds, make_products])
def test_published_sets_are_understood_with_their_labels(
    make: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    make(root)
    listed = list_pictures(root)
    assert listed.part.value_counts().to_dict() == {"training": 4, "test": 4}
    assert sorted(identities_of(listed).values()) == ["1", "1", "2", "2"]
    assert main(["--stage", "all", "--data", str(root), *FAST, "--run", "run"]) == 0
    labels = read_labels(Path("run/labels.json"))
    assert labels.leave_one_out and sorted(labels.query.values()) == ["3", "3", "4", "4"]
    said = capsys.readouterr().err
    assert "each of its pictures is searched among the others" in said and "score: test" in said


def test_in_shop_is_understood_as_far_as_its_names_are_unique(tmp_path: Path) -> None:
    draw_all(tmp_path, *(f"Img/img/WOMEN/id_{n}/{n}_front.jpg" for n in range(3)))
    (tmp_path / "Eval").mkdir()
    table = tmp_path / "Eval" / "list_eval_partition.txt"
    rows = [f"img/WOMEN/id_{n}/{n}_front.jpg   id_{n}  " for n in range(3)]
    parts = ("train", "query", "gallery")
    lines = "".join(f"{row}{part}\n" for row, part in zip(rows, parts, strict=True))
    table.write_text(f"3\nimage_name item_id evaluation_status\n{lines}")
    found = {
        part: [Path(p).name for p in ps] for part, ps in parts_of(list_pictures(tmp_path)).items()
    }
    assert found == {
        "training": ["0_front.jpg"],
        "query": ["1_front.jpg"],
        "gallery": ["2_front.jpg"],
    }
    assert read_labels(table).query == {"1_front.jpg": "id_1"}
    for text, message in (
        ("3\nhead\n", "has no rows"),
        ("3\nhead\na b\n", "line 3 has not 3 words"),
        ("3\nhead\na b test\n", "'test' is no part"),
        ("3\nhead\nlost.jpg b query\n", "1 queries are no files in it, first 'lost.jpg'"),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=message):
            list_pictures(tmp_path)
    with pytest.raises(UserError, match="labels are JSON, a table, or one of"):
        read_labels(draw_text(tmp_path / "notes.txt"))


def draw_text(path: Path) -> Path:
    path.write_text("nothing")
    return path


# ---- the whole way ------------------------------------------------------------------------------


@pytest.fixture
def mixed(competition: Path) -> Path:
    """The tiny competition with its test in one folder; labels.json says so."""
    names = read_json(competition / "labels.json", "")
    test = names["query"] | names["gallery"]
    for picture in sorted((competition / "test").rglob("*.jpg")):
        picture.rename(competition / "test" / picture.name)
    for folder in ("query", "gallery"):
        shutil.rmtree(competition / "test" / folder)
    (competition / "labels.json").write_text(json.dumps({"test": test}))
    return competition


@pytest.mark.parametrize("steps", [[], ["--center", "--rerank", "reciprocal"]])
def test_no_query_finds_itself_and_scores_are_those_of_a_plain_loop(
    steps: list[str], mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--stage", "all", "--data", str(mixed), *FAST, "--run", "run", *steps]
    assert main([*words, "--metric", "map@5_all"]) == 0
    labels = read_json(mixed / "labels.json", "")["test"]
    submission = read_json(Path("run/submission.json"), "")
    assert submission.keys() == labels.keys()
    values = []
    for query, names in submission.items():
        assert query not in names and len(set(names)) == 10
        hits = [labels[name] == labels[query] for name in names[:5]]
        relevant = sum(name == labels[query] for name in labels.values()) - 1
        precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(5) if hits[i]]
        values.append(sum(precisions) / relevant)
    capsys.readouterr()
    by_table = Path("labels.csv")
    rows = "".join(f"elsewhere/{name},{identity},test\n" for name, identity in labels.items())
    by_table.write_text(f"image,identity,split\n{rows}")
    for path in (mixed / "labels.json", by_table, Path("run/labels.json")):
        assert evaluate(["run/submission.json", "--labels", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["score"] == pytest.approx(np.mean(values))
    stored = read_json(Path("run/metrics.json"), "")["test"]["score"]
    assert stored == pytest.approx(np.mean(values))


def test_the_time_limited_choice_works_on_one_folder(mixed: Path) -> None:
    words = ["--stage", "all", "--data", str(mixed), "--run", "run", "--time-limit", "0.2"]
    assert main([*words, "--backbone", "efficientnet_lite0", "--image-size", "64"]) == 0
    for query, names in read_json(Path("run/submission.json"), "").items():
        assert query not in names


def test_the_leaderboard_takes_own_names_out(tmp_path: Path) -> None:
    labels = as_labels({"test": {"1.jpg": "a", "2.jpg": "a", "3.jpg": "b"}})
    scorer = Scorer(labels, Results(tmp_path / "results.sqlite", "x"), rate=100)
    lists = {"1.jpg": ["2.jpg", "3.jpg"], "2.jpg": ["3.jpg", "1.jpg"], "3.jpg": ["1.jpg", "2.jpg"]}
    body = json.dumps({"groupname": "us", "images": lists}).encode()
    assert scorer.score(body, "127.0.0.1") >= 0
    own = json.dumps({"groupname": "us", "images": lists | {"1.jpg": ["1.jpg", "2.jpg"]}})
    with pytest.raises(UnprocessableEntity, match="without exactly 2 gallery"):
        scorer.score(own.encode(), "127.0.0.1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"test": {"a/1.jpg": "x", "b/1.jpg": "x"}}, "test has '1.jpg' in 2 folders"),
        ({"test": {"1.jpg": 3}}, '{"test": {name: identity}}'),
        ({"test": {}, "query": {}}, "labels must have the form"),
    ],
)
def test_labels_of_one_folder_are_checked(content: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_labels(content)


def test_labels_name_pictures_with_or_without_folders(tmp_path: Path) -> None:
    draw(tmp_path / "x.jpg", 0, 0)
    labels = as_labels({"query": {"q/1.jpg": "a"}, "gallery": {"g\\1.jpg": "a"}})
    assert labels.query == {"1.jpg": "a"} and labels.gallery == {"1.jpg": "a"}
    assert not labels.leave_one_out
