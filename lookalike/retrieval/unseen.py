"""Choose once more on each half of the labeled identities, and score the other half.

The best of many is overrated by what it was chosen by. Here all is chosen again, the same decisions
in the same order, by half of the identities alone; what that chose is scored on the others.
`unseen.json` holds both choices: the forecast simulates its tests from them.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, fields
from typing import Any, Literal, NamedTuple, TypedDict

from lookalike.core.clock import Clock
from lookalike.core.config import read_config
from lookalike.core.readers import read_json
from lookalike.core.runs import Run
from lookalike.core.settings import EmbedSettings, RetrieveSettings, plain
from lookalike.retrieval.candidates import Candidate
from lookalike.retrieval.judging import Judge, Recipe, record_round
from lookalike.retrieval.labeled_tasks import LabeledTask, LabeledTasks, TaskScores, join_scores
from lookalike.retrieval.selection import StepChooser


class Half(TypedDict):
    """What was chosen on a half of the identities, and the identities that it is scored on."""

    scored_on: list[str]
    settings: dict[str, Any]


class Unseen(TypedDict):
    """The content of unseen.json: a choice made on each half, scored on the other one."""

    metric: str
    before: float
    after: float
    halves: list[Half]


Decision = Candidate | Literal["steps", "size"]


class Decisions(NamedTuple):
    """What is decided again: from the first recipe, each candidate in turn, or the steps.

    Attributes:
        first: The recipe to begin with.
        order: The candidates that were tried; `steps` where the steps were chosen, `size` where
            that of the projection was tuned.
        embedded: The embeddings that were made for it. A half that keeps other candidates than all
            identities do is not embedded anew: candidates that would lead to others are left out.
        options: Returns the recipes that a candidate makes of one.
    """

    first: Recipe
    order: Sequence[Decision]
    embedded: Collection[EmbedSettings]
    options: Callable[[Recipe, Candidate], list[Recipe]]


class Halves(NamedTuple):
    """The scores of all labeled queries, each by what the other half has chosen.

    Attributes:
        before: By the first recipe.
        after: By the chosen ones.
        about: What unseen.json holds.
    """

    before: TaskScores
    after: TaskScores
    about: Unseen


JudgeOf = Callable[[str, LabeledTasks], Judge]
ChooserOf = Callable[[Judge, Clock], StepChooser]


def score_on_halves(
    everything: LabeledTasks,
    seed: int,
    decisions: Decisions,
    judge_of: JudgeOf,
    chooser_of: ChooserOf,
    clock: Clock,
) -> Halves | None:
    """Choose on each half of the identities, and score the other half.

    Args:
        everything: All labeled pictures.
        seed: Of the division.
        decisions: What is decided again.
        judge_of: Returns a judge by tasks; its name tells it from other judges.
        chooser_of: Returns what chooses steps by a judge within a time.
        clock: The time that both halves may take.

    Returns:
        The scores; None where there are no two halves.
    """
    tasks = everything.divided(2, seed).tasks
    if len(tasks) < 2:
        return None
    before, after, halves = [], [], []
    for number, task in enumerate(tasks):
        half = everything.divided(None, seed, task.seen)
        share = Clock(clock.left() / (len(tasks) - number))
        chosen = _choose_again(decisions, chooser_of(judge_of(f"half {number}", half), share))
        scorer = judge_of(f"unseen {number}", everything.with_tasks([task]))
        before.append(scorer.score(decisions.first))
        after.append(scorer.score(chosen))
        halves.append(_half(task, chosen))
    first, last = join_scores(before), join_scores(after)
    about = Unseen(
        metric=everything.metric.name,
        before=first.mean("score"),
        after=last.mean("score"),
        halves=halves,
    )
    return Halves(first, last, about)


def _choose_again(decisions: Decisions, chooser: StepChooser) -> Recipe:
    """Decide again by other labeled pictures."""
    judge, best = chooser.judge, decisions.first
    for candidate in decisions.order:
        if candidate == "steps":
            best = chooser.choose(best)
            continue
        if candidate == "size":
            best = chooser.tune(best, chooser.clock)
            continue
        others = decisions.options(best, candidate)
        if any(other.embed not in decisions.embedded for other in others):
            continue
        scores = judge.score(best), [judge.score(other) for other in others]
        kept = record_round(chooser.record, candidate.names, *scores, candidate.trusted)
        best = best if kept is None else others[kept]
    return best


def _half(task: LabeledTask, chosen: Recipe) -> Half:
    """Return what unseen.json holds of a half."""
    settings = {name: plain(v) for part in chosen for name, v in asdict(part).items()}
    return Half(scored_on=sorted(set(task.query.values())), settings=settings)


def read_halves(run: Run) -> list[Half]:
    """Return what was chosen on halves of the identities, where the run's recipe was chosen so.

    Raises:
        UserError: unseen.json is damaged.
    """
    path, chosen = run.path("unseen.json"), run.path("recipe.json")
    if not path.is_file() or not chosen.is_file():
        return []
    flat, table = run.settings.flat(), read_config(chosen)
    names = [field.name for part in (EmbedSettings, RetrieveSettings) for field in fields(part)]
    if any(flat[name] != table.get(name) for name in names):
        return []
    unseen: Unseen = read_json(path, "--stage auto", Unseen)
    return unseen["halves"]
