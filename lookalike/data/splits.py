"""Divide the labeled pictures of a data set into training, held-out pictures and validation.

The validation is a retrieval task of its own: queries and a gallery, like the test. A split depends
on the catalogue, the settings and the seed, and on nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import pandas as pd
from tabulate import tabulate

from lookalike.core.errors import UserError
from lookalike.core.files import write_json
from lookalike.core.log import log, report_each
from lookalike.core.readers import read_json
from lookalike.core.runs import Run
from lookalike.data.catalogue import (
    LABELED,
    TEST,
    load_catalogue,
    overview,
    read_catalogue,
    readable,
    rows_of,
    searches_itself,
    write_catalogue,
)
from lookalike.data.domain_choice import with_domains
from lookalike.data.domains import domain_pattern

Pictures = dict[str, str]  # path -> identity
Groups = dict[str, list[str]]  # identity -> paths


class RetrievalTask(NamedTuple):
    """A retrieval task on labeled pictures.

    Attributes:
        query: {path: identity} of the queries.
        gallery: {path: identity} of the pictures to rank for each query.
    """

    query: Pictures
    gallery: Pictures

    @property
    def answerable(self) -> bool:
        """Whether any query has its identity in the gallery.

        >>> RetrievalTask({"a.jpg": "ada"}, {"b.jpg": "bo"}).answerable
        False
        """
        return bool(set(self.query.values()) & set(self.gallery.values()))


@dataclass(frozen=True)
class Split:
    """The labeled pictures of a data set, divided into parts without a common picture.

    Where the validation is a closed set, `holdout` is not a part of its own: it holds the pictures
    of the validation.

    Attributes:
        kind: `folder`, `disjoint` or `stratified`, see `SplitSettings`.
        closed_set: Whether all identities of the validation are trained on.
        train: {path: identity} of the pictures to train on.
        holdout: {path: identity} of other pictures of the identities in `train`, to evaluate a
            classifier on.
        validation: A retrieval task, to choose settings by.
        query_domain: The domain of its queries and of the test's, where domains are known.
    """

    kind: str
    closed_set: bool
    train: Pictures
    holdout: Pictures
    validation: RetrievalTask
    query_domain: str = "photo"

    @property
    def labeled(self) -> Pictures:
        """The pictures of all parts, {path: identity}."""
        return self.train | self.holdout | self.validation.query | self.validation.gallery

    def refitted(self) -> "Split":
        """Return the split that holds after a training on all labeled pictures (--refit)."""
        return replace(self, train=self.labeled, holdout={}, validation=RetrievalTask({}, {}))

    def as_json(self) -> dict[str, Any]:
        """Return the table that split.json holds."""
        return {**vars(self), "validation": self.validation._asdict()}


def make_split(
    catalogue: pd.DataFrame, kind: str = "auto", query_domain: str = "photo", seed: int = 0
) -> Split:
    """Divide the labeled pictures of a catalogue into training, held-out pictures and validation.

    Pictures that cannot be read are in no part.

    Args:
        catalogue: What `read_catalogue` returns; its columns path, identity, domain, part and
            problem are used.
        kind: `folder`: the validation is the data set's own `validation/`, where it shares some
            identities with `training/` but not all, only of the others. `disjoint`: a fifth of
            the identities, whole, which the training never sees. `stratified`: a fifth of each
            identity's pictures. `auto`: `folder` where there is one, else `disjoint`.
        query_domain: The domain of the validation's queries; all other pictures of the validation
            are its gallery. Where domains are unknown, a fifth of each identity's pictures are
            queries.
        seed: Of the random choices.

    Returns:
        The split; all parts are empty where the data set has no labeled pictures.

    Raises:
        UserError: `kind` is unknown, or it is `folder` and there is no `validation/` with pictures,
            or no picture of the validation has the query domain.

    >>> catalogue = pd.DataFrame(
    ...     {
    ...         "path": [f"training/{name}/{i}.jpg" for name in "abcde" for i in range(10)],
    ...         "identity": [name for name in "abcde" for _ in range(10)],
    ...         "domain": ["photo", "drawing"] * 25,
    ...         "part": "training",
    ...         "problem": "",
    ...     }
    ... )
    >>> split = make_split(catalogue, "disjoint", "photo", seed=0)
    >>> len(split.train), len(split.holdout), *map(len, split.validation)
    (32, 8, 5, 5)
    >>> set(split.validation.query.values()) & set(split.train.values())
    set()
    """
    labeled = catalogue[catalogue.part.isin(LABELED) & readable(catalogue)]
    sessions = sessions_of(labeled)
    kind, train, validation = _divide(labeled, kind, seed, sessions)
    closed = bool(validation) and set(validation) <= set(train)
    holdout = validation
    if not closed:
        train, holdout = _hold_out(train, np.random.default_rng([seed, 2]), sessions)
    domains = dict(zip(labeled.path, labeled.domain, strict=True))
    task = retrieval_task(validation, domains, query_domain, seed, sessions)
    return Split(kind, closed, _flatten(train), _flatten(holdout), task, query_domain)


def _divide(
    labeled: pd.DataFrame, kind: str, seed: int, sessions: Mapping[str, str]
) -> tuple[str, Groups, Groups]:
    """Return the kind that `auto` comes to, the training and the validation."""
    in_folder = _by_identity(labeled[labeled.part == "validation"])
    if kind == "auto":
        kind = "folder" if in_folder else "disjoint"
    if kind == "folder":
        if not in_folder:
            raise UserError("--split folder: the data set has no validation/ with pictures")
        return kind, *_part(_by_identity(labeled[labeled.part == "training"]), in_folder)
    ways: dict[str, Callable[[Groups, np.random.Generator], tuple[Groups, Groups]]]
    ways = {
        "disjoint": _split_disjoint,
        "stratified": lambda groups, rng: _hold_out(groups, rng, sessions),
    }
    if kind not in ways:
        raise UserError(f"split {kind!r}: must be auto, folder, disjoint or stratified")
    return kind, *ways[kind](_by_identity(labeled), np.random.default_rng([seed, 1]))


def _part(train: Groups, validation: Groups) -> tuple[Groups, Groups]:
    """Return a training and a validation that have all identities in common, or none.

    A validation of both kinds would count as unseen, and is so only in part.
    """
    common = sorted(train.keys() & validation.keys())
    unseen = sorted(validation.keys() - train.keys())
    if not common or not unseen:
        return train, validation
    moved = common if len(unseen) > 1 else unseen  # nobody can be ranked above a single one
    report_each(
        "identities of validation/ are trained on instead: the others there are "
        + ("unseen, and these are in training/ too" if moved is common else "all in training/"),
        moved,
    )
    both = {name: sorted(train.get(name, []) + validation[name]) for name in moved}
    return train | both, {name: validation[name] for name in validation.keys() - set(moved)}


def group(pictures: Pictures) -> Groups:
    """Group pictures by identity.

    >>> group({"b.jpg": "ada", "a.jpg": "ada", "c.jpg": "bo"})
    {'ada': ['a.jpg', 'b.jpg'], 'bo': ['c.jpg']}
    """
    groups: Groups = {}
    for path, identity in sorted(pictures.items()):
        groups.setdefault(identity, []).append(path)
    return groups


def _by_identity(rows: pd.DataFrame) -> Groups:
    return group(dict(zip(rows.path, rows.identity, strict=True)))


def _flatten(groups: Groups) -> Pictures:
    return {path: identity for identity, paths in groups.items() for path in paths}


def _shuffled(names: list[str], rng: np.random.Generator) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))]


def _split_disjoint(groups: Groups, rng: np.random.Generator) -> tuple[Groups, Groups]:
    """Set a fifth of the identities aside, whole, for validation."""
    names = sorted(groups)
    fifth = max(1, round(0.2 * len(names))) if len(names) > 1 else 0
    chosen = set(_shuffled(names, rng)[:fifth])
    return (
        {name: groups[name] for name in names if name not in chosen},
        {name: groups[name] for name in names if name in chosen},
    )


def _hold_out(
    groups: Groups, rng: np.random.Generator, sessions: Mapping[str, str]
) -> tuple[Groups, Groups]:
    """Set a fifth of each identity's pictures aside, none of an identity with one session."""
    remaining: Groups = {}
    held_out: Groups = {}
    for name, paths in sorted(groups.items()):
        drawn = set(_draw_fifth(paths, sessions, rng))
        if drawn and len(drawn) < len(paths):
            held_out[name] = sorted(drawn)
        remaining[name] = sorted(set(paths) - set(held_out.get(name, ())))
    return remaining, held_out


