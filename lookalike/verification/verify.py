"""Same person or not? Pairs of pictures by a protocol's folds, and any two pictures.

    lookalike verify score --data cfp --kind FP --backbone sface --run runs/cfp-sface
    lookalike verify train --data cfp --kind FP --backbone mobilenet_v2 --run runs/siamese
    lookalike verify pair A.jpg B.jpg --run runs/cfp-sface
    lookalike verify table runs/cfp-sface runs/siamese

`score` judges an embedder as it is; `train` trains a Siamese network for each fold on the people of
the others. Both leave a run folder: config.json, metrics.json, pairs.csv (the score of every pair),
roc.png, errors.jpg (the worst errors of both kinds), calibration.json, and `train` model and
history of each fold. `pair` asks such a run about two pictures: thresholds and probability are the
run's own, calibrated on its pairs.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

from lookalike.core.checks import check
from lookalike.core.errors import UserError
from lookalike.core.files import only_process, read_json, write_json
from lookalike.core.log import exit_code, log_to, report_each
from lookalike.core.options import as_arguments, parse
from lookalike.core.runs import versions
from lookalike.core.settings import EmbedSettings, Settings
from lookalike.data.catalogue import readable
from lookalike.features.extractor import FeatureExtractor, make_extractor
from lookalike.models.embedder import Embedder, embedder_of
from lookalike.verification.metrics import probability
from lookalike.verification.protocols import (
    Pairs,
    PairSettings,
    read_pairs,
    read_pictures,
    score_known,
)
from lookalike.verification.results import Answers, results_table, write_results
from lookalike.verification.scoring import (
    MADE_BY,
    one_view,
    plain_score,
    read_two,
    similarities,
    trained_score,
    vectors_of,
    without_face,
)
from lookalike.verification.siamese import SiameseSettings, check_siamese, make_inputs
from lookalike.verification.training import Work, do_fold, fold_folder, kept_fold


@dataclass
class Score:
    """Score a protocol's pairs by an embedder as it is."""

    pairs: PairSettings
    embed: EmbedSettings
    run: Path = Path("runs/pairs")
    """Run folder, for all that is made."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """What compares two pictures: the cosine of their embeddings, or the Euclidean distance of the
    features as they are. (Of embeddings, of length 1, it would say what the cosine says.)"""
    cache: Path = Path("cache")
    """Folder of the embedding cache."""


@dataclass
class Train:
    """Train a Siamese network for each fold, and score the fold's pairs."""

    pairs: PairSettings
    embed: EmbedSettings
    siamese: SiameseSettings
    run: Path = Path("runs/siamese")
    """Run folder, for all that is made."""
    folds: tuple[int, ...] = ()
    """Folds to test, each by a network of its own. Default: all."""
    seed: int = 0
    """Seed of every random choice."""
    cache: Path = Path("cache")
    """Folder of the embedding cache."""


@dataclass
class Pair:
    """Ask a run whether two pictures show the same person."""

    picture: tyro.conf.Positional[tuple[Path, Path]]
    """The two pictures."""
    run: Path = Path("runs/pairs")
    """Folder of a run that `score` or `train` made."""
    false_accept: float = 0.01
    """Share of pairs of strangers that may be called the same: 0.1, 0.01 or 0.001."""
    cache: Path = Path("cache")
    """Folder of the embedding cache."""
    json: bool = False
    """Print one JSON object and nothing else on standard output."""


@dataclass
class Table:
    """Print the measures of finished runs side by side."""

    run: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""


@dataclass
class Program:
    """Settings of this file as a program."""

    command: tyro.conf.OmitSubcommandPrefixes[Score | Train | Pair | Table]


# ---- what a run remembers -----------------------------------------------------------------------

NOT_REMEMBERED = ("run", "cache", "folds")


def flat(settings: Score | Train) -> dict[str, Any]:
    """All settings of a command by name, as JSON holds them; places absolute."""
    table: dict[str, Any] = {"command": type(settings).__name__.lower()}
    for name, value in asdict(settings).items():
        table |= value if isinstance(value, dict) else {name: value}
    if table["weights"] not in (None, "none"):
        table["weights"] = Path(table["weights"])
    for name, value in table.items():
        if isinstance(value, Path):
            table[name] = str(value.resolve())
        elif isinstance(value, tuple):
            table[name] = list(value)
    return table


