"""Damaged files of earlier commands: an error in words, or what the file says; never a traceback.

What has a checksum is read as it was written, or refused.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike import pipeline
from lookalike.core.errors import UserError
from lookalike.core.log import log
from lookalike.core.numeric import unit
from lookalike.core.readers import read_if_good, read_json
from lookalike.core.runs import Run, open_run
from lookalike.core.sealed import read_sealed, write_sealed
from lookalike.core.settings import ReportSettings
from lookalike.evaluation.results import Forecast, read_metrics
from lookalike.faces.dataset import read_faces
from lookalike.features.cache_tool import entries, table
from lookalike.identification.calibration import read_calibration
from lookalike.report.panels import Thumbnails, load_parts, make_panels
from lookalike.report.sections import (
    LEFT_OUT,
    error_tables,
    run_summary,
    score_cards,
    sweep_section,
    training_curves,
)
from lookalike.retrieval.index import build_index, load_index, save_index
from lookalike.sweep import grid
from lookalike.sweep.tables import write_tables
from lookalike.verification.commands import check_own_folder, read_command
from lookalike.verification.metrics import Calibration, fit_calibration
from lookalike.verification.results import results_table
from lookalike.verification.training import read_fold
from tests.conftest import FAST, draw_competition
from tests.damage import damages

TIMES = int(os.environ.get("DAMAGES", "20"))  # that each file is damaged; more by hand
SEED = int(os.environ.get("DAMAGE_SEED", "18"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny competition, without its report."""
    root = tmp_path_factory.mktemp("damaged")
    data = draw_competition(root / "tiny")
    stages = ("split", "train", "index", "retrieve", "forecast", "evaluate")
    words = ("--data", str(data), "--run", str(root / "run"), "--cache", str(root / "cache"))
    assert pipeline.main(["--stage", *stages, *words, *FAST]) == 0
    write_other_files(root / "run")
    log.handlers.clear()
    return root / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    """A copy of the run, to damage."""
    shutil.copytree(finished, tmp_path / "run")
    return replace(open_run(finished), folder=tmp_path / "run")


# ---- files of other commands --------------------------------------------------------------------

FACTORS = grid.Factors("efficientnet_b0", 0.001, 3, 32)
COSTS = {"parameters": 4e6, "flops": None, "pictures_per_second": 50.0}
RATES = dict.fromkeys(["false_accept", "false_reject", "misnamed"], 0.1)
COUNTS = dict.fromkeys(["known", "strangers"], "2 pictures of 2 people")
PAIRS = {"data": "cfp", "protocol": "cfp", "kind": "FP", "backbone": "sface", "scales": [1.0, 1.2]}


def write_other_files(folder: Path) -> None:
    """Write what runs of other commands leave, each as its writer does."""
    faces = ["path,domain,found,confidence,left,top,width,height"]
    faces += [f"test/query/{i}.jpg,photo,at once,0.9,0.1,0.1,0.5,0.5" for i in range(5)]
    (folder / "faces.csv").write_text("\n".join([*faces, ""]))
    block = dict(read_metrics(folder / "metrics.json")["test"])
    result = {"part": "test", **block, "head_seconds": 2.0, "training_pictures": 9}
    write_sealed(folder / "row.json", {"made_from": {"state": "one"}, "result": result})
    write_sealed(folder / "costs.json", COSTS)
    line = {**vars(FACTORS), **result, "memory": 10**9, "seed": 0, "row": "row"}
    write_tables([line, line | {"lr": 0.1}], {"efficientnet_b0": COSTS}, folder)
    same = np.arange(40) % 2 == 0
    scores = same + np.linspace(0, 0.3, 40)
    calibration = {**fit_calibration(scores, same)}
    write_sealed(folder / "calibration.json", calibration)
    fold = {"made_from": PAIRS, "history": [{"epoch": 1, "train_loss": 0.5}], "threshold": 0.5}
    write_sealed(folder / "fold.json", fold | {"calibration": calibration, "scores": [0.5, None]})
    by_fold = [{"fold": 1, "accuracy": 0.9, "threshold": 0.5}]
    rates = dict.fromkeys(["accuracy", "accuracy_sd", "auc", "eer"], 0.5)
    rates |= dict.fromkeys(["tar@far=0.01", "tar@far=0.001"], 0.1)
    counts = dict.fromkeys(["pairs", "same", "unanswered"], 7)
    (folder / "pairs").mkdir()
    write_sealed(folder / "pairs" / "metrics.json", {**rates, **counts, "by_fold": by_fold})
    for command in ("score", "train"):
        (folder / command).mkdir()
        settings = {
            **PAIRS,
            "command": command,
            "folds": [1],
            "seed": 0,
            "run": "x",
            "weights": None,
        }
        (folder / command / "config.json").write_text(json.dumps(settings))
    made = {"method": "knn", "threshold": 0.4, "made_from": {"seed": 0}}
    write_sealed(folder / "identify.json", made | RATES | COUNTS)
    rows = unit(np.random.default_rng(0).normal(size=(30, 4)))
    names = [f"g{i}" for i in range(30)]
    save_index(build_index(rows), names, folder / "small.faiss", {"model": "1"})