def sessions_of(catalogue: pd.DataFrame) -> dict[str, str]:
    """Return {path: session} of the pictures whose session is known, or that have exact copies.

    Copies of a picture are a session of their own where none is known.
    """
    sessions: dict[str, str] = {}
    if "content" in catalogue:
        copies = catalogue[catalogue.content.duplicated(keep=False)]
        sessions |= dict(zip(copies.path, copies.content, strict=True))
    if "session" in catalogue:
        known = catalogue[catalogue.session != ""]
        sessions |= dict(zip(known.path, known.session, strict=True))
    return sessions


def retrieval_task(
    groups: Groups,
    domains: Mapping[str, str],
    query_domain: str,
    seed: int,
    sessions: Mapping[str, str] | None = None,
) -> RetrievalTask:
    """Divide labeled pictures into queries and a gallery.

    Args:
        groups: {identity: paths}.
        domains: {path: domain}, an empty string where it is unknown.
        query_domain: The queries' domain, where domains are known. Where they are not, a fifth of
            each identity's pictures are queries, at least one.
        seed: Of that random choice.
        sessions: {path: session} where it is known: pictures of a session are all queries or all
            in the gallery, and those of an identity's only session are in the gallery. Where
            domains are known, they divide the pictures alone.

    Returns:
        The queries and the gallery.

    Raises:
        UserError: Domains are known, and no picture has the query domain.
    """
    pictures = _flatten(groups)
    known = {domains[path] for path in pictures} - {""}
    if known and query_domain not in known:
        found = ", ".join(sorted(known))
        raise UserError(f"--query-domain {query_domain}: validation has only the domains {found}")
    if known:
        query = {path for path in pictures if domains[path] == query_domain}
    else:
        rng = np.random.default_rng([seed, 3])
        drawn = [_draw_fifth(paths, sessions or {}, rng) for _, paths in sorted(groups.items())]
        query = {path for paths in drawn for path in paths}
    return RetrievalTask(
        {path: name for path, name in pictures.items() if path in query},
        {path: name for path, name in pictures.items() if path not in query},
    )