def remembered(folder: Path, cache: Path) -> Score | Train:
    """The command that made a run.

    Raises:
        UserError: there is none, or its config.json cannot be used.
    """
    table = read_json(folder / "config.json", MADE_BY)
    if not isinstance(table, dict) or table.get("command") not in ("score", "train"):
        raise UserError(f"{folder}: is no run of lookalike verify score or train")
    words = as_arguments({k: v for k, v in table.items() if k not in ("command", "cache")})
    try:
        program = parse([table["command"], *words, f"--cache={cache}"], "lookalike verify", Program)
    except SystemExit as error:
        raise UserError(f"{folder}/config.json is damaged: make it anew with {MADE_BY}") from error
    made: Score | Train = program.command
    return made


def prepare(settings: Score | Train) -> tuple[Pairs, pd.DataFrame, FeatureExtractor]:
    """Reads a command's pairs and checks their pictures; (pairs, catalogue rows, how to embed)."""
    check(Settings(embed=settings.embed))
    made = settings.run / "config.json"
    if made.is_file() and "command" not in read_json(made, MADE_BY):
        raise UserError(f"{settings.run}: is a run of main.py; name another folder with --run")
    pairs = read_pairs(settings.pairs)
    rows = read_pictures(settings.pairs, pairs)
    embedder = embedder_of(settings.embed, settings.cache)
    extractor = make_extractor(
        settings.embed, embedder, settings.pairs.data, settings.cache, len(rows)
    )
    return pairs, rows, extractor


def finish(settings: Score | Train, made: Answers) -> None:
    """Writes what a command made, and how, and prints the measures."""
    (settings.run / "config.json").unlink(missing_ok=True)  # no settings beside others' calibration
    write_results(settings.run, made)
    write_json(settings.run / "versions.json", versions())
    write_json(settings.run / "config.json", flat(settings))
    print(results_table([settings.run]))


# ---- an embedder as it is -----------------------------------------------------------------------


def score(settings: Score) -> None:
    """The program's first command; see the top of this file."""
    pairs, rows, extractor = prepare(settings)
    good = rows[readable(rows)].reset_index(drop=True)
    vectors = vectors_of(extractor, good, settings.distance)
    scores = score_known(pairs.table, good, partial(similarities, vectors, settings.distance))
    finish(settings, Answers(settings.pairs.data, rows, pairs.table, scores))


# ---- trained networks ---------------------------------------------------------------------------


def train(settings: Train) -> None:
    """The program's second command. A fold that is done is not done again, unless something that it
    was made from has changed."""
    check_train(settings)
    pairs, rows, extractor = prepare(settings)
    table, good = pairs.table, rows[readable(rows)].reset_index(drop=True)
    folds = settings.folds or tuple(sorted(set(table.fold)))
    if unknown := sorted(set(folds) - set(table.fold)):
        raise UserError(f"--folds {unknown[0]}: the protocol has {sorted(set(table.fold))}")
    if table.fold.nunique() < 3:
        raise UserError("training needs three folds: to train on, to stop by, and to test")
    made_from = made_of(settings, pairs, good, extractor.embedder)
    results: dict[int, dict[str, Any]] = {}
    work = None
    for fold in tqdm(folds, "folds", unit=" folds"):
        results[fold] = kept_fold(settings.run, fold, made_from)
        if not results[fold]:
            work = work or make_work(settings, pairs, good, extractor)
            results[fold] = do_fold(work, fold, settings.run, made_from)
    tested = table[table.fold.isin(folds)]
    scores = np.full(len(table), np.nan)
    for fold, result in results.items():
        scores[table.fold == fold] = np.array(result["scores"], float)
    thresholds = {fold: result["threshold"] for fold, result in results.items()}
    made = Answers(settings.pairs.data, rows, tested, scores[tested.index], thresholds)
    finish(replace(settings, folds=folds), made)


