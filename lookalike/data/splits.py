"""Divide the labelled pictures: training, held-out pictures, and a validation as a retrieval task."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

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


class RetrievalTask(NamedTuple):
    """Queries and gallery of labelled pictures, each {path: identity}."""

    query: Pictures
    gallery: Pictures

    @property
    def answerable(self) -> bool:
        """Whether any query has its identity in the gallery."""
        return bool(set(self.query.values()) & set(self.gallery.values()))


@dataclass(frozen=True)
class Split:
    """The labelled pictures of a data set, divided; each part is {path: identity}.

    Attributes:
        kind: folder, disjoint or stratified, see `SplitSettings`.
        closed_set: Whether all identities of the validation are trained on.
        train: What is trained on.
        holdout: Judges the training of a classifier: other pictures of the identities of `train`.
        validation: A retrieval task of its own.
    """

    kind: str
    closed_set: bool
    train: Pictures
    holdout: Pictures
    validation: RetrievalTask

    @property
    def labelled(self) -> Pictures:
        """All parts together."""
        return self.train | self.holdout | self.validation.query | self.validation.gallery

    def refitted(self) -> "Split":
        """Return the split as it stands after a training on all labelled pictures (--refit)."""
        return replace(self, train=self.labelled, holdout={}, validation=RetrievalTask({}, {}))

    def as_json(self) -> dict[str, Any]:
        """Return the split as split.json holds it."""
        return {**vars(self), "validation": self.validation._asdict()}


def make_split(catalogue: pd.DataFrame, kind: str, query_domain: str, seed: int) -> Split:
    """Divides the labelled pictures of a catalogue.

    kind: auto, folder, disjoint or stratified (see config.SplitSettings).

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
    task = retrieval_task(validation, domains, query_domain, seed)
    return Split(kind, closed, _flatten(train), _flatten(holdout), task)


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
) -> RetrievalTask:
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
    return RetrievalTask(
        {path: name for path, name in pictures.items() if path in query},
        {path: name for path, name in pictures.items() if path not in query},
    )


def run_split(run: Run) -> str:
    """The stage: training.csv, test.csv (the catalogue in two parts) and split.json."""
    catalogue = read_catalogue(run.data, domain_pattern(run))
    settings = run.settings.split
    split = make_split(catalogue, settings.split, settings.query_domain, run.seed)
    in_test = catalogue.part.isin(["query", "gallery"])
    write_catalogue(run.path("test.csv"), catalogue[in_test])
    write_catalogue(run.path("training.csv"), catalogue[~in_test])
    write_json(run.path("split.json"), split.as_json())
    return _describe(catalogue, split)


def domain_pattern(run: Run) -> str | None:
    """--domain-pattern, or what the data set's own layout.json says."""
    embeddings = run.settings.split.domain_pattern
    return embeddings or (read_origin(run.data) or {}).get("domain_pattern")


def load_split(path: Path) -> Split:
    """Read a split.json.

    Raises:
        UserError: It is missing or damaged.
    """
    table = read_json(path, "--stage split")
    try:
        return Split(**table | {"validation": RetrievalTask(**table["validation"])})
    except (TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged: --stage split makes it anew") from error


def unseen_split(run: Run) -> Split:
    """Return a run's split as what comes after its training has to see it.

    With --refit every labelled picture has been trained on, and none is held out or left for the
    validation.
    """
    split = load_split(run.path("split.json"))
    return split.refitted() if run.settings.train.all_seen else split


def _describe(catalogue: pd.DataFrame, split: Split) -> str:
    people = len(set(split.train.values()))
    if not people:
        log.warning("warning: no training pictures: the backbone is used untrained")
        return f"{len(catalogue)} pictures, none for training"
    query, gallery = map(len, split.validation)
    return (
        f"{split.kind}: {len(split.train)} pictures of {people} people for training, "
        f"{len(split.holdout)} held out; validation {query} queries, {gallery} gallery pictures"
    )


def validation_rows(run: Run, part: str) -> pd.DataFrame:
    """Catalogue rows of the validation's `query` or `gallery`."""
    paths: Pictures = getattr(unseen_split(run).validation, part)
    return rows_of(load_catalogue(run.path("training.csv")), paths)
