"""Every form of a submission is read as the same, and written forms are read back."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.core.errors import UserError
from lookalike.evaluation import submissions
from lookalike.evaluation.matching import match
from lookalike.evaluation.submissions import (
    Submission,
    as_submission,
    parse_submission,
    read_submission,
    write_run_submission,
    write_submission,
)

SUBMISSION: Submission = {"q1.jpg": ["a.jpg", "b.jpg"], "q2.jpg": ["c.jpg", "a.jpg"]}
FORMS: dict[str, Any] = {
    "mapping.json": SUBMISSION,
    "groupname.json": {"groupname": "us", "images": SUBMISSION},
    "gallery_images.json": [{"filename": q, "gallery_images": g} for q, g in SUBMISSION.items()],
    "samples.json": [{"filename": q, "samples": g} for q, g in SUBMISSION.items()],
    "neighbors.json": [{"query": q, "neighbors": g} for q, g in SUBMISSION.items()],
    "folders.json": {
        f"test/query/{q}": [f"test\\gallery\\{n}" for n in g] for q, g in SUBMISSION.items()
    },
}


@pytest.mark.parametrize("name", FORMS)
def test_every_json_form_is_the_same_submission(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(FORMS[name]))
    submission = read_submission(tmp_path / name)
    assert match(submission, list(SUBMISSION), ["a.jpg", "b.jpg", "c.jpg"]).submission == SUBMISSION


def test_the_csv_form_is_the_same_submission(tmp_path: Path) -> None:
    rows = [f"{query},{' '.join(names)}" for query, names in SUBMISSION.items()]
    (tmp_path / "s.csv").write_text("\ufeff" + "\n".join(["id,images", *rows]), encoding="utf-8")
    assert read_submission(tmp_path / "s.csv") == SUBMISSION


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.json", '{"q1.jpg": ["a1.jpg"', "not valid JSON"),
        ("s.json", "3", "must hold"),
        ("s.json", '{"q1.jpg": "a1.jpg"}', "'q1.jpg' has no list"),
        ("s.json", '{"q1.jpg": [1]}', "'q1.jpg' has no list"),
        ("s.json", '{"q1.jpg": ["a1.jpg"], "q1.jpg": []}', "'q1.jpg' appears twice"),
        ("s.json", '[{"filename": "q1.jpg"}]', "entry 0 must have one of"),
        ("s.json", '[{"query": "q", "neighbors": []}, 7]', "entry 1 must have one of"),
        ("s.csv", "query,names\n1,2\n", "columns id,images"),
        ("s.csv", "", "no CSV"),
        ("s.csv", "id,images\nq1.jpg,a,b\n", "row 2: 3 columns"),
        ("s.json", "[" * 100_000, "nested too deeply"),
        ("s.csv", "id,images\nq1.jpg,a\nq1.jpg,b\n", "'q1.jpg' appears twice"),
    ],
)
def test_a_file_of_no_known_form_is_refused(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        read_submission(tmp_path / name)
    assert message in str(error.value) and name in str(error.value)


class Arrays(NamedTuple):
    """Rankings as arrays."""

    queries: list[str]
    gallery: np.ndarray


ARRAYS = Arrays(["q1.jpg", "q2.jpg"], np.array([["a.jpg", "b.jpg"], ["c.jpg", "a.jpg"]]))


@pytest.mark.parametrize("format", ["mapping", "list", "csv"])
@pytest.mark.parametrize("source", [SUBMISSION, ARRAYS])
def test_what_is_written_is_read_back(source: Any, format: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / ("s.csv" if format == "csv" else "s.json")
    assert write_submission(source, path, format) == path
    assert read_submission(path) == as_submission(source) == as_submission(path) == SUBMISSION


def test_a_path_may_be_text_and_its_suffix_chooses_the_format(tmp_path: Path) -> None:
    for name, start in (("s.csv", "id,images"), ("s.json", "{")):
        path = str(tmp_path / name)
        assert write_submission(ARRAYS, path).read_text().startswith(start)
        assert read_submission(path) == SUBMISSION


def test_a_single_name_is_no_list() -> None:
    with pytest.raises(UserError, match=r"'q\.jpg' has no list"):
        as_submission({"q.jpg": "a.jpg"})


def test_what_is_no_submission_is_named() -> None:
    with pytest.raises(TypeError, match="or a ranking, not list"):
        as_submission([("q.jpg", ["a.jpg"])])  # type: ignore[arg-type]


def test_the_formats_are_the_promised_ones(tmp_path: Path) -> None:
    path = write_submission(SUBMISSION, str(tmp_path / "s.json"), "list")
    entries = json.loads(path.read_text())
    assert entries[0] == {"filename": "q1.jpg", "gallery_images": ["a.jpg", "b.jpg"]}
    rows = list(csv.reader(write_submission(SUBMISSION, tmp_path / "s.csv", "csv").open()))
    assert rows == [["id", "images"], ["q1.jpg", "a.jpg b.jpg"], ["q2.jpg", "c.jpg a.jpg"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"images": {"q": ["a"]}, "images": {"q": ["b"]}}', "the key 'images' appears twice"),
        ('[{"filename": "q", "filename": "r", "samples": []}]', "the key 'filename' appears twice"),
        ('[{"query": "q", "samples": ["a"], "samples": []}]', "the key 'samples' appears twice"),
        (
            '[{"filename": "q", "query": "r", "samples": []}]',
            "filename and query: which one counts",
        ),
        (
            '[{"query": "q", "gallery_images": [], "neighbors": []}]',
            "gallery_images and neighbors: which one counts",
        ),
        ('{"images": {"q": ["a"]}, "r": ["b"]}', "'r' stands beside images: which one counts"),
        ('[{"query": 7, "samples": []}]', "entry 0 has no text"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=f"s.json: .*{said}"):
        parse_submission(text, "s.json")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n", "\n\n", "\r"])
def test_lines_of_a_table_end_in_any_way(end: str, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    lines = ["id,images", "q1.jpg,a.jpg b.jpg", "q2.jpg,c.jpg a.jpg", ""]
    path.write_bytes(b"\xef\xbb\xbf" + end.join(lines).encode())
    assert read_submission(path) == SUBMISSION


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.dictionaries(names, st.lists(names, max_size=3), max_size=3))
@settings(deadline=None, derandomize=True, database=None)
def test_any_submission_comes_back_or_is_refused(submission: Submission) -> None:
    with TemporaryDirectory() as folder:
        for format in ("mapping", "list", "csv"):
            path = Path(folder) / ("s.csv" if format == "csv" else "s.json")
            try:
                write_submission(submission, path, format)
            except UserError:
                assert format == "csv" and not path.exists()
                continue
            # {"images": {...}} would be what a leaderboard is sent.
            assert "images" in submission or read_submission(path) == submission
            path.unlink()


@pytest.mark.parametrize(
    ("submission", "format", "message"),
    [
        ({"q": ["a b.jpg"]}, "csv", r"'a b\.jpg': the CSV form"),
        (SUBMISSION, "xml", "must be mapping, list, csv or trec"),
    ],
)
def test_what_cannot_be_written_leaves_no_file(
    submission: Submission, format: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        write_submission(submission, tmp_path / "s", format)
    assert not list(tmp_path.iterdir())


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_folder_holds_one_submission_and_no_scores_of_another(tmp_path: Path) -> None:
    write: Callable[[str], Path] = lambda format: write_run_submission(  # noqa: E731
        SUBMISSION, tmp_path, format
    )
    (tmp_path / "metrics.json").write_text("{}")
    assert write("csv") == tmp_path / "submission.csv"
    assert names_in(tmp_path) == ["submission.csv", "submission.json"]
    assert json.loads((tmp_path / "submission.json").read_text()) == SUBMISSION
    assert write("list") == tmp_path / "submission.json"
    assert names_in(tmp_path) == ["submission.json"]
    assert read_submission(tmp_path / "submission.json") == SUBMISSION


# ---- TREC runs ----------------------------------------------------------------------------------


def test_trec_runs_are_those_of_trec_eval(tmp_path: Path) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    lists = {"q1.jpg": ["c.jpg", "a.jpg"], "q2.jpg": ["b.jpg"]}
    path = write_submission(lists, tmp_path / "submission.trec")
    assert read_submission(path) == lists
    with path.open() as stream:
        theirs = pytrec_eval.parse_run(stream)
    assert {q: sorted(scores, key=lambda n: -scores[n]) for q, scores in theirs.items()} == lists
    path.write_text("q Q0 a 1 0.5 x\n\nq Q0 c 2 0.5 x\nq Q0 b 9 0.7 x\n")
    assert read_submission(path) == {"q": ["b", "c", "a"]}, "by score, then by name downwards"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("q Q0 a 1 x\n", "line 1: not of the form"),
        ("q Q0 a 1 much x\n", "line 1: not of the form"),
        ("q Q0 a 1 2 x\nq Q0 a 2 1 x\n", "line 2: query 'q' names 'a' again"),
    ],
)
def test_damaged_trec_runs_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_submission(path)
    with pytest.raises(UserError, match="a TREC run cannot hold a name with spaces"):
        write_submission({"q": ["a b"]}, tmp_path / "a.trec")


PLAIN_OR_NOT = [
    "{}",
    '{"q": []}',
    '{"q": ["a", "b"], "r": ["c"]}',
    ' {\n"q" :\t["a"]} \r\n',
    '{"é": ["日本.jpg"]}',
    '{"q": ["a"], "q": ["b"]}',
    '{"q": ["a"], "r": ["b"], "q": []}',
    '{"q": ["[", "b"], "q": []}',
    '{"q[": [], "q[": []}',
    '{"q": ["\\u0061"]}',
    '{"q": ["\\ud800"]}',
    '{"q": ["\ud800"]}',
    '{"q": ["a\nb"]}',
    '{"q": ["a\x00b"]}',
    '{"q": ["a",]}',
    '{"q": ["a"]} x',
    '{"q": [1]}',
    '{"q": [NaN]}',
    '{"q": [["a"]]}',
    '{"q": null}',
    '{"images": ["a"]}',
    '{"images": {"q": ["a"]}}',
    "\ufeff{}",
    "[" * 100_000,
    "",
]


@pytest.mark.parametrize("text", PLAIN_OR_NOT, ids=range(len(PLAIN_OR_NOT)))
def test_the_fast_way_reads_what_the_strict_one_does(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> object:
        try:
            return parse_submission(text, "s.json")
        except UserError as error:
            return str(error)

    fast = read()
    monkeypatch.setattr(submissions, "_plain_lists", lambda _: None)
    assert read() == fast


def test_plain_lists_are_read_the_fast_way() -> None:
    assert submissions._plain_lists('{"q": ["a", "b"]}') == {"q": ["a", "b"]}
    assert submissions._plain_lists('{"q": ["a"], "q": ["b"]}') is None
