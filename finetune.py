"""Training that is judged by retrieval: fine-tunes an embedder -> the best epoch's weights.

    python main.py --stage all --objective arcface --embed-dim 512 --epochs 20
    python main.py --stage all --objective arcface+0.1*triplet --unfreeze 4 --train-views 4

After each epoch the validation's gallery is ranked for its queries: the best score is the best
epoch, and a training that does not beat the untrained embedder is not used. With --refit, one that
does is done again on all labelled pictures, for as many epochs. What a killed training has come to
stands in training.pt or refit.pt, and the same command goes on from there to the same weights.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

import plots
import processes
from config import TrainSettings, UserError, judging_steps
from data import Pictures, all_labelled, load_catalogue, load_split, rows_of
from inputs import Feed, feed_of, shown_in, training_views
from judging import Judge
from losses import Objective, compares_pairs
from model import Embedder, embedder_of, one_thread, save_tensors, seeded
from runs import Run, file_hash, log, whole_file
from samplers import Batch, People, batches, check_batches, group_people, steps_of
from trackers import numbers_of, track
from trunk import Average, Trunk, parameter_groups, schedule_of

CHECKPOINT, REFIT = "training.pt", "refit.pt"
UNJUDGED = (float("nan"), float("nan"))
# Embeddings have collapsed where spread and score are below these shares of the untrained ones: a
# small spread alone may be a projection's bias.
COLLAPSED = {"spread": 0.01, "score": 0.5}

State = dict[str, Tensor]
Keep = Callable[["Epoch"], None]
Judging = Callable[[], tuple[float, float]]  # -> score and spread of the weights as they are


@dataclass
class Epoch:
    """What an epoch came to; number 0 is the untrained embedder.

    train_loss: mean over its batches. score: of the validation, 0 to 1000. spread: 1 - the mean
    cosine of all pairs of its gallery pictures; neither is a number where nothing judges. lr: of
    the projection, at the end. minutes: since the training began, without those that a kill has
    cost.
    """

    epoch: int
    train_loss: float
    score: float
    spread: float
    lr: float
    minutes: float


# ---- a training ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lesson:
    """What is learnt from: (N,) targets, whom batches are drawn from, and what the trunk is fed."""

    feed: Feed
    targets: Tensor
    people: People
    kind: str
    views: int
    fresh: bool


class Training:
    """All that changes in a training, so that it can be kept on the disk and taken up again."""

    def __init__(self, trunk: Trunk, objective: nn.Module, asked: TrainSettings, steps: int):
        """steps: batches in an epoch."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.trunk, self.objective = trunk.to(self.device), objective.to(self.device)
        self.asked = asked
        self.optimizer = torch.optim.AdamW(parameter_groups(trunk, objective, asked))
        total = -(-steps // asked.accumulate) * asked.epochs
        self.schedule = schedule_of(self.optimizer, total, asked.warmup)
        self.average = Average(trunk, asked.ema) if asked.ema else None
        self.history: list[Epoch] = []
        self.best: State = {}

    @property
    def best_epoch(self) -> Epoch:
        """The trained epoch with the best score, the first of equal ones."""
        return max(self.history[1:], key=lambda epoch: epoch.score)

    @property
    def helps(self) -> bool:
        """Whether that beats the untrained embedder."""
        return self.best_epoch.score > self.history[0].score

    def weights(self) -> State:
        """What is judged and kept: the trunk's state, or its moving average."""
        state = self.average.state if self.average else self.trunk.state_dict()
        return {name: tensor.clone() for name, tensor in state.items()}

    def step(self) -> None:
        """Takes the gradients that have been summed up."""
        processes.sum_gradients(self.trunk.parameters())
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.asked.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.average:
            self.average.update(self.trunk)

    def state(self) -> dict[str, Any]:
        """Everything, as torch.save keeps it and torch.load reads it with weights_only."""
        return {
            "trunk": self.trunk.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state if self.average else {},
            "best": self.best,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def take_up(self, state: dict[str, Any]) -> None:
        """The opposite of `state`."""
        for name in ("trunk", "objective", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        if self.average:
            self.average.state = state["average"]
        self.best = state["best"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]


def train_epoch(training: Training, lesson: Lesson, seed: int) -> float:
    """One pass over the training pictures; the mean loss of its batches.

    All chance comes from the seed and the epoch's number: an epoch that a kill cut short is the
    same when it is done again.

    Raises:
        UserError: a loss is not finite.
    """
    number = len(training.history)
    rng = np.random.default_rng([seed, 6, number])
    torch.manual_seed(int(rng.integers(2**62)))
    count, asked = len(lesson.targets), training.asked
    shown = shown_in(number, lesson.views, count, lesson.fresh, rng)
    training.trunk.train()
    drawn = batches(lesson.kind, lesson.people, asked.batch_size, asked.per_person, rng)
    steps = steps_of(lesson.people, asked.batch_size)
    losses = []
    for i, batch in enumerate(tqdm(drawn, f"epoch {number}", steps, unit=" steps"), 1):
        loss = loss_of(training, lesson, batch, shown)
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise UserError(
                f"the loss of epoch {number}, step {i} is no finite number: lower --lr, --clip or "
                "--logit-scale"
            )
        (loss / asked.accumulate).backward()
        if i % asked.accumulate == 0 or i == steps:
            training.step()
    return float(np.mean(losses))


def loss_of(training: Training, lesson: Lesson, batch: Batch, shown: np.ndarray) -> Tensor:
    """The loss of a batch; each process embeds its share of it."""
    own = batch.rows[processes.share(batch.rows)]
    on_gpu = training.device.type == "cuda"
    with torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext():
        rows = training.trunk(lesson.feed.take(own, shown[own]).to(training.device))
    rows = processes.gather(rows.float(), len(batch.rows))
    targets = lesson.targets[torch.from_numpy(batch.rows)].to(training.device)
    drawn = batch.tuples or ()
    tuples = tuple(torch.from_numpy(places).to(training.device) for places in drawn)
    loss: Tensor = training.objective(rows, targets, tuples or None)
    return loss


def judge_epoch(training: Training, judged: Judge | None) -> tuple[float, float]:
    """The score and the spread of the weights that would be kept; see Epoch.

    Raises:
        UserError: all embeddings have become alike.
    """
    trunk, embed = training.trunk.eval(), training.trunk.features
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    if training.history:  # the untrained embedder has no projection
        trunk.load_state_dict(training.weights())
        embed = trunk
    score, spread = judged.score(embed, training.device) if judged else (0.0, 1.0)
    trunk.load_state_dict(before)
    score, spread = processes.agree(score), processes.agree(spread)
    if training.history:
        check_spread(training.history[0], score, spread)
    return score, spread


def check_spread(untrained: Epoch, score: float, spread: float) -> None:
    """Raises UserError where all embeddings have become alike."""
    alike = spread < COLLAPSED["spread"] * untrained.spread
    if alike and score < COLLAPSED["score"] * untrained.score:
        raise UserError(
            f"all embeddings have become alike (their spread is {spread:.1e}, untrained "
            f"{untrained.spread:.1e}; the validation score {score:.1f}): lower --lr, take --miner "
            "semihard, or add an objective of classes (cross_entropy+triplet)"
        )


def fit(training: Training, lesson: Lesson, judged: Judge | None, seed: int, keep: Keep) -> None:
    """Trains until the epochs, the patience or the minutes are over.

    judged: None in all processes but the first. keep: called after each epoch.
    """
    if not training.history:
        begin(training, judged)
    while not is_over(training.history, training.asked):
        epoch = do_epoch(training, lesson, lambda: judge_epoch(training, judged), seed)
        if training.best_epoch is epoch:
            training.best = training.weights()
        number, loss, score = epoch.epoch, epoch.train_loss, epoch.score
        log.info("epoch %d: loss %.3f, validation score %.1f", number, loss, score)
        keep(epoch)


def refit(training: Training, lesson: Lesson, epochs: int, seed: int, keep: Keep) -> None:
    """Trains for so many epochs, which nothing judges; the last one's weights are the best."""
    training.history = training.history or [Epoch(0, float("nan"), *UNJUDGED, 0.0, 0.0)]
    while len(training.history) <= epochs:
        epoch = do_epoch(training, lesson, lambda: UNJUDGED, seed)
        training.best = training.weights()
        log.info("all labelled pictures, epoch %d: loss %.3f", epoch.epoch, epoch.train_loss)
        keep(epoch)


def do_epoch(training: Training, lesson: Lesson, judge: Judging, seed: int) -> Epoch:
    """Trains for an epoch, judges it and puts it into the history."""
    start, number = time.perf_counter(), len(training.history)
    loss = train_epoch(training, lesson, seed)
    score, spread = judge()
    minutes = training.history[-1].minutes + (time.perf_counter() - start) / 60
    lr = float(training.schedule.get_last_lr()[0])
    training.history.append(Epoch(number, loss, score, spread, lr, processes.agree(minutes)))
    return training.history[-1]


def is_over(history: list[Epoch], asked: TrainSettings) -> bool:
    """Whether a training has come to its end: never before its first epoch."""
    done = len(history) - 1
    if done < 1:
        return False
    best = max(history[1:], key=lambda epoch: epoch.score).epoch
    late = asked.max_minutes is not None and history[-1].minutes >= asked.max_minutes
    return done >= asked.epochs or done - best >= asked.patience or late


# ---- kept on the disk ---------------------------------------------------------------------------


def origin(run: Run, embedder: Embedder, epochs: int | None) -> str:
    """What a training is made from: one that was made from something else is not gone on with.
    epochs: as for `learn`."""
    settings = asdict(run.settings.train) | asdict(run.settings.embed)
    settings = {k: v for k, v in settings.items() if k not in ("max_minutes", "log_to")}
    files = {name: file_hash(run.path(name)) for name in ("training.csv", "split.json")}
    seen = {
        "seed": run.seed,
        "weights": embedder.weights_id,
        "steps": str(judging_steps(run.settings.retrieve)),
        "torch": torch.__version__,
        "epochs of refit": epochs,
    }
    return json.dumps([settings, files, seen], sort_keys=True, default=str)


def write_checkpoint(path: Path, training: Training, made_from: str) -> None:
    """Writes a training whole or not at all."""
    with whole_file(path) as beside:
        torch.save({"made_from": made_from, **training.state()}, beside)


def write_history(path: Path, training: Training) -> pd.DataFrame:
    """Writes the table of a training's epochs, and returns it."""
    table = pd.DataFrame([asdict(epoch) for epoch in training.history])
    with whole_file(path) as beside:
        table.to_csv(beside, index=False)
    return table


def read_checkpoint(path: Path, training: Training, made_from: str) -> bool:
    """Takes up a training that was left unfinished; whether there is one that fits."""
    if not path.is_file():
        return False
    try:
        state = torch.load(path, map_location=training.device, weights_only=True)
    except Exception as error:  # what PyTorch raises for a damaged file is not documented
        log.warning("warning: %s cannot be read (%s): training begins anew", path, error)
        return False
    if state.get("made_from") != made_from:
        log.info("train: %s is of other settings or data: training begins anew", path)
        return False
    training.take_up(state)
    log.info("train: goes on after epoch %d", training.history[-1].epoch)
    return True


# ---- the stage ----------------------------------------------------------------------------------


def run_finetune(run: Run) -> str:
    """Trains as the settings ask for: model.safetensors, history.csv and training.png.

    Raises:
        UserError: nothing to judge by, a batch that cannot be formed, pictures of a size that the
            backbone cannot see, a loss that is not finite, or embeddings that collapse; each says
            what to change.
    """
    split, first = load_split(run), processes.number() == 0
    embedder, judged = learn(run, split["train"])
    kept = judged
    if run.settings.train.refit and judged.helps:
        embedder, kept = learn(run, all_labelled(split), judged.best_epoch.epoch)
    processes.agree(0)  # nobody removes a checkpoint before all have read it
    return finish(run, embedder, judged, kept) if first else ""


def learn(run: Run, pictures: Pictures, epochs: int | None = None) -> tuple[Embedder, Training]:
    """A training on these pictures, gone on with where a kill has ended it: as long as the
    validation says, or for so many epochs."""
    asked, first = run.settings.train, processes.number() == 0
    path, name = run.path(CHECKPOINT if epochs is None else REFIT), run.folder.resolve().name
    embedder = embedder_of(run.settings.embed, run.cache)
    with seeded(run.seed), threads_for(asked), processes.first_one_first():
        training, lesson, judged = prepare(run, embedder, pictures, judging=epochs is None)
    made_from, log_to = origin(run, embedder, epochs), asked.log_to if first else "none"
    name = f"{name}, {asked.objective}" + ("" if epochs is None else ", all labelled pictures")
    with (
        seeded(run.seed),
        threads_for(asked),
        track(log_to, "retrieval", name, asdict(asked), run.folder) as tell,
    ):
        read_checkpoint(path, training, made_from)

        def keep(epoch: Epoch) -> None:
            if first:
                write_checkpoint(path, training, made_from)
            tell(numbers_of(asdict(epoch)), epoch.epoch)

        if epochs is None:
            fit(training, lesson, judged if first else None, run.seed, keep)
        else:
            refit(training, lesson, epochs, run.seed, keep)
    return embedder, training


def prepare(
    run: Run, embedder: Embedder, pictures: Pictures, judging: bool
) -> tuple[Training, Lesson, Judge | None]:
    """Everything that a training on these pictures needs; what is frozen is embedded here, that of
    the validation only for judging."""
    asked = run.settings.train
    rows = rows_of(load_catalogue(run.path("training.csv")), pictures)
    names = sorted(set(pictures.values()))
    targets = np.array([names.index(identity) for identity in pictures.values()])
    people = group_people(targets, rows.domain.to_numpy(), names)
    pairs = compares_pairs(asked.objective)
    kind = asked.batches if asked.batches != "auto" else ("pk" if pairs else "shuffled")
    check_batches(kind, people, asked.batch_size, asked.per_person)
    embedder.set_projection(asked.embed_dim)
    scratch = run.settings.embed.weights == "none"
    trunk = Trunk(embedder, asked.unfreeze, learns_statistics=scratch)
    judged = Judge(run, embedder, trunk) if judging else None
    views = training_views(run, trunk)
    fresh = trunk.front is None and asked.train_views > 0
    feed = feed_of(run, embedder, trunk, rows, views, asked.train_side)
    lesson = Lesson(feed, torch.from_numpy(targets), people, kind, len(views), fresh)
    objective = Objective(asked, trunk.dim, np.bincount(targets))
    training = Training(trunk, objective, asked, steps_of(people, asked.batch_size))
    return training, lesson, judged


def begin(training: Training, judged: Judge | None) -> None:
    """Judges the untrained embedder, without a projection: what training has to beat."""
    score, spread = judge_epoch(training, judged)
    training.history = [Epoch(0, float("nan"), score, spread, 0.0, 0.0)]
    log.info("untrained: validation score %.1f", score)


def threads_for(asked: TrainSettings) -> AbstractContextManager[None]:
    """One thread where only a projection is trained, which is the same bytes on every machine and
    quick enough; a backbone takes all there are."""
    return one_thread() if asked.unfreeze == 0 else nullcontext()


def finish(run: Run, embedder: Embedder, judged: Training, kept: Training) -> str:
    """Writes what came of it; one line that says what.

    judged: the training that the validation has judged. kept: the one whose weights count.
    """
    asked, best, untrained = judged.asked, judged.best_epoch, judged.history[0].score
    tensors: State = {}
    if judged.helps:
        kept.trunk.load_state_dict(kept.best)
        tensors = trained_tensors(embedder.cpu(), kept.trunk)
    about = {"embed_dim": asked.embed_dim if judged.helps else None}
    table = write_history(run.path("history.csv"), judged)
    plots.save_png(plots.retrieval_curves(table), run.path("training.png"))
    save_tensors(run.path("model.safetensors"), embedder, tensors, **about)
    for name in (CHECKPOINT, REFIT):
        run.path(name).unlink(missing_ok=True)
    came_to = (
        f"best after epoch {best.epoch} of {len(table) - 1}, validation score {best.score:.1f}"
    )
    if not judged.helps:
        log.warning(
            "warning: the training does not beat the untrained embedder on the validation: not used"
        )
        return f"{asked.objective} not used: {came_to}, untrained {untrained:.1f}"
    again = "" if kept is judged else "; done again on all labelled pictures"
    return f"{asked.objective}: {came_to} (untrained {untrained:.1f}){again}"


def trained_tensors(embedder: Embedder, trunk: Trunk) -> State:
    """The embedder's tensors that training has changed, by their names in it."""
    changed = {id(tensor) for tensor in trunk.state_dict(keep_vars=True).values()}
    own = embedder.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in own.items() if id(tensor) in changed}
