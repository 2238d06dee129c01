"""Chooses how to embed and to rank, on labelled people; and forecasts what the test will score.

    python main.py --stage all --auto
    python main.py --stage auto --run runs/x --auto-backbones sface efficientnet_b0

The people are all whom nothing was trained on: with a frozen backbone everybody, in two halves that
learn nothing from each other. A choice stays only where its gain is outside noise: `auto.csv` has
all that was tried, `auto.json` is what was chosen, a file for --config.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import linkage
from tabulate import tabulate
from tqdm import tqdm

from config import EmbedSettings, RetrieveSettings, Settings
from data import (
    Pictures,
    all_labelled,
    group,
    load_catalogue,
    readable,
    retrieval_task,
    rows_of,
    unseen_split,
)
from embed import Embedding, embed, flips, run_embedding
from evaluate import RESAMPLES, interval, measure
from faces import crop_kind
from index import ranking_of
from model import embedder_of
from postprocess import Embeddings, apply, centre, score_all, two_domains
from retrieve import load_job
from runs import Run, log, whole_file, write_json

NOISE = 0.05  # the chance that a gain is none, above which it is not believed
FALSE_ACCEPTS = (1e-2, 1e-3, 1e-4)  # of pairs of two people, at each threshold that is tried


class Judged(NamedTuple):
    """What a choice came to: each query's measures and its identity."""

    values: dict[str, np.ndarray]
    identities: list[str]

    def mean(self, name: str) -> float:
        """A measure's mean over the queries."""
        return float(self.values[name].mean())


@dataclass
class People:
    """Labelled people to judge by: retrieval tasks, and their pictures' embeddings by path.

    catalogue: the rows of their pictures. query_domain: the domain that asks.
    tasks: [{"query": {path: identity}, "gallery": {...}, "seen": {...}}]; what may be learnt for a
    task is learnt from the `seen`, people of no query of it.
    """

    catalogue: pd.DataFrame
    query_domain: str
    tasks: list[dict[str, Pictures]]
    rows: dict[str, np.ndarray] = field(default_factory=dict)

    def embed(self, job: Embedding) -> None:
        """Embeds all their pictures."""
        paths = sorted({path for task in self.tasks for part in task.values() for path in part})
        self.rows = dict(zip(paths, embed(job, rows_of(self.catalogue, paths)), strict=True))

    def stack(self, paths: Mapping[str, str]) -> np.ndarray:
        """(N, D) embeddings of these pictures."""
        dim = len(next(iter(self.rows.values())))
        return np.array([self.rows[path] for path in paths], np.float32).reshape(-1, dim)

    def given(self, task: dict[str, Pictures]) -> Embeddings:
        """A task's embeddings; the seen ones divided by domain, where domains are known."""
        asks = np.array([path in self.asking for path in task["seen"]], bool)
        seen = two_domains(self.stack(task["seen"]), asks)
        return Embeddings(self.stack(task["query"]), self.stack(task["gallery"]), *seen)

    @cached_property
    def asking(self) -> set[str]:
        """The paths of the pictures in the query's domain."""
        return set(self.catalogue.path[self.catalogue.domain == self.query_domain])

    def judge(self, asked: RetrieveSettings) -> Judged:
        """Ranks every task by these steps."""
        parts = [judge_task(self.given(task), task, asked) for task in self.tasks]
        names = parts[0].values
        values = {name: np.concatenate([part.values[name] for part in parts]) for name in names}
        return Judged(values, [identity for part in parts for identity in part.identities])


def judge_task(given: Embeddings, task: dict[str, Pictures], asked: RetrieveSettings) -> Judged:
    """The measures of each query that has its person in the gallery."""
    scores = score_all(apply(given, asked), asked)
    ranking = ranking_of(scores, list(task["gallery"]), list(task["query"]))
    identities = np.array(list(task["query"].values()))
    gallery, counts = np.unique(list(task["gallery"].values()), return_counts=True)
    known = dict(zip(gallery.tolist(), counts.tolist(), strict=True))
    relevant = np.array([known.get(identity, 0) for identity in identities.tolist()])
    shown = np.array([[task["gallery"][path] for path in row] for row in ranking.gallery])
    good = relevant > 0
    hits = (shown == identities[:, None])[good]
    return Judged(measure(hits, relevant[good]), identities[good].tolist())


def labelled_people(run: Run, parts: int) -> People:
    """The people to judge by, in so many parts that are tasks of their own.

    Where training changes the embedding, only the validation's people are unseen.
    """
    split, asks = unseen_split(run), run.settings.split.query_domain
    catalogue = load_catalogue(run.path("training.csv"))
    if run.settings.train.changes_embedding:
        trained, validation = {**split["train"], **split["holdout"]}, split["validation"]
        tasks = [validation | {"seen": trained}] if validation["query"] else []
        return People(catalogue, asks, tasks)
    pictures = all_labelled(split)
    domains = dict(zip(catalogue.path, catalogue.domain, strict=True))
    names = sorted(set(pictures.values()))
    order = np.random.default_rng([run.seed, 5]).permutation(len(names))
    tasks = []
    for part in range(parts):
        chosen = {names[i] for i in order[part::parts]}
        inside = {path: name for path, name in pictures.items() if name in chosen}
        outside = {path: name for path, name in pictures.items() if name not in chosen}
        task = retrieval_task(group(inside), domains, asks, run.seed)
        if set(task["query"].values()) & set(task["gallery"].values()):
            tasks.append(task | {"seen": outside or inside})
    return People(catalogue, asks, tasks)


