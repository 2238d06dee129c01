"""Chooses how to embed and to rank, on labelled people; and forecasts what the test will score.

    python main.py --stage all --auto
    python main.py --stage auto --run runs/x --auto-backbones sface efficientnet_b0

The people are all whom nothing was trained on: with a frozen backbone everybody, in two halves that
learn nothing from each other. A choice stays only where its gain is outside noise: `auto.csv` has
all that was tried, `auto.json` is what was chosen, a file for --config.
"""

from collections.abc import Iterator
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
from lookalike.evaluation.metrics import RESAMPLES
from lookalike.faces.geometry import crop_kind
from lookalike.features.extractor import flips
from lookalike.retrieval.labelled_tasks import (
    Judged,
    People,
    labelled_people,
    untrained_job,
)
from lookalike.retrieval.postprocess import center

NOISE = 0.05  # the chance that a gain is none, above which it is not believed
FALSE_ACCEPTS = (1e-2, 1e-3, 1e-4)  # of pairs of two people, at each threshold that is tried


def chance_of_none(after: Judged, before: Judged) -> float:
    """How likely a gain in score is none: the share of resampled people that have none (a paired
    bootstrap over identities)."""
    gain = after.values["score"] - before.values["score"]
    _, cluster = np.unique(after.identities, return_inverse=True)
    sums = np.bincount(cluster, gain)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    return float((drawn @ sums <= 0).mean())


def embedding_choices(settings: Settings, name: str) -> list[Any]:
    """What is tried of a setting of the embedding, where the others are as asked."""
    around = crop_kind(settings.embed) != "none"  # a whole picture has nothing around it
    choices: dict[str, list[Any]] = {
        "backbone": list(settings.general.auto_backbones),
        "crop": ["none", "face", "aligned"],
        "scales": [(0.85, 1.0), (0.7, 0.85, 1.0)] if around else [(1.0, 1.15), (1.0, 1.15, 1.3)],
        "flip": ["on", "off"],
    }
    return choices[name]


def in_use(settings: EmbedSettings, name: str) -> Any:
    """A setting's value; for `auto`, what that comes to."""
    if name == "crop":
        return crop_kind(settings)
    return ("on" if flips(settings) else "off") if name == "flip" else getattr(settings, name)


