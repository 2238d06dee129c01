"""The rejection threshold of open-set identification, calibrated on a run's validation.

    calibration = load_calibration(run, extractor, settings, false_accept=0.01)
    calibration["threshold"]     # below this similarity a face is "unknown"

The threshold is the lowest that gives at most a chosen share of the pictures of unknown people a
name. Unknown are the identities of the validation that training never saw; where the embedding was
trained on all of them, there is no threshold to be had.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from lookalike.core.files import file_hash
from lookalike.core.log import log
from lookalike.core.readers import Finite, as_form, read_if_good
from lookalike.core.runs import Run
from lookalike.core.sealed import read_sealed, write_sealed
from lookalike.data.splits import Pictures, Split, unseen_split
from lookalike.evaluation.metrics import threshold_at
from lookalike.faces.dataset import detection_recipe
from lookalike.features.embedding import embed
from lookalike.features.extractor import FeatureExtractor
from lookalike.identification.references import (
    Match,
    labeled_pictures,
    make_references,
    match_rows,
)
from lookalike.identification.settings import ReferenceSettings

CALIBRATION = "identify.json"


class Uncalibrated(TypedDict):
    """The content of identify.json where there is no threshold; `threshold` is None."""

    threshold: Finite | None
    method: str
    made_from: dict[str, Any]


class Calibrated(Uncalibrated):
    """The content of identify.json, see `calibrate_threshold`."""

    false_accept: Finite
    false_reject: Finite
    misnamed: Finite
    known: str
    strangers: str


def choose_impostors(split: Split, seed: int, trained: bool) -> set[str]:
    """Return the identities that calibration treats as unknown.

    These are the identities of the validation that are not trained on. Where all of them are, a
    fifth of the identities serves, drawn by the seed, if the embedding was not trained: one that
    was has learned to tell them apart, and would promise too much. Empty where there are too few.

    Args:
        split: Of the labeled pictures.
        seed: Of the draw.
        trained: Whether training has changed the embedding.
    """
    seen = sorted(set(split.train.values()))
    validated = {name for part in split.validation for name in part.values()}
    if trained or validated - set(seen) or len(seen) < 2:
        return validated - set(seen)
    drawn = np.random.default_rng([seed, 5]).permutation(seen)
    return set(drawn[: max(1, round(0.2 * len(seen)))].tolist())


def calibrate_threshold(
    embeddings: Mapping[str, np.ndarray],
    split: Split,
    settings: ReferenceSettings,
    false_accept: float,
    seed: int,
    trained: bool = False,
    identities: int | None = None,
) -> dict[str, Any]:
    """Choose the rejection threshold, and measure what it does to known identities.

    The references are the split's `train` pictures; held-out pictures of the same identities are
    the genuine ones, and all pictures of the impostors (see `choose_impostors`) the others.

    Args:
        embeddings: {path: unit row} of the split's pictures.
        split: Of the labeled pictures.
        settings: How identities are represented.
        false_accept: Maximum share of impostors' pictures that are given a name.
        seed: Seed of the impostors' choice and of the clustering.
        trained: Whether training has changed the embedding.
        identities: How many identities are known where the threshold is used; None: as many as
            here. An impostor has a chance to be like each of them, so that the rate that is allowed
            here is 1 - (1 - false_accept)^(here / there).

    Returns:
        The table of `error_rates`, with a description of the two sets of pictures: "known" and
        "strangers". {"threshold": None} where one of the sets is empty.
    """
    impostors = choose_impostors(split, seed, trained)

    def without_impostors(pictures: Pictures) -> Pictures:
        return {path: name for path, name in pictures.items() if name not in impostors}

    known, genuine = without_impostors(split.train), without_impostors(split.holdout)
    others = [path for path, name in split.labeled.items() if name in impostors]
    if not (known and genuine and others):
        return {"threshold": None}
    rows = np.stack([embeddings[path] for path in known])
    references = make_references(rows, list(known.values()), settings, seed)

    def best_matches(paths: Iterable[str]) -> list[Match]:
        queries = np.stack([embeddings[path] for path in paths])
        return [matches[0] for matches in match_rows(queries, references, settings)]

    here = len(set(known.values()))
    allowed = 1 - (1 - false_accept) ** (here / (identities or here))
    matches, names = best_matches(genuine), list(genuine.values())
    return error_rates(matches, names, best_matches(others), allowed) | {
        "known": f"{len(genuine)} pictures of {len(set(known.values()))} people",
        "strangers": f"{len(others)} pictures of {len(impostors)} people",
    }


def error_rates(
    genuine: Sequence[Match],
    identities: Sequence[str],
    impostors: Sequence[Match],
    false_accept: float,
) -> dict[str, Any]:
    """Choose the threshold for a false accept rate, and measure all error rates at it.

    Args:
        genuine: The best match of each picture of a known identity.
        identities: The true identity of each of them.
        impostors: The best match of each picture of an unknown identity.
        false_accept: Maximum share of impostors that are given a name.

    Returns:
        {"threshold", "false_accept", "false_reject", "misnamed"}: the threshold; the share of
        impostors that are given a name; the shares of genuine pictures that are called unknown, and
        that are given another's name.
    """
    scores = np.array([match.similarity for match in impostors])
    threshold = threshold_at(scores, false_accept)
    accepted = np.array([match.similarity >= threshold for match in genuine])
    correct = np.array(
        [match.identity == name for match, name in zip(genuine, identities, strict=True)]
    )
    return {
        "threshold": threshold,
        "false_accept": float((scores >= threshold).mean()),
        "false_reject": float((~accepted).mean()),
        "misnamed": float((accepted & ~correct).mean()),
    }


def load_calibration(
    run: Run,
    extractor: FeatureExtractor,
    settings: ReferenceSettings,
    false_accept: float,
    identities: int | None = None,
) -> dict[str, Any]:
    """Return the calibration of a run, stored in its identify.json until its inputs change.

    The log says what error rates the threshold has, or that there is none.

    Args:
        run: The run, whose labeled pictures and split are used.
        extractor: Embeds faces.
        settings: How identities are represented.
        false_accept: Maximum share of impostors' pictures that are given a name.
        identities: How many identities are known where it is used; None: as many as here.

    Returns:
        The table of `calibrate_threshold`, with the method and the inputs.
    """
    split, pictures = unseen_split(run), labeled_pictures(run)
    inputs = calibration_inputs(run, extractor, settings, false_accept)
    inputs |= {} if identities is None else {"identities": identities}
    trained = run.settings.train.changes_embedding
    path = run.path(CALIBRATION)
    stored = read_if_good(read_calibration, path, "calibrated again")
    if stored is None or stored["made_from"] != inputs:
        embeddings = dict(zip(pictures.path, embed(extractor, pictures), strict=True))
        result = calibrate_threshold(
            embeddings, split, settings, false_accept, run.seed, trained, identities
        )
        stored = {"method": settings.method, **result, "made_from": inputs}
        write_sealed(path, stored)
    log_calibration(stored, run)
    return stored


def read_calibration(path: Path) -> dict[str, Any]:
    """Read an identify.json.

    Raises:
        UserError: The file is missing or damaged.
    """
    record: dict[str, Any] = read_sealed(path, "lookalike identify", dict[str, Any])
    form = Uncalibrated if record.get("threshold") is None else Calibrated
    record = as_form(record, str(path), form)
    return record


def log_calibration(calibration: Mapping[str, Any], run: Run) -> None:
    """Log the threshold and its error rates, or a warning that there is none."""
    if calibration["threshold"] is None:
        log.warning(
            "warning: %s has no unseen identities to calibrate on: every face is given a name",
            run.folder,
        )
        return
    log.info(
        "threshold %.3f (%s): %.1f %% of unknown people's pictures are given a name (%s); of known "
        "people's pictures, %.1f %% are called unknown and %.1f %% are given another's name (%s)",
        calibration["threshold"],
        calibration["method"],
        100 * calibration["false_accept"],
        calibration["strangers"],
        100 * calibration["false_reject"],
        100 * calibration["misnamed"],
        calibration["known"],
    )


def calibration_inputs(
    run: Run, extractor: FeatureExtractor, settings: ReferenceSettings, false_accept: float
) -> dict[str, Any]:
    """Return the state of everything that a calibration depends on."""
    files = ("model.safetensors", "training.csv", "split.json")
    return {
        **{name: file_hash(run.path(name)) for name in files},
        "preprocessing": extractor.embedder.preprocessing.key,
        "faces": f"{detection_recipe(extractor.finder)}, flip {extractor.flip}",
        "method": f"{settings.method} {settings.representatives} {settings.neighbors}",
        "false_accept": false_accept,
        "seed": run.seed,
    }
