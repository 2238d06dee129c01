"""The --ensemble stages: which runs fit together, and that they rank together."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from lookalike import pipeline as runner
from lookalike.core.config import from_table, load_settings
from lookalike.core.readers import read_json
from lookalike.core.runs import Run
from lookalike.core.settings import Settings
from lookalike.data.catalogue import bare_names, load_catalogue, readable
from lookalike.evaluation.submissions import read_submission
from lookalike.features.embedding import embed
from lookalike.features.extractor import trained_extractor
from lookalike.retrieval.ensemble import OWN, SHARED, inherited
from tests.conftest import draw_competition

DOMAINS = ("--domain-pattern", "(?P<domain>photo|drawing)_")


# ---- the stage ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a competition and two finished runs on it, a and b."""
    root = tmp_path_factory.mktemp("ensemble")
    data = draw_competition(root / "tiny")
    for name, backbone in (("a", "test_efficientnet"), ("b", "test_resnet")):
        stages = ["split", "train", "index", "retrieve"]
        words = [
            "--stage",
            *stages,
            "--data",
            data,
            "--run",
            root / name,
            "--cache",
            root / "cache",
        ]
        words += [*DOMAINS, "--backbone", backbone, "--weights", "none"]
        assert runner.main([str(word) for word in words]) == 0
    return root


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The two runs, as folders that a test may change."""
    return tuple(Path(shutil.copytree(finished / name, tmp_path / name)) for name in "ab")  # type: ignore[return-value]


def fuse(*words: str | Path, stages: tuple[str, ...] = ("retrieve", "evaluate")) -> int:
    return runner.main(["--stage", *stages, *map(str, words)])


def cosines(folder: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """(Q, G) cosines of a run's test, and the names of both sides, sorted."""
    settings = load_settings(folder / "config.json")
    run = Run(folder, Path(str(settings.general.data)), settings)
    rows = load_catalogue(folder / "test.csv")
    rows = rows.assign(key=bare_names(rows.path))[readable(rows)].sort_values("key")
    query, gallery = (rows[rows.part == part] for part in ("query", "gallery"))
    scores = embed(trained_extractor(run), query) @ embed(trained_extractor(run), gallery).T
    return scores, list(query.key), list(gallery.key)


@pytest.mark.parametrize("fusion", ["concat", "scores", "ranks"])
def test_an_ensemble_ranks_by_its_runs_together(fusion: str, runs: tuple[Path, Path]) -> None:
    assert fuse("--run", "both", "--ensemble", *runs, "--fusion", fusion) == 0
    (a, queries, gallery), (b, *_) = (cosines(folder) for folder in runs)
    if fusion == "scores":
        a, b = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (a, b))
    if fusion == "ranks":
        a, b = (1 / (61 + np.argsort(np.argsort(-x, axis=1), axis=1)) for x in (a, b))
    expected = a + b
    submitted = read_submission(Path("both/submission.json"))
    assert list(submitted) == queries
    for row, names in zip(expected, submitted.values(), strict=True):
        columns = [gallery.index(name) for name in names]
        assert len(names) == 10 and np.all(np.diff(row[columns]) <= 1e-5)
        assert row[columns].min() >= np.sort(row)[-10] - 1e-5
    blocks = read_json(Path("both/metrics.json"), "")
    assert blocks.keys() >= {"test", "validation"}, "data and labels are those of the first member"


def test_weights_are_learned_on_the_validation(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fuse("--run", "learned", "--ensemble", *runs, "--fusion", "learned") == 0
    said = capsys.readouterr().err
    assert re.search(r"weights learned on [1-9]\d* validation queries: ", said)
    weights = re.findall(r"/[ab] (\d\.\d{3})", said)
    assert len(weights) == 2
    assert np.isclose(sum(map(float, weights)), 1, atol=2e-3)
    if "0.000" not in weights:
        words = ["--fusion", "scores", "--ensemble-weights", *weights]
        assert fuse("--run", "named", "--ensemble", *runs, *words) == 0
        for name in ("submission.json", "validation.json"):
            assert Path("learned", name).read_bytes() == Path("named", name).read_bytes()
    words = ["--fusion", "learned", "--ensemble-weights", "2", "1"]
    assert fuse("--run", "both", "--ensemble", *runs, *words) == 1
    assert "--fusion learned finds them" in capsys.readouterr().err


def test_order_and_repetition_change_no_byte(runs: tuple[Path, Path]) -> None:
    for name, order in (("one", runs), ("turned", runs[::-1])):
        assert fuse("--run", name, "--ensemble", *order, "--fusion", "ranks") == 0
    for name in ("submission.json", "validation.json"):
        assert len({(Path(run) / name).read_bytes() for run in ("one", "turned")}) == 1


def test_one_member_that_has_seen_the_validation_is_enough_to_leave_it_out(tmp_path: Path) -> None:
    refitted = {"refit": True, "objective": "arcface", "embed_dim": 8, "epochs": 5}
    for name, table in (("plain", {"seed": 3, "epochs": 1}), ("again", {"seed": 4, **refitted})):
        (tmp_path / name).mkdir()
        for file in (*OWN, *SHARED):
            (tmp_path / name / file).write_text(json.dumps(table))
    settings = from_table(Settings, inherited([tmp_path / "plain", tmp_path / "again"]))
    assert settings.train.all_seen and settings.general.seed == 3


@pytest.mark.slow
def test_an_ensemble_is_redone_when_a_member_changes_and_only_then(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fuse("--ensemble", *runs) == 0
    capsys.readouterr()
    assert fuse("--run", "runs/ensemble") == 0
    assert capsys.readouterr().err.count("inputs unchanged, nothing to do") == 2
    saved = read_json(Path("runs/ensemble/config.json"), "")
    assert saved["ensemble"] == [str(folder.resolve()) for folder in runs]
    assert fuse("--config", "runs/ensemble/config.json", stages=("all",)) == 0
    output = capsys.readouterr().err
    assert "crop: not needed, the runs of the --ensemble" in output
    assert output.count("inputs unchanged, nothing to do") == 2
    config = runs[1] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"center": True}))
    assert fuse("--run", "runs/ensemble") == 0
    assert "retrieve: inputs unchanged" not in capsys.readouterr().err