def _draw_fifth(
    paths: list[str], sessions: Mapping[str, str], rng: np.random.Generator
) -> list[str]:
    """Draw a fifth of an identity's pictures, in whole sessions: at least one, and not the only."""
    together: dict[str, list[str]] = {}
    for path in paths:
        together.setdefault(sessions.get(path, path), []).append(path)
    names = _shuffled(list(together), rng)
    if len(names) == 1 and len(paths) > 1:
        return []
    drawn: list[str] = []
    for name in names:
        if drawn and len(drawn) + len(together[name]) > len(paths) // 5:
            break
        drawn += together[name]
    return drawn


# ---- the stage, and what reads its files --------------------------------------------------------


def run_split(run: Run) -> str:
    """Run the stage: write training.csv and test.csv (the catalogue) and split.json.

    Args:
        run: The run; its data set is read.

    Returns:
        A line that says how many pictures each part has.

    Raises:
        UserError: The data set cannot be used, see `read_catalogue` and `make_split`.
    """
    settings = run.settings.split
    pattern = domain_pattern(settings.domain_pattern, run.data)
    catalogue = read_catalogue(run.data, pattern, run.settings.listing)
    catalogue, domain = with_domains(catalogue, run.data, pattern, settings.query_domain)
    log.info("\n%s\n", tabulate(overview(catalogue).to_dict("records"), "keys"))
    if searches_itself(catalogue):
        log.info("one test: each of its pictures is searched among the others")
    split = make_split(catalogue, settings.split, domain, run.seed)
    in_test = catalogue.part.isin(TEST)
    write_catalogue(run.path("test.csv"), catalogue[in_test])
    write_catalogue(run.path("training.csv"), catalogue[~in_test])
    write_json(run.path("split.json"), split.as_json())
    return _describe(len(catalogue), split)


def _describe(pictures: int, split: Split) -> str:
    """Say how many pictures each part has, and warn where none is for training."""
    identities = len(set(split.train.values()))
    if not identities:
        log.warning("warning: no training pictures: the backbone is used untrained")
        return f"{pictures} pictures, none for training"
    query, gallery = map(len, split.validation)
    return (
        f"{split.kind}: {len(split.train)} pictures of {identities} identities for training, "
        f"{len(split.holdout)} held out; validation {query} queries, {gallery} gallery pictures"
    )


class _TaskForm(TypedDict):
    query: Pictures
    gallery: Pictures


class _SplitForm(TypedDict):
    """The form of split.json."""

    kind: str
    closed_set: bool
    train: Pictures
    holdout: Pictures
    validation: _TaskForm
    query_domain: NotRequired[str]


def load_split(path: Path) -> Split:
    """Read a split.json.

    Args:
        path: The file, in a run folder.

    Returns:
        The split as it was made, whatever has been trained on since.

    Raises:
        UserError: The file is missing or damaged.
    """
    table: _SplitForm = read_json(path, "--stage split", _SplitForm)
    validation = RetrievalTask(**table["validation"])
    kind, closed_set = table["kind"], table["closed_set"]
    domain = table.get("query_domain", "photo")  # of a run of before: the default of then
    return Split(kind, closed_set, table["train"], table["holdout"], validation, domain)


def unseen_split(run: Run) -> Split:
    """Read a run's split as it holds for what comes after the training.

    With --refit every labeled picture has been trained on, and none is held out or left for the
    validation.

    Raises:
        UserError: split.json is missing or damaged.
    """
    split = load_split(run.path("split.json"))
    return split.refitted() if run.settings.train.all_seen else split


def validation_rows(run: Run, part: str) -> pd.DataFrame:
    """Read the catalogue rows of the validation's `query` or `gallery`, see `unseen_split`.

    Raises:
        UserError: A file of the run is missing or damaged.
    """
    paths: Pictures = getattr(unseen_split(run).validation, part)
    return rows_of(load_catalogue(run.path("training.csv")), paths)