def step_choices(people: People, settings: RetrieveSettings) -> Iterator[dict[str, Any]]:
    """Every single step that could be added to, or changed in, the steps asked for."""
    dim = len(next(iter(people.rows.values())))
    query, gallery = thresholds(people, settings)
    choices: dict[str, list[Any]] = {
        "whiten": [dim // 2, 3 * dim // 4],
        "gallery_neighbors": gallery,
        "query_neighbors": query,
        "expand": gallery,
        "hubs": ["csls", "softmax"],
        "gallery_clusters": gallery,
        "rerank": ["reciprocal"],
    }
    if settings.no_transductive:
        choices = {k: v for k, v in choices.items() if k not in ("query_neighbors", "rerank")}
    for name, values in choices.items():
        for value in values:
            if getattr(settings, name) != value:
                yield {name: value}


def thresholds(people: People, settings: RetrieveSettings) -> tuple[list[float], list[float]]:
    """Cosines, to two digits, that so few pairs of pictures of two people reach: of queries, and of
    gallery pictures."""
    found = []
    for side in ("query", "gallery"):
        cosines = []
        for task in people.tasks:
            embeddings = people.embeddings(task)
            embeddings = (
                center(embeddings, not settings.no_transductive) if settings.center else embeddings
            )
            rows = embeddings.queries if side == "query" else embeddings.gallery
            names = np.array(list(getattr(task, side).values()))
            one, two = np.triu_indices(len(rows), 1)
            others = names[one] != names[two]
            cosines.append((rows @ rows.T)[one[others], two[others]])
        quantiles = np.quantile(np.concatenate(cosines), 1 - np.array(FALSE_ACCEPTS))
        found.append([round(float(q), 2) for q in quantiles if 0.01 < q <= 1])
    return found[0], found[1]


@dataclass
class Tried:
    """A row of auto.csv: a choice, the scores before and after it, and whether it stays."""

    choice: str
    before: float
    after: float
    recall_at_1: float
    map: float
    chance_of_none: float
    kept: bool


def run_auto(run: Run) -> str | None:
    """The stage: auto.json, the chosen settings, and auto.csv, a row for all that was tried."""
    people = labelled_people(run, parts=2)
    if not people.tasks or run.settings.train.changes_embedding:
        log.warning("warning: --auto needs labelled people, and no --embed-dim: nothing is chosen")
        return None
    tried: list[Tried] = []
    run, best = choose_embedding(run, people, tried)
    people.embed(untrained_job(run))
    run = choose_steps(run, people, best, tried)
    table = pd.DataFrame(tried)
    with whole_file(run.path("auto.csv")) as beside:
        table.to_csv(beside, index=False)
    chosen = asdict(run.settings.embed) | asdict(run.settings.retrieve)
    write_json(run.path("auto.json"), chosen)
    log.info("%s", tabulate([asdict(row) for row in tried], "keys", floatfmt=".3f"))
    default = asdict(EmbedSettings()) | asdict(RetrieveSettings())
    kept = [f"{name} {value}" for name, value in chosen.items() if value != default[name]]
    return f"{len(tried)} choices tried; chosen: {', '.join(kept) or 'the defaults'}"


def choose_embedding(run: Run, people: People, tried: list[Tried]) -> tuple[Run, Judged]:
    """The backbone, crop and mirror image that rank best, one after another."""
    plain = RetrieveSettings(no_transductive=run.settings.retrieve.no_transductive)
    people.embed(untrained_job(run))
    best = people.judge(plain)
    for name in ("backbone", "crop", "scales", "flip"):
        start = run
        for value in embedding_choices(start.settings, name):
            if value == in_use(run.settings.embed, name):
                continue
            settings = replace(start.settings, embed=with_choice(start.settings.embed, name, value))
            candidate = replace(start, settings=settings)
            people.embed(untrained_job(candidate))
            judged = people.judge(plain)
            if note(tried, f"{name} {value}", best, judged):
                run, best = candidate, judged
    return run, best


def with_choice(settings: EmbedSettings, name: str, value: Any) -> EmbedSettings:
    """The settings with another choice; the size of pictures belongs to its backbone.

    >>> with_choice(EmbedSettings(image_size=160), "backbone", "sface").image_size is None
    True
    """
    return replace(settings, **{name: value} | ({"image_size": None} if name == "backbone" else {}))


def choose_steps(run: Run, people: People, best: Judged, tried: list[Tried]) -> Run:
    """The steps of the ranking, from two starts: as it is, and centred, since every cosine that a
    step goes by depends on that. Centred it stays where it ends better, outside noise."""
    own = run.settings.retrieve
    plain = RetrieveSettings(own.format, index=own.index, no_transductive=own.no_transductive)
    settings, reached = add_steps(people, plain, best, tried)
    centered = replace(plain, center=True)
    other, end = add_steps(people, centered, people.judge(centered), tried)
    if note(tried, "centred, with its steps", reached, end):
        settings = other
    return replace(run, settings=replace(run.settings, retrieve=settings))


def add_steps(
    people: People, settings: RetrieveSettings, best: Judged, tried: list[Tried]
) -> tuple[RetrieveSettings, Judged]:
    """Adds the step that gains most, again and again, as long as the gain is outside noise."""
    prefix = "centred: " if settings.center else ""
    while True:
        steps = list(step_choices(people, settings))
        judged = [people.judge(replace(settings, **step)) for step in tqdm(steps, "steps")]
        before, believed = best, [chance_of_none(one, best) < NOISE for one in judged]
        scores = np.where(believed, [one.mean("score") for one in judged], -np.inf)
        for i, (step, one) in enumerate(zip(steps, judged, strict=True)):
            (name, value), *_ = step.items()
            if note(tried, f"{prefix}{name} {value}", before, one, may_stay=i == scores.argmax()):
                settings, best = replace(settings, **step), one
        if best is before:
            return settings, best


def note(
    tried: list[Tried], choice: str, before: Judged, after: Judged, may_stay: bool = True
) -> bool:
    """Writes a row; True where the choice stays."""
    chance = chance_of_none(after, before)
    stays = may_stay and chance < NOISE
    scores = before.mean("score"), after.mean("score")
    measures = after.mean("recall@1"), after.mean("map")
    tried.append(Tried(choice, *scores, *measures, chance, stays))
    return stays