def untrained_job(run: Run) -> Embedding:
    """How the settings embed, before anything is trained."""
    return run_embedding(run, embedder_of(run.settings.embed, run.cache))


# ---- choosing -----------------------------------------------------------------------------------


def chance_of_none(after: Judged, before: Judged) -> float:
    """How likely a gain in score is none: the share of resampled people that have none (a paired
    bootstrap over identities)."""
    gain = after.values["score"] - before.values["score"]
    _, cluster = np.unique(after.identities, return_inverse=True)
    sums = np.bincount(cluster, gain)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    return float((drawn @ sums <= 0).mean())


def embedding_choices(asked: Settings, name: str) -> list[Any]:
    """What is tried of a setting of the embedding, where the others are as asked."""
    around = crop_kind(asked.embed) != "none"  # a whole picture has nothing around it
    choices: dict[str, list[Any]] = {
        "backbone": list(asked.general.auto_backbones),
        "crop": ["none", "face", "aligned"],
        "scales": [(0.85, 1.0), (0.7, 0.85, 1.0)] if around else [(1.0, 1.15), (1.0, 1.15, 1.3)],
        "flip": ["on", "off"],
    }
    return choices[name]


def in_use(asked: EmbedSettings, name: str) -> Any:
    """A setting's value; for `auto`, what that comes to."""
    if name == "crop":
        return crop_kind(asked)
    return ("on" if flips(asked) else "off") if name == "flip" else getattr(asked, name)


