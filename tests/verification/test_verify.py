"""The commands, from a protocol to a verdict, on a tiny CFP and a backbone of a few weights."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lookalike import cli
from lookalike.core.errors import UserError
from lookalike.core.log import log
from lookalike.core.numeric import one_thread
from lookalike.core.readers import read_json
from lookalike.verification import training as pair_training
from lookalike.verification import verify
from lookalike.verification.commands import choose_folds, read_command
from lookalike.verification.settings import ScoreCommand, TrainCommand
from lookalike.verification.training import FoldSetup, TrainedFold
from tests.conftest import BACKBONE, ROOT, draw_cfp

TRAIN = ("--image-size", "32", "--epochs", "1", "--epoch-pairs", "16", "--batch-size", "8")


@pytest.fixture(scope="module")
def cfp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_cfp(tmp_path_factory.mktemp("verify") / "cfp")


def run_verify(*words: str | Path) -> int:
    try:
        with one_thread():  # several that wait for each other are slow on a busy machine
            return verify.main(list(map(str, words)))
    finally:
        log.handlers.clear()


def test_a_protocol_is_scored_and_a_pair_is_decided(
    cfp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with one_thread():
        assert cli.main(["verify", "score", "--data", str(cfp), "--run", "runs/x", *BACKBONE]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("| x ")
    files = {path.name for path in Path("runs/x").iterdir()}
    settings = {"config.json", "versions.json"}
    results = {"metrics.json", "calibration.json", "pairs.csv", "roc.png", "errors.jpg", "log.txt"}
    assert files >= settings | results
    one, two = cfp / "Data/Images/001/frontal/01.jpg", cfp / "Data/Images/001/frontal/02.jpg"
    assert run_verify("pair", one, two, "--run", "runs/x", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["same"] == (answer["similarity"] >= answer["threshold"])
    assert answer["pictures"] == [str(one), str(two)] and answer["without_face"] == []


def test_a_pair_of_the_protocol_gets_the_same_score_again(
    cfp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verify("score", "--data", cfp, "--run", "x", *BACKBONE) == 0
    row = pd.read_csv("x/pairs.csv").iloc[5]
    capsys.readouterr()
    words = ("pair", cfp / str(row.a), cfp / str(row.b), "--run", "x")
    assert run_verify(*words, "--json", "--false-accept", "0.1") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["similarity"] == pytest.approx(row.score, abs=1e-4)
    kept = read_json(Path("x/calibration.json"), "")
    assert answer["threshold"] == pytest.approx(kept["thresholds"]["0.1"], abs=1e-4)
    assert run_verify(*words) == 0
    text = capsys.readouterr().out
    assert "(at 1 % false accepts: similarity of at least" in text
    assert "if as many pairs do as in the calibration (16 of 32)" in text


@pytest.mark.parametrize(
    "words",
    [("--layers", "none", "--augment"), ("--layers", "all", "--head", "cosine", "--augment")],
    ids=["cached", "trained"],
)
def test_a_trained_run_decides_on_pairs_and_is_not_trained_twice(
    cfp: Path,
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = ("train", "--data", str(cfp), "--run", "x", *BACKBONE, *TRAIN, *words, "--folds")
    assert run_verify(*train, "1", "3") == 0
    measures = read_json(Path("x/metrics.json"), "")
    assert [row["fold"] for row in measures["by_fold"]] == [1, 3] and measures["pairs"] == 16
    row = pd.read_csv("x/pairs.csv").iloc[0]
    capsys.readouterr()
    assert run_verify("pair", cfp / str(row.a), cfp / str(row.b), "--run", "x", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["similarity"] == pytest.approx(row.score, abs=1e-3)

    done: list[int] = []
    original = pair_training.train_fold

    def watched(setup: FoldSetup, fold: int) -> TrainedFold:
        done.append(fold)
        return original(setup, fold)

    monkeypatch.setattr(pair_training, "train_fold", watched)
    before = Path("x/fold01/model.safetensors").stat().st_mtime_ns
    assert run_verify(*train, "1", "3") == 0 and done == []
    assert Path("x/fold01/model.safetensors").stat().st_mtime_ns == before
    assert run_verify(*train, "1", "2") == 0 and done == [2], "a fold more"
    assert run_verify(*train, "1", "--seed", "1") == 0 and done == [2, 1], "another seed"


def test_the_same_seed_trains_the_same_weights(cfp: Path) -> None:
    train = ("train", "--data", str(cfp), "--folds", "1", *BACKBONE, *TRAIN, "--layers", "all")
    for name in "ab":
        assert run_verify(*train, "--run", name) == 0
    one, two = (Path(name, "fold01/model.safetensors").read_bytes() for name in "ab")
    assert one == two


def test_runs_are_compared_in_a_table(cfp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, kind in (("one", "FF"), ("two", "FP")):
        assert run_verify("score", "--data", cfp, "--kind", kind, "--run", name, *BACKBONE) == 0
    capsys.readouterr()
    assert run_verify("table", "one", "two") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["one", "two"]


def test_the_settings_of_a_run_are_read_back(cfp: Path) -> None:
    words = ("--scales", "1", "1.2", "--flip", "on", "--distance", "euclidean")
    assert run_verify("score", "--data", cfp, "--run", "x", *BACKBONE, *words) == 0
    command = read_command(Path("x"), Path("elsewhere"))
    assert command.embed.scales == (1.0, 1.2) and command.embed.weights == "none"
    assert isinstance(command, ScoreCommand) and command.distance == "euclidean"
    assert command.cache == Path("elsewhere") and command.pairs.data == cfp.resolve()


def test_the_settings_of_an_older_run_are_read_by_their_new_names(tmp_path: Path) -> None:
    old = {"command": "train", "data": "cfp", "side": 64, "layers": "half", "folds": [1, 3]}
    (tmp_path / "config.json").write_text(json.dumps(old))
    command = read_command(tmp_path, Path("cache"))
    assert isinstance(command, TrainCommand) and command.embed.image_size == 64
    assert command.siamese.layers == "half" and command.folds == (1, 3)


def test_help_answers_without_the_libraries() -> None:
    code = "import sys, lookalike.verification.verify; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "sklearn", "faiss", "pandas"} & set(done.stdout.split())


def test_the_pairs_of_an_unreadable_picture_are_wrong(cfp: Path, tmp_path: Path) -> None:
    root = draw_cfp(tmp_path / "own")
    (root / "Data/Images/001/frontal/01.jpg").write_bytes(b"no picture")
    assert run_verify("score", "--data", root, "--run", "x", *BACKBONE) == 0
    measures = read_json(Path("x/metrics.json"), "")
    assert measures["unanswered"] == 3
    scores = pd.read_csv("x/pairs.csv")
    broken = scores.score.isna()
    assert broken.sum() == 3 and not scores.right[broken].any()
    assert "Data/Images/001/frontal/01.jpg (unreadable" in Path("x/log.txt").read_text()


def test_folds_are_those_of_the_protocol() -> None:
    table = pd.DataFrame({"fold": [3, 1, 2, 1]})
    assert choose_folds((), table) == (1, 2, 3) and choose_folds((2,), table) == (2,)
    with pytest.raises(UserError, match=r"--folds 9: the protocol has \[1, 2, 3\]"):
        choose_folds((1, 9), table)
    with pytest.raises(UserError, match="training needs three folds"):
        choose_folds((), table[table.fold < 3])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("score", "--data", "nowhere"), "--data nowhere: no such folder"),
        (("score", "--data", "CFP", "--backbone", "resnot"), "--backbone resnot: unknown"),
        (("score", "--data", "CFP", "--scales", "0.5"), "--scales 0.5: a whole picture"),
        (("train", "--data", "CFP", "--folds", "9"), "--folds 9: the protocol has"),
        (("train", "--data", "CFP", "--flip", "on"), "a trained network sees one view"),
        (("train", "--data", "CFP", "--seed", "-1"), "--seed -1: must be at least 0"),
        (("pair", "a.jpg", "b.jpg", "--run", "nowhere"), "config.json is missing: make it with"),
        (("table", "nowhere"), "metrics.json is missing"),
    ],
)
def test_bad_input_is_an_error_in_words(
    cfp: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tuple(str(cfp) if word == "CFP" else word for word in words)
    fast = () if words[0] in ("pair", "table") or "--backbone" in words else BACKBONE
    assert run_verify(*words, *fast) == 1
    assert message in capsys.readouterr().err


def test_a_pair_that_cannot_be_decided_is_an_error(
    cfp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verify("score", "--data", cfp, "--run", "x", *BACKBONE) == 0
    one = cfp / "Data/Images/001/frontal/01.jpg"
    assert run_verify("pair", one, one, "--run", "x", "--false-accept", "0.5") == 1
    assert "--false-accept 0.5: x is calibrated at 0.1, 0.01, 0.001" in capsys.readouterr().err
    assert run_verify("pair", one, cfp / "nowhere.jpg", "--run", "x") == 1
    assert "nowhere.jpg: unreadable" in capsys.readouterr().err
    Path("x/config.json").write_text('{"command": "score", "backbone": 3, "colour": "red"}')
    assert run_verify("pair", one, one, "--run", "x") == 1
    assert "is damaged" in capsys.readouterr().err
    assert np.isfinite(read_json(Path("x/metrics.json"), "")["auc"])


def test_a_run_of_another_program_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"backbone": "sface"}')
    (tmp_path / "metrics.json").write_text('{"test": {"score": 1.0}}')
    assert verify.main(["table", str(tmp_path)]) == 1
    assert "not a run of lookalike verify" in capsys.readouterr().err
    assert verify.main(["score", "--data", str(tmp_path), "--run", str(tmp_path)]) == 1
    assert "is a run of main.py; name another folder" in capsys.readouterr().err


def test_a_damaged_fold_is_trained_again_and_named(
    cfp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ("train", "--data", str(cfp), "--run", "x", *BACKBONE, *TRAIN, "--folds", "1")
    assert run_verify(*train) == 0
    path = Path("x/fold01/fold.json")
    whole = path.read_text()
    for damaged in ("[", whole.replace('"threshold": ', '"threshold": 1')):
        path.write_text(damaged)
        assert run_verify(*train) == 0
        assert "fold 1 is trained again: x/fold01/fold.json" in capsys.readouterr().err
        assert path.read_text() == whole


def test_damaged_settings_of_a_run_are_not_overwritten(
    cfp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("x").mkdir()
    Path("x/config.json").write_text("[1]")
    assert run_verify("score", "--data", cfp, "--run", "x", *BACKBONE) == 1
    assert "delete it, or name another folder with --run" in capsys.readouterr().err


def test_a_changed_calibration_decides_nothing(
    cfp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verify("score", "--data", cfp, "--run", "x", *BACKBONE) == 0
    path = Path("x/calibration.json")
    path.write_text(path.read_text().replace('"slope": ', '"slope": -'))
    one = cfp / "Data/Images/001/frontal/01.jpg"
    assert run_verify("pair", one, one, "--run", "x") == 1
    assert "calibration.json: was changed" in capsys.readouterr().err