# ---- their readers ------------------------------------------------------------------------------


def panels(run: Run) -> str:
    """What the page shows of the ranking, as its script reads it."""
    pictures = Thumbnails(run.data)
    shown = [make_panels(part, 5, 0, pictures) for part in load_parts(run)]
    return json.dumps(shown, allow_nan=False)


def faces_shown(run: Run) -> Any:
    part = load_parts(run)[0]
    return error_tables(part, read_if_good(read_faces, run.path("faces.csv"), LEFT_OUT))


def index_and_names(run: Run) -> tuple[Any, list[str]]:
    index, names = load_index(run.path("small.faiss"))
    return index.reconstruct_n(0, index.ntotal).tolist(), names


def pair_command(name: str) -> Callable[[Run], Any]:
    def read(run: Run) -> Any:
        check_own_folder(run.path(name))
        return read_command(run.path(name), Path("cache"))

    return read


FORMS: dict[str, Callable[[Run], Any]] = {
    "ranking.json": panels,
    "metrics.json": lambda run: score_cards(read_metrics(run.path("metrics.json"))),
    "forecast.json": lambda run: read_json(run.path("forecast.json"), "x", Forecast),
    "faces.csv": faces_shown,
    "history.csv": lambda run: training_curves(run.path("history.csv")),
    "versions.json": run_summary,
    "summary.csv": lambda run: sweep_section(ReportSettings(benchmark=run.folder)),
    "score/config.json": pair_command("score"),
    "train/config.json": pair_command("train"),
}
SEALED: dict[str, Callable[[Run], Any]] = {
    "small.json": index_and_names,
    "small.faiss": index_and_names,
    "row.json": lambda run: grid.read_row(run.path("row.json")),
    "costs.json": lambda run: grid.read_costs(run.path("costs.json")),
    "calibration.json": lambda run: read_sealed(run.path("calibration.json"), "x", Calibration),
    "fold.json": lambda run: read_fold(run.path("fold.json")),
    "pairs/metrics.json": lambda run: results_table([run.path("pairs")]),
    "identify.json": lambda run: read_calibration(run.path("identify.json")),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_damaged_file_is_an_error_in_words_or_read(name: str, run: Run) -> None:
    content = run.path(name).read_bytes()
    assert FORMS[name](run)
    for damaged in damages(content, TIMES, seed=SEED):
        run.path(name).write_bytes(damaged)
        try:
            FORMS[name](run)
        except UserError as error:
            assert str(run.path(name)) in str(error) or str(run.path(name).parent) in str(error)


@pytest.mark.parametrize("name", SEALED)
def test_what_has_a_checksum_is_read_as_it_was_written_or_refused(name: str, run: Run) -> None:
    content, expected = run.path(name).read_bytes(), SEALED[name](run)
    refused = 0
    for damaged in damages(content, TIMES, seed=SEED):
        run.path(name).write_bytes(damaged)
        try:
            assert SEALED[name](run) == expected
        except UserError as error:
            assert str(run.path(name).parent) in str(error)
            refused += 1
    assert refused > TIMES // 2


def test_a_damaged_cache_is_listed(run: Run) -> None:
    about = next(run.cache.glob("*/about.json"))
    for path in (about, next(about.parent.glob("*.keys.npy"))):
        content = path.read_bytes()
        for damaged in damages(content, TIMES, seed=SEED):
            path.write_bytes(damaged)
            assert "MB" in table(entries(run.cache))
        path.write_bytes(content)
