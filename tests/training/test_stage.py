"""The stage train takes the way that the settings name, and says what has no effect."""

from pathlib import Path

import pandas as pd
import pytest

from lookalike.core.errors import UserError
from lookalike.core.files import write_json
from lookalike.core.runs import Run
from lookalike.core.settings import EmbedSettings, Settings, TrainSettings
from lookalike.data.splits import load_split, run_split
from lookalike.models.checkpoints import load_model
from lookalike.training import finetune
from lookalike.training.stage import run_train
from tests.conftest import FAST, draw_competition

EMBED = EmbedSettings(backbone=FAST[1], weights="none", compile="off")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of the tiny competition, catalogued and split."""
    run = Run(tmp_path / "run", draw_competition(tmp_path / "tiny"), Settings(embed=EMBED))
    run_split(run)
    return run


def test_a_linear_probe_is_saved_with_its_identities(run: Run) -> None:
    run.settings.train = TrainSettings(embed_dim=8, epochs=2)
    assert "head for 8 identities, best after epoch" in run_train(run)
    history = pd.read_csv(run.path("history.csv"))
    assert list(history) == ["epoch", "train_loss", "holdout_loss", "holdout_accuracy"]
    assert load_model(run.path("model.safetensors"), EMBED, run.cache).dim == 8


@pytest.mark.parametrize("objective", ["cross_entropy", "arcface"])
def test_nothing_to_train_with_leaves_the_embedder_as_it_is(run: Run, objective: str) -> None:
    run.settings.train = TrainSettings(objective=objective, embed_dim=8)
    split = load_split(run.path("split.json"))
    write_json(run.path("split.json"), split.as_json() | {"train": {}, "holdout": {}})
    run.path("training.png").touch()
    assert "the untrained backbone" in run_train(run)
    assert run.path("history.csv").read_text().count("\n") == 1, "the heads of the columns"
    assert load_model(run.path("model.safetensors"), EMBED, run.cache).dim > 8
    assert not run.path("training.png").exists(), "the curves of an earlier training"


def test_other_objectives_are_fine_tuned(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "run_finetune", lambda run: "fine-tuned")
    for settings in (TrainSettings(objective="arcface", embed_dim=8), TrainSettings(unfreeze=1)):
        run.settings.train = settings
        assert run_train(run) == "fine-tuned"


@pytest.mark.parametrize(("views", "warned"), [(0, True), (1, False)])
def test_an_augmentation_without_views_is_reported(
    run: Run, views: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    run.settings.train = TrainSettings(epochs=0, train_views=views, augmentation="strong")
    with caplog.at_level("WARNING", logger="toolkit"):
        run_train(run)
    assert ("--augmentation has no effect without --train-views" in caplog.text) == warned


def test_a_validation_without_answers_is_an_error(run: Run) -> None:
    run.settings.train = TrainSettings(objective="arcface", embed_dim=8)
    split = load_split(run.path("split.json"))
    empty: dict[str, dict[str, str]] = {"query": {}, "gallery": {}}
    write_json(run.path("split.json"), split.as_json() | {"validation": empty})
    with pytest.raises(UserError, match="nothing can score the training"):
        run_train(run)
