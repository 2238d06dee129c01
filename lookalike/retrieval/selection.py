"""Choose how to embed and how to rank, on labeled pictures (the stage auto).

    python main.py --stage all --auto
    python main.py --stage auto --run runs/x --auto-backbones sface efficientnet_b0

Choices are scored on identities that nothing was trained on: with a frozen backbone on all, in two
halves that learn nothing from each other. A choice stays only where its gain is significant,
corrected for the number of choices that were tried with it. Since the best of many is overrated
by what chose it, all is chosen once more on each half alone and scored on the other.
`auto.csv` lists all that was tried; `auto.json` holds what was chosen, a file for --config.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate
from tqdm import tqdm

from lookalike.core.files import whole_file, write_json
from lookalike.core.log import log
from lookalike.core.runs import Run
from lookalike.core.settings import EmbedSettings, RetrieveSettings, Settings
from lookalike.faces.geometry import crop_kind
from lookalike.features.extractor import extractor_for, flips
from lookalike.models.embedder import embedder_of
from lookalike.retrieval.labeled_tasks import (
    LabeledTask,
    LabeledTasks,
    TaskScores,
    join_scores,
    load_tasks,
)
from lookalike.retrieval.postprocess import center

SIGNIFICANCE = 0.05  # the p-value from which on a gain is not believed
FLIPS = 10_000  # sign flips that a gain is compared with; all of them where there are fewer
FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)  # at each threshold that is tried, of impostor pairs

EmbedTasks = Callable[[LabeledTasks, EmbedSettings], None]


@dataclass
class Trial:
    """A row of auto.csv.

    Attributes:
        choice: The setting and its value.
        before: The score without the choice, 0 to 1000.
        after: The score with it.
        recall_at_1: Recall@1 with it.
        map: mAP with it.
        chance_of_none: The p-value of the gain, corrected for its round, see `gain_p_values`.
        kept: Whether the choice stays.
    """

    choice: str
    before: float
    after: float
    recall_at_1: float
    map: float
    chance_of_none: float
    kept: bool


# ---- the stage ----------------------------------------------------------------------------------


def run_auto(run: Run) -> str | None:
    """Run the stage: write auto.json, the chosen settings, and auto.csv, a row per trial.

    Args:
        run: The run; its catalogue and its split are read.

    Returns:
        A line that says what was chosen, and what it gains on identities that it was not chosen
        on; None where there is nothing to choose by.

    Raises:
        UserError: A file of the run is missing, or a backbone cannot be loaded.
    """
    everything = load_tasks(run, parts=2)
    if not everything.tasks or run.settings.train.changes_embedding:
        log.warning(
            "warning: --auto needs labeled identities, and no --embed-dim: nothing is chosen"
        )
        for name in ("auto.json", "auto.csv"):  # of an earlier choice, which would be applied
            run.path(name).unlink(missing_ok=True)
        return None

    rows: dict[str, dict[str, np.ndarray]] = {}

    def embed_tasks(tasks: LabeledTasks, settings: EmbedSettings) -> None:
        if str(settings) not in rows:
            changed = replace(run, settings=replace(run.settings, embed=settings))
            everything.embed(extractor_for(changed, embedder_of(settings, run.cache)))
            rows[str(settings)] = everything.rows
        tasks.rows = rows[str(settings)]

    tasks = replace(everything)
    trials: list[Trial] = []
    best = choose(run.settings, tasks, embed_tasks, trials)
    line = record_unseen(run.settings, tasks, embed_tasks, trials)
    chosen = asdict(best.embed) | asdict(best.retrieve)
    _write_trials(run, trials, chosen)
    default = asdict(EmbedSettings()) | asdict(RetrieveSettings())
    changes = [f"{name} {value}" for name, value in chosen.items() if value != default[name]]
    return f"{len(trials)} choices tried; chosen: {', '.join(changes) or 'the defaults'}; {line}"


def choose(
    settings: Settings, tasks: LabeledTasks, embed_tasks: EmbedTasks, trials: list[Trial]
) -> Settings:
    """Choose the embedding, then the steps of the ranking.

    Args:
        settings: To start from, and the backbones to choose from.
        tasks: To score each choice by; left with the embeddings of the best.
        embed_tasks: Gives tasks the embeddings of settings.
        trials: A row is added for each choice.

    Returns:
        The settings with what was chosen.
    """
    backbones, steps = settings.general.auto_backbones, settings.retrieve
    embedding, scores = choose_embedding(
        settings.embed, backbones, tasks, _plain(steps), embed_tasks, trials
    )
    embed_tasks(tasks, embedding)
    return replace(settings, embed=embedding, retrieve=choose_steps(steps, tasks, scores, trials))


def record_unseen(
    settings: Settings, tasks: LabeledTasks, embed_tasks: EmbedTasks, trials: list[Trial]
) -> str:
    """Choose by each task alone and score the other one: a gain on identities not chosen on.

    The best of many choices looks better on the identities it was chosen on than it is. (Half of
    the identities choose worse than all of them do, so that this score is rather too low.)

    Args:
        settings: As for `choose`.
        tasks: Two tasks of disjoint identities; nothing can be said with fewer.
        embed_tasks: As for `choose`.
        trials: A row is added.

    Returns:
        A line with both scores.
    """
    if len(tasks.tasks) < 2:
        return "too few identities to score it on others than it was chosen on"
    before, after = [], []
    for task in tasks.tasks:
        others = replace(tasks, tasks=[other for other in tasks.tasks if other is not task])
        best, unseen = choose(settings, others, embed_tasks, []), replace(tasks, tasks=[task])
        embed_tasks(unseen, best.embed)
        after.append(unseen.score(best.retrieve))
        embed_tasks(unseen, settings.embed)
        before.append(unseen.score(_plain(settings.retrieve)))
    start, end = join_scores(before), join_scores(after)
    record_round(trials, ["chosen on one half, scored on the other"], start, [end])
    return (
        f"on identities not chosen on {end.mean('score'):.1f}, "
        f"without any choice {start.mean('score'):.1f}"
    )


def _write_trials(run: Run, trials: Sequence[Trial], chosen: dict[str, Any]) -> None:
    """Write auto.csv and auto.json, and show the trials."""
    with whole_file(run.path("auto.csv")) as beside:
        pd.DataFrame(trials).to_csv(beside, index=False)
    write_json(run.path("auto.json"), chosen)
    log.info("%s", tabulate([asdict(trial) for trial in trials], "keys", floatfmt=".3f"))


# ---- the embedding ------------------------------------------------------------------------------


def choose_embedding(
    settings: EmbedSettings,
    backbones: Sequence[str],
    tasks: LabeledTasks,
    steps: RetrieveSettings,
    embed_tasks: EmbedTasks,
    trials: list[Trial],
) -> tuple[EmbedSettings, TaskScores]:
    """Choose backbone, crop, scales and mirror image, one after another.

    Args:
        settings: To start from.
        backbones: The backbones to choose from.
        tasks: To score each choice by; their embeddings are replaced.
        steps: The steps of the ranking meanwhile.
        embed_tasks: Gives tasks the embeddings of settings.
        trials: A row is added for each choice.

    Returns:
        The best settings, and their scores.
    """
    embed_tasks(tasks, settings)
    best = tasks.score(steps)
    for name in ("backbone", "crop", "scales", "flip"):
        candidates, results = [], []
        for value in embedding_choices(settings, name, backbones):
            if value != effective_value(settings, name):
                candidates.append(change_embedding(settings, name, value))
                embed_tasks(tasks, candidates[-1])
                results.append(tasks.score(steps))
        choices = [f"{name} {getattr(candidate, name)}" for candidate in candidates]
        winner = record_round(trials, choices, best, results)
        if winner is not None:
            settings, best = candidates[winner], results[winner]
    return settings, best


def embedding_choices(settings: EmbedSettings, name: str, backbones: Sequence[str]) -> list[Any]:
    """Return the values to try for a setting of the embedding.

    >>> embedding_choices(EmbedSettings(crop="none"), "scales", [])
    [(1.0, 1.15), (1.0, 1.15, 1.3)]
    """
    scales = [(1.0, 1.15), (1.0, 1.15, 1.3)]
    if crop_kind(settings) != "none":  # only a crop can show more of its surroundings
        scales = [(0.85, 1.0), (0.7, 0.85, 1.0)]
    choices: dict[str, list[Any]] = {
        "backbone": list(backbones),
        "crop": ["none", "face", "aligned"],
        "scales": list(scales),
        "flip": ["on", "off"],
    }
    return choices[name]


def effective_value(settings: EmbedSettings, name: str) -> Any:
    """Return a setting's value; where it is `auto`, what that comes to.

    >>> effective_value(EmbedSettings(backbone="sface"), "crop")
    'aligned'
    """
    if name == "crop":
        return crop_kind(settings)
    if name == "flip":
        return "on" if flips(settings) else "off"
    return getattr(settings, name)


def change_embedding(settings: EmbedSettings, name: str, value: Any) -> EmbedSettings:
    """Return the settings with another value; another backbone has a size and weights of its own.

    >>> settings = EmbedSettings(image_size=160, weights="my.pth")
    >>> other = change_embedding(settings, "backbone", "sface")
    >>> other.image_size, other.weights
    (None, None)
    """
    changes = {name: value}
    if name == "backbone":
        changes["image_size"] = None
        changes["weights"] = "none" if settings.weights == "none" else None
    return replace(settings, **changes)


# ---- the steps of the ranking -------------------------------------------------------------------


def choose_steps(
    settings: RetrieveSettings, tasks: LabeledTasks, best: TaskScores, trials: list[Trial]
) -> RetrieveSettings:
    """Choose the steps of the ranking, with and without centering.

    Centering changes every cosine that other steps have a threshold for, so that steps are added to
    both starts; the centered one is chosen if it ends significantly better.

    Args:
        settings: Their format, index and no_transductive are left as they are.
        tasks: To score each choice by, embedded.
        best: The scores without any step.
        trials: A row is added for each choice.
    """
    plain = _plain(settings)
    chosen, chosen_scores = add_steps(plain, tasks, best, trials)
    centered = replace(plain, center=True)
    other, other_scores = add_steps(centered, tasks, tasks.score(centered), trials)
    better = record_round(trials, ["centred, with its steps"], chosen_scores, [other_scores])
    return chosen if better is None else other


def _plain(settings: RetrieveSettings) -> RetrieveSettings:
    """Return settings without any step, which keep format, index and no_transductive."""
    return RetrieveSettings(
        settings.format, index=settings.index, no_transductive=settings.no_transductive
    )


def add_steps(
    settings: RetrieveSettings, tasks: LabeledTasks, best: TaskScores, trials: list[Trial]
) -> tuple[RetrieveSettings, TaskScores]:
    """Add the step that gains most, again and again, as long as its gain is significant.

    Args:
        settings: The steps to start from.
        tasks: To score each choice by, embedded.
        best: The scores of `settings`.
        trials: A row is added for each choice.

    Returns:
        The steps, and their scores.
    """
    prefix = "centred: " if settings.center else ""
    while True:
        steps = list(step_choices(tasks, settings))
        results = [tasks.score(replace(settings, **step)) for step in tqdm(steps, "steps")]
        choices = [f"{prefix}{name} {value}" for step in steps for name, value in step.items()]
        winner = record_round(trials, choices, best, results)
        if winner is None:
            return settings, best
        settings, best = replace(settings, **steps[winner]), results[winner]


def step_choices(tasks: LabeledTasks, settings: RetrieveSettings) -> Iterator[dict[str, Any]]:
    """Yield every single step that could be added to the chosen ones, or changed in them."""
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
    for name, values in choices.items():
        for value in values:
            if getattr(settings, name) != value:
                yield {name: value}


def thresholds(tasks: LabeledTasks, settings: RetrieveSettings) -> tuple[list[float], list[float]]:
    """Return the cosines that a few impostor pairs reach, among queries and among the gallery.

    An impostor pair is two pictures of different identities.

    Args:
        tasks: Embedded.
        settings: Whether the embeddings are centered.

    Returns:
        For queries and for the gallery, a threshold for each of `FALSE_ACCEPT_RATES`, rounded to
        two digits.
    """
    cosines: dict[str, list[np.ndarray]] = {"query": [], "gallery": []}
    for task in tasks.tasks:
        embeddings = tasks.embeddings(task)
        if settings.center:
            embeddings = center(embeddings, not settings.no_transductive)
        for side, rows in (("query", embeddings.queries), ("gallery", embeddings.gallery)):
            cosines[side].append(_impostor_cosines(task, side, rows))
    rates = 1 - np.array(FALSE_ACCEPT_RATES)
    query, gallery = (np.quantile(np.concatenate(parts), rates) for parts in cosines.values())
    return _usable(query), _usable(gallery)


def _impostor_cosines(task: LabeledTask, side: str, rows: np.ndarray) -> np.ndarray:
    """Return the cosines of all pairs of different identities within a side of a task."""
    identities = np.array(list(getattr(task, side).values()))
    one, two = np.triu_indices(len(rows), 1)
    impostor = identities[one] != identities[two]
    return np.asarray((rows @ rows.T)[one[impostor], two[impostor]])


def _usable(quantiles: np.ndarray) -> list[float]:
    """Round thresholds to two digits, without those that hardly exclude anything."""
    return [round(float(value), 2) for value in quantiles if 0.01 < value <= 1]


# ---- whether a gain is significant --------------------------------------------------------------


def record_round(
    trials: list[Trial], choices: Sequence[str], before: TaskScores, results: Sequence[TaskScores]
) -> int | None:
    """Add a row for each choice of a round.

    Args:
        trials: The rows.
        choices: What is tried.
        before: The scores without any of it.
        results: The scores with each choice.

    Returns:
        The number of the choice that stays: the best of those whose gain is significant; None where
        none is.
    """
    if not results:
        return None
    p_values = gain_p_values(results, before)
    scores = np.array([result.mean("score") for result in results])
    significant = p_values < SIGNIFICANCE
    winner = int(np.where(significant, scores, -np.inf).argmax()) if significant.any() else None
    for i, (choice, result) in enumerate(zip(choices, results, strict=True)):
        measures = result.mean("recall@1"), result.mean("map")
        score = before.mean("score"), result.mean("score")
        trials.append(Trial(choice, *score, *measures, float(p_values[i]), i == winner))
    return winner


def gain_p_values(results: Sequence[TaskScores], before: TaskScores) -> np.ndarray:
    """Return the p-values of gains in score, corrected for how many are tried at once.

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
