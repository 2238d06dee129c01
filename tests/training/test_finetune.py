"""Metric learning validated by retrieval: it helps or is not used, and a kill costs nothing."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lookalike import pipeline
from lookalike.core.checks import check
from lookalike.core.errors import UserError
from lookalike.core.files import write_json
from lookalike.core.numeric import one_thread
from lookalike.core.readers import read_json
from lookalike.core.runs import Run
from lookalike.core.settings import EmbedSettings, Settings, SplitSettings, TrainSettings
from lookalike.data.catalogue import load_catalogue
from lookalike.data.splits import load_split, run_split
from lookalike.features.extractor import extractor_for
from lookalike.models.checkpoints import load_model
from lookalike.models.embedder import embedder_of
from lookalike.training import finetune
from lookalike.training.finetune import CHECKPOINT, REFIT, run_finetune
from lookalike.training.folds import folds_of, mean_state
from lookalike.training.metric_learning import (
    NOT_SCORED,
    EmbeddingBatch,
    MetricLearning,
    check_spread,
    prepare,
)
from lookalike.training.trainer import Trainer

EMBED = EmbedSettings(backbone="test_efficientnet", weights="none", compile="off")
TRAIN = TrainSettings(
    objective="arcface",
    embed_dim=16,
    lr=0.1,
    epochs=3,
    patience=9,
    batch_size=8,
    samples_per_class=2,
)


def draw_hard(root: Path) -> Path:
    """Draw identities whose colors differ only a little, in any light."""
    rng = np.random.default_rng(0)
    for person in range(12):
        color = rng.normal(0, 12, 3)
        for number in range(10):
            light = rng.normal(128, 40)
            pixels = np.clip(light + color + rng.normal(0, 4, (8, 8, 3)), 0, 255)
            path = root / "training" / f"person_{person:02}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).resize((32, 32)).save(path)
    for part in ("query", "gallery"):
        (root / "test" / part).mkdir(parents=True)
        shutil.copy(path, root / "test" / part / f"{part}.png")
    return root


@pytest.fixture(scope="module")
def split_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose pictures are catalogued and split, with a cache of its own."""
    folder = tmp_path_factory.mktemp("hard")
    settings = Settings(embed=EMBED, train=TRAIN, split=SplitSettings("stratified"))
    settings.general.cache = folder / "cache"
    run = Run(folder / "run", draw_hard(folder / "data"), settings)
    run_split(run)
    return run


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Several threads that wait for each other at every tiny layer are slower on a busy machine."""
    with one_thread():
        yield


@pytest.fixture
def anything_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The untrained embedder is beaten by whatever is trained."""

    def score_untrained(trainer: Trainer, method: MetricLearning) -> None:
        trainer.record_untrained({"score": -1.0, "spread": 0.0})

    monkeypatch.setattr(finetune, "score_untrained", score_untrained)


Begin = Callable[..., Run]


@pytest.fixture
def begin(split_run: Run, tmp_path: Path) -> Begin:
    """A new run on the same split, with other settings of training."""

    def make(name: str = "run", **changes: Any) -> Run:
        folder = tmp_path / name
        shutil.copytree(split_run.folder, folder)
        train = replace(split_run.settings.train, **changes)
        return replace(split_run, folder=folder, settings=replace(split_run.settings, train=train))

    return make


def trained(run: Run) -> dict[str, torch.Tensor]:
    """What a run has trained."""
    return load_file(run.path("model.safetensors"))


def test_training_beats_the_untrained_embedder_and_is_used(begin: Begin) -> None:
    run = begin(epochs=15, patience=15)
    result = run_finetune(run)
    history = pd.read_csv(run.path("history.csv"))
    assert history.score[1:].max() > history.score[0]
    assert f"validation score {history.score[1:].max():.1f} (untrained" in result
    assert list(history.epoch) == list(range(len(history)))
    assert run.path("training.png").stat().st_size > 0 and not run.path(CHECKPOINT).exists()
    embedder = load_model(run.path("model.safetensors"), EMBED, run.cache)
    assert embedder.dim == 16


@pytest.mark.usefixtures("anything_helps")
def test_trained_blocks_become_part_of_the_embedder(begin: Begin) -> None:
    run = begin(unfreeze=2, epochs=1)
    run_finetune(run)
    names = [name for name in trained(run) if name.startswith("backbone.")]
    assert names and not any("conv_stem" in name for name in names)
    before = load_model(run.path("model.safetensors"), EMBED, run.cache)
    untrained = finetune.embedder_of(EMBED, run.cache)
    assert before.weights_id != untrained.weights_id
    own = before.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in trained(run).items())


