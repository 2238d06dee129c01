"""Trains what the settings ask for -> model.safetensors.

Every objective but the default, and every block of a backbone, is trained by finetune.py. Here is
the report's head: dropout and a linear classifier on the backbone's features, cross-entropy, Adam.
The backbone is frozen, so it runs once a picture (and augmented view), not once an epoch: training
reads cached features. Without --embed-dim the classifier is all that is trained, and the embedding
is the backbone's own; with it, a linear projection before the classifier is, and becomes the
embedding.
"""

from importlib import import_module

from lookalike.core.log import log
from lookalike.core.runs import Run
from lookalike.data.splits import load_split
from lookalike.training import distributed as processes
from lookalike.training.linear_head import train_report_head

TRAIN, OVER = 1.0, 0.0  # what the first of several processes tells the others


def train_by_retrieval(run: Run) -> str:
    """The stage's work where retrieval judges; its libraries, which take seconds to import, are
    left alone by the default."""
    made: str = import_module("lookalike.training.finetune").run_finetune(run)
    return made


def run_train(run: Run) -> str:
    """The stage: model.safetensors and history.csv, a row an epoch."""
    settings = run.settings.train
    if settings.augmentation != "weak" and not settings.train_views:
        log.warning("warning: --augmentation is of --train-views, and there are none")
    if (
        not settings.is_linear_probe
        and settings.epochs
        and load_split(run.path("split.json")).train
    ):
        processes.agree(TRAIN)
        return train_by_retrieval(run)
    run.path("training.png").unlink(missing_ok=True)
    return train_report_head(run)


def help_training(run: Run) -> None:
    """What all processes but the first do: its call is to train with it, or that all is over."""
    while processes.agree(OVER) == TRAIN:
        train_by_retrieval(run)
