"""Ensembles: find the member runs of --ensemble and check that they fit together.

    python main.py --stage retrieve evaluate --run runs/both --ensemble runs/a runs/b
    python main.py --stage retrieve evaluate --run runs/both --fusion ranks --ensemble-weights 2 1

The members are finished runs on one data set with one split: other backbones, crops, or seeds of
the training. The run itself holds the fused submission, its validation and its scores.
"""

import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lookalike.core.config import load_settings, read_config
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, whole_file
from lookalike.core.log import log
from lookalike.core.runs import Run
from lookalike.core.settings import OBJECTIVE_SETTINGS, ListingSettings, RetrieveSettings
from lookalike.data.catalogue import load_catalogue

DEFAULT_FOLDER = "runs/ensemble"
# Settings that an ensemble inherits from its first member, unless they are set.
INHERITED = (
    *("data", "cache", "labels", "seed", "split", "domain_pattern", "query_domain"),
    *(field.name for field in fields(ListingSettings)),
)
# Settings that it inherits from a member that was trained on the validation too (--refit).
REFITTED = (*OBJECTIVE_SETTINGS, "epochs")
# Files that members must have in common, and the settings that they depend on.
SHARED = {
    "test.csv": "--data",
    "training.csv": "--data and --domain-pattern",
    "split.json": "--split, --seed and --query-domain",
}
# Files of a member that its ranking depends on.
OWN = ("config.json", "model.safetensors", "gallery.json", "validation_gallery.json")


def inherited(folders: Sequence[Path]) -> dict[str, Any]:
    """Return the settings that an ensemble inherits from its members, by name.

    They are those of its first member, and of one with --refit if there is any.

    Args:
        folders: Runs that --ensemble names.

    Returns:
        A table as in a config file; empty without folders.

    Raises:
        UserError: A member is no finished run.
    """
    if not folders:
        return {}
    for folder in folders:
        _require_finished(folder)
    tables = [read_config(folder / "config.json") for folder in folders]
    refitted = next((table for table in tables if table.get("refit")), {})
    sources = [(tables[0], INHERITED), (refitted, REFITTED)]
    values = {name: table[name] for table, names in sources for name in names if name in table}
    return {"run": DEFAULT_FOLDER} | values


def members(run: Run) -> list[Run]:
    """Return the runs whose embeddings a run ranks by: those of its --ensemble, or itself.

    Members read the pictures where the run does. With --fusion concat they have the run's steps of
    the ranking; with the other fusions, each has its own.

    Raises:
        UserError: A member is no finished run, or was made on other data.
    """
    retrieve = run.settings.retrieve
    if not retrieve.ensemble:
        return [run]
    first, *others = [_member(run, folder) for folder in retrieve.ensemble]
    for name, options in SHARED.items():
        for member in others:
            if file_hash(member.path(name)) != file_hash(first.path(name)):
                raise UserError(
                    f"--ensemble {member.folder}: its {name} is not that of {first.folder}: "
                    f"make both with the same {options}"
                )
    return [first, *others]


def _member(run: Run, folder: Path) -> Run:
    """Open a member of the ensemble `run`."""
    _require_finished(folder)
    settings = load_settings(folder / "config.json")
    if settings.retrieve.ensemble:
        raise UserError(f"--ensemble {folder}: is an ensemble itself; name its members instead")
    retrieve = run.settings.retrieve
    if retrieve.fusion == "concat":
        return Run(folder, run.data, replace(settings, retrieve=retrieve))
    # --no-transductive of the ensemble holds for every member.
    settings.retrieve.no_transductive |= retrieve.no_transductive
    return Run(folder, run.data, settings)


def _require_finished(folder: Path) -> None:
    """Raise UserError where a run's files are missing."""
    missing = [name for name in (*OWN, *SHARED) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"--ensemble {folder}: no finished run there ({missing[0]} is missing); make it with "
            f"--stage all --run {folder}"
        )


def adopt(run: Run) -> None:
    """Copy the catalogue and the split of the members into the run folder of their ensemble.

    Raises:
        UserError: The members do not fit together, the run's data set is not theirs, or the run
            folder holds a run with a model of its own.
    """
    if run.path("model.safetensors").exists():
        raise UserError(f"--run {run.folder}: has a model of its own; name another for --ensemble")
    first = members(run)[0]
    _warn_of_ignored_steps(run)
    paths = load_catalogue(first.path("test.csv")).path
    missing = next((path for path in paths if not (run.data / path).is_file()), None)
    if missing is not None:
        raise UserError(
            f"--data {run.data}: lacks {missing}, which {first.folder} was made from; name the "
            "data set of the --ensemble"
        )
    for name in SHARED:
        if file_hash(run.path(name)) != file_hash(first.path(name)):
            with whole_file(run.path(name)) as beside:
                shutil.copyfile(first.path(name), beside)


def _warn_of_ignored_steps(run: Run) -> None:
    """Warn where the ensemble's own steps are ignored, because its fusion uses the members'."""
    settings = run.settings.retrieve
    other = replace(
        settings, format="mapping", index="exact", ensemble=(), fusion="concat", ensemble_weights=()
    )
    if settings.fusion != "concat" and replace(other, no_transductive=False) != RetrieveSettings():
        log.warning(
            "warning: --fusion %s takes each run's own steps; those of %s are left out",
            settings.fusion,
            run.folder,
        )


def members_state(run: Run) -> str:
    """Return hashes of the members' files; empty for a run that is no ensemble."""
    folders = run.settings.retrieve.ensemble
    return " ".join(str(file_hash(folder / name)) for folder in folders for name in OWN)
