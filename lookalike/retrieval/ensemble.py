"""Several runs as one: which they are, that they fit together, and how what they find is fused.

    python main.py --stage retrieve evaluate --run runs/both --ensemble runs/a runs/b
    python main.py --stage retrieve evaluate --run runs/both --fusion ranks --ensemble-weights 2 1

The members are finished runs on one data set with one split: other backbones, crops, seeds of the
head. The run itself holds the fused submission, its validation and its scores.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, whole_file
from lookalike.core.log import log
from lookalike.core.options import parse_settings, read_config
from lookalike.core.runs import Run
from lookalike.core.settings import CHANGED, RetrieveSettings, Settings
from lookalike.data.catalogue import load_catalogue

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
    retrieve = run.settings.retrieve
    if not retrieve.ensemble:
        return [run]
    found = [_member(run, folder) for folder in retrieve.ensemble]
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
    retrieve = run.settings.retrieve
    if retrieve.fusion == "concat":
        return Run(folder, run.data, replace(settings, retrieve=retrieve))
    # What the rules forbid is forbidden to every member.
    settings.retrieve.no_transductive |= retrieve.no_transductive
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
    settings = run.settings.retrieve
    other = replace(
        settings, format="mapping", index="exact", ensemble=(), fusion="concat", ensemble_weights=()
    )
    if settings.fusion != "concat" and replace(other, no_transductive=False) != RetrieveSettings():
        log.warning(
            "warning: --fusion %s takes each run's own steps; those of %s are left out",
            *(settings.fusion, run.folder),
        )


def members_state(run: Run) -> str:
    """Changes when a member does; empty for a run that is no ensemble."""
    folders = run.settings.retrieve.ensemble
    return " ".join(str(file_hash(folder / name)) for folder in folders for name in OWN)
