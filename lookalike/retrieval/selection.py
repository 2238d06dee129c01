"""Choose the steps of the ranking on labeled pictures.

    recipe = choose_steps(judge, recipe, named=frozenset(), record=trials.append, clock=clock)

The parts of the prior recipe, which needs no labels, are where it starts; other steps are added one
by one, each where its gain is significant. The size of a projection is tuned at the end: any size
is as likely as the next one, so that the best out of fold is taken. What the user has named is not
chosen.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lookalike.core.clock import Clock
from lookalike.core.settings import RetrieveSettings
from lookalike.retrieval.judging import Judge, Recipe, Record, record_round
from lookalike.retrieval.labeled_tasks import LabeledTask, LabeledTasks
from lookalike.retrieval.postprocess import above_strangers

NEAR = 0.02  # of the highest score: what a start may lack before any step
FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)  # at each threshold that is tried, of impostor pairs
PROJECT_STEPS = (50, 150, 400, 1000, 2000)
PROJECT_DIMS = (256, 512, 1024)
FIRST_PROJECTION: dict[str, Any] = {"project_steps": 150, "project_dim": 512}
# Settings of retrieve that no start changes: those that are no steps, or are chosen elsewhere.
KEPT = ("format", "index", "no_transductive", "local_weight")


@dataclass
class StepChooser:
    """Chooses the steps of the ranking by a judge.

    Attributes:
        judge: Scores recipes.
        named: Names of settings that the user has named.
        record: Takes each trial.
        clock: How much time is left.
        center: Whether the prior recipe centers the domains.
        project: Whether the prior recipe learns a projection where there are labels.
        seconds_per_step: Of learning a projection on all folds, as last measured.
    """

    judge: Judge
    named: frozenset[str]
    record: Record
    clock: Clock
    center: bool = True
    project: bool = True
    seconds_per_step: float = 0.0

    def choose(self, recipe: Recipe) -> Recipe:
        """Choose the steps for a recipe's embedding.

        Centering and a projection change every cosine that other steps have a threshold for, so
        that steps are added to each of these starts.

        Args:
            recipe: Its embedding, and the values of what is named.

        Returns:
            The recipe with the chosen steps.
        """
        starts = [recipe._replace(retrieve=start) for start in self._starts(recipe.retrieve)]
        trusted = [start for start in starts if self._is_trusted(start.retrieve)]
        # The present steps were believed before: they stay unless a start is better without any.
        best = self._add_steps(max([*trusted, recipe], key=self._scored))
        for start in starts:
            if _base(start.retrieve) == _base(best.retrieve) or not self._is_promising(start, best):
                continue
            other = self._add_steps(start)
            result = [self.judge.score(other)]
            name = f"{_name_of_start(start.retrieve)}, with its steps"
            if record_round(self.record, [name], self.judge.score(best), result) is not None:
                best = other
        return best

    def _scored(self, recipe: Recipe) -> float:
        before = self.clock.spent()
        mean = self.judge.mean(recipe)
        steps = recipe.retrieve.project_steps
        if steps:
            self.seconds_per_step = max(
                self.seconds_per_step, (self.clock.spent() - before) / steps
            )
        return mean

    def _is_promising(self, start: Recipe, best: Recipe) -> bool:
        """Return whether a start is worth its time: near to the best one before any step."""
        other = best._replace(retrieve=_base(best.retrieve))
        near = NEAR * self.judge.tasks.metric.highest
        return self.clock.left() > 0 and self._scored(start) >= self.judge.mean(other) - near

    def _is_trusted(self, steps: RetrieveSettings) -> bool:
        """Return whether steps are parts of the prior recipe, which need no proof."""
        return (self.center or not steps.center) and (self.project or steps.project_steps is None)

    def _starts(self, steps: RetrieveSettings) -> Iterator[RetrieveSettings]:
        """Yield the steps to start from: what is named, centered or projected or neither."""
        kept = {name: getattr(steps, name) for name in {*KEPT, *self.named} if hasattr(steps, name)}
        named = RetrieveSettings(**kept)
        yield named
        if not {"center", "project_steps"} & self.named:
            yield replace(named, center=True)
        if not {"center", "project_steps", "project_dim"} & self.named:
            yield replace(named, **FIRST_PROJECTION)

    def _add_steps(self, recipe: Recipe) -> Recipe:
        """Add the step that gains most, again and again, as long as its gain is significant."""
        while True:
            before = self.judge.score(recipe)
            prefix = _name_of_start(recipe.retrieve)
            names, candidates, results = [], [], []
            for step in self._candidates(recipe):
                if self.clock.left() > 0:
                    names.append(f"{prefix}: {_in_words(step)}")
                    candidates.append(recipe._replace(retrieve=replace(recipe.retrieve, **step)))
                    results.append(self.judge.score(candidates[-1]))
            winner = record_round(self.record, names, before, results)
            if winner is None:
                return recipe
            recipe = candidates[winner]

    def _candidates(self, recipe: Recipe) -> Iterator[dict[str, Any]]:
        """Yield the steps that could be added to a recipe, or changed in it."""
        tasks = self.judge.embedded(recipe.embed)
        for step in step_choices(tasks, recipe.retrieve):
            if not step.keys() & self.named:
                yield step

    def tune(self, recipe: Recipe, clock: Clock) -> Recipe:
        """Tune a projection's size: go to the best size beside it for as long as that is better.

        Args:
            recipe: Its steps are chosen.
            clock: The time for it.

        Returns:
            The recipe, with another size where one is better out of fold.
        """
        best, is_better = recipe, recipe.retrieve.project_steps is not None
        while is_better:
            choices = [
                best._replace(retrieve=replace(best.retrieve, **size))
                for size in _sizes_beside(best.retrieve)
                if not size.keys() & self.named
            ]
            tried = []
            for choice in choices:
                steps = choice.retrieve.project_steps or 0
                if steps * self.seconds_per_step < clock.left():
                    self._scored(choice)
                    tried.append(choice)
            names = [_name_of_start(choice.retrieve) for choice in tried]
            results = [self.judge.score(choice) for choice in tried]
            before = self.judge.score(best)
            winner = record_round(self.record, names, before, results, trusted=True)
            is_better = winner is not None and results[winner].mean("score") > before.mean("score")
            if winner is not None and is_better:
                best = tried[winner]
        return best


def _base(steps: RetrieveSettings) -> RetrieveSettings:
    """Return the start that steps were added to."""
    names = (*KEPT, "center", "project_steps", "project_dim")
    base = RetrieveSettings(**{name: getattr(steps, name) for name in names})
    return base if base.project_steps is None else replace(base, **FIRST_PROJECTION)


def _name_of_start(steps: RetrieveSettings) -> str:
    """Return the name of a start.

    >>> _name_of_start(RetrieveSettings(center=True))
    'centered'
    """
    if steps.project_steps is not None:
        return f"projected {steps.project_steps} {steps.project_dim}"
    return "centered" if steps.center else "plain"


def _in_words(step: dict[str, Any]) -> str:
    """Return a step as one reads it: `rerank reciprocal`."""
    return ", ".join(f"{name} {value}" for name, value in step.items())


def step_choices(tasks: LabeledTasks, settings: RetrieveSettings) -> Iterator[dict[str, Any]]:
    """Yield every single step that could be added to the chosen ones, or changed in them.

    Args:
        tasks: Embedded.
        settings: The chosen steps.
    """
    query, gallery = thresholds(tasks, settings)
    choices: dict[str, list[Any]] = {
        "whiten": [tasks.dim // 2, 3 * tasks.dim // 4],
        "gallery_neighbors": gallery,
        "query_neighbors": query,
        "expand": gallery,
        "hubs": ["csls", "softmax"],
        "gallery_clusters": gallery,
        "rerank": ["reciprocal"],
    }
    if settings.no_transductive:
        del choices["query_neighbors"], choices["rerank"]
    if settings.project_steps is not None:
        del choices["whiten"]
    for name, values in choices.items():
        for value in values:
            if getattr(settings, name) != value:
                yield {name: value}


def _sizes_beside(settings: RetrieveSettings) -> Iterator[dict[str, Any]]:
    """Yield the sizes beside that of a projection."""
    for steps in _beside(PROJECT_STEPS, settings.project_steps or 0):
        yield {"project_steps": steps}
    for dim in _beside(PROJECT_DIMS, settings.project_dim):
        yield {"project_dim": dim}


def _beside(ladder: tuple[int, ...], value: int) -> list[int]:
    """Return the next lower and higher number of a ladder.

    >>> _beside((50, 150, 400), 150)
    [50, 400]
    """
    lower = [step for step in ladder if step < value][-1:]
    return lower + [step for step in ladder if step > value][:1]


def thresholds(tasks: LabeledTasks, settings: RetrieveSettings) -> tuple[list[float], list[float]]:
    """Return the cosines that a few impostor pairs reach, among queries and among the gallery.

    An impostor pair is two pictures of different identities.

    Args:
        tasks: Embedded.
        settings: Whether the embeddings are centered or projected.

    Returns:
        For queries and for the gallery, a threshold for each of `FALSE_ACCEPT_RATES`, rounded to
        two digits; for queries also what strangers hardly reach, which takes no labels.
    """
    cosines: dict[str, list[np.ndarray]] = {"query": [], "gallery": []}
    unlabeled = []
    for task, embeddings in zip(tasks.tasks, tasks.transformed(settings), strict=True):
        for side, rows in (("query", embeddings.queries), ("gallery", embeddings.gallery)):
            cosines[side].append(_impostor_cosines(task, side, rows))
        if len(embeddings.queries) > 2:
            unlabeled.append(above_strangers(embeddings.queries))
    rates = 1 - np.array(FALSE_ACCEPT_RATES)
    query, gallery = (np.quantile(np.concatenate(parts), rates) for parts in cosines.values())
    return _usable([*query, *([np.median(unlabeled)] if unlabeled else [])]), _usable(gallery)


def _impostor_cosines(task: LabeledTask, side: str, rows: np.ndarray) -> np.ndarray:
    """Return the cosines of all pairs of different identities within a side of a task."""
    identities = np.array(list(getattr(task, side).values()))
    one, two = np.triu_indices(len(rows), 1)
    impostor = identities[one] != identities[two]
    return np.asarray((rows @ rows.T)[one[impostor], two[impostor]])


def _usable(quantiles: Any) -> list[float]:
    """Round thresholds to two digits, without those that hardly exclude anything."""
    return sorted({round(float(value), 2) for value in quantiles if 0.01 < value <= 1})
