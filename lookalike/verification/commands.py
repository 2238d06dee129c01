"""The commands of `lookalike verify`: score a protocol, train networks on it, decide on a pair.

Each run folder holds config.json (the settings), versions.json and the files of `write_results`;
a training run also the network and the history of each fold.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from lookalike.core.checks import check_bounds, check_scales
from lookalike.core.config import from_table, with_current_names
from lookalike.core.errors import UserError
from lookalike.core.files import write_json
from lookalike.core.log import report_each
from lookalike.core.readers import parse_json, read_json, read_text
from lookalike.core.runs import versions
from lookalike.core.sealed import read_sealed
from lookalike.data.catalogue import readable
from lookalike.features.extractor import Extractor, FeatureExtractor, make_extractors
from lookalike.models.embedder import Embedder
from lookalike.verification.metrics import Calibration, probability
from lookalike.verification.protocols import Pairs, read_pairs, read_pictures, score_readable
from lookalike.verification.results import ScoredPairs, results_table, write_results
from lookalike.verification.scoring import (
    embedding_similarity,
    feature_vectors,
    network_similarity,
    read_photos,
    similarities,
    single_view,
    without_face,
)
from lookalike.verification.settings import (
    MADE_BY,
    PairCommand,
    ScoreCommand,
    TrainCommand,
    check_train,
)
from lookalike.verification.siamese import make_inputs
from lookalike.verification.training import (
    FoldSetup,
    SavedFold,
    fold_folder,
    run_fold,
    saved_fold,
)

# Settings that a fold's network does not depend on.
NO_INPUTS = ("run", "cache", "folds", "data", "pairs")

# ---- the settings in a run folder ---------------------------------------------------------------


def flatten_command(command: ScoreCommand | TrainCommand) -> dict[str, Any]:
    """Return all settings of a command as a flat table that JSON can hold; paths are absolute."""
    table: dict[str, Any] = {"command": "score" if isinstance(command, ScoreCommand) else "train"}
    for name, value in asdict(command).items():
        table |= value if isinstance(value, dict) else {name: value}
    if table["weights"] not in (None, "none"):
        table["weights"] = Path(table["weights"])
    for name, value in table.items():
        if isinstance(value, Path):
            table[name] = str(value.resolve())
        elif isinstance(value, tuple):
            table[name] = list(value)
    return table


def read_command(folder: Path, cache: Path) -> ScoreCommand | TrainCommand:
    """Return the command that made a run.

    Args:
        folder: The run folder.
        cache: Embedding cache to use instead of the one in the run's settings.

    Raises:
        UserError: There is no such run, or its config.json cannot be used.
    """
    path = folder / "config.json"
    table = read_json(path, MADE_BY, dict[str, Any])
    kinds = {"score": ScoreCommand, "train": TrainCommand}
    if not isinstance(command := table.get("command"), str) or command not in kinds:
        raise UserError(f"{folder}: not a run of {MADE_BY}")
    settings = with_current_names(table, path) | {"run": str(folder), "cache": str(cache)}
    try:
        made_by: ScoreCommand | TrainCommand = from_table(kinds[command], settings)
        if isinstance(made_by, TrainCommand) and not made_by.folds:
            raise UserError("names no folds")
        return made_by
    except (UserError, TypeError) as error:  # of another type, or missing
        raise UserError(f"{path} is damaged ({error}): make it anew with {MADE_BY}") from error


# ---- what both kinds of run share ---------------------------------------------------------------


def load_inputs(
    command: ScoreCommand | TrainCommand,
) -> tuple[Pairs, pd.DataFrame, Extractor]:
    """Read a command's pairs, check their pictures, and load the embedder.

    Returns:
        The pairs, the catalogue rows of all their pictures, and the extractor.

    Raises:
        UserError: The settings, the protocol or the pictures cannot be used, or the run folder is
            that of another program.
    """
    check_bounds(command)
    check_scales(command.embed.scales)
    check_own_folder(command.run)
    pairs = read_pairs(command.pairs)
    rows = read_pictures(command.pairs, pairs)
    extractor = make_extractors(command.embed, command.pairs.data, command.cache, len(rows))
    return pairs, rows, extractor


def check_own_folder(run: Path) -> None:
    """Raise UserError where a run folder holds a run of another program, or what cannot be told."""
    config = run / "config.json"
    if not config.is_file():
        return
    try:
        settings = parse_json(read_text(config), str(config), dict[str, Any])
    except UserError as error:
        raise UserError(f"{error}; delete it, or name another folder with --run") from error
    if "command" not in settings:
        raise UserError(f"{run}: is a run of main.py; name another folder with --run")


def write_run(command: ScoreCommand | TrainCommand, scored: ScoredPairs) -> None:
    """Write the results and the settings of a run, and print the measures."""
    # config.json comes last: a killed run must not leave settings beside another's calibration.
    (command.run / "config.json").unlink(missing_ok=True)
    write_results(command.run, scored)
    write_json(command.run / "versions.json", versions())
    write_json(command.run / "config.json", flatten_command(command))
    print(results_table([command.run]))


# ---- an embedder as it is -----------------------------------------------------------------------


def score_protocol(command: ScoreCommand) -> None:
    """Score a protocol's pairs by an embedder as it is, and write the run.

    Raises:
        UserError: The settings, the protocol or the pictures cannot be used.
    """
    pairs, rows, extractor = load_inputs(command)
    good = rows[readable(rows)].reset_index(drop=True)
    vectors = feature_vectors(extractor, good, command.distance)
    scores = score_readable(pairs.table, good, partial(similarities, vectors, command.distance))
    write_run(command, ScoredPairs(command.pairs.data, rows, pairs.table, scores))


# ---- trained networks ---------------------------------------------------------------------------


def train_protocol(command: TrainCommand) -> None:
    """Train a network for each fold, score the fold's pairs by it, and write the run.

    A fold whose inputs have not changed since it was trained is not trained again.

    Raises:
        UserError: The settings, the protocol or the pictures cannot be used.
    """
    check_train(command)
    pairs, rows, found = load_inputs(command)
    extractor = single_view(found)
    table, good = pairs.table, rows[readable(rows)].reset_index(drop=True)
    folds = choose_folds(command.folds, table)
    inputs = fold_inputs(command, pairs, good, extractor.embedder)
    results: dict[int, SavedFold] = {}
    setup = None
    for fold in tqdm(folds, "folds", unit=" folds"):
        saved = saved_fold(command.run, fold, inputs)
        if saved is None or len(saved["scores"]) != (table.fold == fold).sum():
            setup = setup or make_setup(command, pairs, good, extractor)
            saved = run_fold(setup, fold, command.run, inputs)
        results[fold] = saved
    tested = table[table.fold.isin(folds)]
    scores = np.full(len(table), np.nan)
    for fold, result in results.items():
        scores[table.fold == fold] = np.array(result["scores"], float)
    thresholds = {fold: result["threshold"] for fold, result in results.items()}
    scored = ScoredPairs(command.pairs.data, rows, tested, scores[tested.index], thresholds)
    write_run(replace(command, folds=folds), scored)


def choose_folds(chosen: tuple[int, ...], table: pd.DataFrame) -> tuple[int, ...]:
    """Return the folds to test: those chosen, or all.

    Raises:
        UserError: The protocol lacks one of them, or has fewer than three folds.
    """
    folds = sorted(set(table.fold))
    if unknown := sorted(set(chosen) - set(folds)):
        raise UserError(f"--folds {unknown[0]}: the protocol has {folds}")
    if len(folds) < 3:
        raise UserError("training needs three folds: to train on, to stop by, and to test")
    return chosen or tuple(folds)


def make_setup(
    command: TrainCommand, pairs: Pairs, good: pd.DataFrame, extractor: FeatureExtractor
) -> FoldSetup:
    """Return what all folds are trained with."""
    inputs = make_inputs(extractor, good, command.siamese, command.seed)
    shared = (extractor.embedder, inputs, good, pairs.identities, pairs.table)
    return FoldSetup(*shared, command.siamese, command.seed)


def fold_inputs(
    command: TrainCommand, pairs: Pairs, good: pd.DataFrame, embedder: Embedder
) -> dict[str, Any]:
    """Return a description, as JSON holds it, of all that a fold's network depends on."""
    settings = {k: v for k, v in flatten_command(command).items() if k not in NO_INPUTS}
    listed = pairs.table[["fold", "a", "b", "same"]].to_csv() + good.to_csv()
    digest = hashlib.blake2b(listed.encode(), digest_size=16).hexdigest()
    return settings | {"weights": embedder.weights_id, "pictures": digest}


