"""Learns a backbone without labels, by SimCLR -> weights for --weights.

    python main.py --stage split crop --run runs/x --backbone resnet18 --weights none
    lookalike simclr runs/x --epochs 100
    python main.py --stage all --run runs/y --weights runs/x/simclr/epoch_100.safetensors …

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020): two
views of a picture are to be alike and all others not. Only the training pictures of a run are
seen; what comes on top, a linear head or a triplet stage, is the train stage's. P@9, the mean share
of a validation picture's nine nearest that show the same person, says whether people are learnt or
poses. A run that was killed goes on, by the same command, after its last whole epoch.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from pytorch_metric_learning.losses import NTXentLoss
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

from lookalike.core.checks import check_least
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, only_process, whole_file
from lookalike.core.log import exit_code, log, log_to
from lookalike.core.numeric import seeded
from lookalike.core.options import parse
from lookalike.core.runs import Run, open_run
from lookalike.core.settings import TrainSettings
from lookalike.data.catalogue import load_catalogue, rows_of
from lookalike.data.splits import load_split
from lookalike.features.loader import PLAIN, random_views
from lookalike.models.embedder import Embedder, embedder_of
from lookalike.training.inputs import Pixels, pixels_of
from lookalike.training.losses import projector
from lookalike.training.trainable import TrainableEmbedder
from lookalike.training.trainer import (
    Epoch,
    Training,
    read_checkpoint,
    write_checkpoint,
    write_history,
)

NEAREST = 9
KEPT_EVERY = 10  # epochs
CHUNK = 64  # pictures embedded at once


@dataclass
class Program:
    """Settings of this file as a program; backbone, weights, crop and side are those of the run."""

    run: tyro.conf.Positional[Path]
    """Run folder whose pictures are split (and cropped, where the backbone wants faces)."""
    epochs: int = 100
    """Passes over the training pictures."""
    batch_size: int = 64
    """Pictures in a step; each is seen in two views."""
    lr: float = 1e-3
    """Learning rate of AdamW."""
    temperature: float = 0.1
    """What cosines are divided by."""
    views: Literal["two", "one"] = "two"
    """Two augmented views of each picture, or one beside the picture as it is."""
    width: int = 128
    """Width of the projection that the loss sees; the backbone's own features are kept."""


class Contrast(nn.Module):
    """The projection head, two layers, and NT-Xent: features of both views -> their loss."""

    def __init__(self, dim: int, width: int, temperature: float) -> None:
        super().__init__()
        self.head = projector(dim, width)
        self.loss = NTXentLoss(temperature)

    def forward(self, features: Tensor) -> Tensor:
        """(2N, dim), the second views behind the first ones -> the mean loss."""
        pairs = torch.arange(len(features) // 2, device=features.device).repeat(2)
        loss: Tensor = self.loss(self.head(features), pairs)
        return loss


def precision_at_9(rows: np.ndarray, identities: Sequence[str]) -> float:
    """P@9: the mean share of each picture's nine nearest others that show the same person.

    rows: (N, D) of length 1. Of fewer than ten pictures, all others count.

    >>> rows = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    >>> round(precision_at_9(rows, ["ada", "ada", "bob", "bob"]), 3)
    0.333
    """
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    names = np.unique(np.asarray(identities), return_inverse=True)[1]
    near = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEAREST, len(rows) - 1)]
    return float((names[near] == names[:, None]).mean())


