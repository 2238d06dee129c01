"""Find the best recipe within a time limit (the stage auto).

    python main.py --stage all --time-limit 30
    python main.py --stage all --config runs/x/recipe.json      # the same submission again

It begins with the prior recipe, which needs no labels: a submission stands after one pass of one
backbone. Then it goes through what else could help, the greatest expected gain a minute first, and
each improvement that is believed replaces the submission. Choices are made out of fold, see
`lookalike.retrieval.judging`. Since the best of many is overrated by what chose it, all is chosen
once more on each half of the identities alone, and scored on the other half.

`recipe.json` holds what was chosen, a file for --config; `timeline.csv` lists what was tried, and
when; `unseen.json` holds what each half chose; `search.json` what a run that goes on need not score
again.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import nan
from typing import Any, NamedTuple, TypedDict

import numpy as np
import pandas as pd
from tabulate import tabulate

from lookalike.core.clock import Clock
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, whole_file, write_json
from lookalike.core.log import log
from lookalike.core.readers import read_if_good, read_json
from lookalike.core.runs import Run
from lookalike.core.settings import EmbedSettings, RetrieveSettings, Settings, plain, recipe
from lookalike.data.catalogue import load_catalogue, load_full_catalogue, readable
from lookalike.data.splits import Pictures
from lookalike.features.extractor import Extractor, embed, untrained_extractor
from lookalike.retrieval.judging import Judge, Recipe, Trial, record_round
from lookalike.retrieval.labeled_tasks import (
    LabeledTasks,
    TaskScores,
    divide_by_identity,
    join_scores,
    load_tasks,
)
from lookalike.retrieval.prior import look_at, prior_steps, sees_faces
from lookalike.retrieval.selection import StepChooser

FOLDS, PER_FOLD = 5, 10  # folds at most, and identities in each at least
FEWEST = 4  # labeled identities that something can be chosen by
SPEED_SAMPLE = 64  # pictures that a candidate's speed is measured on
UNSEEN_SHARE = 0.75  # of the time that choosing took, for choosing again on halves
RESERVE = 20.0  # seconds that forecast, scores and report take at the end

Publish = Callable[[Run], None]


class Candidate(NamedTuple):
    """A change of the embedding that may help.

    Attributes:
        name: As the timeline has it.
        gain: Points that it may be expected to gain, from other data.
        change: Settings of the embedding, by name.
        trusted: Whether it is a part of the prior recipe, which needs no proof.
    """

    name: str
    gain: float
    change: dict[str, Any]
    trusted: bool = False

    def applied(self, settings: EmbedSettings) -> EmbedSettings:
        """Return the settings with the change."""
        return replace(settings, **self.change)


FACE_CANDIDATES = (
    Candidate("scales 0.85 1", 4.0, {"scales": (0.85, 1.0)}),
    Candidate("scales 0.7 0.85 1", 4.0, {"scales": (0.7, 0.85, 1.0)}),
)
WHOLE_CANDIDATES = (
    Candidate("resolutions 1 1.4", 15.0, {"resolutions": (1.0, 1.4)}),
    Candidate("flip on", 5.0, {"flip": "on"}),
)
GAINS = (0.0, 80.0, 15.0, 5.0)  # of each step of the prior recipe's ladder


class SavedScores(TypedDict):
    """The scores of a recipe in search.json."""

    values: dict[str, list[float]]
    identities: list[str]


class SavedSearch(TypedDict):
    """The content of search.json."""

    inputs: str
    seconds: float
    scores: dict[str, dict[str, SavedScores]]


def run_search(run: Run, publish: Publish) -> str:
    """Run the stage: write recipe.json and timeline.csv, and a submission for each improvement.

    Args:
        run: The run; its catalogue and its split are read.
        publish: Makes the submission of a run with other settings.

    Returns:
        A line that says what was chosen, and what it gains on identities that it was not chosen on.

    Raises:
        UserError: A file of the run is missing, or a backbone cannot be loaded.
    """
    search = Search(run, publish)
    search.work()
    return search.describe()


@dataclass
class Search:
    """The search for a run's best recipe.

    Attributes:
        run: The run, with the settings that its user has named.
        publish: Makes the submission of a run with other settings.
    """

    run: Run
    publish: Publish
    trials: list[Trial] = field(default_factory=list)
    _rows: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    _steps: list[tuple[str, Candidate | None]] = field(default_factory=list)
    _rates: dict[str, float] = field(default_factory=dict)
    _choosing: float = 0.0  # seconds that the steps were last chosen in

    def __post_init__(self) -> None:
        settings = self.run.settings
        self.named = self.run.named
        self.metric = settings.general.metric
        saved = self._read_saved()
        limit, started = 60 * settings.general.time_limit, self.run.session.started
        self.clock = Clock(limit, saved["seconds"], started)
        self.known: dict[str, dict[str, TaskScores]] = {
            part: {key: _as_scores(value) for key, value in scores.items()}
            for part, scores in saved["scores"].items()
        }
        everything = load_tasks(self.run, parts=1)
        self.everything = everything
        identities = sorted({n for task in everything.tasks for n in task.query.values()})
        self.is_labeled = len(identities) >= FEWEST
        self.unseen: tuple[float, float] | None = None

    # ---- the order of the work ------------------------------------------------------------------

    def work(self) -> None:
        """Find the best recipe that the time allows."""
        self.run.path("unseen.json").unlink(missing_ok=True)
        self.prior = look_at(self.run, self.named)
        log.info("%s", self.prior.sentence)
        self.first = self.best = self._first()
        self._publish(self.best)
        if self.is_labeled:
            self.judge = self._judge("all", self._folds(self._pictures()))
            self.chooser = self._chooser(self.judge, self._record)
            self._choose_steps()
        self._try_candidates()
        if self.is_labeled:
            self._score_unseen()
        self._save()

    def _first(self) -> Recipe:
        """Return the prior recipe of the first embedding."""
        embed_settings = self.prior.ladder[0]
        steps, why = prior_steps(self.run, embed_settings, self.named)
        if why:
            log.info("%s", why)
        return Recipe(embed_settings, steps)

    def _try_candidates(self) -> None:
        """Try every candidate that fits into the time, the greatest gain a minute first."""
        waiting = self._candidates()
        tried, count = 0, len(waiting)
        while waiting:
            costs = {c.name: self._seconds(c.applied(self.best.embed)) for c in waiting}
            fitting = [c for c in waiting if costs[c.name] <= self._time_for_one()]
            if not fitting:
                names = ", ".join(f"{c.name} ({costs[c.name]:.0f} s)" for c in waiting)
                log.info("not enough time left for: %s", names)
                return
            candidate = max(fitting, key=lambda c: c.gain / max(costs[c.name], 1.0))
            waiting.remove(candidate)
            tried += 1
            minutes = max(0.0, self.clock.left()) / 60
            log.info("choice %d of %d: %s, %.1f min left", tried, count, candidate.name, minutes)
            self._try(candidate)

    def _time_for_one(self) -> float:
        """Return the seconds that a candidate's embedding may take."""
        return self.clock.left() - RESERVE - self._choosing * (1 + UNSEEN_SHARE)

    def _try(self, candidate: Candidate) -> None:
        """Embed by a candidate, keep it where it is believed, and choose the steps anew."""
        other = self.best._replace(embed=candidate.applied(self.best.embed))
        try:
            self._embed_test(other.embed)
            if not self.is_labeled:
                self.best = other
                self._publish(other)
                return
            before, after = self.judge.score(self.best), self.judge.score(other)
        except UserError as error:
            log.warning("warning: %s is left out: %s", candidate.name, error)
            return
        self._steps.append(("embed", candidate))
        kept = record_round(
            self._record, [candidate.name], before, [after], self.metric, candidate.trusted
        )
        if kept is not None:
            self.best = other
            self._choose_steps()

    def _choose_steps(self) -> None:
        """Choose the steps for the best embedding, and publish what is new."""
        self._steps.append(("steps", None))
        before = self.clock.spent()
        chosen = self.chooser.choose(self.best)
        self._choosing = self.clock.spent() - before
        self._save()
        self.best = chosen
        self._publish(chosen)

    # ---- candidates -----------------------------------------------------------------------------

    def _candidates(self) -> list[Candidate]:
        """Return the changes of the embedding that are worth trying."""
        ladder = self.prior.ladder
        found = []
        for gain, lower, higher in zip(GAINS[1:], ladder, ladder[1:], strict=False):
            change = {
                name: value
                for name, value in asdict(higher).items()
                if value != getattr(lower, name)
            }
            name = ", ".join(f"{key} {_short(value)}" for key, value in change.items())
            found.append(Candidate(name, gain, change, trusted=True))
        if self.is_labeled and len(ladder) == 1:
            more = FACE_CANDIDATES if sees_faces(ladder[0]) else WHOLE_CANDIDATES
            found += [c for c in more if not c.change.keys() & self.named]
        return found

    def _seconds(self, settings: EmbedSettings) -> float:
        """Return how long embedding all pictures takes, measured on a few that are not cached."""
        if str(settings) not in self._rates:
            catalogue = load_full_catalogue(self.run.folder)
            catalogue = catalogue[readable(catalogue)]
            extractor = untrained_extractor(self.run, settings)
            sample = catalogue.sample(min(SPEED_SAMPLE, len(catalogue)), random_state=0)
            embed(extractor, sample.iloc[:8])  # compiles
            start = self.clock.spent()
            embed(extractor, sample)
            seconds = self.clock.spent() - start
            self._rates[str(settings)] = seconds * len(catalogue) / max(len(sample) - 8, 1)
        return self._rates[str(settings)]

    # ---- embeddings and judges ------------------------------------------------------------------

    def _embed_test(self, settings: EmbedSettings) -> None:
        """Embed the test, so that publishing finds it in the cache."""
        test = load_catalogue(self.run.path("test.csv"))
        embed(untrained_extractor(self.run, settings), test[readable(test)])

    def _rows_of(self, settings: EmbedSettings) -> dict[str, np.ndarray]:
        """Return the embeddings of all labeled pictures."""
        if str(settings) not in self._rows:
            extractor: Extractor = untrained_extractor(self.run, settings)
            tasks = replace(self.everything, rows={}, _transformed={})
            tasks.embed(extractor)
            self._rows[str(settings)] = tasks.rows
        return self._rows[str(settings)]

    def _pictures(self) -> Pictures:
        """Return {path: identity} of all labeled pictures."""
        return {k: v for task in self.everything.tasks for part in task for k, v in part.items()}

    def _folds(self, pictures: Pictures) -> LabeledTasks:
        """Return tasks of disjoint identities, which may learn from each other's pictures."""
        parts = int(np.clip(len(set(pictures.values())) // PER_FOLD, 2, FOLDS))
        tasks = divide_by_identity(
            self.everything.catalogue, pictures, self.everything.query_domain, parts, self.run.seed
        )
        return replace(self.everything, tasks=tasks, rows={}, _transformed={})

    def _judge(self, part: str, tasks: LabeledTasks) -> Judge:
        """Return a judge by tasks, which knows what an interrupted run has scored."""
        return Judge(tasks, self._rows_of, self.metric, self.known.setdefault(part, {}))

    def _chooser(self, judge: Judge, record: Callable[[Trial], None]) -> StepChooser:
        """Return what chooses the steps by a judge."""
        projects = not sees_faces(self.prior.ladder[0])
        return StepChooser(
            judge, self.named, record, self.clock, self.first.retrieve.center, projects
        )

    # ---- identities not chosen on ---------------------------------------------------------------

    def _score_unseen(self) -> None:
        """Choose on each half of the identities alone, and score the other half."""
        if self.clock.left() < RESERVE + UNSEEN_SHARE * self._choosing:
            log.info("no time is left to score the choice on identities that it was not made on")
            return
        log.info("choosing once more on each half of the identities, to score the other half")
        pictures = self._pictures()
        tasks = divide_by_identity(
            self.everything.catalogue, pictures, self.everything.query_domain, 2, self.run.seed
        )
        if len(tasks) < 2:
            return
        start, end, halves = [], [], []
        for number, task in enumerate(tasks):
            others = {path: name for path, name in pictures.items() if path in task.seen}
            chosen = self._choose_again(f"half {number}", others)
            scorer = self._judge(
                f"unseen {number}", replace(self.everything, tasks=[task], rows={}, _transformed={})
            )
            start.append(scorer.score(self.first))
            end.append(scorer.score(chosen))
            settings = {name: plain(v) for part in chosen for name, v in asdict(part).items()}
            identities = sorted(set(task.query.values()))
            halves.append({"scored_on": identities, "settings": settings})
        before, after = join_scores(start), join_scores(end)
        self.unseen = before.mean(self.metric), after.mean(self.metric)
        about = dict(zip(("before", "after"), self.unseen, strict=True)) | {"halves": halves}
        write_json(self.run.path("unseen.json"), {"metric": self.metric} | about)
        name = "chosen on one half, scored on the other"
        record_round(self._record, [name], before, [after], self.metric)

    def _choose_again(self, part: str, pictures: Pictures) -> Recipe:
        """Go through the same choices on some of the labeled pictures only."""
        judge = self._judge(part, self._folds(pictures))
        chooser = self._chooser(judge, lambda trial: None)
        best = self.first
        for kind, candidate in self._steps:
            if candidate is None:
                best = chooser.choose(best)
                continue
            other = best._replace(embed=candidate.applied(best.embed))
            scores = judge.score(best), [judge.score(other)]
            ignore: Callable[[Trial], None] = lambda trial: None  # noqa: E731
            kept = record_round(ignore, [kind], *scores, self.metric, candidate.trusted)
            best = best if kept is None else other
        return best

    # ---- what is written ------------------------------------------------------------------------

    def _publish(self, best: Recipe) -> None:
        """Make the submission of a recipe, then say in recipe.json how it was made."""
        general = replace(self.run.settings.general, time_limit=0.0)
        settings = with_recipe(self.run.settings, best)
        self.publish(replace(self.run, settings=settings))
        table = recipe(replace(settings, general=general)) | {"data": str(self.run.data.resolve())}
        write_json(self.run.path("recipe.json"), {k: v for k, v in table.items() if k != "run"})
        mean = self.judge.mean(best) if self.is_labeled and hasattr(self, "judge") else nan
        minutes = self.clock.spent() / 60
        known = f", out-of-fold {self.metric} {mean:.1f}" if mean == mean else ""
        log.info("submission.json is the best so far, after %.1f min%s", minutes, known)

    def _record(self, trial: Trial) -> None:
        """Add a trial to timeline.csv."""
        trial.minutes = round(self.clock.spent() / 60, 3)
        self.trials.append(trial)

    def _save(self) -> None:
        """Write timeline.csv, and search.json for a run that goes on."""
        with whole_file(self.run.path("timeline.csv")) as beside:
            table = pd.DataFrame([asdict(trial) for trial in self.trials], columns=COLUMNS)
            table.to_csv(beside, index=False)
        scores = {
            part: {key: _as_saved(value) for key, value in known.items()}
            for part, known in self.known.items()
        }
        content = {"inputs": self._inputs(), "seconds": self.clock.spent(), "scores": scores}
        write_json(self.run.path("search.json"), content)

    def _inputs(self) -> str:
        """Return a hash of all that the scores in search.json depend on."""
        files = [file_hash(self.run.path(name)) for name in ("training.csv", "split.json")]
        return " ".join(map(str, [*files, self.run.seed]))

    def _read_saved(self) -> SavedSearch:
        """Return what an interrupted run has scored, and the seconds that it took."""
        none: SavedSearch = {"inputs": "", "seconds": 0.0, "scores": {}}
        path = self.run.path("search.json")
        if not path.is_file():
            return none
        saved: SavedSearch | None = read_if_good(
            lambda file: read_json(file, "--stage auto", SavedSearch), path, "scored again"
        )
        return saved if saved is not None and saved["inputs"] == self._inputs() else none

    def describe(self) -> str:
        """Return the line about what was chosen, and show the trials that stayed."""
        rows = [asdict(trial) for trial in self.trials if trial.kept]
        if rows:
            log.info("%s", tabulate(rows, "keys", floatfmt=".3f"))
        default = asdict(EmbedSettings()) | asdict(RetrieveSettings())
        chosen = {k: v for part in self.best for k, v in asdict(part).items() if v != default[k]}
        words = ", ".join(f"{name} {_short(value)}" for name, value in chosen.items())
        line = f"{len(self.trials)} choices tried; chosen: {words or 'the defaults'}"
        if self.unseen is None:
            return line
        return (
            f"{line}; {self.metric} on identities not chosen on {self.unseen[1]:.1f}, "
            f"of the first submission {self.unseen[0]:.1f}"
        )


COLUMNS = [
    "minutes",
    "choice",
    "before",
    "after",
    "recall_at_1",
    "map",
    "chance_of_none",
    "kept",
]


def with_recipe(settings: Settings, chosen: Recipe) -> Settings:
    """Return the settings of a run with a chosen recipe, which trains nothing."""
    train = settings.train
    if train.is_linear_probe:
        train = replace(train, epochs=0)
    return replace(settings, embed=chosen.embed, retrieve=chosen.retrieve, train=train)


def _short(value: Any) -> str:
    """Return a value as a command line has it."""
    return (
        " ".join(map(str, value))
        if isinstance(value, Sequence) and not isinstance(value, str)
        else str(value)
    )


def _as_saved(scores: TaskScores) -> SavedScores:
    """Return scores as JSON holds them."""
    values = {name: rows.tolist() for name, rows in scores.values.items()}
    return {"values": values, "identities": scores.identities}


def _as_scores(saved: SavedScores) -> TaskScores:
    """Return scores that `_as_saved` has made."""
    values = {name: np.array(rows) for name, rows in saved["values"].items()}
    return TaskScores(values, saved["identities"])