def test_a_training_that_does_not_help_is_not_used(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(lr=1e-9, embed_dim=3, epochs=1)
    with caplog.at_level("WARNING", logger="toolkit"):
        assert "not used" in run_finetune(run)
    assert "does not beat the untrained embedder" in caplog.text
    assert trained(run) == {}
    assert load_model(run.path("model.safetensors"), EMBED, run.cache).dim > 1


@pytest.mark.usefixtures("anything_helps")
@pytest.mark.parametrize(
    ("changes", "last_step"),
    [
        ({"train_views": 2, "accumulate": 2}, 18),  # in the middle of the second epoch
        ({"objective": "triplet", "memory_size": 16, "ema": 0.8}, 18),
        ({"unfreeze": 2}, 18),
        pytest.param(
            {"unfreeze": "all", "train_views": 1, "augmentation": "strong", "projector": 8},
            18,
            marks=pytest.mark.slow,
        ),
        pytest.param({"unfreeze": "all", "train_image_size": 24}, 18, marks=pytest.mark.slow),
        # In the second epoch on all labeled pictures.
        pytest.param({"refit": True, "epochs": 6}, 72 + 20, marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_ends_with_the_same_weights(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], last_step: int
) -> None:
    whole, killed = begin("whole", **changes), begin("killed", **changes)
    run_finetune(whole)
    steps: Iterator[int] = iter(range(10**6))
    loss = MetricLearning.loss

    def die(method: MetricLearning, batch: EmbeddingBatch) -> torch.Tensor:
        if next(steps) == last_step:
            raise KeyboardInterrupt
        return loss(method, batch)

    monkeypatch.setattr(MetricLearning, "loss", die)
    with pytest.raises(KeyboardInterrupt):
        run_finetune(killed)
    assert killed.path(CHECKPOINT).is_file() and not killed.path("model.safetensors").exists()
    run_finetune(killed)
    assert trained(killed).keys() == trained(whole).keys() != set()
    assert all(
        torch.equal(tensor, trained(whole)[name]) for name, tensor in trained(killed).items()
    )


@pytest.mark.usefixtures("anything_helps")
def test_a_refit_is_a_training_on_all_labeled_pictures(begin: Begin) -> None:
    """Against a run whose split has all of them for training."""
    again, everything = begin("again", epochs=1, refit=True), begin("everything", epochs=1)
    split = load_split(everything.path("split.json"))
    pictures = set(load_catalogue(everything.path("training.csv")).path)
    assert set(split.train) < set(split.labeled) == pictures
    write_json(everything.path("split.json"), {**split.as_json(), "train": split.labeled})
    assert "repeated on all labeled pictures" in run_finetune(again)
    run_finetune(everything)
    assert not again.path(REFIT).exists()
    assert all(
        torch.equal(tensor, trained(everything)[name]) for name, tensor in trained(again).items()
    )


@pytest.mark.usefixtures("anything_helps")
def test_folds_are_trainings_whose_weights_are_averaged(begin: Begin) -> None:
    """Against a run for each fold, whose split has the fold's pictures for training."""
    run = begin("folds", epochs=1, refit=True, folds=3)
    catalogue = load_catalogue(run.path("training.csv"))
    split = load_split(run.path("split.json"))
    assert "mean of 3 models" in run_finetune(run)
    assert not list(run.folder.glob("fold*.pt"))
    states = []
    for number, fold in enumerate(folds_of(split, catalogue, 3, run.seed)):
        alone = begin(f"alone{number}", epochs=1)
        write_json(alone.path("split.json"), {**split.as_json(), "train": fold.train})
        run_finetune(alone)
        states.append(trained(alone))
    mean = mean_state(states)
    assert trained(run).keys() == mean.keys()
    assert all(torch.equal(tensor, mean[name]) for name, tensor in trained(run).items())


@pytest.mark.usefixtures("anything_helps")
def test_a_killed_training_in_folds_goes_on(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds that are done are not trained again, and the weights are the same."""
    changes = {"epochs": 2, "refit": True, "folds": 3}
    whole, killed = begin("whole", **changes), begin("killed", **changes)
    run_finetune(whole)
    parts: list[str] = []
    train = finetune.train_embedder

    def die(run: Run, part: finetune.Part) -> finetune.Result:
        parts.append(part.checkpoint)
        if part.checkpoint == "fold003.pt":
            raise KeyboardInterrupt
        return train(run, part)

    monkeypatch.setattr(finetune, "train_embedder", die)
    with pytest.raises(KeyboardInterrupt):
        run_finetune(killed)
    monkeypatch.setattr(finetune, "train_embedder", train)
    steps: list[int] = []
    loss = MetricLearning.loss

    def count(method: MetricLearning, batch: EmbeddingBatch) -> torch.Tensor:
        steps.append(method.steps)
        return loss(method, batch)

    monkeypatch.setattr(MetricLearning, "loss", count)
    run_finetune(killed)
    best = pd.read_csv(killed.path("history.csv")).score[1:].argmax() + 1
    assert len(steps) == best * steps[0]  # the last fold alone
    assert all(torch.equal(rows, trained(whole)[name]) for name, rows in trained(killed).items())


@pytest.mark.parametrize(("folds", "refit"), [(1, True), (3, False)])
def test_folds_need_a_refit(folds: int, refit: bool) -> None:
    """Alone they would change nothing."""
    train = TrainSettings(objective="triplet", embed_dim=8, folds=folds, refit=refit)
    with pytest.raises(UserError, match="--folds"):
        check(Settings(train=train))


def test_a_training_that_does_not_help_is_not_repeated(begin: Begin) -> None:
    run = begin(lr=1e-9, embed_dim=3, epochs=1, refit=True)
    assert "not used" in run_finetune(run) and trained(run) == {}


def test_after_a_refit_nothing_is_left_to_score_the_model_by(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(epochs=1, refit=True)
    run.save_settings()
    with caplog.at_level("INFO", logger="toolkit"):
        words = ("index", "retrieve", "forecast", "evaluate", "report")
        assert pipeline.main(["--stage", "train", *words, "--run", str(run.folder)]) == 0
    assert read_json(run.path("validation.json"), "") == {}
    assert not {"validation", "forecast"} & read_json(run.path("metrics.json"), "").keys()
    assert "the validation was trained on (--refit)" in caplog.text


def test_a_linear_probe_is_not_refitted() -> None:
    with pytest.raises(UserError, match="--refit: a linear probe"):
        pipeline.prepare(["--refit", "--embed-dim", "8"])


def test_training_sees_smaller_pictures_than_the_embedding_is_made_of(begin: Begin) -> None:
    run = begin(unfreeze="all", train_image_size=24)
    split = load_split(run.path("split.json"))
    extractor = extractor_for(run, embedder_of(EMBED, run.cache))
    catalogue = load_catalogue(run.path("training.csv"))
    method = prepare(extractor, catalogue, split.train, split.validation, run.settings)
    index, side = np.zeros(1, int), extractor.embedder.image_size
    assert method.data.inputs.take(index, index).shape == (1, 3, 24, 24)
    assert method.validator is not None
    validated = method.validator.inputs["query"].take(index, index)
    assert validated.shape == (1, 3, side, side) != (1, 3, 24, 24)


def test_a_frozen_part_sees_what_the_embedding_is_made_of() -> None:
    with pytest.raises(UserError, match="--train-image-size 24: only where nothing is frozen"):
        pipeline.prepare(["--train-image-size", "24", "--unfreeze", "2"])


def test_a_linear_probe_has_no_projector() -> None:
    with pytest.raises(UserError, match="--projector: a linear probe"):
        pipeline.prepare(["--projector", "8", "--embed-dim", "8"])


@pytest.mark.usefixtures("anything_helps")
def test_a_checkpoint_of_other_settings_is_not_resumed(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, other = begin("whole", epochs=2), begin("other", epochs=2, lr=0.2)
    run_finetune(whole)
    monkeypatch.setattr(finetune, "finish", lambda *arguments: "killed before the end")
    run_finetune(other)
    monkeypatch.undo()
    changed = replace(other, settings=whole.settings)
    run_finetune(changed)
    assert all(
        torch.equal(tensor, trained(whole)[name]) for name, tensor in trained(changed).items()
    )


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_remedy(begin: Begin) -> None:
    with pytest.raises(
        UserError, match="epoch 1, step 2 is not finite: lower --lr, --clip-grad-norm"
    ):
        run_finetune(begin(objective="contrastive+cross_entropy", lr=1e25, warmup=0.0))


def test_embeddings_that_collapse_are_an_error_and_a_small_spread_alone_is_none() -> None:
    untrained = {"score": 500.0, "spread": 0.3}
    check_spread(untrained, {"score": 600.0, "spread": 1e-4})
    check_spread(untrained, NOT_SCORED)
    with pytest.raises(UserError, match="--miner semihard"):
        check_spread(untrained, {"score": 20.0, "spread": 1e-4})


def test_an_objective_that_is_unknown_shows_before_anything_is_done() -> None:
    with pytest.raises(UserError, match="did you mean 'arcface'"):
        pipeline.prepare(["--objective", "arcfase", "--embed-dim", "8"])


def test_low_rank_changes_are_saved_as_weights(begin: Begin, anything_helps: None) -> None:
    run = begin(unfreeze=2, embed_dim=None, lora=2, epochs=1)
    run = replace(run, settings=replace(run.settings, embed=replace(EMBED, backbone="test_vit")))
    run_finetune(run)
    untrained = embedder_of(run.settings.embed, run.cache)
    own = untrained.state_dict()
    changed = {n for n, tensor in trained(run).items() if not torch.equal(tensor, own[n])}
    assert changed and all(name.endswith(".weight") for name in changed)
    for name in changed:
        change = trained(run)[name] - own[name]
        assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 2, name
    loaded = load_model(run.path("model.safetensors"), run.settings.embed, run.cache)
    assert torch.equal(loaded.state_dict()[min(changed)], trained(run)[min(changed)])
