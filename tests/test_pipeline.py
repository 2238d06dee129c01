"""The whole way on a tiny competition: skipping, going on, staying the same, and its messages."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kills import kill_and_compare
from lookalike import pipeline as runner
from lookalike.core.errors import UserError
from lookalike.core.files import write_json
from lookalike.core.readers import read_json
from lookalike.core.settings import RENAMED
from lookalike.evaluation.evaluate import main as evaluate
from lookalike.evaluation.metrics import measure_queries
from lookalike.evaluation.scoring import Labels, find_hits
from tests.conftest import FAST, Program, draw, draw_competition

DOMAINS = ("--domain-pattern", "(?P<domain>photo|drawing)_")


def run_all(*words: str | Path) -> int:
    return runner.main(["--stage", "all", *map(str, words)])


def metrics(run: str | Path = "runs/tiny") -> dict:
    return dict(read_json(Path(run) / "metrics.json", "the run"))


@pytest.fixture
def done(competition: Path) -> Path:
    """The run folder of a finished run on the tiny competition."""
    assert run_all("--data", competition, *FAST, *DOMAINS) == 0
    return Path("runs/tiny")


def test_the_contract_of_the_run_folder(done: Path, competition: Path) -> None:
    names = "config.json split.json model.safetensors gallery.faiss gallery.json submission.json"
    for name in (*names.split(), "labels.json", "metrics.json", "log.txt", "versions.json"):
        assert (done / name).is_file(), name
    submission = read_json(done / "submission.json", "")
    assert set(submission) == {path.name for path in (competition / "test" / "query").iterdir()}
    assert all(len(set(names)) == 10 for names in submission.values())
    measures = {"score", "recall@1", "recall@5", "recall@10", "map", "map@10", "map@10_hits"}
    for part in ("test", "validation"):
        block = metrics()[part]
        assert set(block) == measures | {"metric", "queries", "missing", "left_out", "ci95"}
        assert set(block["ci95"]) == measures
        low, high = block["ci95"]["score"]
        assert 0 <= low <= block["score"] <= high <= 1000
    stages = {"split", "crop", "train", "index", "retrieve", "forecast", "evaluate"}
    assert "timing" not in metrics()
    assert set(read_json(done / "timing.json", "")) == stages | {"report"}
    validation = read_json(done / "validation.json", "")
    assert all(query.startswith("training/") for query in validation), "paths, not bare names"
    labels = read_json(done / "labels.json", "")
    assert set(labels) == {"query", "gallery"}


def test_the_named_metric_is_the_score_of_every_stage(
    done: Path, competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_json(done / "submission.json", "")
    assert run_all("--data", competition, *FAST, *DOMAINS, "--metric", "map@12") == 0
    submission = read_json(done / "submission.json", "")
    assert {len(names) for names in submission.values()} == {12}
    assert {query: names[:10] for query, names in submission.items()} == before
    labels = read_json(competition / "labels.json", "")
    hits = find_hits(submission, Labels(**labels), 12)
    expected = measure_queries(hits.hits, hits.relevant, also=["map@12"])["map@12"].mean()
    assert metrics()["test"]["score"] == pytest.approx(expected)
    for part in ("test", "validation", "forecast"):
        assert metrics()[part]["metric"] == "map@12"
        assert 0 <= metrics()[part]["score"] <= metrics()[part]["ci95"]["score"][1] <= 1
    assert "<small>of 1</small>" in (done / "report.html").read_text()
    shown = capsys.readouterr().err
    assert f"score: test {expected:.4f}" in shown and "score: map@12" in shown
    assert evaluate([str(done / "submission.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == pytest.approx(expected)


def test_a_second_run_does_nothing_and_force_does_it_again(
    done: Path, competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.glob("*.safetensors")}
    assert run_all("--data", competition, *FAST, *DOMAINS) == 0
    said = capsys.readouterr().err
    assert said.count("inputs unchanged, nothing to do") == 8
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run_all("--data", competition, *FAST, *DOMAINS, "--force") == 0
    assert "nothing to do (" not in capsys.readouterr().err


def test_a_changed_setting_redoes_what_depends_on_it(
    done: Path, competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_all("--data", competition, *FAST, *DOMAINS, "--embed-dim", "16") == 0
    said = capsys.readouterr().err
    assert "split: inputs unchanged" in said
    for stage in ("train", "index", "retrieve"):
        assert f"{stage}: inputs unchanged" not in said
    assert "16-dimensional embeddings" in said


def test_new_pictures_in_the_gallery_are_found_and_nothing_is_trained_again(
    done: Path, competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(competition / "test" / "gallery" / "new.jpg", 99, 1)
    (competition / "labels.json").unlink()
    assert run_all("--data", competition, *FAST, *DOMAINS) == 0
    said = capsys.readouterr().err
    assert "train: inputs unchanged" in said and "embedded 1 pictures" in said
    assert "new.jpg" in read_json(done / "gallery.json", "")["keys"]
    assert "test" not in metrics() and not (done / "labels.json").exists()


def test_a_single_stage_goes_on_with_the_runs_own_settings(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (done / "submission.json").unlink()
    assert runner.main(["--stage", "retrieve", "evaluate", "--run", str(done)]) == 0
    said = capsys.readouterr().err
    assert "backbone=test_efficientnet" in said and (done / "submission.json").is_file()
    assert "train:" not in said


def test_every_stage_alone_makes_the_same(done: Path, competition: Path) -> None:
    words = ["--run", "runs/steps", "--data", str(competition), *FAST, *DOMAINS]
    for stage in ("extract", "split", "crop", "train", "index", "retrieve", "evaluate"):
        assert runner.main(["--stage", stage, *words]) == 0
    for name in ("submission.json", "validation.json", "split.json", "model.safetensors"):
        assert (done / name).read_bytes() == (Path("runs/steps") / name).read_bytes()


def test_a_run_without_training_uses_the_untrained_backbone(
    competition: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (competition / "training").rename(tmp_path / "elsewhere")
    assert run_all("--data", competition, *FAST) == 0
    assert "untrained" in capsys.readouterr().err
    assert set(metrics()) == {"test"}


def test_broken_pictures_cost_nothing_but_themselves(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (competition / "training" / "person_00" / "photo_0.jpg").write_bytes(b"broken")
    (competition / "test" / "gallery" / "broken.jpg").write_bytes(b"")
    query = next((competition / "test" / "query").iterdir())
    query.write_bytes(b"broken")
    assert run_all("--data", competition, *FAST, *DOMAINS) == 0
    submission = read_json(Path("runs/tiny/submission.json"), "")
    assert len(submission[query.name]) == 10, "a leaderboard wants every query"
    assert "broken.jpg" not in json.dumps(submission)
    said = capsys.readouterr().err
    assert query.name in said and "photo_0.jpg" in said and "broken.jpg" in said


def test_a_data_set_is_only_read(competition: Path) -> None:
    """Bytes, times and folders stay (write protection would not stop root)."""

    def state() -> list[tuple[Path, int, bytes]]:
        paths = sorted([competition, *competition.rglob("*")])
        content = [path.read_bytes() if path.is_file() else b"" for path in paths]
        times = [path.stat().st_mtime_ns for path in paths]
        return list(zip(paths, times, content, strict=True))

    before = state()
    assert run_all("--data", competition, *FAST, *DOMAINS) == 0
    assert state() == before


@pytest.mark.parametrize("form", ["list", "csv"])
def test_other_forms_are_scored_the_same(form: str, done: Path, competition: Path) -> None:
    score = metrics()["test"]["score"]
    assert run_all("--data", competition, *FAST, *DOMAINS, "--format", form) == 0
    assert metrics()["test"]["score"] == score
    assert (done / "submission.csv").exists() is (form == "csv")


def test_no_old_form_or_score_stands_beside_a_new_submission(done: Path, competition: Path) -> None:
    words = ("--data", competition, *FAST, *DOMAINS)
    assert run_all(*words, "--format", "csv") == 0 and (done / "submission.csv").exists()
    (competition / "labels.json").write_text('{"query": {"other.jpg": "x"}, "gallery": {}}')
    assert run_all(*words, "--format", "mapping", "--embed-dim", "4") == 1
    assert not (done / "submission.csv").exists() and not (done / "metrics.json").exists()


def test_a_run_goes_on_from_another_folder(
    done: Path, competition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    run = tmp_path / done
    score = metrics(run)["test"]
    for stage in ("retrieve", "evaluate"):
        assert runner.main(["--stage", stage, "--run", str(run), "--force"]) == 0
    assert metrics(run)["test"] == score and (run / "labels.json").is_file()
    competition.rename(tmp_path / "moved")
    assert runner.main(["--stage", "evaluate", "--run", str(run), "--force"]) == 1
    assert (run / "labels.json").is_file()


def test_half_files_of_a_killed_run_are_swept_away(done: Path, competition: Path) -> None:
    (done / ".gallery.faiss.123.partial").write_bytes(b"half")
    assert run_all("--data", competition, *FAST, *DOMAINS) == 0
    assert not list(done.glob("*.partial")) and not list(done.glob(".*.partial"))


# ---- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stage", "all", "--data", "nowhere"], "nowhere: no data set there"),
        (["--stage", "extract", "index", "--data", "tiny"], "make it with --stage train"),
        (
            ["--stage", "extract", "train", "--data", "tiny"],
            "split.json is missing: make it with --stage split",
        ),
        (["--data", "tiny", "--backbone", "resnet5"], "Did you mean resnet50"),
        (["--data", "tiny", "--labels", "nowhere.json", *FAST], "nowhere.json: no such file"),
        (["--data", "tiny", "--weights", "nowhere.pth"], "nowhere.pth: no such file"),
        (
            ["--data", "tiny", "--detector", "nowhere.safetensors", *FAST],
            "nowhere.safetensors: no such file, named by --backbone or --detector",
        ),
        (
            ["--data", "tiny", "--detector", "labels.json", "--crop", "aligned", *FAST],
            "--crop aligned: --detector labels.json finds boxes and no points",
        ),
        (["--data", "tiny", "--query-domain", "x", *DOMAINS], "only the domains drawing, photo"),
        (["--data", "tiny", "--metric", "recal@5"], "'recal@5' is unknown; known are recall@k"),
        (["--config", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--data", "tiny", "--run", "tiny/test/gallery/run", *FAST], "choose a separate folder"),
        (["--data", "tiny", "--cache", "tiny", *FAST], "choose a separate folder"),
        (["--source", "folder", "--source-path", "tiny", "--data", "tiny/x"], "separate folder"),
        (["--source-path", "x.zip", "--data", "tiny"], "--source archive"),
        (["--data", "tiny", "--run", "tiny/labels.json"], "labels.json"),
    ],
)
def test_mistakes_end_with_a_sentence(
    words: list[str], said: str, competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main(words) == 1
    shown = capsys.readouterr().err
    assert said in shown.split("error: ")[1]
    assert "Traceback" not in shown


def test_stages_of_a_run_that_is_not_there_make_nothing(
    competition: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--stage", "evaluate", "--run", "nowhere"], ["--stage", "retrieve", "submit"]):
        assert runner.main(
            [*words, "--data", str(competition), "--url", "http://a.b", "--group", "c"]
        )
        assert "no run there; make one with main.py" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists() and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "name",
    [
        "gallery.faiss",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("gallery.json", "model.safetensors", "test.csv")
        ),
    ],
)
def test_a_damaged_file_of_the_run_is_not_used_by_a_single_stage(
    name: str, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((done / name).read_bytes())
    content[-9] ^= 1
    (done / name).write_bytes(content)
    before = (done / "submission.json").read_bytes()
    assert runner.main(["--stage", "retrieve", "--run", str(done), "--center"]) == 1
    assert f"{name} is not what --stage" in capsys.readouterr().err
    assert (done / "submission.json").read_bytes() == before


def test_damaged_scores_are_left_out_of_the_summary_and_said(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (done / "metrics.json").write_text('{"test": {"score": 7, "ci95": {}}}')
    assert runner.main(["--stage", "index", "--run", str(done), "--force"]) == 0
    said = capsys.readouterr().err
    assert "left out of the summary" in said and "nothing scored" in said


def test_a_number_of_processes_that_is_none_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "²")
    assert runner.main([]) == 1
    assert "WORLD_SIZE='²' is not a number" in capsys.readouterr().err


def test_labels_are_looked_at_before_the_work(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_all("--data", competition, "--labels", "nowhere.json", *FAST) == 1
    assert "embedd" not in capsys.readouterr().err


@pytest.mark.slow
def test_wrong_labels_do_not_cost_the_submission(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (competition / "labels.json").write_text('{"query": {"other.jpg": "x"}, "gallery": {}}')
    assert run_all("--data", competition, *FAST) == 1
    assert "is not among the test's queries" in capsys.readouterr().err
    assert len(read_json(Path("runs/tiny/submission.json"), "")) == 8


def test_another_model_in_the_run_is_noticed(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--stage", "retrieve", "--run", str(done), "--backbone", "test_resnet", "--force"]
    assert runner.main(words) == 1
    assert "was made with backbone test_efficientnet" in capsys.readouterr().err
    config = read_json(done / "config.json", "")
    assert config["backbone"] == "test_efficientnet", "what failed is not remembered"
    assert runner.main(["--stage", "train", "--run", str(done), "--epochs", "1"]) == 0
    assert runner.main(["--stage", "retrieve", "--run", str(done)]) == 1
    assert "run --stage index retrieve" in capsys.readouterr().err


def test_an_index_of_another_catalogue_is_noticed(
    done: Path, competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next((competition / "test" / "gallery").iterdir()).unlink()
    words = ["--stage", "split", "retrieve", "--run", str(done)]
    assert runner.main(words) == 1
    assert "made from another test.csv: run --stage index" in capsys.readouterr().err


# ---- killed, and the same again -----------------------------------------------------------------


@pytest.mark.slow
def test_ten_kills_do_not_change_the_submission(competition: Path, tmp_path: Path) -> None:
    """With the real default backbone, from an empty cache; a kill may come at any moment."""
    words = ["--stage", "all", "--data", str(competition), "--embed-dim", "32", *DOMAINS]
    moments = kill_and_compare(words, tmp_path, kills=10)
    assert len(moments) == 10
    assert not list(tmp_path.rglob("run/.*.partial")), "a finished run has no half files"


@pytest.mark.slow
def test_the_program_says_what_it_made(competition: Path, run_program: Program) -> None:
    ran = run_program("main.py", "--stage", "all", "--data", competition, *FAST, *DOMAINS)
    assert ran.returncode == 0, ran.stderr
    for words in (
        "pictures/s",
        "recall@1",
        "95 % of score",
        "all results in runs/tiny/",
        "training/",
    ):
        assert words in ran.stderr
    assert "defaults:" not in ran.stderr
    assert "defaults:" in Path("runs/tiny/log.txt").read_text()
    scored = run_program("evaluate.py", "runs/tiny/submission.json", "--json")
    assert json.loads(scored.stdout) == metrics()["test"]


@pytest.mark.slow
def test_a_face_backbone_goes_the_whole_way(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures without faces too: a guess in the centre, counted."""
    assert run_all("--data", competition, *FAST, *DOMAINS, "--crop", "aligned", "--center") == 0
    said = capsys.readouterr().err
    assert re.search(r"faces in \d+ of 80 pictures", said) and "low confidence" in said
    run = Path("runs/tiny")
    assert (run / "crops.jpg").is_file() and len((run / "faces.csv").read_text().splitlines()) == 81
    assert runner.main(["--stage", "retrieve", "--run", str(run), "--flip", "off"]) == 1
    assert "made from another detector, flip or scales: run --stage" in capsys.readouterr().err
    assert runner.main(["--stage", "retrieve", "--run", str(run), "--crop", "face"]) == 1
    assert "was made with another crop" in capsys.readouterr().err


