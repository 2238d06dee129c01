"""A sample submission is filled in its own form, and what cannot be filled is refused."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from lookalike import pipeline as runner
from lookalike.core.errors import UserError
from lookalike.evaluation.samples import read_sample, write_filled
from tests.conftest import FAST

QUERIES = ["q1.jpg", "q2.jpg"]
GALLERY = ["a.jpg", "b.jpg", "c.jpg"]
RANKED = {"q1.jpg": ["c.jpg", "a.jpg", "b.jpg"], "q2.jpg": ["b.jpg", "c.jpg", "a.jpg"]}


def filled(folder: Path, text: str, k: int | None = None) -> str:
    path = folder / "sample_submission.csv"
    path.write_text(text)
    sample = read_sample(path, QUERIES, GALLERY, k)
    return write_filled(sample, RANKED, folder / "submission.csv").read_text()


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ("id,images\nq2,a b\nq1,a b\n", "id,images\nq2,b c\nq1,c a\n"),  # landmark retrieval's
        (
            "image,predictions\nq1.jpg,a.jpg b.jpg c.jpg\nq2.jpg,a.jpg b.jpg c.jpg\n",
            "image,predictions\nq1.jpg,c.jpg a.jpg b.jpg\nq2.jpg,b.jpg c.jpg a.jpg\n",
        ),
        ("query;matches\nq1;a|b\nq2;a|b\n", "query;matches\nq1;c|a\nq2;b|c\n"),
        ('id,images\nq1,"a,b"\nq2,"a,b"\n', 'id,images\nq1,"c,a"\nq2,"b,c"\n'),
        (
            "query\trank\timage\nq1\t1\ta\nq1\t2\ta\nq2\t1\ta\nq2\t2\ta\n",
            "query\trank\timage\nq1\t1\tc\nq1\t2\ta\nq2\t1\tb\nq2\t2\tc\n",
        ),
        (
            "q,n,image\nq1,1,\nq1,0,\nq2,0,\nq2,1,\n",
            "q,n,image\nq1,1,a\nq1,0,c\nq2,0,b\nq2,1,c\n",
        ),
        ("q,image\nq1,\nq2,\nq1,\nq2,\n", "q,image\nq1,c\nq2,b\nq1,a\nq2,c\n"),
        (
            "images,note,id\na,,test/q1.jpg\na,,test/q2.jpg\n",
            "images,note,id\nc,,test/q1.jpg\nb,,test/q2.jpg\n",
        ),
    ],
)
def test_a_sample_is_filled_in_its_own_form(sample: str, expected: str, tmp_path: Path) -> None:
    assert filled(tmp_path, sample) == expected


def test_placeholders_are_replaced_by_as_many_names_as_the_metric_looks_at(tmp_path: Path) -> None:
    assert filled(tmp_path, "id,images\nq1,x\nq2,x\n", 2) == "id,images\nq1,c a\nq2,b c\n"


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ("id,images\nq1,a\n", "lacks 1 queries of the test, first 'q2.jpg'"),
        ("id,images\nq1,a\nx,a\n", "nearest is id (50%), with 'x'"),
        ("id,images\n", "has a header of two columns, and rows"),
        ("id,images\nq1,a\nq2\n", "row 3: 1 columns, not 2"),
        ("id,x,y\nq1,,\nq2,,\n", "which column takes the gallery names? x, y could be"),
        ("id,images\nq1,a\nq1,a\nq2,a\n", "queries have different numbers of rows"),
        ("id,images\nq1,a b c d\nq2,a b c d\n", ""),
    ],
)
def test_what_cannot_be_filled_is_refused(sample: str, said: str, tmp_path: Path) -> None:
    if not said:  # longer than the gallery: all of it
        assert filled(tmp_path, sample) == "id,images\nq1,c a b\nq2,b c a\n"
        return
    with pytest.raises(UserError) as error:
        filled(tmp_path, sample)
    assert said in str(error.value)


def test_names_that_differ_in_their_suffix_only_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sample.csv"
    path.write_text("id,images\nq1,a\n")
    with pytest.raises(UserError, match="differ in it only"):
        read_sample(path, ["q1.jpg"], ["a.jpg", "a.png"])


def test_a_run_fills_the_sample_and_an_independent_checker_accepts_it(competition: Path) -> None:
    queries = sorted(path.stem for path in (competition / "test" / "query").iterdir())[::-1]
    gallery = sorted(path.stem for path in (competition / "test" / "gallery").iterdir())
    sample = Path("sample_submission.csv")
    lines = [f"{query},{' '.join(gallery[:12])}" for query in queries]
    sample.write_text("\n".join(["id,images", *lines]) + "\n")
    words = [
        "--stage",
        "all",
        "--data",
        str(competition),
        *FAST,
        "--sample-submission",
        str(sample),
    ]
    assert runner.main(words) == 0
    # As a leaderboard would check it: the columns, ids and their order, and known names once each.
    table, form = pd.read_csv("runs/tiny/submission.csv", dtype=str), pd.read_csv(sample, dtype=str)
    assert list(table.columns) == list(form.columns) and list(table.id) == list(form.id)
    lists = table.images.str.split()
    assert all(len(set(names)) == len(names) == 12 <= len(gallery) for names in lists)
    assert {name for names in lists for name in names} <= set(gallery)
    with Path("runs/tiny/submission.csv").open(newline="") as stream:
        first = next(csv.DictReader(stream))
    mapping = pd.read_json("runs/tiny/submission.json", typ="series")
    assert [f"{name}.jpg" for name in first["images"].split()][:10] == mapping[f"{first['id']}.jpg"]


def test_a_sample_that_is_not_there_costs_no_work(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--stage", "all", "--data", str(competition), *FAST, "--sample-submission", "no.csv"]
    assert runner.main(words) == 1
    assert "no.csv: cannot be read" in capsys.readouterr().err and not Path("runs/tiny").exists()
