"""Protocols are read as documented; a line that does not fit is an error that says where."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lookalike.core.errors import UserError
from lookalike.verification.protocols import (
    Pairs,
    read_pairs,
    read_pictures,
    row_indices,
    score_readable,
)
from lookalike.verification.settings import PairSettings
from tests.conftest import draw_cfp


def listed(pairs: Pairs) -> list[tuple[int, str, str, bool]]:
    return [pair[:4] for pair in pairs.rows]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ---- CFP ----------------------------------------------------------------------------------------


def test_cfp_pairs_frontal_pictures_with_profiles(tmp_path: Path) -> None:
    root = draw_cfp(tmp_path / "cfp")
    pairs = read_pairs(PairSettings(root, kind="FP"))
    first = ("Data/Images/001/frontal/01.jpg", "Data/Images/001/profile/01.jpg")
    assert listed(pairs)[0] == (1, *first, True)
    assert pairs.identities[first[1]] == "001"
    assert pairs.rows[0].where == f"{root}/Protocol/Split/FP/01/same.txt:1"
    frontal = read_pairs(PairSettings(root, kind="FF"))
    assert not any("profile" in path for path in frontal.identities)
    assert {pair.fold for pair in frontal.rows} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Split/FP/02/same.txt", "1,1\n999,1\n", "same.txt:2: the list of pictures has no number"),
        ("Split/FP/02/same.txt", "1;1\n", "same.txt:1: '1;1' is not two numbers"),
        ("Split/FP/02/same.txt", "1,3\n", "same.txt:1: .* cannot be the same person"),
        ("Split/FP/02/diff.txt", "\n1,1\n", "diff.txt:2: .* cannot be different people"),
        ("Split/FP/02/diff.txt", "", "fold 2 has 4 pairs that are the same, 0 that are not"),
        ("Pair_list_P.txt", "1 ../Data/Images/001/profile/01.jpg\n1 x\n", "Pair_list_P.txt:2: "),
        (
            "Pair_list_F.txt",
            "1 ../../../../etc/a/b\n",
            "Pair_list_F.txt:1: .* not a picture inside",
        ),
    ],
)
def test_a_broken_cfp_line_is_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    root = draw_cfp(tmp_path / "cfp")
    write(root / "Protocol" / file, text)
    with pytest.raises(UserError, match=message):
        read_pairs(PairSettings(root))


def test_a_missing_protocol_is_named(tmp_path: Path) -> None:
    root = draw_cfp(tmp_path / "cfp")
    (root / "Protocol/Pair_list_P.txt").unlink()
    with pytest.raises(UserError, match=r"Pair_list_P\.txt: cannot be read"):
        read_pairs(PairSettings(root))
    with pytest.raises(UserError, match="Split/FF: holds no splits"):
        read_pairs(
            PairSettings(
                write(tmp_path / "x/Protocol/Pair_list_F.txt", "").parent.parent, kind="FF"
            )
        )
    with pytest.raises(UserError, match="no such folder"):
        read_pairs(PairSettings(tmp_path / "nowhere"))


def test_a_fold_that_lacks_pairs_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = draw_cfp(tmp_path / "cfp")
    lines = (root / "Protocol/Split/FP/03/same.txt").read_text().splitlines()
    write(root / "Protocol/Split/FP/03/same.txt", "\n".join(lines[1:]))
    read_pairs(PairSettings(root))
    assert (
        "1 folds lack pairs (same + not same; others have 4 and 4): fold 3 (3 + 4)" in caplog.text
    )


# ---- LFW ----------------------------------------------------------------------------------------

A_FEW = "is not a name, a number,"
LFW = "2\t1\nAda_L\t1\t2\nAda_L\t3\tBo_R\t12\nBo_R\t1\t2\nBo_R\t1\tCy\t1\n"


def test_lfw_has_lines_of_three_and_of_four(tmp_path: Path) -> None:
    write(tmp_path / "pairs.txt", LFW)
    pairs = read_pairs(PairSettings(tmp_path, "lfw"))
    assert listed(pairs) == [
        (1, "Ada_L/Ada_L_0001.jpg", "Ada_L/Ada_L_0002.jpg", True),
        (1, "Ada_L/Ada_L_0003.jpg", "Bo_R/Bo_R_0012.jpg", False),
        (2, "Bo_R/Bo_R_0001.jpg", "Bo_R/Bo_R_0002.jpg", True),
        (2, "Bo_R/Bo_R_0001.jpg", "Cy/Cy_0001.jpg", False),
    ]
    assert pairs.identities["Cy/Cy_0001.jpg"] == "Cy"
    elsewhere = write(tmp_path / "elsewhere/view2.txt", LFW)
    assert read_pairs(PairSettings(tmp_path, "lfw", pairs=elsewhere)).identities == pairs.identities


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pairs.txt:1: '' is not the folds"),
        ("10\n", "pairs.txt:1: '10' is not the folds"),
        ("2 2\n" + LFW[4:], "pairs.txt:1: promises 8 pairs, 4 follow"),
        (LFW.replace("Ada_L\t1\t2", "Ada_L\t1"), "pairs.txt:2: .* is not a name and two numbers"),
        (
            LFW.replace("Ada_L\t3\tBo_R\t12", "Ada_L\t1\t3"),
            f"pairs.txt:3: .* {A_FEW}",
        ),
        (LFW.replace("\t12", "\tx"), "pairs.txt:3: 'x' is not the number of a picture"),
        (LFW.replace("\t12", "\t²"), "pairs.txt:3: '²' is not the number of a picture"),
        (LFW.replace("\t12", "\t" + "9" * 5000), "pairs.txt:3: '9+' is not the number of"),
        ("² ²\n" + LFW[4:], "pairs.txt:1: '² ²' is not the folds"),
        (
            LFW.replace("Bo_R\t1\t2", "Bo_R\t1\t1"),
            "pairs.txt:4: pairs Bo_R/.* with itself",
        ),
        (LFW.replace("3\tBo_R", "3\tAda_L"), "pairs.txt:3: .* cannot be different people"),
    ],
)
def test_a_broken_lfw_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "pairs.txt", text)
    with pytest.raises(UserError, match=message):
        read_pairs(PairSettings(tmp_path, "lfw"))


# ---- pairs of your own --------------------------------------------------------------------------


def test_csv_pairs_without_folds_are_assigned_to_ten(tmp_path: Path) -> None:
    rows = [f"p{i}/a.jpg,p{i}/b.jpg,yes\np{i}/a.jpg,p{i + 1}/a.jpg,0" for i in range(20)]
    path = write(tmp_path / "pairs.csv", "a,b,same\n" + "\n".join(rows) + "\n")
    pairs = read_pairs(PairSettings(tmp_path, "csv", pairs=path))
    counts = pairs.table.groupby(["fold", "same"]).size()
    assert len(counts) == 20 and (counts == 2).all()
    assert (
        pairs.identities["p3/b.jpg"] == pairs.identities["p3/a.jpg"] != pairs.identities["p4/a.jpg"]
    )
    assert pairs.rows[2].where == f"{path}:4"


def test_a_csv_file_may_name_its_folds(tmp_path: Path) -> None:
    text = "fold,same,b,a\n7,1,x.jpg,y.jpg\n\n7,0,x.jpg,z.jpg\n"
    pairs = read_pairs(PairSettings(tmp_path, "csv", pairs=write(tmp_path / "pairs.csv", text)))
    assert listed(pairs) == [(7, "y.jpg", "x.jpg", True), (7, "z.jpg", "x.jpg", False)]
    assert pairs.rows[1].where.endswith("pairs.csv:4"), "an empty line counts"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "pairs.csv:1: has no column same"),
        ("a,b,same\n", "holds no pairs"),
        ("a,b,same\nx,y,perhaps\n", "pairs.csv:2: same is 'perhaps'"),
        ("a,b,same\nx,y\n", "pairs.csv:2: same is ''"),
        ("a,b,same\nx,y,1,z\n", "pairs.csv:2: has more fields than there are columns"),
        ("a,b,same,a\nx,y,1,z\n", "pairs.csv:1: has the column a twice"),
        ("a,b,same,fold\nx,y,1,²\n", "pairs.csv:2: fold is '²'"),
        ("a,b,same\nx,,1\n", "pairs.csv:2:  is not a picture inside"),
        ("a,b,same\n/etc/x,y,1\n", "pairs.csv:2: /etc/x is not a picture inside"),
        ("a,b,same,fold\nx,y,1,one\n", "pairs.csv:2: fold is 'one'"),
        ("a,b,same\nx,y,1\ny,z,1\nx,z,0\n", "pairs.csv:4: x and z cannot be different people"),
    ],
)
def test_a_broken_csv_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "pairs.csv", text)
    with pytest.raises(UserError, match=message):
        read_pairs(PairSettings(tmp_path, "csv", pairs=path))
    with pytest.raises(UserError, match="name the file of the pairs with --pairs"):
        read_pairs(PairSettings(tmp_path, "csv"))


# ---- their pictures -----------------------------------------------------------------------------


def test_a_missing_picture_is_an_error_that_says_where(tmp_path: Path) -> None:
    root = draw_cfp(tmp_path / "cfp")
    (root / "Data/Images/003/frontal/02.jpg").unlink()
    settings = PairSettings(root)
    message = "Split/FP/02/same.txt:2: Data/Images/003/frontal/02.jpg is not in .*; 1 of "
    with pytest.raises(UserError, match=message):
        read_pictures(settings, read_pairs(settings))
    settings.missing = "wrong"
    rows = read_pictures(settings, read_pairs(settings))
    assert rows[rows.problem != ""].path.tolist() == ["Data/Images/003/frontal/02.jpg"]


def test_an_unreadable_picture_is_named_and_has_no_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = draw_cfp(tmp_path / "cfp")
    broken = "Data/Images/001/profile/01.jpg"
    (root / broken).write_bytes(b"no picture")
    settings = PairSettings(root)
    pairs = read_pairs(settings)
    rows = read_pictures(settings, pairs)
    assert "1 pictures cannot be read: all their pairs count as answered wrong" in caplog.text
    assert broken in caplog.text
    first, second = row_indices(pairs.table, rows[rows.problem == ""].reset_index())
    assert ((second == -1) == (pairs.table.b == broken)).all() and (first >= 0).all()


def test_only_pairs_of_readable_pictures_are_scored() -> None:
    pairs = pd.DataFrame({"a": ["x", "gone", "y"], "b": ["y", "x", "x"]})
    rows = pd.DataFrame({"path": ["x", "y"]})
    seen: list[tuple[list[int], list[int]]] = []

    def score(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        seen.append((first.tolist(), second.tolist()))
        return np.array([0.5, 0.7])

    np.testing.assert_array_equal(score_readable(pairs, rows, score), [0.5, np.nan, 0.7])
    assert seen == [([0, 1], [1, 0])]
    nothing = score_readable(pairs.iloc[[1]], rows, score)
    assert np.isnan(nothing).all() and len(seen) == 1, "the scorer is not called without pairs"


def test_a_quote_that_never_ends_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('a,b,same\n"x.jpg,y.jpg,1\n' + "z.jpg,w.jpg,0\n" * 20_000)
    with pytest.raises(UserError, match=r"pairs\.csv:\d+: not CSV"):
        read_pairs(PairSettings(tmp_path, "csv", pairs=path))