def step_choices(people: People, asked: RetrieveSettings) -> Iterator[dict[str, Any]]:
    """Every single step that could be added to, or changed in, the steps asked for."""
    dim = len(next(iter(people.rows.values())))
    query, gallery = thresholds(people, asked)
    choices: dict[str, list[Any]] = {
        "whiten": [dim // 2, 3 * dim // 4],
        "gallery_neighbours": gallery,
        "query_neighbours": query,
        "expand": gallery,
        "hubs": ["csls", "softmax"],
        "gallery_clusters": gallery,
        "rerank": ["reciprocal"],
    }
    if asked.no_transductive:
        choices = {k: v for k, v in choices.items() if k not in ("query_neighbours", "rerank")}
    for name, values in choices.items():
        for value in values:
            if getattr(asked, name) != value:
                yield {name: value}


def thresholds(people: People, asked: RetrieveSettings) -> tuple[list[float], list[float]]:
    """Cosines, to two digits, that so few pairs of pictures of two people reach: of queries, and of
    gallery pictures."""
    found = []
    for side in ("query", "gallery"):
        cosines = []
        for task in people.tasks:
            given = people.given(task)
            given = centre(given, not asked.no_transductive) if asked.center else given
            rows = given.queries if side == "query" else given.gallery
            names = np.array(list(task[side].values()))
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


def with_choice(asked: EmbedSettings, name: str, value: Any) -> EmbedSettings:
    """The settings with another choice; the size of pictures belongs to its backbone.

    >>> with_choice(EmbedSettings(side=160), "backbone", "sface").side is None
    True
    """
    return replace(asked, **{name: value} | ({"side": None} if name == "backbone" else {}))


def choose_steps(run: Run, people: People, best: Judged, tried: list[Tried]) -> Run:
    """The steps of the ranking, from two starts: as it is, and centred, since every cosine that a
    step goes by depends on that. Centred it stays where it ends better, outside noise."""
    own = run.settings.retrieve
    plain = RetrieveSettings(own.format, index=own.index, no_transductive=own.no_transductive)
    asked, reached = add_steps(people, plain, best, tried)
    centred = replace(plain, center=True)
    other, end = add_steps(people, centred, people.judge(centred), tried)
    if note(tried, "centred, with its steps", reached, end):
        asked = other
    return replace(run, settings=replace(run.settings, retrieve=asked))


def add_steps(
    people: People, asked: RetrieveSettings, best: Judged, tried: list[Tried]
) -> tuple[RetrieveSettings, Judged]:
    """Adds the step that gains most, again and again, as long as the gain is outside noise."""
    prefix = "centred: " if asked.center else ""
    while True:
        steps = list(step_choices(people, asked))
        judged = [people.judge(replace(asked, **step)) for step in tqdm(steps, "steps")]
        before, believed = best, [chance_of_none(one, best) < NOISE for one in judged]
        scores = np.where(believed, [one.mean("score") for one in judged], -np.inf)
        for i, (step, one) in enumerate(zip(steps, judged, strict=True)):
            (name, value), *_ = step.items()
            if note(tried, f"{prefix}{name} {value}", before, one, may_stay=i == scores.argmax()):
                asked, best = replace(asked, **step), one
        if best is before:
            return asked, best


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


# ---- what will the leaderboard say --------------------------------------------------------------

DRAWS = 8


def run_forecast(run: Run) -> str:
    """The stage: forecast.json, the score that the labelled people let expect of the test."""
    people = labelled_people(run, parts=1)
    run.path("forecast.json").unlink(missing_ok=True)
    if not people.tasks or len(set(people.tasks[0]["query"].values())) < 4:
        return "too few labelled people to forecast from"
    job = load_job(run)
    people.embed(job)
    test = load_catalogue(run.path("test.csv"))
    test = test[readable(test)]
    queries = embed(job, test[test.part == "query"])
    task, gallery = people.tasks[0], int((test.part == "gallery").sum())
    each = len(task["gallery"]) / len(set(task["gallery"].values()))
    # How many people the test shows is not known; the interval spans two estimates.
    counts = (count_people(people.stack(task["query"]), task, queries), round(gallery / each))
    sizes = {"query": len(queries), "gallery": gallery}
    asked = run.settings.retrieve
    whole = people.judge(asked)
    parts = [extrapolate(people, asked, whole, max(1, n), sizes, run.seed) for n in counts]
    forecast: dict[str, Any] = {
        "score": sum(expected for expected, _ in parts) / 2,
        "ci95": {
            "score": [min(ends[0] for _, ends in parts), max(ends[1] for _, ends in parts)],
        },
        "people": sorted(counts),
        "labelled_people": len(set(task["query"].values())),
    }
    write_json(run.path("forecast.json"), forecast)
    low, high = forecast["ci95"]["score"]
    few, many = forecast["people"]
    return f"{forecast['score']:.1f} ({low:.1f} to {high:.1f}), for {few} to {many} people"


def count_people(known: np.ndarray, task: dict[str, Pictures], unknown: np.ndarray) -> int:
    """About how many people the unlabelled queries show: clusters of average linkage, down to the
    distance at which the labelled ones form as many clusters as they show people."""

    def heights(rows: np.ndarray) -> np.ndarray:
        some = np.random.default_rng(0).permutation(len(rows))[:4000]
        none = np.zeros((0, rows.shape[1]), np.float32)
        moved = centre(Embeddings(rows[some], none, none, none)).queries
        return np.sort(linkage(moved, "average", "cosine")[:, 2]) if len(some) > 1 else np.zeros(0)

    labelled, people = heights(known), len(set(task["query"].values()))
    merges = min(max(len(labelled) + 1 - people, 1), len(labelled))
    level = labelled[merges - 1]
    return max(1, len(unknown) - int((heights(unknown) <= level).sum()))


def extrapolate(
    people: People,
    asked: RetrieveSettings,
    whole: Judged,
    count: int,
    sizes: dict[str, int],
    seed: int,
) -> tuple[float, tuple[float, float]]:
    """The expected score of `count` people with `sizes` query and gallery pictures in all, and the
    ends of its 95 % interval.

    Random subsets of the labelled people, of several sizes and with as many pictures a person as
    the test has, are scored; the expectation lies between them on the scale of log(people), beyond
    them on a line. The interval adds what the labelled people leave open and what another set of
    people would.

    whole: what all of the labelled people come to.
    """
    task, names = people.tasks[0], sorted(set(people.tasks[0]["query"].values()))
    rng = np.random.default_rng([seed, 6])
    levels = sorted({max(2, round(len(names) * share)) for share in (0.25, 0.5, 0.75, 1)})
    means = []
    for level in levels:
        scores = []
        for _ in range(DRAWS):
            chosen = set(rng.permutation(names)[:level].tolist())
            part = subset(task, chosen, {k: n / count for k, n in sizes.items()}, rng)
            scores.append(judge_task(people.given(part), part, asked).mean("score"))
        means.append(float(np.mean(scores)))
    expected = float(np.interp(np.log(count), np.log(levels), means))
    if count > levels[-1]:
        slope = np.polyfit(np.log(levels), means, 1)[0] if len(levels) > 1 else 0.0
        expected += float(slope * np.log(count / levels[-1]))
    expected = float(np.clip(expected, 0, 1000))
    low, high = interval(whole.values["score"][:, None], whole.identities)[:, 0]
    spread = (high - low) / 2 * np.sqrt(1 + len(names) / count)
    low, high = np.clip([expected - spread, expected + spread], 0, 1000)
    return expected, (float(low), float(high))


def subset(
    task: dict[str, Pictures],
    chosen: set[str],
    each: Mapping[str, float],
    rng: np.random.Generator,
) -> dict[str, Pictures]:
    """The task of the chosen people, with about `each` query and gallery pictures a person."""
    parts: dict[str, Pictures] = {"seen": task["seen"]}
    for side, wanted in each.items():
        inside = [path for path, name in task[side].items() if name in chosen]
        have = len(inside) / len(chosen)
        kept = max(1, round(len(inside) * min(1.0, wanted / max(have, 1e-9))))
        keep = sorted(rng.permutation(inside)[:kept].tolist())
        parts[side] = {path: task[side][path] for path in keep}
    return parts