# ---- settings -----------------------------------------------------------------------------------


def test_an_old_run_folder_goes_on_with_the_new_names(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "stages.json"):
        text = (done / name).read_text()
        for old, new in RENAMED.items():
            text = text.replace(f'"{new}":', f'"{old}":')
        (done / name).write_text(text)
    words = ["--stage", "train", "index", "retrieve", "evaluate", "--run", str(done)]
    assert runner.main(words) == 0
    said = capsys.readouterr().err
    assert said.count("side -> image_size") == 1
    for stage in ("train", "index", "retrieve", "evaluate"):
        assert f"{stage}: inputs unchanged" in said
    config = read_json(done / "config.json", "")
    assert not RENAMED.keys() & config.keys() and set(RENAMED.values()) <= config.keys()


def remember(folder: Path, **settings: Any) -> Path:
    """A run folder that remembers settings."""
    write_json(folder / "config.json", settings)
    return folder


def test_a_single_stage_finds_its_run_by_the_data_or_a_config_file(tmp_path: Path) -> None:
    draw_competition(tmp_path / "data" / "only")
    remember(tmp_path / "runs" / "only", lr=0.5)
    remember(tmp_path / "runs" / "other", lr=0.25)
    write_json(tmp_path / "recipe.json", {"run": "runs/other", "epochs": 7})
    for words, expected in (
        ("--stage train", (0.5, 3)),
        ("--stage train --data data/only", (0.5, 3)),
        ("--stage train --source lfw", (1e-3, 3)),
        ("--stage train --config recipe.json", (0.25, 7)),
        ("--stage train --config recipe.json --run runs/only --epochs 9", (0.5, 9)),
        ("--stage all --config recipe.json", (1e-3, 7)),
        ("--config recipe.json", (1e-3, 7)),
    ):
        train = runner.read_settings(words.split()).train
        assert (train.lr, train.epochs) == expected, words


