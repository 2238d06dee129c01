"""Choose how to embed and how to rank, on labeled pictures (the stage auto).

    python main.py --stage all --auto
    python main.py --stage auto --run runs/x --auto-backbones sface efficientnet_b0

Choices are scored on identities that nothing was trained on: with a frozen backbone on all, in two
halves that learn nothing from each other. A choice stays only where its gain is significant.
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
from lookalike.core.settings import EmbedSettings, RetrieveSettings
from lookalike.faces.geometry import crop_kind
from lookalike.features.extractor import FeatureExtractor, extractor_for, flips
from lookalike.models.embedder import embedder_of
from lookalike.retrieval.labeled_tasks import (
    LabeledTask,
    LabeledTasks,
    TaskScores,
    load_tasks,
)
from lookalike.retrieval.postprocess import center

SIGNIFICANCE = 0.05  # the p-value from which on a gain is not believed
RESAMPLES = 1000  # bootstrap samples of a gain
FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)  # at each threshold that is tried, of impostor pairs

MakeExtractor = Callable[[EmbedSettings], FeatureExtractor]


@dataclass
class Trial:
    """A row of auto.csv.

    Attributes:
        choice: The setting and its value.
        before: The score without the choice, 0 to 1000.
        after: The score with it.
        recall_at_1: Recall@1 with it.
        map: mAP with it.
        chance_of_none: The p-value of the gain, see `paired_bootstrap_p`.
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
        A line that says what was chosen; None where there is nothing to choose by.

    Raises:
        UserError: A file of the run is missing, or a backbone cannot be loaded.
    """
    tasks = load_tasks(run, parts=2)
    if not tasks.tasks or run.settings.train.changes_embedding:
        log.warning(
            "warning: --auto needs labeled identities, and no --embed-dim: nothing is chosen"
        )
        for name in ("auto.json", "auto.csv"):  # of an earlier choice, which would be applied
            run.path(name).unlink(missing_ok=True)
        return None

    def make_extractor(settings: EmbedSettings) -> FeatureExtractor:
        changed = replace(run, settings=replace(run.settings, embed=settings))
        return extractor_for(changed, embedder_of(settings, run.cache))

    trials: list[Trial] = []
    steps, backbones = run.settings.retrieve, run.settings.general.auto_backbones
    plain = RetrieveSettings(no_transductive=steps.no_transductive)
    embedding, scores = choose_embedding(
        run.settings.embed, backbones, tasks, plain, make_extractor, trials
    )
    tasks.embed(make_extractor(embedding))
    chosen = asdict(embedding) | asdict(choose_steps(steps, tasks, scores, trials))
    _write_trials(run, trials, chosen)
    default = asdict(EmbedSettings()) | asdict(RetrieveSettings())
    changes = [f"{name} {value}" for name, value in chosen.items() if value != default[name]]
    return f"{len(trials)} choices tried; chosen: {', '.join(changes) or 'the defaults'}"


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
    make_extractor: MakeExtractor,
    trials: list[Trial],
) -> tuple[EmbedSettings, TaskScores]:
    """Choose backbone, crop, scales and mirror image, one after another.

    Args:
        settings: To start from.
        backbones: The backbones to choose from.
        tasks: To score each choice by; their embeddings are replaced.
        steps: The steps of the ranking meanwhile.
        make_extractor: Makes the feature extractor of settings.
        trials: A row is added for each choice.

    Returns:
        The best settings, and their scores.
    """
    tasks.embed(make_extractor(settings))
    best = tasks.score(steps)
    for name in ("backbone", "crop", "scales", "flip"):
        start = settings
        for value in embedding_choices(start, name, backbones):
            if value == effective_value(settings, name):
                continue
            candidate = change_embedding(start, name, value)
            tasks.embed(make_extractor(candidate))
            scores = tasks.score(steps)
            if record_trial(trials, f"{name} {value}", best, scores):
                settings, best = candidate, scores
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
    """Return the settings with another value; another backbone has an image size of its own.

    >>> change_embedding(EmbedSettings(image_size=160), "backbone", "sface").image_size is None
    True
    """
    changes = {name: value}
    if name == "backbone":
        changes["image_size"] = None
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
    plain = RetrieveSettings(
        settings.format, index=settings.index, no_transductive=settings.no_transductive
    )
    chosen, chosen_scores = add_steps(plain, tasks, best, trials)
    centered = replace(plain, center=True)
    other, other_scores = add_steps(centered, tasks, tasks.score(centered), trials)
    if record_trial(trials, "centred, with its steps", chosen_scores, other_scores):
        return other
    return chosen


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
        significant = [paired_bootstrap_p(result, best) < SIGNIFICANCE for result in results]
        scores = [result.mean("score") for result in results]
        winner = int(np.where(significant, scores, -np.inf).argmax())
        before = best
        for i, (step, result) in enumerate(zip(steps, results, strict=True)):
            ((name, value),) = step.items()
            choice = f"{prefix}{name} {value}"
            if record_trial(trials, choice, before, result, may_stay=i == winner):
                settings, best = replace(settings, **step), result
        if best is before:
            return settings, best


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


def record_trial(
    trials: list[Trial], choice: str, before: TaskScores, after: TaskScores, may_stay: bool = True
) -> bool:
    """Add a row for a choice.

    Returns:
        Whether the choice stays: `may_stay`, and its gain is significant.
    """
    p = paired_bootstrap_p(after, before)
    stays = may_stay and p < SIGNIFICANCE
    scores = before.mean("score"), after.mean("score")
    measures = after.mean("recall@1"), after.mean("map")
    trials.append(Trial(choice, *scores, *measures, p, stays))
    return stays


def paired_bootstrap_p(after: TaskScores, before: TaskScores) -> float:
    """Return the p-value of a gain in score, by a paired bootstrap over identities.

    Args:
        after: The scores of the queries with a choice.
        before: Those of the same queries without it.

    Returns:
        The share of resampled sets of identities in which there is no gain, 0 to 1.
    """
    gain = after.values["score"] - before.values["score"]
    _, cluster = np.unique(after.identities, return_inverse=True)
    sums = np.bincount(cluster, gain)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    return float((draws @ sums <= 0).mean())
