"""The test's pictures get the names of identities, and new ones are called new."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lookalike import cli, pipeline
from lookalike.evaluation.open_set import measure_names
from lookalike.identification.naming import best_threshold, name_rows
from tests.conftest import FAST, draw

KNOWN, NEW = 8, 2


@pytest.fixture
def whales(tmp_path: Path) -> Path:
    """Tables as Happywhale's: ten identities, two of them only in the test."""
    root = tmp_path / "whales"
    train, test = ["image,individual_id"], ["image,identity,split"]
    for identity in range(KNOWN + NEW):
        for picture in range(8):
            name = f"{identity}{picture:03d}.jpg"
            draw(root / "images" / name, identity, picture)
            if identity < KNOWN and picture < 6:
                train.append(f"{name},w{identity:x}")
            else:
                test.append(f"{name},w{identity:x},test")
    (root / "train.csv").write_text("\n".join(train))
    (root / "test.csv").write_text("\n".join(test))
    rows = [row.partition(",")[0] for row in test[1:]]
    cells = "new_individual w0 w1 w2 w3"
    sample = "image,predictions\n" + "".join(f"{name},{cells}\n" for name in rows)
    (root / "sample_submission.csv").write_text(sample)
    return root


@pytest.fixture
def run(whales: Path) -> str:
    words = ["--stage", "all", "--data", str(whales), "--run", "run", "--split", "disjoint"]
    assert pipeline.main([*words, *FAST]) == 0
    return "run"


def identify(*words: str | Path) -> int:
    return cli.main(["identify", "test", *map(str, words)])


def test_happywhales_form_is_filled_and_scored(
    run: str, whales: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, test = whales / "sample_submission.csv", whales / "test.csv"
    assert identify("--run", run, "--sample-submission", sample, "--labels", test) == 0
    shown = capsys.readouterr()
    assert "threshold" in shown.err and "8 identities known" in shown.err
    filled, asked = pd.read_csv("run/identities.csv"), pd.read_csv(sample)
    assert filled.image.tolist() == asked.image.tolist()
    names = {f"w{identity}" for identity in range(KNOWN)} | {"new_individual"}
    for cell in filled.predictions:
        given = cell.split(" ")
        assert len(given) == len(set(given)) == 5 and set(given) <= names
    truth = pd.read_csv(test)
    lists = [cell.split(" ") for cell in filled.predictions]
    named = dict(zip(filled.image, lists, strict=True))
    right = dict(zip(truth.image, truth.identity, strict=True))
    expected = measure_names(named, right, names - {"new_individual"}, "new_individual")
    printed = {row.split()[0]: row.split()[-1] for row in shown.out.splitlines()[2:]}
    assert printed["map@5"] == f"{expected['map@5']:.4f}" and {"baks", "baus", "gap"} <= set(
        printed
    )
    assert expected["map@5"] > 0.7  # drawn identities are easy


def test_the_share_of_new_ones_sets_the_threshold(
    run: str, whales: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert identify("--run", run, "--new-share", "0.5", "--new-name", "nobody", "--count", "1") == 0
    assert "50 % are called new" in capsys.readouterr().err
    with Path("run/identities.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name_1"] == "nobody" for row in rows].count(True) == len(rows) // 2
    assert identify("--run", run, "--threshold", "-1") == 0
    assert pd.read_csv("run/identities.csv").name_1.ne("new_individual").all()


def test_a_sample_of_identities_is_not_filled_with_pictures(
    run: str, whales: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = whales / "sample_submission.csv"
    words = ["--stage", "retrieve", "--run", run, "--sample-submission", str(sample)]
    assert pipeline.main(words) == 1
    said = capsys.readouterr().err
    assert "asks for identities, such as 'w0'" in said and "identify test --run run" in said


def test_a_run_without_labeled_pictures_knows_nobody(
    whales: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (whales / "train.csv").unlink()
    words = ["--stage", "all", "--data", str(whales), "--run", "run", "--test", "test.csv", *FAST]
    assert pipeline.main(words) == 0
    assert identify("--run", "run") == 1
    assert "no labeled pictures: there is nobody to name" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_best_of_all_that_are_tried(seed: int) -> None:
    rng = np.random.default_rng(seed)
    identities = np.array(["a", "b", "c", "d"])
    scores = rng.random((40, 4)).astype(np.float32)
    truth = [str(rng.choice(identities)) if n < 25 else None for n in range(40)]
    scores[np.arange(25), [identities.tolist().index(str(t)) for t in truth[:25]]] += 0.3
    threshold, expected = best_threshold(scores, identities, truth, 3)

    def mean_at(value: float) -> float:
        lists = name_rows(scores, identities, value, 3, "new").names.tolist()
        right = {str(n): name or "nobody" for n, name in enumerate(truth)}
        parts = [range(25), range(25, 40)]
        halves = [{str(n): lists[n] for n in part} for part in parts]
        return float(
            np.mean(
                [
                    measure_names(half, {n: right[n] for n in half}, set("abcd"), "new")["map@3"]
                    for half in halves
                ]
            )
        )

    assert expected == pytest.approx(mean_at(threshold))
    tried = np.quantile(scores.max(1), np.linspace(0, 1, 50))
    assert expected >= max(map(mean_at, tried.tolist())) - 1e-9
