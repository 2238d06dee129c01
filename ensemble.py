"""Several runs as one: which they are, that they fit together, and how what they find is fused.

    python main.py --stage retrieve evaluate --run runs/both --ensemble runs/a runs/b
    python main.py --stage retrieve evaluate --run runs/both --fusion ranks --ensemble-weights 2 1

The members are finished runs on one data set with one split: other backbones, crops, seeds of the
head. The run itself holds the fused submission, its validation and its scores.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from config import CHANGED, RetrieveSettings, Settings, UserError, parse_settings, read_config
from data import load_catalogue
from runs import Run, file_hash, log, whole_file

DEFAULT_FOLDER = "runs/ensemble"
# What an ensemble takes over from its first member, unless it is told otherwise.
INHERITED = ("data", "cache", "labels", "seed", "split", "domain_pattern", "query_domain")
# What it takes over from a member that has been trained on the validation too.
REFITTED = (*CHANGED, "epochs")
# What members must have in common, and the settings that make it.
SHARED = {
    "test.csv": "--data",
    "training.csv": "--data and --domain-pattern",
    "split.json": "--split, --seed and --query-domain",
}
OWN = ("config.json", "model.safetensors", "gallery.json", "validation_gallery.json")
RANK_OFFSET = 60  # of reciprocal rank fusion, as its authors chose it


# ---- the members --------------------------------------------------------------------------------


def inherited(settings: Settings) -> dict[str, Any]:
    """The settings that an ensemble has from its first member, and from one with --refit if there
    is any, a table as of a config file; empty for a run that is none.

    Raises:
        UserError: a member is no finished run.
    """
    if not settings.retrieve.ensemble:
        return {}
    for folder in settings.retrieve.ensemble:
        _require_finished(folder)
    tables = [read_config(folder / "config.json") for folder in settings.retrieve.ensemble]
    refitted = next((table for table in tables if table.get("refit")), {})
    taken = [(tables[0], INHERITED), (refitted, REFITTED)]
    found = {name: table[name] for table, names in taken for name in names if name in table}
    return {"run": DEFAULT_FOLDER} | found


def members(run: Run) -> list[Run]:
    """The runs whose embeddings a run ranks by: those of its --ensemble, or itself.

    They read the pictures where the run does. To be concatenated they come with the run's
    post-processing; to have their scores or ranks fused, each with its own.

    Raises:
        UserError: a member that is no finished run, or that was made on other data.
    """
    asked = run.settings.retrieve
    if not asked.ensemble:
        return [run]
    found = [_member(run, folder) for folder in asked.ensemble]
    for name, settings in SHARED.items():
        for member in found[1:]:
            if file_hash(member.path(name)) != file_hash(found[0].path(name)):
                raise UserError(
                    f"--ensemble {member.folder}: its {name} is not that of {found[0].folder}: "
                    f"make both with the same {settings}"
                )
    return found


def _member(run: Run, folder: Path) -> Run:
    _require_finished(folder)
    settings = parse_settings([], folder / "config.json")
    if settings.retrieve.ensemble:
        raise UserError(f"--ensemble {folder}: is an ensemble itself; name its members instead")
    asked = run.settings.retrieve
    if asked.fusion == "concat":
        return Run(folder, run.data, replace(settings, retrieve=asked))
    # What the rules forbid is forbidden to every member.
    settings.retrieve.no_transductive |= asked.no_transductive
    return Run(folder, run.data, settings)


def _require_finished(folder: Path) -> None:
    lacking = [name for name in (*OWN, *SHARED) if not (folder / name).is_file()]
    if lacking:
        raise UserError(
            f"--ensemble {folder}: no finished run there ({lacking[0]} is missing); make it with "
            f"--stage all --run {folder}"
        )


def adopt(run: Run) -> None:
    """Gives an ensemble the catalogue and the split of its members.

    Raises:
        UserError: see `members`; or the run's data set is not theirs, or it is a run by itself.
    """
    if run.path("model.safetensors").exists():
        raise UserError(f"--run {run.folder}: has a model of its own; name another for --ensemble")
    first = members(run)[0]
    _warn_of_steps(run)
    paths = load_catalogue(first.path("test.csv")).path
    gone = next((path for path in paths if not (run.data / path).is_file()), None)
    if gone is not None:
        raise UserError(
            f"--data {run.data}: lacks {gone}, which {first.folder} was made from; name the data "
            "set of the --ensemble"
        )
    for name in SHARED:
        if file_hash(run.path(name)) != file_hash(first.path(name)):
            with whole_file(run.path(name)) as beside:
                shutil.copyfile(first.path(name), beside)


def _warn_of_steps(run: Run) -> None:
    """Says where steps that a run was given are not those that its fusion takes."""
    asked = run.settings.retrieve
    other = replace(
        asked, format="mapping", index="exact", ensemble=(), fusion="concat", ensemble_weights=()
    )
    if asked.fusion != "concat" and replace(other, no_transductive=False) != RetrieveSettings():
        log.warning(
            "warning: --fusion %s takes each run's own steps; those of %s are left out",
            *(asked.fusion, run.folder),
        )


def members_state(run: Run) -> str:
    """Changes when a member does; empty for a run that is no ensemble."""
    folders = run.settings.retrieve.ensemble
    return " ".join(str(file_hash(folder / name)) for folder in folders for name in OWN)


# ---- fusing -------------------------------------------------------------------------------------


def shares(weights: Sequence[float], count: int) -> np.ndarray:
    """(count,) float64 that sum to 1: the weights, or equal ones where none were given.

    >>> shares((3, 1), 2).tolist(), shares((), 2).tolist()
    ([0.75, 0.25], [0.5, 0.5])
    """
    given = np.array(weights or [1.0] * count)
    return np.asarray(given / given.sum())


def joined(parts: Sequence[np.ndarray], weights: Sequence[float] = ()) -> np.ndarray:
    """Weighted concatenation: (N, D1), (N, D2), … unit rows -> (N, D1 + D2 + …) float32 rows, of
    length 1 again.

    Each part is multiplied by the square root of its share, so that the inner product of two rows
    is the weighted mean of the members' cosines.
    """
    scaled = [np.sqrt(s) * part for s, part in zip(shares(weights, len(parts)), parts, strict=True)]
    return np.concatenate(scaled, axis=1).astype(np.float32)


def fuse_scores(parts: Sequence[np.ndarray], weights: Sequence[float] = ()) -> np.ndarray:
    """Weighted mean of (Q, G) scores, each query's brought to mean 0 and deviation 1 first: members
    may measure on scales of their own (Z-score normalisation: Jain et al., 2005).

    >>> fuse_scores([np.array([[1.0, 3.0]]), np.array([[700.0, 100.0]])], (3, 1)).tolist()
    [[-0.5, 0.5]]
    """

    def normalised(scores: np.ndarray) -> np.ndarray:
        scores = scores - scores.mean(1, keepdims=True, dtype=np.float64)
        return np.asarray(scores / np.maximum(scores.std(1, keepdims=True), 1e-12))

    return _weighted_sum([normalised(scores) for scores in parts], weights)


def fuse_ranks(parts: Sequence[np.ndarray], weights: Sequence[float] = ()) -> np.ndarray:
    """Reciprocal rank fusion of (Q, G) scores: the weighted mean of 1 / (60 + rank).

    Ranks count from 1; equal scores of a member are in the order of the gallery. Cormack, Clarke
    and Büttcher, Reciprocal rank fusion outperforms Condorcet and individual rank learning methods
    (2009).
    """

    def reciprocal(scores: np.ndarray) -> np.ndarray:
        order = np.argsort(-scores, axis=1, kind="stable")
        ranks = np.empty(scores.shape)
        np.put_along_axis(ranks, order, np.arange(1.0, scores.shape[1] + 1)[None], axis=1)
        return np.asarray(1 / (RANK_OFFSET + ranks))

    return _weighted_sum([reciprocal(scores) for scores in parts], weights)


def _weighted_sum(parts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Rounded, so that what is equal in one order of the members is equal in every other."""
    total = np.zeros(parts[0].shape)
    for share, part in zip(shares(weights, len(parts)), parts, strict=True):
        total += share * part
    return total.round(12)
