"""TODO lookalike.core.checks."""

import math
from typing import Any

from lookalike.core.errors import UserError
from lookalike.core.settings import (
    ExtractSettings,
    ReportSettings,
    RetrieveSettings,
    Settings,
    TrainSettings,
)


def check(settings: Settings) -> None:
    """Raises UserError for a value that has the right type but no meaning."""
    check_extract(settings.extract)
    check_report(settings.report)
    if not 0 <= settings.embed.crop_margin <= 5:
        raise UserError(f"--crop-margin {settings.embed.crop_margin}: must be from 0 to 5")
    check_least(settings.embed, image_size=8)
    _check_scales(settings.embed.scales)
    _check_cosines(settings.retrieve)
    _check_ensemble(settings.retrieve)
    check_training(settings.train)
    if not settings.general.stage:
        raise UserError("--stage: name at least one, or all")
    if not 0 < settings.submit.timeout <= 3600:
        raise UserError(f"--timeout {settings.submit.timeout}: must be above 0 and at most 3600")
    if settings.general.seed < 0:
        raise UserError(f"--seed {settings.general.seed}: must not be negative")


def check_extract(extract: ExtractSettings) -> None:
    """The same for the settings of one stage, which is also a program of its own."""
    if extract.source_path is not None and extract.source is None:
        raise UserError("--source-path is used with --source archive, folder or imdb: add it")
    if extract.metadata is not None and extract.source is None:
        raise UserError("--metadata is used with --source imdb: add it")
    # A test of one picture would have a query and no gallery.
    check_least(extract, min_pictures=1, min_size=1, train_per_person=1, test_per_person=2)


def check_training(train: TrainSettings) -> None:
    """The same for the settings of training."""
    check_least(train, epochs=0, batch_size=1, train_views=0, patience=1, embed_dim=1, projector=1)
    check_least(train, samples_per_class=2, accumulate=1, memory_size=0, train_image_size=8)
    if train.unfreeze != "all":
        check_least(train, unfreeze=0)
    above = {"lr": 1000, "logit_scale": 1000, "temperature": 100, "backbone_lr_scale": 100}
    for name, most in {
        **above,
        "layer_decay": 1,
        "clip_grad_norm": math.inf,
        "max_minutes": 1e6,
    }.items():
        value = getattr(train, name)
        if value is not None and not 0 < value <= most:
            raise UserError(f"{_option(name)} {value}: must be above 0 and at most {most}")
    for name, most in {
        "warmup": 1,
        "weight_decay": 10,
        "ema": 0.99999,
        "class_margin": 1.5,
    }.items():
        value = getattr(train, name)
        if value is not None and not 0 <= value <= most:
            raise UserError(f"{_option(name)} {value}: must be from 0 to {most}")
    if train.margin is not None and not 0 <= train.margin <= 2:
        raise UserError(f"--margin {train.margin}: must be from 0 to 2")
    _check_what_goes_together(train)


def _check_what_goes_together(train: TrainSettings) -> None:
    if train.memory_size and train.memory_size < train.batch_size:
        raise UserError(
            f"--memory-size {train.memory_size}: must hold a whole batch; raise it to {train.batch_size}"
        )
    if train.memory_size and train.sampler in ("triplets", "pairs"):
        raise UserError(
            f"--memory-size goes with --sampler pk or shuffled, not with {train.sampler}"
        )
    for name, why in {"refit": "is not judged by retrieval", "projector": "has none"}.items():
        if getattr(train, name) and train.is_linear_probe:
            raise UserError(
                f"{_option(name)}: the report's head, cross_entropy on a frozen backbone, {why}; "
                "name another --objective, or blocks of the backbone (--unfreeze 2)"
            )
    if train.train_image_size and train.unfreeze != "all":
        raise UserError(
            f"--train-image-size {train.train_image_size}: only where nothing is frozen; add "
            "--unfreeze all, or take it off by --train-image-size None"
        )
    if train.unfreeze == 0 and train.embed_dim is None and train.changes_embedding:
        raise UserError(
            f"--objective {train.objective}: nothing to train, since the backbone is frozen; name "
            "a projection (--embed-dim 512) or blocks of the backbone (--unfreeze 2)"
        )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_scales(scales: tuple[float, ...]) -> None:
    if not scales or len(set(scales)) < len(scales) or not all(0.1 <= s <= 10 for s in scales):
        named = " ".join(map(str, scales)) or "nothing"
        raise UserError(f"--scales {named}: one or more different numbers from 0.1 to 10")


def _check_cosines(settings: RetrieveSettings) -> None:
    for name in ("query_neighbors", "gallery_neighbors", "expand", "gallery_clusters"):
        value = getattr(settings, name)
        if value is not None and not 0 < value <= 1:
            raise UserError(f"{_option(name)} {value}: a cosine above 0 and up to 1")
    check_least(settings, whiten=1)


def check_report(report: ReportSettings) -> None:
    """The same for the settings of the report, which is also a program of its own."""
    check_least(report, report_queries=1, points=1, iterations=250)
    if not 1 < report.perplexity <= 10_000:
        raise UserError(f"--perplexity {report.perplexity}: must be above 1 and at most 10000")


def _check_ensemble(settings: RetrieveSettings) -> None:
    runs, weights = len(settings.ensemble), settings.ensemble_weights
    if runs == 1:
        raise UserError("--ensemble: name at least two runs")
    if runs and weights and len(weights) != runs:
        raise UserError(f"--ensemble-weights: {len(weights)} for {runs} runs; name one for each")
    if not all(0 < weight < math.inf for weight in weights):
        raise UserError(f"--ensemble-weights {' '.join(map(str, weights))}: must be above 0")


def check_least(group: Any, **least: int) -> None:
    """Raises UserError where a setting of the group, if it is given, is below its least value."""
    for name, low in least.items():
        value = getattr(group, name)
        if value is not None and value < low:
            raise UserError(f"{_option(name)} {value}: must be at least {low}")
