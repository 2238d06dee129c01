"""Steps are added where their gain is significant; what is named is not chosen."""

from dataclasses import replace

import numpy as np
import pytest

from lookalike.core.clock import Clock
from lookalike.core.settings import EmbedSettings, RetrieveSettings
from lookalike.retrieval.judging import Judge, Recipe, Trial
from lookalike.retrieval.labeled_tasks import EmbeddedRows, LabeledTasks, TaskScores
from lookalike.retrieval.selection import StepChooser, step_choices, thresholds
from tests.retrieval.tasks import clustered, tasks_of

PLAIN = Recipe(EmbedSettings(), RetrieveSettings())


def chooser_of(
    tasks: LabeledTasks, trials: list[Trial], *named: str, seconds: float = 1000
) -> StepChooser:
    """What chooses the steps for these tasks, in so much time."""
    judge = Judge(tasks, lambda settings: EmbeddedRows(tasks.rows), {})
    return StepChooser(judge, frozenset(named), trials.append, Clock(seconds), True, False)


def test_thresholds_are_cosines_that_few_impostor_pairs_reach() -> None:
    tasks = tasks_of(clustered(12, 6, seed=6), noise=0.2)
    query, _ = thresholds(tasks, RetrieveSettings())
    names = np.array(list(tasks.tasks[0].query.values()))
    rows = tasks.stack(tasks.tasks[0].query)
    cosines = (rows @ rows.T)[names[:, None] != names]
    assert query == sorted(query)
    assert (cosines >= query[0]).mean() == pytest.approx(0.01, abs=0.01)


def test_without_transduction_no_step_looks_at_other_queries() -> None:
    tasks = tasks_of(clustered(12, 6, seed=6), noise=0.2)
    allowed, forbidden = (
        {
            name
            for step in step_choices(tasks, RetrieveSettings(no_transductive=off))
            for name in step
        }
        for off in (False, True)
    )
    assert allowed - forbidden == {"query_neighbors", "rerank"}


def test_the_step_that_gains_most_is_added_first() -> None:
    tasks, trials = tasks_of(clustered(30, 6, seed=8), noise=0.2), list[Trial]()
    chooser = chooser_of(tasks, trials)
    chosen = chooser.choose(PLAIN)
    first = next(trial for trial in trials if trial.kept)
    rounds = [trial for trial in trials if trial.before == first.before]
    assert first.after == max(trial.after for trial in rounds if trial.chance_of_none < 0.05)
    assert chooser.judge.mean(chosen) > chooser.judge.mean(PLAIN)


def test_what_is_named_is_not_chosen() -> None:
    tasks, trials = tasks_of(clustered(30, 6, seed=8), noise=0.2), list[Trial]()
    named = replace(PLAIN.retrieve, query_neighbors=0.9, center=False)
    chooser = chooser_of(tasks, trials, "query_neighbors", "center", "rerank")
    chosen = chooser.choose(PLAIN._replace(retrieve=named)).retrieve
    assert (chosen.query_neighbors, chosen.center, chosen.rerank) == (0.9, False, "none")
    tried = " ".join(trial.choice for trial in trials)
    assert "hubs" in tried and "query_neighbors" not in tried and "rerank" not in tried


def test_a_recipe_is_scored_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = tasks_of(clustered(12, 6, seed=6), noise=0.2)
    judge = Judge(tasks, lambda settings: EmbeddedRows(tasks.rows), {})
    whole, scored = LabeledTasks.score, []

    def score(self: LabeledTasks, settings: RetrieveSettings) -> TaskScores:
        scored.append(settings)
        return whole(self, settings)

    monkeypatch.setattr(LabeledTasks, "score", score)
    assert judge.mean(PLAIN) == judge.mean(PLAIN)
    assert len(scored) == 1


def test_no_step_is_tried_when_the_time_is_over() -> None:
    tasks, trials = tasks_of(clustered(30, 6, seed=8), noise=0.2), list[Trial]()
    chosen = chooser_of(tasks, trials, seconds=0).choose(PLAIN)
    assert not trials and chosen.retrieve.query_neighbors is None


@pytest.mark.parametrize(("named", "expected"), [((), (400, 1024)), (("project_dim",), (400, 512))])
def test_the_size_of_a_projection_goes_up_to_the_best(
    named: tuple[str, ...], expected: tuple[int, int]
) -> None:
    """Each better by a tenth, which needs no proof; the judge knows all scores beforehand."""
    tasks, trials = tasks_of(clustered(12, 6, seed=6), noise=0.2), list[Trial]()
    chooser = chooser_of(tasks, trials, *named)
    best = {50: 0.1, 150: 0.2, 400: 0.3, 1000: 0.2, 2000: 0.9}
    for steps, one in best.items():
        for dim, other in {256: 0.1, 512: 0.2, 1024: 0.3}.items():
            values = np.full(4, one + other)
            scores = TaskScores(dict.fromkeys(("score", "recall@1", "map"), values), [*"abcd"])
            chooser.judge.known[projected(steps, dim).key] = scores
    chosen = chooser.tune(projected(150, 512), Clock(1000)).retrieve
    assert (chosen.project_steps, chosen.project_dim) == expected
    assert chooser.tune(PLAIN, Clock(1000)) == PLAIN


def projected(steps: int, dim: int) -> Recipe:
    """A recipe with a projection of this size."""
    return PLAIN._replace(retrieve=RetrieveSettings(project_steps=steps, project_dim=dim))