def check_train(settings: Train) -> None:
    """Raises UserError for settings that a trained network cannot have."""
    check_siamese(settings.siamese)
    if settings.seed < 0:
        raise UserError(f"--seed {settings.seed}: must not be negative")
    if settings.embed.flip == "on" or settings.embed.scales != (1.0,):
        raise UserError("a trained network sees one view: --flip on and --scales are for score")
    if settings.embed.backbone.startswith("onnx:") and settings.siamese.layers != "none":
        raise UserError(f"--backbone {settings.embed.backbone} cannot be trained: --layers none")


def make_work(
    settings: Train, pairs: Pairs, good: pd.DataFrame, extractor: FeatureExtractor
) -> Work:
    """What all folds are trained with."""
    extractor = one_view(extractor)
    inputs = make_inputs(extractor, good, settings.siamese, settings.seed)
    known = (extractor.embedder, inputs, good, pairs.people, pairs.table)
    return Work(*known, settings.siamese, settings.seed)


def made_of(
    settings: Train, pairs: Pairs, good: pd.DataFrame, embedder: Embedder
) -> dict[str, Any]:
    """All that a fold's network depends on, as JSON holds it."""
    kept = {k: v for k, v in flat(settings).items() if k not in (*NOT_REMEMBERED, "data", "pairs")}
    listed = pairs.table[["fold", "a", "b", "same"]].to_csv() + good.to_csv()
    digest = hashlib.blake2b(listed.encode(), digest_size=16).hexdigest()
    return kept | {"weights": embedder.weights_id, "pictures": digest}


# ---- any two pictures ---------------------------------------------------------------------------


def pair(settings: Pair) -> None:
    """The program's third command; see the top of this file."""
    made = remembered(settings.run, settings.cache)
    calibration = read_json(settings.run / "calibration.json", MADE_BY)
    threshold = calibration["thresholds"].get(str(settings.false_accept))
    if threshold is None:
        kept = ", ".join(calibration["thresholds"])
        raise UserError(
            f"--false-accept {settings.false_accept}: {settings.run} is calibrated at {kept}"
        )
    photos = read_two(settings.picture)
    embedder = embedder_of(made.embed, settings.cache)
    extractor = make_extractor(made.embed, embedder, Path(), settings.cache, len(photos))
    if isinstance(made, Train):
        similarity = trained_score(
            extractor, photos, fold_folder(settings.run, made.folds[0]), made.siamese
        )
    else:
        similarity = plain_score(extractor, photos, made.distance)
    said = {
        "pictures": list(photos.photo),
        "without_face": without_face(extractor, photos),
        "similarity": round(similarity, 4),
        "probability": round(probability(calibration, similarity), 4),
        "same": similarity >= threshold,
        "threshold": round(threshold, 4),
        "false_accept": settings.false_accept,
    }
    report_each("pictures show no face: their middle was compared", without_face(extractor, photos))
    print(json.dumps(said) if settings.json else in_words(said, calibration))


def in_words(said: Mapping[str, Any], calibration: Mapping[str, Any]) -> str:
    """What `pair` prints."""
    verdict = "same person" if said["same"] else "not the same person"
    far = f"{100 * said['false_accept']:.4g} % false accepts"
    pairs = f"{calibration['same']:,} of {calibration['pairs']:,}"
    return (
        f"similarity   {said['similarity']:.4f}\n"
        f"probability  {said['probability']:.4f} that they show the same person, where as many "
        f"pairs do as in calibration ({pairs})\n"
        f"verdict      {verdict} (at {far}: similarity of at least {said['threshold']:.4f})"
    )


# ---- the program --------------------------------------------------------------------------------


def main(arguments: Iterable[str]) -> int:
    """Scores, trains, or asks; returns the exit code, 0 for either verdict."""
    what = "Same person or not? By a protocol's pairs, and for any two pictures."
    settings = parse(list(arguments), "lookalike verify", Program, what).command
    if isinstance(settings, Table):
        log_to(None)
        return exit_code(lambda: print(results_table(settings.run)))
    if isinstance(settings, Pair):
        log_to(None)
        return exit_code(lambda: pair(settings))
    log_to(settings.run)

    def work() -> None:
        with only_process(settings.run / ".lock", str(settings.run)):
            score(settings) if isinstance(settings, Score) else train(settings)

    return exit_code(work)
