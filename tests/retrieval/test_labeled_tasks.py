"""Choices are scored on identities that nothing was trained on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lookalike.core.runs import Run
from lookalike.core.settings import RetrieveSettings, Settings, TrainSettings
from lookalike.data.splits import load_split, run_split
from lookalike.evaluation.scoring import Labels, score
from lookalike.retrieval.index import as_mapping, ranking_of
from lookalike.retrieval.labeled_tasks import (
    LabeledTask,
    LabeledTasks,
    divide_by_identity,
    load_tasks,
)
from tests.retrieval.tasks import clustered, tasks_of


@pytest.fixture
def run(competition: Path, tmp_path: Path) -> Run:
    settings = Settings()
    settings.split.domain_pattern = "(?P<domain>photo|drawing)_"
    run = Run(tmp_path / "run", competition, settings)
    run_split(run)
    return run


def test_the_halves_learn_nothing_from_each_other(run: Run) -> None:
    tasks = load_tasks(run, parts=2).tasks
    identities = [{*task.query.values(), *task.gallery.values()} for task in tasks]
    assert len(identities[0]) == len(identities[1]) == 5 and not identities[0] & identities[1]
    for task, own in zip(tasks, identities, strict=True):
        assert not set(task.seen.values()) & own
        assert all("photo" in path for path in task.query)
        assert all("drawing" in path for path in task.gallery)


def test_with_a_trained_projection_only_the_validation_is_unseen(run: Run) -> None:
    trained = replace(run, settings=replace(run.settings, train=TrainSettings(embed_dim=8)))
    split = load_split(run.path("split.json"))
    (task,) = load_tasks(trained, parts=2).tasks
    assert task.query == split.validation.query
    assert set(task.seen) == {*split.train, *split.holdout}
    refitted = replace(
        trained, settings=replace(run.settings, train=TrainSettings(embed_dim=8, refit=True))
    )
    assert load_tasks(refitted, parts=2).tasks == [], "every labeled picture was trained on"


def test_identities_without_a_pair_make_no_task() -> None:
    pictures = {f"{i}.jpg": f"identity {i}" for i in range(6)}
    catalogue = pd.DataFrame({"path": list(pictures), "domain": ""})
    assert divide_by_identity(catalogue, pictures, "photo", parts=2, seed=0) == []


def test_scores_are_those_of_the_evaluation() -> None:
    tasks = tasks_of(clustered(12, 6, seed=1), noise=0.8)
    (task,) = tasks.tasks
    embeddings = tasks.embeddings(task)
    cosines = embeddings.queries @ embeddings.gallery.T
    ranking = ranking_of(cosines, list(task.gallery), list(task.query))
    expected = score(as_mapping(ranking), Labels(task.query, task.gallery))
    found = tasks.score(RetrieveSettings())
    for name in ("score", "recall@1", "map"):
        assert found.mean(name) == pytest.approx(expected[name])
    assert 0 < found.mean("recall@1") < 1


def test_queries_without_their_identity_in_the_gallery_do_not_count() -> None:
    tasks = tasks_of(clustered(4, 6, seed=2), noise=0.0)
    (task,) = tasks.tasks
    gallery = {path: name for path, name in task.gallery.items() if name != "0"}
    tasks.tasks = [task._replace(gallery=gallery)]
    found = tasks.score(RetrieveSettings())
    assert set(found.identities) == {"1", "2", "3"} and found.mean("score") == 1000


def test_labeled_embeddings_are_divided_by_domain() -> None:
    rows = {path: np.full(2, i, np.float32) for i, path in enumerate("abcd")}
    catalogue = pd.DataFrame({"path": list("abcd"), "domain": ["photo", "drawing"] * 2})
    task = LabeledTask({"a": "x"}, {"b": "x"}, {"c": "y", "d": "y"})
    tasks = LabeledTasks(catalogue, "photo", [task], rows)
    found = tasks.embeddings(task)
    for path, array in zip("abcd", found.arrays, strict=True):
        assert np.array_equal(array, rows[path][None])
    assert [side.tolist() for side in found.identities] == [["y"], ["y"]]
