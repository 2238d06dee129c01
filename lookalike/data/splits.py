"""TODO lookalike.data.splits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lookalike.core.errors import UserError
from lookalike.core.files import read_json, write_json
from lookalike.core.log import log
from lookalike.core.runs import Run
from lookalike.data.catalogue import (
    load_catalogue,
    read_catalogue,
    readable,
    rows_of,
    write_catalogue,
)
from lookalike.data.layout import read_origin

Pictures = dict[str, str]  # path -> identity


def make_split(catalogue: pd.DataFrame, kind: str, query_domain: str, seed: int) -> dict[str, Any]:
    """Divides the labelled pictures of a catalogue.

    kind: auto, folder, disjoint or stratified (see config.SplitSettings).

    Returns {"kind", "closed_set", "train", "holdout", "validation": {"query", "gallery"}}, each
    part a map from path to identity. `holdout` judges the training of a classifier, so its
    identities are those of `train`; `validation` is a small retrieval task of its own.

    Raises:
        UserError: kind `folder` without a validation folder, or no picture of the query domain.
    """
    labelled = catalogue[catalogue.part.isin(["training", "validation"]) & readable(catalogue)]
    training = _by_identity(labelled[labelled.part == "training"])
    in_folder = _by_identity(labelled[labelled.part == "validation"])
    if kind == "auto":
        kind = "folder" if in_folder else "disjoint"
    if kind == "folder":
        if not in_folder:
            raise UserError("--split folder: the data set has no validation/ with pictures")
        train, validation = training, in_folder
    else:
        pooled = _by_identity(labelled)
        divide = {"disjoint": _split_disjoint, "stratified": _hold_out}[kind]
        train, validation = divide(pooled, np.random.default_rng([seed, 1]))
    closed = bool(validation) and set(validation) <= set(train)
    holdout = validation
    if not closed:
        train, holdout = _hold_out(train, np.random.default_rng([seed, 2]))
    domains = dict(zip(labelled.path, labelled.domain, strict=True))
    return {
        "kind": kind,
        "closed_set": closed,
        "train": _flatten(train),
        "holdout": _flatten(holdout),
        "validation": retrieval_task(validation, domains, query_domain, seed),
    }


Grouped = dict[str, list[str]]  # identity -> paths


def group(pictures: Pictures) -> Grouped:
    """{path: identity} -> {identity: sorted paths}."""
    groups: Grouped = {}
    for path, identity in sorted(pictures.items()):
        groups.setdefault(identity, []).append(path)
    return groups


def _by_identity(rows: pd.DataFrame) -> Grouped:
    return group(dict(zip(rows.path, rows.identity, strict=True)))


def _flatten(groups: Grouped) -> Pictures:
    return {path: identity for identity, paths in groups.items() for path in paths}


def _shuffled(paths: list[str], rng: np.random.Generator) -> list[str]:
    return [paths[i] for i in rng.permutation(len(paths))]


def _split_disjoint(groups: Grouped, rng: np.random.Generator) -> tuple[Grouped, Grouped]:
    """A fifth of the identities, whole, for validation: people whom training never sees."""
    names = sorted(groups)
    fifth = max(1, round(0.2 * len(names))) if len(names) > 1 else 0
    chosen = set(_shuffled(names, rng)[:fifth])
    return (
        {name: groups[name] for name in names if name not in chosen},
        {name: groups[name] for name in names if name in chosen},
    )


def _hold_out(groups: Grouped, rng: np.random.Generator) -> tuple[Grouped, Grouped]:
    """A fifth of each identity's pictures; an identity with one picture keeps it."""
    kept: Grouped = {}
    held: Grouped = {}
    for name, paths in sorted(groups.items()):
        paths = _shuffled(paths, rng)
        out = min(max(1, len(paths) // 5), len(paths) - 1)
        kept[name] = sorted(paths[out:])
        if out:
            held[name] = sorted(paths[:out])
    return kept, held


def retrieval_task(
    groups: Grouped, domains: dict[str, str], query_domain: str, seed: int
) -> dict[str, Pictures]:
    """Queries and gallery: by domain where domains are known, else a fifth of each identity."""
    pictures = _flatten(groups)
    known = {domains[path] for path in pictures} - {""}
    if known and query_domain not in known:
        found = ", ".join(sorted(known))
        raise UserError(f"--query-domain {query_domain}: validation has only the domains {found}")
    if known:
        query = {path for path in pictures if domains[path] == query_domain}
    else:
        rng = np.random.default_rng([seed, 3])
        shuffled = [_shuffled(paths, rng) for _, paths in sorted(groups.items())]
        query = {path for paths in shuffled for path in paths[: max(1, len(paths) // 5)]}
    return {
        "query": {path: name for path, name in pictures.items() if path in query},
        "gallery": {path: name for path, name in pictures.items() if path not in query},
    }


def run_split(run: Run) -> str:
    """The stage: training.csv, test.csv (the catalogue in two parts) and split.json."""
    catalogue = read_catalogue(run.data, domain_pattern(run))
    settings = run.settings.split
    split = make_split(catalogue, settings.split, settings.query_domain, run.seed)
    in_test = catalogue.part.isin(["query", "gallery"])
    write_catalogue(run.path("test.csv"), catalogue[in_test])
    write_catalogue(run.path("training.csv"), catalogue[~in_test])
    write_json(run.path("split.json"), split)
    return _describe(catalogue, split)


def domain_pattern(run: Run) -> str | None:
    """--domain-pattern, or what the data set's own layout.json says."""
    embeddings = run.settings.split.domain_pattern
    return embeddings or (read_origin(run.data) or {}).get("domain_pattern")


def load_split(run: Run) -> dict[str, Any]:
    """What run_split wrote to split.json."""
    split: dict[str, Any] = read_json(run.path("split.json"), "--stage split")
    if not {"train", "holdout", "validation"} <= split.keys():
        raise UserError(f"{run.path('split.json')} is damaged: --stage split makes it anew")
    return split


def all_labelled(split: Mapping[str, Any]) -> Pictures:
    """Every labelled picture of a split, {path: identity}."""
    validation = split["validation"]
    return split["train"] | split["holdout"] | validation["query"] | validation["gallery"]


def unseen_split(run: Run) -> dict[str, Any]:
    """The split as what comes after training has to see it: with --refit every labelled picture has
    been trained on, and none is held out or left for the validation."""
    split = load_split(run)
    if not run.settings.train.all_seen:
        return split
    nobody: dict[str, Pictures] = {"query": {}, "gallery": {}}
    return {**split, "train": all_labelled(split), "holdout": {}, "validation": nobody}


def _describe(catalogue: pd.DataFrame, split: dict[str, Any]) -> str:
    people = len(set(split["train"].values()))
    if not people:
        log.warning("warning: no training pictures: the backbone is used untrained")
        return f"{len(catalogue)} pictures, none for training"
    query, gallery = (len(split["validation"][part]) for part in ("query", "gallery"))
    return (
        f"{split['kind']}: {len(split['train'])} pictures of {people} people for training, "
        f"{len(split['holdout'])} held out; validation {query} queries, {gallery} gallery pictures"
    )


def validation_rows(run: Run, part: str) -> pd.DataFrame:
    """Catalogue rows of the validation's `query` or `gallery`."""
    paths = unseen_split(run)["validation"][part]
    return rows_of(load_catalogue(run.path("training.csv")), paths)
