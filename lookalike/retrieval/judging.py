"""Judge choices: scores out of fold, and whether a gain is significant.

    judge = Judge(tasks, rows_of, {})
    judge.score(Recipe(embed, retrieve)).mean("score")
    winner = record_round(trials, ["flip on"], before, [after])

Choices are scored on identities that nothing was trained on, in folds that learn nothing from their
own identities. A choice stays only where its gain is significant, corrected for the number of
choices that were tried with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from json import dumps
from typing import NamedTuple

import numpy as np

from lookalike.core.settings import EmbedSettings, RetrieveSettings, plain
from lookalike.retrieval.labeled_tasks import EmbeddedRows, LabeledTasks, TaskScores

SIGNIFICANCE = 0.05  # the p-value from which on a gain is not believed
FLIPS = 10_000  # sign flips that a gain is compared with; all of them where there are fewer


class Recipe(NamedTuple):
    """What is chosen: how pictures are embedded, and how the gallery is ranked.

    Attributes:
        embed: The settings of the embedding.
        retrieve: The steps of the ranking.
    """

    embed: EmbedSettings
    retrieve: RetrieveSettings

    @property
    def key(self) -> str:
        """A hash of all its settings."""
        table = {name: plain(value) for part in self for name, value in asdict(part).items()}
        return sha256(dumps(table, sort_keys=True).encode()).hexdigest()[:16]


RowsOf = Callable[[EmbedSettings], EmbeddedRows]


class Judge:
    """Scores recipes on labeled tasks, each recipe only once.

    Args:
        tasks: To score by.
        rows_of: Returns the embeddings of all their pictures by path, for settings.
        known: Scores of recipes by `Recipe.key`; added to.
    """

    def __init__(self, tasks: LabeledTasks, rows_of: RowsOf, known: dict[str, TaskScores]) -> None:
        self.tasks, self.rows_of, self.known = tasks, rows_of, known
        self._embedded: dict[str, LabeledTasks] = {}

    def score(self, recipe: Recipe) -> TaskScores:
        """Return the measures of all queries by a recipe."""
        if recipe.key not in self.known:
            self.known[recipe.key] = self.embedded(recipe.embed).score(recipe.retrieve)
        return self.known[recipe.key]

    def mean(self, recipe: Recipe) -> float:
        """Return the mean score by a recipe."""
        return self.score(recipe).mean("score")

    def embedded(self, settings: EmbedSettings) -> LabeledTasks:
        """Return the tasks with the embeddings of settings; those of the last ones are kept."""
        key = str(settings)
        if key not in self._embedded:
            self._embedded.clear()
            found = self.rows_of(settings)._asdict()
            self._embedded[key] = replace(self.tasks, **found, _transformed={})
        return self._embedded[key]


@dataclass
class Trial:
    """A row of timeline.csv.

    Attributes:
        minutes: Since the start of the run.
        choice: The setting and its value.
        before: The score without the choice.
        after: The score with it.
        recall_at_1: Recall@1 with it.
        map: mAP with it.
        chance_of_none: The p-value of the gain, corrected for its round, see `gain_p_values`.
        kept: Whether the choice stays.
    """

    minutes: float
    choice: str
    before: float
    after: float
    recall_at_1: float
    map: float
    chance_of_none: float
    kept: bool


Record = Callable[[Trial], None]


def record_round(
    record: Record,
    choices: Sequence[str],
    before: TaskScores,
    results: Sequence[TaskScores],
    trusted: bool = False,
) -> int | None:
    """Record a trial for each choice of a round.

    Args:
        record: Takes each trial; it fills in the minutes.
        choices: What is tried.
        before: The scores without any of it.
        results: The scores with each choice.
        trusted: Whether the choices are parts of the prior recipe, which need no proof: the best
            stays unless it is worse.

    Returns:
        The number of the choice that stays: the best of those whose gain is significant; None where
        none is.
    """
    if not results:
        return None
    p_values = gain_p_values(results, before)
    means = np.array([result.mean("score") for result in results])
    believed = means >= before.mean("score") if trusted else p_values < SIGNIFICANCE
    winner = int(np.where(believed, means, -np.inf).argmax()) if believed.any() else None
    for i, (choice, result) in enumerate(zip(choices, results, strict=True)):
        measures = result.mean("recall@1"), result.mean("map")
        levels = before.mean("score"), float(means[i])
        record(Trial(0.0, choice, *levels, *measures, float(p_values[i]), i == winner))
    return winner


def gain_p_values(results: Sequence[TaskScores], before: TaskScores) -> np.ndarray:
    """Return the p-values of gains of the score, corrected for how many are tried at once.

    Without any effect, an identity's gain is as likely as the same loss: the gains of all
    identities change their signs at random, the same for all choices, and each choice is compared
    with the largest of all (Westfall and Young, 1993, Resampling-based multiple testing). With few
    identities every combination of signs is tried, and the test is exact: three identities that
    all win have a p-value of 1/8.

    Args:
        results: The scores of the queries with each choice.
        before: Those of the same queries without.

    Returns:
        (N,) p-values, from 0 to 1.
    """
    _, cluster = np.unique(before.identities, return_inverse=True)
    gains = np.stack(
        [np.bincount(cluster, r.values["score"] - before.values["score"]) for r in results]
    )
    scale = np.sqrt((gains**2).sum(axis=1, keepdims=True))
    gains = np.divide(gains, scale, out=np.zeros_like(gains), where=scale > 0)
    largest = (_sign_flips(gains.shape[1]) @ gains.T).max(axis=1)
    p_values: np.ndarray = (largest >= gains.sum(axis=1)[:, None] - 1e-9).mean(axis=1)
    return p_values


def _sign_flips(identities: int) -> np.ndarray:
    """Return combinations of signs, (flips, identities); the first is that of what was observed."""
    if 2**identities <= FLIPS:
        numbers = np.arange(2**identities)[:, None] >> np.arange(identities)
        return 1.0 - 2.0 * (numbers & 1)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (FLIPS, identities))
    signs[0] = 1
    return signs