def learn(run: Run, program: Program) -> str:
    """Trains, keeps the backbone every ten epochs and at the end; one line that says what came."""
    folder = run.path("simclr")
    embedder = embedder_of(run.settings.embed, run.cache)
    with seeded(run.seed):
        trainable = TrainableEmbedder(
            embedder, "all", learns_statistics=run.settings.embed.weights == "none"
        )
        contrast = Contrast(trainable.dim, program.width, program.temperature)
        pictures, validation = pictures_of(run, embedder, program.epochs)
        count = len(pictures.rows)
        if count < program.batch_size:
            raise UserError(
                f"--batch-size {program.batch_size}: there are {count} training pictures; lower it"
            )
        training = Training(trainable, contrast, settings_of(program), count // program.batch_size)
        settings = {name: value for name, value in asdict(program).items() if name != "run"}
        files = [file_hash(run.path(name)) for name in ("training.csv", "split.json")]
        seen = [settings, str(run.settings.embed), embedder.weights_id, files, run.seed]
        made_from = json.dumps(seen, default=str)
        if not read_checkpoint(folder / "training.pt", training, made_from):
            training.history = [Epoch(0, float("nan"), judge(training, *validation), 0.0, 0.0, 0.0)]
        while len(training.history) <= program.epochs:
            do_epoch(training, pictures, validation, program, run.seed)
            number = training.history[-1].epoch
            if number % KEPT_EVERY == 0 or number == program.epochs:
                keep(embedder, folder / f"epoch_{number:03}.safetensors")
            # Last: what is kept of an epoch is there before the epoch counts as done.
            write_checkpoint(folder / "training.pt", training, made_from)
    write_history(folder / "history.csv", training)
    first, last = training.history[0], training.history[-1]
    return f"P@9 {first.score:.3f} -> {last.score:.3f} after {last.epoch} epochs: {folder}/"


def settings_of(program: Program) -> TrainSettings:
    """The same as those of the train stage, where all blocks learn at one rate."""
    return TrainSettings(
        unfreeze="all", epochs=program.epochs, lr=program.lr, backbone_lr_scale=1.0, layer_decay=1.0
    )


Validation = tuple[Pixels, list[str]]


def pictures_of(run: Run, embedder: Embedder, epochs: int) -> tuple[Pixels, Validation]:
    """The training pictures, in two strong views for each epoch, and those of the validation with
    their people."""
    catalogue, split = load_catalogue(run.path("training.csv")), load_split(run.path("split.json"))
    known = split.validation.query | split.validation.gallery
    if len(known) < 2:
        raise UserError("the validation has no two pictures to judge by: run --stage split anew")
    views = [PLAIN, *random_views(2 * epochs, run.seed, "strong")]
    judged = pixels_of(run, embedder, rows_of(catalogue, known), [PLAIN]), list(known.values())
    return pixels_of(run, embedder, rows_of(catalogue, split.train), views), judged


def do_epoch(
    training: Training, pictures: Pixels, validation: Validation, program: Program, seed: int
) -> None:
    """One pass over the training pictures, and its P@9."""
    start, number = time.perf_counter(), len(training.history)
    rng = np.random.default_rng([seed, 7, number])
    torch.manual_seed(int(rng.integers(2**62)))
    order, size = rng.permutation(len(pictures.rows)), program.batch_size
    losses = []
    training.trainable.train()
    steps = range(0, len(order) - size + 1, size)
    for place in tqdm(steps, f"epoch {number}", unit=" steps"):
        both = two_views(pictures, order[place : place + size], number, program.views)
        loss = training.objective(training.trainable(both.to(training.device)))
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise UserError(f"the loss of epoch {number} is no finite number: lower --lr")
        loss.backward()
        training.step()
    score, before = judge(training, *validation), training.history[-1].minutes
    minutes = before + (time.perf_counter() - start) / 60
    lr = float(training.schedule.get_last_lr()[0])
    training.history.append(Epoch(number, float(np.mean(losses)), score, 0.0, lr, minutes))
    log.info("epoch %d: loss %.3f, P@9 %.3f", number, np.mean(losses), score)


def two_views(pictures: Pixels, indices: np.ndarray, epoch: int, kind: str) -> Tensor:
    """(2N, 3, side, side), normalised: the first views, then the second ones; epochs from 1."""
    first = 0 if kind == "one" else 2 * epoch - 1
    return pictures.take(np.tile(indices, 2), np.repeat([first, 2 * epoch], len(indices)))


@torch.inference_mode()
def judge(training: Training, pictures: Pixels, identities: list[str]) -> float:
    """P@9 of the validation's pictures."""
    training.trainable.eval()
    chunks = np.array_split(np.arange(len(identities)), -(-len(identities) // CHUNK))
    taken = [pictures.take(chunk, np.zeros_like(chunk)).to(training.device) for chunk in chunks]
    rows = torch.cat([normalize(training.trainable(part), dim=1).cpu() for part in taken])
    return precision_at_9(rows.numpy(), identities)


def keep(embedder: Embedder, path: Path) -> None:
    """Writes the backbone's weights as --weights takes them."""
    state = {k: v.detach().cpu().contiguous() for k, v in embedder.backbone.state_dict().items()}
    with whole_file(path) as beside:
        save_file(state, beside)


def main(arguments: Sequence[str]) -> int:
    """Learns from one run's pictures; returns the exit code."""
    program = parse(
        list(arguments), "lookalike simclr", Program, "Learns a backbone without labels."
    )
    log_to(None)

    def work() -> None:
        check_least(program, epochs=1, batch_size=2, width=1)
        if not (0 < program.lr <= 1000 and 0 < program.temperature <= 100):
            raise UserError("--lr and --temperature: must be above 0, at most 1000 and 100")
        run = open_run(program.run)
        with only_process(run.path(".lock"), str(run.folder)):
            log_to(run.folder)
            print(learn(run, program))

    return exit_code(work)
