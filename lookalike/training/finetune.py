"""Training that is judged by retrieval: fine-tunes an embedder -> the best epoch's weights.

    python main.py --stage all --objective arcface --embed-dim 512 --epochs 20
    python main.py --stage all --objective arcface+0.1*triplet --unfreeze 4 --train-views 4

After each epoch the validation's gallery is ranked for its queries: the best score is the best
epoch, and a training that does not beat the untrained embedder is not used. With --refit, one that
does is done again on all labelled pictures, for as many epochs. What a killed training has come to
stands in training.pt or refit.pt, and the same command goes on from there to the same weights.
"""

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict

import numpy as np
import torch

from lookalike.core.files import file_hash
from lookalike.core.log import log
from lookalike.core.numeric import one_thread, seeded
from lookalike.core.runs import Run
from lookalike.core.settings import TrainSettings, judging_steps
from lookalike.data.catalogue import load_catalogue, rows_of
from lookalike.data.splits import Pictures, load_split
from lookalike.models.checkpoints import save_tensors
from lookalike.models.embedder import Embedder, embedder_of
from lookalike.training import distributed as processes
from lookalike.training.inputs import inputs_of, training_views
from lookalike.training.loggers import numbers_of, track
from lookalike.training.losses import Objective, compares_pairs
from lookalike.training.samplers import check_batches, group_people, steps_of
from lookalike.training.trainable import TrainableEmbedder
from lookalike.training.trainer import (
    Epoch,
    State,
    Training,
    TrainingData,
    fit,
    read_checkpoint,
    refit,
    write_checkpoint,
    write_history,
)
from lookalike.training.validation import RetrievalValidator
from lookalike.viz import plots

CHECKPOINT, REFIT = "training.pt", "refit.pt"


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


def run_finetune(run: Run) -> str:
    """Trains as the settings ask for: model.safetensors, history.csv and training.png.

    Raises:
        UserError: nothing to judge by, a batch that cannot be formed, pictures of a size that the
            backbone cannot see, a loss that is not finite, or embeddings that collapse; each says
            what to change.
    """
    split, first = load_split(run.path("split.json")), processes.number() == 0
    embedder, judged = learn(run, split.train)
    kept = judged
    if run.settings.train.refit and judged.helps:
        embedder, kept = learn(run, split.labeled, judged.best_epoch.epoch)
    processes.agree(0)  # nobody removes a checkpoint before all have read it
    return finish(run, embedder, judged, kept) if first else ""


def learn(run: Run, pictures: Pictures, epochs: int | None = None) -> tuple[Embedder, Training]:
    """A training on these pictures, gone on with where a kill has ended it: as long as the
    validation says, or for so many epochs."""
    settings, first = run.settings.train, processes.number() == 0
    path, name = run.path(CHECKPOINT if epochs is None else REFIT), run.folder.resolve().name
    embedder = embedder_of(run.settings.embed, run.cache)
    with seeded(run.seed), threads_for(settings), processes.first_one_first():
        training, training_data, judged = prepare(run, embedder, pictures, judging=epochs is None)
    made_from, log_to = origin(run, embedder, epochs), settings.log_to if first else "none"
    name = f"{name}, {settings.objective}" + ("" if epochs is None else ", all labelled pictures")
    with (
        seeded(run.seed),
        threads_for(settings),
        track(log_to, "retrieval", name, asdict(settings), run.folder) as tell,
    ):
        read_checkpoint(path, training, made_from)

        def keep(epoch: Epoch) -> None:
            if first:
                write_checkpoint(path, training, made_from)
            tell(numbers_of(asdict(epoch)), epoch.epoch)

        if epochs is None:
            fit(training, training_data, judged if first else None, run.seed, keep)
        else:
            refit(training, training_data, epochs, run.seed, keep)
    return embedder, training


def prepare(
    run: Run, embedder: Embedder, pictures: Pictures, judging: bool
) -> tuple[Training, TrainingData, RetrievalValidator | None]:
    """Everything that a training on these pictures needs; what is frozen is embedded here, that of
    the validation only for judging."""
    settings = run.settings.train
    rows = rows_of(load_catalogue(run.path("training.csv")), pictures)
    names = sorted(set(pictures.values()))
    targets = np.array([names.index(identity) for identity in pictures.values()])
    people = group_people(targets, rows.domain.to_numpy(), names)
    pairs = compares_pairs(settings.objective)
    kind = settings.sampler if settings.sampler != "auto" else ("pk" if pairs else "shuffled")
    check_batches(kind, people, settings.batch_size, settings.samples_per_class)
    embedder.set_projection(settings.embed_dim)
    scratch = run.settings.embed.weights == "none"
    trainable = TrainableEmbedder(embedder, settings.unfreeze, learns_statistics=scratch)
    judged = RetrievalValidator(run, embedder, trainable) if judging else None
    views = training_views(run, trainable)
    fresh = trainable.frozen is None and settings.train_views > 0
    inputs = inputs_of(run, embedder, trainable, rows, views, settings.train_image_size)
    training_data = TrainingData(inputs, torch.from_numpy(targets), people, kind, len(views), fresh)
    objective = Objective(settings, trainable.dim, np.bincount(targets))
    training = Training(trainable, objective, settings, steps_of(people, settings.batch_size))
    return training, training_data, judged


def threads_for(settings: TrainSettings) -> AbstractContextManager[None]:
    """One thread where only a projection is trained, which is the same bytes on every machine and
    quick enough; a backbone takes all there are."""
    return one_thread() if settings.unfreeze == 0 else nullcontext()


def finish(run: Run, embedder: Embedder, judged: Training, kept: Training) -> str:
    """Writes what came of it; one line that says what.

    judged: the training that the validation has judged. kept: the one whose weights count.
    """
    settings, best, untrained = judged.settings, judged.best_epoch, judged.history[0].score
    tensors: State = {}
    if judged.helps:
        kept.trainable.load_state_dict(kept.best)
        tensors = trained_tensors(embedder.cpu(), kept.trainable)
    about = {"embed_dim": settings.embed_dim if judged.helps else None}
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
        return f"{settings.objective} not used: {came_to}, untrained {untrained:.1f}"
    again = "" if kept is judged else "; done again on all labelled pictures"
    return f"{settings.objective}: {came_to} (untrained {untrained:.1f}){again}"


def trained_tensors(embedder: Embedder, trainable: TrainableEmbedder) -> State:
    """The embedder's tensors that training has changed, by their names in it."""
    changed = {id(tensor) for tensor in trainable.state_dict(keep_vars=True).values()}
    own = embedder.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in own.items() if id(tensor) in changed}