# ---- any two pictures ---------------------------------------------------------------------------


def compare_pair(command: PairCommand) -> None:
    """Print whether two pictures show the same person, by the calibration of a finished run.

    Raises:
        UserError: The run or a picture cannot be read, or the run is not calibrated at
            --false-accept.
    """
    origin = read_command(command.run, command.cache)
    calibration: Calibration = read_sealed(command.run / "calibration.json", MADE_BY, Calibration)
    threshold = calibration["thresholds"].get(str(command.false_accept))
    if threshold is None:
        available = ", ".join(calibration["thresholds"])
        raise UserError(
            f"--false-accept {command.false_accept}: {command.run} is calibrated at {available}"
        )
    photos = read_photos(command.picture)
    extractor = make_extractors(origin.embed, Path(), command.cache, len(photos))
    similarity = pair_similarity(origin, extractor, photos, command.run)
    missed = without_face(extractor, photos)
    answer = {
        "pictures": list(photos.photo),
        "without_face": missed,
        "similarity": round(similarity, 4),
        "probability": round(probability(calibration, similarity), 4),
        "same": similarity >= threshold,
        "threshold": round(threshold, 4),
        "false_accept": command.false_accept,
    }
    report_each("pictures show no face: their middle was compared", missed)
    print(json.dumps(answer) if command.json else describe_answer(answer, calibration))


def pair_similarity(
    origin: ScoreCommand | TrainCommand,
    extractor: Extractor,
    photos: pd.DataFrame,
    folder: Path,
) -> float:
    """Return the similarity of two pictures as the command that made a run scores pairs."""
    if isinstance(origin, ScoreCommand):
        return embedding_similarity(extractor, photos, origin.distance)
    fold = fold_folder(folder, origin.folds[0])
    return network_similarity(extractor, photos, fold, origin.siamese)


def describe_answer(answer: Mapping[str, Any], calibration: Calibration) -> str:
    """Return the text that is printed for a pair."""
    decision = "same person" if answer["same"] else "not the same person"
    rate = f"{100 * answer['false_accept']:.4g} % false accepts"
    share = f"{calibration['same']:,} of {calibration['pairs']:,}"
    return (
        f"similarity   {answer['similarity']:.4f}\n"
        f"probability  {answer['probability']:.4f} that they show the same person, if as many "
        f"pairs do as in the calibration ({share})\n"
        f"verdict      {decision} (at {rate}: similarity of at least {answer['threshold']:.4f})"
    )
