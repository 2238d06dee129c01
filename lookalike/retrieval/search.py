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

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import pandas as pd
from tabulate import tabulate

from lookalike.core.carriers import CARRIERS, carried_file
from lookalike.core.clock import Clock
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, whole_file, write_json
from lookalike.core.log import log, quietly
from lookalike.core.readers import read_if_good, read_json
from lookalike.core.runs import Run, versions
from lookalike.core.settings import EmbedSettings, RetrieveSettings, Settings, recipe
from lookalike.evaluation.metrics import run_metric
from lookalike.features.extractor import check_scales
from lookalike.retrieval.candidate_embedder import CandidateEmbedder
from lookalike.retrieval.candidates import Candidate, find_candidates, in_words
from lookalike.retrieval.judging import Judge, Recipe, Trial, record_round
from lookalike.retrieval.labeled_tasks import LabeledTasks, TaskScores, load_tasks
from lookalike.retrieval.prior import look_at, prior_steps, sees_faces
from lookalike.retrieval.selection import StepChooser
from lookalike.retrieval.unseen import Decision, Decisions, score_on_halves

FEWEST = 4  # labeled identities that something can be chosen by
MOST = 5000  # labeled pictures that choices are made by; of more, identities are drawn
UNSEEN_SHARE = 0.75  # of the time that choosing took, for choosing again on halves
RESERVE = 20.0  # seconds that forecast, scores and report take at the end
COLUMNS = (
    *("minutes", "choice", "before", "after", "recall_at_1", "map"),
    *("chance_of_none", "kept"),
)

Publish = Callable[[Run], None]


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


class Labeled(NamedTuple):
    """What choices are made by, where there are labeled identities.

    Attributes:
        everything: All labeled pictures.
        judge: Scores recipes out of fold.
        chooser: Chooses steps.
    """

    everything: LabeledTasks
    judge: Judge
    chooser: StepChooser


