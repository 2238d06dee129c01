"""Runs are fused by the formulas, only with what fits, and the same whatever their order."""

import json
import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from lookalike import pipeline as runner
from lookalike.core.files import read_json
from lookalike.core.options import parse_settings
from lookalike.core.runs import Run
from lookalike.data.catalogue import bare_names, load_catalogue, readable
from lookalike.evaluation.submissions import read_submission
from lookalike.features.extractor import embed, load_extractor
from lookalike.retrieval.ensemble import OWN, SHARED, inherited
from lookalike.retrieval.fusion import fuse_ranks, fuse_scores, joined
from tests.conftest import draw_competition

DOMAINS = ("--domain-pattern", "(?P<domain>photo|drawing)_")


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def some_scores(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(count, 5, 20)))


# ---- the formulas -------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(), (3.0, 1.0)])
def test_concatenated_cosines_are_the_weighted_mean_of_cosines(weights: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    queries, gallery = ([unit(rng.normal(size=(n, d))) for d in (8, 32)] for n in (5, 20))
    one, two = (weights[0] / 4, weights[1] / 4) if weights else (0.5, 0.5)
    expected = one * queries[0] @ gallery[0].T + two * queries[1] @ gallery[1].T
    made = joined(queries, weights)
    assert np.allclose(made @ joined(gallery, weights).T, expected, atol=1e-6)
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-6)


def test_fused_scores_are_the_weighted_mean_of_standard_scores() -> None:
    one, two = some_scores(2)
    fused = fuse_scores([one, 1000 * two + 7], (3, 1))
    for q in range(5):
        a, b = ((x[q] - x[q].mean()) / x[q].std() for x in (one, two))
        assert np.allclose(fused[q], (3 * a + b) / 4)
    flat = np.ones((5, 20))
    assert np.allclose(fuse_scores([one, flat]), fuse_scores([one, 0 * one])), "says nothing"


def test_fused_ranks_are_reciprocal_and_ties_go_by_key() -> None:
    one, two = np.array([[0.9, 0.1, 0.5]]), np.array([[0.2, 0.2, 0.1]])
    ranks = ((1, 1), (3, 2), (2, 3))
    expected = [[(2 / (60 + a) + 1 / (60 + b)) / 3 for a, b in ranks]]
    assert np.allclose(fuse_ranks([one, two], (2, 1)), expected)


@pytest.mark.parametrize("fuse", [fuse_scores, fuse_ranks])
def test_the_order_of_equal_members_changes_no_bit(fuse) -> None:  # type: ignore[no-untyped-def]
    parts = some_scores(4)
    assert len({fuse(order).tobytes() for order in permutations(parts)}) == 1


# ---- the stage ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a competition and two finished runs on it, a and b."""
    root = tmp_path_factory.mktemp("ensemble")
    data = draw_competition(root / "tiny")
    for name, backbone in (("a", "test_efficientnet"), ("b", "test_resnet")):
        words = ["--stage", "all", "--data", data, "--run", root / name, "--cache", root / "cache"]
        words += [*DOMAINS, "--backbone", backbone, "--weights", "none"]
        assert runner.main([str(word) for word in words]) == 0
    return root


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The two runs, as folders that a test may spoil."""
    return tuple(Path(shutil.copytree(made / name, tmp_path / name)) for name in "ab")  # type: ignore[return-value]


def fuse(*words: str | Path, stages: tuple[str, ...] = ("retrieve", "evaluate")) -> int:
    return runner.main(["--stage", *stages, *map(str, words)])


def cosines(folder: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """(Q, G) cosines of a run's test, and the keys of both sides, sorted."""
    settings = parse_settings([], folder / "config.json")
    run = Run(folder, Path(str(settings.general.data)), settings)
    rows = load_catalogue(folder / "test.csv")
    rows = rows.assign(key=bare_names(rows.path))[readable(rows)].sort_values("key")
    query, gallery = (rows[rows.part == part] for part in ("query", "gallery"))
    scores = embed(load_extractor(run), query) @ embed(load_extractor(run), gallery).T
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
    handed_in = read_submission(Path("both/submission.json"))
    assert list(handed_in) == queries
    for row, names in zip(expected, handed_in.values(), strict=True):
        columns = [gallery.index(name) for name in names]
        assert len(names) == 10 and np.all(np.diff(row[columns]) <= 1e-5)
        assert row[columns].min() >= np.sort(row)[-10] - 1e-5
    blocks = read_json(Path("both/metrics.json"), "")
    assert blocks.keys() >= {"test", "validation"}, "data and labels are those of the first member"


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
    words = ["--ensemble", str(tmp_path / "plain"), str(tmp_path / "again")]
    settings = parse_settings(words, inherited=inherited(parse_settings(words)))
    assert settings.train.all_seen and settings.general.seed == 3


