"""A sample submission of pairs is filled with similarities, whatever its form."""

import re
from pathlib import Path

import pandas as pd
import pytest

from lookalike import cli
from tests.conftest import BACKBONE, draw

COLUMNS = "id,image_a,image_b,score\n0,1,2,0.5\n1,2,3.jpg,0.5\n2,1,1,0.5\n"
JOINED = "img_pair,is_related\n1.jpg-2.jpg,0\n2.jpg-3.jpg,0\n1.jpg-1.jpg,0\n"


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        draw(tmp_path / "test" / f"{number}.jpg", number, 0)
    return tmp_path / "test"


def fill(faces: Path, text: str, *words: str) -> int:
    Path("sample.csv").write_text(text)
    return cli.main(["verify", "fill", "sample.csv", "--data", str(faces), *BACKBONE, *words])


@pytest.mark.parametrize(("text", "column"), [(COLUMNS, "score"), (JOINED, "is_related")])
def test_similarities_take_their_column_and_all_else_stays(
    text: str, column: str, faces: Path
) -> None:
    assert fill(faces, text) == 0
    filled, sample = (pd.read_csv(name, dtype=str) for name in ("submission.csv", "sample.csv"))
    others = [name for name in sample.columns if name != column]
    pd.testing.assert_frame_equal(filled[others], sample[others])
    values = filled[column].astype(float)
    assert values[2] == 1 and all(0 <= value < 1 for value in values[:2])


def test_a_broken_picture_costs_its_own_pairs_only(
    faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (faces / "3.jpg").write_bytes(b"no picture")
    assert fill(faces, COLUMNS, "--output", "out.csv") == 0
    values = pd.read_csv("out.csv").score
    assert values[1] == pytest.approx((values[0] + values[2]) / 2, abs=1e-5)
    assert "1 pictures cannot be read: their pairs get the mean: 3.jpg" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b,score\n1,9,0\n", r"two columns, or one of names joined by -,.*; 1 of a, b, score do"),
        ("a,b,x,y\n1,2,0,0\n", r"which column takes the similarity\? x, y could"),
        ("a,b\n1,2\n", r"which column takes the similarity\? None could"),
        ("a,b,score\n", "has no rows"),
    ],
)
def test_what_cannot_be_filled_is_said(
    text: str, said: str, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fill(faces, text) == 1
    assert re.search(said, capsys.readouterr().err)
    assert not Path("submission.csv").exists()