@dataclass
class Search:
    """The search for a run's best recipe.

    Attributes:
        run: The run, with the settings that its user has named.
        publish: Makes the submission of a run with other settings.
        trials: The rows of timeline.csv.
        decisions: The candidates that were tried, and where steps were chosen in between.
        embedded: The embeddings of the candidates that were tried.
        choosing: Seconds that each choice of the steps took.
        unseen: The score on identities not chosen on, by the first recipe and by the chosen ones.
        strangers: The prior recipe's threshold for query neighbors, by embedding.
    """

    run: Run
    publish: Publish
    trials: list[Trial] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    embedded: list[EmbedSettings] = field(default_factory=list)
    choosing: list[float] = field(default_factory=list)
    unseen: tuple[float, float] | None = None
    strangers: dict[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.metric = run_metric(self.run.settings)
        saved = read_saved(self.run)
        limit = 60 * self.run.settings.general.time_limit
        self.clock = Clock(limit, saved["seconds"], self.run.session.started)
        self.known = {
            part: {key: _as_scores(value) for key, value in scores.items()}
            for part, scores in saved["scores"].items()
        }

    # ---- the order of the work ------------------------------------------------------------------

    def work(self) -> None:
        """Find the best recipe that the time allows."""
        self.run.path("unseen.json").unlink(missing_ok=True)
        self.prior = look_at(self.run, self.run.named)
        log.info("%s", self.prior.sentence)
        everything = sampled(load_tasks(self.run, parts=1), self.run.seed)
        self.embedder = CandidateEmbedder(self.run, everything.pictures)
        self.first = self.best = self._first()
        self.labeled: Labeled | None = None
        self._publish()
        self.embedder.measure_first()
        if len(set(everything.pictures.values())) >= FEWEST:
            judge = self._judge("all", everything.divided(None, self.run.seed))
            self.labeled = Labeled(everything, judge, self._chooser(judge, self.clock))
            self.labeled.chooser.record = self._record
            self._choose_steps(self.labeled)
        self._try_candidates()
        if self.labeled is not None:
            self._tune(self.labeled)
            self._score_unseen(self.labeled)
        self._save()

    def _first(self) -> Recipe:
        """Return the prior recipe of the first embedding."""
        embed_settings = self.prior.ladder[0]
        steps, why = prior_steps(self.run, embed_settings, self.run.named)
        self.strangers[str(embed_settings)] = steps.query_neighbors
        if why:
            log.info("%s", why)
        return Recipe(embed_settings, steps)

    def _try_candidates(self) -> None:
        """Try every candidate that fits into the time, the greatest gain a minute first."""
        found = find_candidates(self.prior, self.run.named, self.labeled is not None)
        waiting = [candidate for candidate in found if self._can_be_loaded(candidate)]
        count = len(waiting)
        while waiting:
            costs = {c.name: self._seconds(c) for c in waiting}
            fitting = [c for c in waiting if costs[c.name] <= self._time_for_one()]
            if not fitting:
                names = ", ".join(f"{c.name} ({costs[c.name]:.0f} s)" for c in waiting)
                log.info("not enough time left for: %s", names)
                return
            candidate = max(fitting, key=lambda c: c.gain / max(costs[c.name], 1.0))
            waiting.remove(candidate)
            minutes = max(0.0, self.clock.left()) / 60
            number = count - len(waiting)
            log.info("choice %d of %d: %s, %.1f min left", number, count, candidate.name, minutes)
            self._try(candidate)

    def _can_be_loaded(self, candidate: Candidate) -> bool:
        """Return whether a candidate's weights and memory are here; say so where they are not."""
        try:
            if candidate.steps:
                self.embedder.check_matching()
            for member in candidate.applied(self.best.embed).members:
                check_scales(member)
                if member.weights is None and member.backbone in CARRIERS:
                    carried_file(CARRIERS[member.backbone], self.run.cache)
        except UserError as error:
            log.warning("warning: %s is left out: %s", candidate.name, error)
            return False
        return True

    def _seconds(self, candidate: Candidate) -> float:
        """Return how long a candidate takes; a bound where that is beyond the time that is left."""
        if candidate.steps:
            return self.embedder.seconds_to_match()
        now, then = self.best.embed, candidate.applied(self.best.embed)
        least = self.embedder.least_seconds(now, then)
        return least if least > self._time_for_one() else self.embedder.seconds(then)

    def _time_for_one(self) -> float:
        """Return the seconds that a candidate's embedding may take.

        The steps are then chosen for it, as they were for the last one, and at the end all choices
        are made once more on halves.
        """
        again = self.choosing[-1:]
        return self.clock.left() - RESERVE - sum(again) - UNSEEN_SHARE * sum(self.choosing + again)

    def _try(self, candidate: Candidate) -> None:
        """Embed by a candidate, keep it where it is believed, and choose the steps anew."""
        embed = candidate.applied(self.best.embed)
        try:
            self.embedder.embed_test(embed)
            options = self._options(self.best, candidate)
            if self.labeled is None:
                (self.best,) = options
                self._publish()
                return
            judge = self.labeled.judge
            before, after = judge.score(self.best), [judge.score(option) for option in options]
        except UserError as error:
            log.warning("warning: %s is left out: %s", candidate.name, error)
            return
        self.decisions.append(candidate)
        self.embedded.append(embed)
        kept = record_round(self._record, candidate.names, before, after, candidate.trusted)
        if kept is not None:
            self.best = options[kept]
            self._choose_steps(self.labeled)

    def _options(self, best: Recipe, candidate: Candidate) -> list[Recipe]:
        """Return the recipes that a candidate makes of one."""
        if candidate.steps:
            steps = [replace(best.retrieve, **step) for step in candidate.steps]
            return [best._replace(retrieve=retrieve) for retrieve in steps]
        return [self._changed(best, candidate.applied(best.embed))]

    def _changed(self, best: Recipe, embed: EmbedSettings) -> Recipe:
        """Return a recipe with another embedding; its threshold for neighbors follows.

        A cosine that hardly any strangers reach is another one by another embedding.
        """
        steps, threshold = best.retrieve, best.retrieve.query_neighbors
        if threshold is not None and threshold == self._strangers(best.embed):
            steps = replace(steps, query_neighbors=self._strangers(embed))
        return Recipe(embed, steps)

    def _strangers(self, embed: EmbedSettings) -> float | None:
        """Return the prior recipe's threshold for query neighbors by an embedding."""
        key = str(embed)
        if key not in self.strangers:
            steps, _ = prior_steps(self.run, embed, self.run.named)
            self.strangers[key] = steps.query_neighbors
        return self.strangers[key]

    def _choose_steps(self, labeled: Labeled) -> None:
        """Choose the steps for the best embedding, and publish what is new."""
        labeled.judge.embedded(self.best.embed)
        self.decisions.append("steps")
        before = self.clock.spent()
        self.best = labeled.chooser.choose(self.best)
        self.choosing.append(self.clock.spent() - before)
        self._save()
        self._publish()

    def _tune(self, labeled: Labeled) -> None:
        """Tune the size of the projection in half of the time that choosing on halves leaves."""
        seconds = self.clock.left() - RESERVE - UNSEEN_SHARE * sum(self.choosing)
        tuned = labeled.chooser.tune(self.best, Clock(seconds / 2))
        self.decisions.append("size")
        self._save()
        if tuned != self.best:
            self.best = tuned
            self._publish()

    def _score_unseen(self, labeled: Labeled) -> None:
        """Make all choices once more on each half of the identities, and score the other half."""
        seconds = self.clock.left() - RESERVE
        if seconds < UNSEEN_SHARE * sum(self.choosing[-1:]):
            log.info("no time is left to score the choice on identities that it was not made on")
            return
        log.info("choosing once more on each half of the identities, to score the other half")
        embedded = [self.first.embed, *self.embedded]
        halves = score_on_halves(
            labeled.everything,
            self.run.seed,
            Decisions(self.first, self.decisions, embedded, self._options),
            self._judge,
            self._chooser,
            Clock(seconds),
        )
        if halves is None:
            return
        self.unseen = halves.about["before"], halves.about["after"]
        write_json(self.run.path("unseen.json"), halves.about)
        name = "chosen on one half, scored on the other"
        record_round(self._record, [name], halves.before, [halves.after])

    def _judge(self, part: str, tasks: LabeledTasks) -> Judge:
        """Return a judge by tasks, which knows what an interrupted run has scored."""
        known = self.known.setdefault(part, {})
        return Judge(tasks, self.embedder.rows_of, known)

    def _chooser(self, judge: Judge, clock: Clock) -> StepChooser:
        """Return what chooses the steps by a judge within a time, and records nothing."""
        projects = not sees_faces(self.prior.ladder[0])
        centers = self.first.retrieve.center
        return StepChooser(judge, self.run.named, lambda trial: None, clock, centers, projects)

    # ---- what is written ------------------------------------------------------------------------

    def _publish(self) -> None:
        """Make the submission of the best recipe, then say in recipe.json how it was made."""
        general = replace(self.run.settings.general, time_limit=0.0)
        settings = with_recipe(self.run.settings, self.best)
        with quietly():
            self.publish(replace(self.run, settings=settings))
        table = recipe(replace(settings, general=general)) | {"data": str(self.run.data.resolve())}
        write_json(self.run.path("recipe.json"), {k: v for k, v in table.items() if k != "run"})
        known = ""
        if self.labeled is not None:
            mean = self.labeled.judge.mean(self.best)
            known = f", out-of-fold score {self.metric.show(mean)}"
        minutes = self.clock.spent() / 60
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
        write_saved(self.run, self.clock.spent(), self.known)

    def describe(self) -> str:
        """Return the line about what was chosen, and show the trials that stayed."""
        rows = [asdict(trial) for trial in self.trials if trial.kept]
        if rows:
            log.info("%s", tabulate(rows, "keys", floatfmt=".3f"))
        default = asdict(EmbedSettings()) | asdict(RetrieveSettings())
        chosen = {k: v for part in self.best for k, v in asdict(part).items() if v != default[k]}
        words = ", ".join(f"{name} {in_words(value)}" for name, value in chosen.items())
        line = f"{len(self.trials)} choices tried; chosen: {words or 'the defaults'}"
        if self.unseen is None:
            return line
        return (
            f"{line}; score on identities not chosen on {self.metric.show(self.unseen[1])}, "
            f"of the first submission {self.metric.show(self.unseen[0])}"
        )


def with_recipe(settings: Settings, chosen: Recipe) -> Settings:
    """Return the settings of a run with a chosen recipe, which trains nothing."""
    train = settings.train
    if train.is_linear_probe:
        train = replace(train, epochs=0)
    return replace(settings, embed=chosen.embed, retrieve=chosen.retrieve, train=train)


def sampled(everything: LabeledTasks, seed: int) -> LabeledTasks:
    """Return the tasks of at most `MOST` pictures: whole identities, drawn at random.

    Scoring every picture against every other takes time by the square of their number.
    """
    pictures = everything.pictures
    if len(pictures) <= MOST:
        return everything
    counts = pd.Series(list(pictures.values())).value_counts().sort_index()
    order = counts.sample(frac=1, random_state=seed).cumsum()
    drawn = set(order.index[order <= MOST])
    log.info("choices are made by %d of the %d labeled identities", len(drawn), len(counts))
    return everything.divided(1, seed, {k: v for k, v in pictures.items() if v in drawn})


# ---- search.json --------------------------------------------------------------------------------


class SavedScores(TypedDict):
    """The scores of a recipe in search.json."""

    values: dict[str, list[float]]
    identities: list[str]


class SavedSearch(TypedDict):
    """The content of search.json.

    Attributes:
        inputs: What the scores depend on.
        asked: What the user has named.
        seconds: That were spent on it.
        scores: {tasks: {recipe: scores}}.
    """

    inputs: str
    asked: str
    seconds: float
    scores: dict[str, dict[str, SavedScores]]


def write_saved(run: Run, seconds: float, known: dict[str, dict[str, TaskScores]]) -> None:
    """Write search.json: what a run that goes on need not score again."""
    scores = {
        part: {key: _as_saved(value) for key, value in its_scores.items()}
        for part, its_scores in known.items()
    }
    content = SavedSearch(inputs=_inputs(run), asked=_asked(run), seconds=seconds, scores=scores)
    write_json(run.path("search.json"), content)


def read_saved(run: Run) -> SavedSearch:
    """Return what an interrupted run has scored, and the seconds that it took.

    Where the user has named something else since, the time begins anew.
    """
    none = SavedSearch(inputs="", asked="", seconds=0.0, scores={})
    path = run.path("search.json")
    if not path.is_file() or run.settings.general.force:
        return none
    saved: SavedSearch | None = read_if_good(
        lambda file: read_json(file, "--stage auto", SavedSearch), path, "scored again"
    )
    if saved is None or saved["inputs"] != _inputs(run):
        return none
    if saved["asked"] != _asked(run):
        saved["seconds"] = 0.0
    return saved


def _asked(run: Run) -> str:
    """Return what the user has named, as far as a choice depends on it."""
    settings = run.settings
    return str((settings.embed, settings.retrieve, sorted(run.named)))


def _inputs(run: Run) -> str:
    """Return all that the scores in search.json depend on, beside the recipe."""
    embed = run.settings.embed
    paths = [run.path("training.csv"), run.path("split.json"), *embed.files]
    files = [file_hash(path) for path in (*paths, Path(embed.weights or ""))]
    made_by = [f"{name} {number}" for name, number in versions().items()]
    return " ".join(map(str, [*files, run.seed, run_metric(run.settings), *made_by]))


def _as_saved(scores: TaskScores) -> SavedScores:
    """Return scores as JSON holds them."""
    values = {name: rows.tolist() for name, rows in scores.values.items()}
    return SavedScores(values=values, identities=scores.identities)


def _as_scores(saved: SavedScores) -> TaskScores:
    """Return scores that `_as_saved` has made."""
    values = {name: np.array(rows) for name, rows in saved["values"].items()}
    return TaskScores(values, saved["identities"])