def test_an_ensemble_is_redone_when_a_member_changes_and_only_then(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fuse("--ensemble", *runs) == 0
    capsys.readouterr()
    assert fuse("--run", "runs/ensemble") == 0
    assert capsys.readouterr().err.count("inputs unchanged, nothing to do") == 2
    kept = read_json(Path("runs/ensemble/config.json"), "")
    assert kept["ensemble"] == [str(folder.resolve()) for folder in runs]
    assert fuse("--config", "runs/ensemble/config.json", stages=("all",)) == 0
    said = capsys.readouterr().err
    assert "crop: not needed, the runs of the --ensemble" in said
    assert said.count("inputs unchanged, nothing to do") == 2
    config = runs[1] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"center": True}))
    assert fuse("--run", "runs/ensemble") == 0
    assert "retrieve: inputs unchanged" not in capsys.readouterr().err


def test_concatenation_takes_the_steps_of_the_ensemble_and_scores_those_of_the_runs(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    handed_in = []
    for fusion in ("concat", "scores"):
        for steps in ([], ["--center"]):
            words = ["--run", f"{fusion}{len(steps)}", "--ensemble", *runs, "--fusion", fusion]
            assert fuse(*words, *steps) == 0
            handed_in.append(Path(f"{words[1]}/submission.json").read_bytes())
            warned = "takes each run's own steps" in capsys.readouterr().err
            assert warned == (fusion == "scores" and bool(steps))
    assert handed_in[0] != handed_in[1] and handed_in[2] == handed_in[3]


def test_a_weight_draws_the_ranking_to_its_run(runs: tuple[Path, Path]) -> None:
    words = ("--run", "both", "--ensemble", *runs, "--ensemble-weights", "1e6", "1")
    assert fuse(*words) == 0
    assert read_submission(Path("both/submission.json")) == read_submission(
        runs[0] / "submission.json"
    )


# ---- what does not fit --------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """What is said of a mistake."""
    capsys.readouterr()
    assert fuse("--run", "both", *words) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_runs_that_are_missing_or_not_finished_are_named(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "--ensemble", runs[0], "nowhere")
    assert "--ensemble nowhere: no finished run there (config.json is missing)" in said
    (runs[1] / "model.safetensors").unlink()
    assert f"{runs[1]}: no finished run there (model.safetensors is" in refused(
        capsys, "--ensemble", *runs
    )
    said = refused(capsys, "--ensemble", "nowhere", runs[0])
    assert "make it with --stage all --run nowhere" in said


def test_runs_on_other_data_or_another_split_are_refused(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], competition: Path
) -> None:
    for name, settings in (("split.json", "--split, --seed"), ("test.csv", "--data")):
        content = (runs[1] / name).read_text()
        (runs[1] / name).write_text(content + "\n")
        said = refused(capsys, "--ensemble", *runs)
        assert f"b: its {name} is not that of {runs[0]}: make both with the same {settings}" in said
        (runs[1] / name).write_text(content)
    next((competition / "test" / "query").iterdir()).unlink()
    said = refused(capsys, "--ensemble", *runs, "--data", competition)
    assert "lacks test/query/" in said and "name the data set of the --ensemble" in said


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
    assert "choose a place of its own" in capsys.readouterr().err
    split = Path(shutil.copytree(runs[0], "both")) / "split.json"
    split.write_text("{}")
    assert "--run both: has a model of its own" in refused(capsys, "--ensemble", *runs)
    assert split.read_text() == "{}", "it is not overwritten by that of the members"
    shutil.rmtree("both")
    config = runs[1] / "config.json"
    nested = json.loads(config.read_text()) | {"ensemble": [str(folder) for folder in runs]}
    config.write_text(json.dumps(nested))
    assert "is an ensemble itself; name its members" in refused(capsys, "--ensemble", *runs)