def test_a_forecast_of_another_ranking_does_not_stand_beside_the_score(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "forecast" in read_json(done / "metrics.json", "")
    words = ["--run", str(done), "--center"]
    assert runner.main(["--stage", "retrieve", "evaluate", *words]) == 0
    assert (
        "the forecast is not of this ranking, or of other files: left out"
        in capsys.readouterr().err
    )
    assert "forecast" not in read_json(done / "metrics.json", "")
    assert runner.main(["--stage", "forecast", "evaluate", "--run", str(done)]) == 0
    assert "forecast" in read_json(done / "metrics.json", "")


def test_the_config_file_takes_a_remembered_setting_back(tmp_path: Path) -> None:
    remember(tmp_path / "run", center=True, scales=[1.0, 0.9], ensemble=["a", "b"])
    table = {"run": "run", "center": False, "scales": [1.0], "ensemble": []}
    write_json(tmp_path / "recipe.json", table)
    settings = runner.read_settings(["--stage", "retrieve", "--config", "recipe.json"])
    assert settings.retrieve.center is False and settings.retrieve.ensemble == ()
    assert settings.embed.scales == (1.0,)


def test_the_settings_of_the_run_are_those_that_made_its_files(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_json(done / "config.json", "")
    words = ["--center", "--lr", "7", "--points", "9"]
    assert runner.main(["--stage", "evaluate", "--run", str(done), *words]) == 0
    said = capsys.readouterr().err
    assert "warning: --center, --lr, --points: no stage that runs now depends on it" in said
    assert read_json(done / "config.json", "") == before
    assert runner.main(["--stage", "retrieve", "--run", str(done), *words]) == 0
    assert read_json(done / "config.json", "") == before | {"center": True}


def test_the_config_files_stages_count(tmp_path: Path) -> None:
    remember(tmp_path / "run", lr=0.5)
    write_json(tmp_path / "recipe.json", {"run": "run", "stage": ["train"]})
    settings = runner.read_settings(["--config", "recipe.json"])
    assert settings.general.stage == ("train",) and settings.train.lr == 0.5


def test_a_broken_config_of_the_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remember(tmp_path / "run", learning_rate=0.5)
    assert runner.main(["--stage", "train", "--run", "run"]) == 1
    said = capsys.readouterr().err
    assert "run/config.json: unknown setting 'learning_rate'; did you mean" in said


# ---- from Python --------------------------------------------------------------------------------


def test_the_pipeline_runs_from_python(competition: Path) -> None:
    fast = {"backbone": "test_efficientnet", "weights": "none"}
    run = runner.run_pipeline(data=competition, scales=(1.0,), run=Path("runs/a"), **fast)
    assert run.folder == Path("runs/a") and (run.folder / "submission.json").is_file()
    again = runner.run_pipeline(stage=["retrieve"], run="runs/a", center=True)
    assert again.settings.embed.backbone == "test_efficientnet" and again.settings.retrieve.center
    with pytest.raises(UserError, match="unknown setting 'backbon'; did you mean 'backbone'"):
        runner.run_pipeline(backbon="sface")
    with pytest.raises(UserError, match="lr cannot be 'fast'"):
        runner.run_pipeline(lr="fast")
    with pytest.raises(UserError, match="--epochs -1"):
        runner.run_pipeline(epochs=-1)