@pytest.mark.slow
def test_concatenation_takes_the_steps_of_the_ensemble_and_scores_those_of_the_runs(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    submitted = []
    for fusion in ("concat", "scores"):
        for steps in ([], ["--center"]):
            words = ["--run", f"{fusion}{len(steps)}", "--ensemble", *runs, "--fusion", fusion]
            assert fuse(*words, *steps) == 0
            submitted.append(Path(f"{words[1]}/submission.json").read_bytes())
            warned = "takes each run's own steps" in capsys.readouterr().err
            assert warned == (fusion == "scores" and bool(steps))
    assert submitted[0] != submitted[1] and submitted[2] == submitted[3]


def test_a_weight_draws_the_ranking_to_its_run(runs: tuple[Path, Path]) -> None:
    words = ("--run", "both", "--ensemble", *runs, "--ensemble-weights", "1e6", "1")
    assert fuse(*words) == 0
    assert read_submission(Path("both/submission.json")) == read_submission(
        runs[0] / "submission.json"
    )


# ---- what does not fit --------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Return the error message of a command that fails."""
    capsys.readouterr()
    assert fuse("--run", "both", *words) == 1
    output = capsys.readouterr().err
    assert "Traceback" not in output
    return output


def test_runs_that_are_missing_or_not_finished_are_named(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output = refused(capsys, "--ensemble", runs[0], "nowhere")
    assert "--ensemble nowhere: no finished run there (config.json is missing)" in output
    (runs[1] / "model.safetensors").unlink()
    assert f"{runs[1]}: no finished run there (model.safetensors is" in refused(
        capsys, "--ensemble", *runs
    )
    output = refused(capsys, "--ensemble", "nowhere", runs[0])
    assert "make it with --stage all --run nowhere" in output


def test_runs_on_other_data_or_another_split_are_refused(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], competition: Path
) -> None:
    for name, settings in (("split.json", "--split, --seed"), ("test.csv", "--data")):
        content = (runs[1] / name).read_text()
        (runs[1] / name).write_text(content + "\n")
        output = refused(capsys, "--ensemble", *runs)
        expected = f"b: its {name} is not that of {runs[0]}: make both with the same {settings}"
        assert expected in output
        (runs[1] / name).write_text(content)
    next((competition / "test" / "query").iterdir()).unlink()
    output = refused(capsys, "--ensemble", *runs, "--data", competition)
    assert "lacks test/query/" in output and "name the data set of the --ensemble" in output


def test_weights_and_runs_have_to_be_as_many(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def say(*words: str | Path) -> str:
        return refused(capsys, "--ensemble", *words)

    assert "--ensemble-weights: 3 for 2 runs; name one for each" in say(
        *runs, "--ensemble-weights", "1", "2", "3"
    )
    assert "must be above 0" in say(*runs, "--ensemble-weights", "1", "0")
    assert "--ensemble: name at least two runs" in say(runs[0])


def test_an_ensemble_is_a_run_apart_from_its_members(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main(
        ["--stage", "retrieve", "--run", str(runs[0]), "--ensemble", *map(str, runs)]
    )
    assert "choose a separate folder" in capsys.readouterr().err
    split = Path(shutil.copytree(runs[0], "both")) / "split.json"
    split.write_text("{}")
    assert "--run both: has a model of its own" in refused(capsys, "--ensemble", *runs)
    assert split.read_text() == "{}", "it is not overwritten by that of the members"
    shutil.rmtree("both")
    config = runs[1] / "config.json"
    nested = json.loads(config.read_text()) | {"ensemble": [str(folder) for folder in runs]}
    config.write_text(json.dumps(nested))
    assert "is an ensemble itself; name its members" in refused(capsys, "--ensemble", *runs)
