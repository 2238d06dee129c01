"""`lookalike identify test`: name the identity of each picture of a run's test, or call it new.

    named = name_rows(scores, identities, threshold=0.4, count=5, new="new_individual")
    named.names     # (Q, 5) names, the likeliest first

This is open-set identification as competitions ask for it. The references are the run's labeled
pictures, by its own embedding and those of its steps that map each picture by itself; an identity
is as similar as the nearest of its pictures. The name for a new identity stands before those that
are less similar than a threshold.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate

from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.log import log, report_each
from lookalike.core.runs import Run, open_run
from lookalike.core.settings import RetrieveSettings
from lookalike.data.catalogue import bare_names, load_catalogue, queries_of, readable
from lookalike.data.splits import Pictures, unseen_split
from lookalike.evaluation.open_set import measure_names
from lookalike.evaluation.samples import read_sample, write_filled
from lookalike.evaluation.scoring import read_labels
from lookalike.features.embedding import embed
from lookalike.features.extractor import trained_extractor
from lookalike.identification.calibration import choose_impostors
from lookalike.identification.references import READS, labeled_pictures
from lookalike.identification.settings import NamesCommand
from lookalike.retrieval.embeddings import Embeddings, split_domains
from lookalike.retrieval.labeled_tasks import EmbeddedRows
from lookalike.retrieval.postprocess import transform

CANDIDATES = 200  # thresholds that are tried


class Named(NamedTuple):
    """The identities that pictures resemble, the likeliest first.

    Attributes:
        names: (Q, k) array of str.
        scores: (Q, k) their cosines; the threshold where the name is that of a new identity.
    """

    names: np.ndarray
    scores: np.ndarray


def name_test(command: NamesCommand) -> None:
    """Write the names of the test's pictures, and their score where labels are known.

    Raises:
        UserError: The run, the sample or the labels cannot be used, or no identity is known.
    """
    check_bounds(command)
    run = open_run(command.run, reads=(*READS, "test.csv"))
    pictures = labeled_pictures(run)
    if pictures.empty:
        raise UserError(f"{run.folder} has no labeled pictures: there is nobody to name")
    test = queries_of(load_catalogue(run.path("test.csv")))
    good = readable(test)
    report_each("pictures cannot be read: called new", test.path[~good])
    queries = bare_names(test.path).to_numpy(str)
    known = sorted(set(pictures.identity))
    sample = command.sample_submission and read_sample(
        command.sample_submission, queries.tolist(), [*known, command.new_name], command.count
    )
    count = sample.length if sample else command.count
    found, threshold = _name_readable(command, run, pictures, test[good], count)
    named = {query: [command.new_name] for query in queries.tolist()}
    named |= dict(zip(queries[good].tolist(), found.names.tolist(), strict=True))
    sure = dict.fromkeys(named, threshold)
    sure |= dict(zip(queries[good].tolist(), found.scores[:, 0].tolist(), strict=True))
    path = run.path("identities.csv")
    if sample:
        write_filled(sample, _filled_up(named, known, count), path)
    else:
        _write_table(path, named, sure)
    calls = sum(names[0] == command.new_name for names in named.values())
    counts = (len(named), calls, len(known))
    log.info("%d pictures, %d of them called new, %d identities known -> %s", *counts, path)
    if command.labels is not None:
        truth = read_labels(command.labels).query
        values = measure_names(named, truth, known, command.new_name, sure)
        print(tabulate([(name, f"{value:.4f}") for name, value in values.items()], ["", "mean"]))


def _name_readable(
    command: NamesCommand, run: Run, pictures: pd.DataFrame, test: pd.DataFrame, count: int
) -> tuple[Named, float]:
    """Return the names of pictures that can be read, and the threshold of new identities."""
    embedded, settings = rows_by_path(run, pictures, test), run.settings.retrieve
    labeled = dict(zip(pictures.path, pictures.identity, strict=True))
    scores, identities = identity_scores(run, embedded, list(test.path), labeled, settings)
    if command.threshold is not None:
        threshold = command.threshold
    elif command.new_share is not None:
        threshold = share_threshold(scores, command.new_share)
        log.info("threshold %.3f: %.0f %% are called new", threshold, 100 * command.new_share)
    else:
        threshold = validated_threshold(run, embedded, settings, count)
    return name_rows(scores, identities, threshold, count, command.new_name), threshold


def _write_table(path: Path, named: Mapping[str, Sequence[str]], sure: Mapping[str, float]) -> None:
    """Write a row for each picture: how similar its likeliest identity is, and all names."""
    width = max(map(len, named.values()), default=1)
    heads = ["query", "similarity", *(f"name_{number}" for number in range(1, width + 1))]
    rows = [(query, f"{sure[query]:.6f}", *names) for query, names in named.items()]
    with whole_file(path) as beside, beside.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([heads, *rows])


def _filled_up(
    named: Mapping[str, Sequence[str]], known: Sequence[str], count: int
) -> dict[str, list[str]]:
    """Return lists of one length: those of pictures that cannot be read go on with any identity."""
    return {
        query: [*names, *(n for n in known[:count] if n not in names)][:count]
        for query, names in named.items()
    }


def rows_by_path(run: Run, *tables: pd.DataFrame) -> EmbeddedRows:
    """Embed pictures as a run does."""
    extractor = trained_extractor(run)
    pairs = [(table.path, embed(extractor, table)) for table in tables if len(table)]
    rows = {p: row for paths, rows in pairs for p, row in zip(paths, rows, strict=True)}
    return EmbeddedRows(rows, extractor.widths)


def identity_scores(
    run: Run,
    embedded: EmbeddedRows,
    queries: Sequence[str],
    labeled: Pictures,
    settings: RetrieveSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Return how similar each query is to each identity: the cosine of its nearest picture.

    Args:
        run: Its split tells the queries' domain, and its catalogue those of pictures.
        embedded: The pictures' embeddings.
        queries: The paths of Q pictures.
        labeled: {path: identity} of the pictures that are known.
        settings: The steps; those that map each picture by itself count.

    Returns:
        (Q, I) cosines, and the I identities, sorted.
    """
    paths = sorted(labeled)
    names = np.array([labeled[path] for path in paths])
    gallery = embedded.stack(paths)
    catalogue = load_catalogue(run.path("training.csv")).set_index("path")
    domains = catalogue.domain[paths] == unseen_split(run).query_domain
    own = split_domains(gallery, domains.to_numpy()), split_domains(names, domains.to_numpy())
    task = Embeddings(embedded.stack(queries), gallery, *own[0], own[1], embedded.widths)
    task = transform(task, settings)
    order = np.argsort(names, kind="stable")
    identities, starts = np.unique(names[order], return_index=True)
    scores = np.maximum.reduceat(task.queries @ task.gallery[order].T, starts, axis=1)
    return scores, identities


def name_rows(
    scores: np.ndarray, identities: np.ndarray, threshold: float, count: int, new: str
) -> Named:
    """Return the likeliest names of each row, with that of a new identity in its place.

    Args:
        scores: (Q, I) similarities to identities.
        identities: The I identities, sorted; of equal scores, the first by name is likelier.
        threshold: Identities that are less similar come after the new one.
        count: How many names; fewer where there are not as many.
        new: The name of a new identity.

    >>> found = name_rows(np.array([[0.9, 0.2], [0.1, 0.3]]), np.array(["a", "b"]), 0.5, 2, "new")
    >>> found.names.tolist()
    [['a', 'new'], ['new', 'b']]
    """
    with_new = np.column_stack([scores, np.full(len(scores), threshold, scores.dtype)])
    names = np.append(identities.astype(object), new)
    order = np.argsort(-with_new, axis=1, kind="stable")[:, :count]
    return Named(names[order], np.take_along_axis(with_new, order, axis=1))


def share_threshold(scores: np.ndarray, share: float) -> float:
    """Return the threshold that calls a share of the rows new.

    >>> share_threshold(np.array([[0.1], [0.2], [0.6], [0.8]]), 0.5)
    0.4
    """
    return float(np.quantile(scores.max(1), share))


def validated_threshold(
    run: Run, embedded: EmbeddedRows, settings: RetrieveSettings, count: int
) -> float:
    """Return the threshold that names labeled pictures best, some of whose identities are unknown.

    Pictures of identities that are set aside should be called new, and held-out pictures of the
    others be named; both count as much.

    Args:
        run: Its split is read.
        embedded: The embeddings of the labeled pictures.
        settings: The steps; a projection learns from the known pictures only.
        count: How many names a picture gets.

    Raises:
        UserError: There are too few labeled pictures.
    """
    split = unseen_split(run)
    impostors = choose_impostors(split, run.seed, run.settings.train.changes_embedding)
    known = {p: n for p, n in split.train.items() if n not in impostors and p in embedded.rows}
    named = set(known.values())
    genuine = {p: n for p, n in split.holdout.items() if n in named and p in embedded.rows}
    strangers = [p for p, n in split.labeled.items() if n in impostors and p in embedded.rows]
    if not (genuine and strangers):
        raise UserError(
            f"{run.folder}: too few labeled pictures to find out when an identity is new: name "
            "--threshold or --new-share"
        )
    paths = [*genuine, *strangers]
    scores, identities = identity_scores(run, embedded, paths, known, settings)
    truth = [*genuine.values(), *([None] * len(strangers))]
    threshold, expected = best_threshold(scores, identities, truth, count)
    log.info(
        "threshold %.3f: map@%d %.3f on %d pictures of %d known and %d of %d new identities",
        *(threshold, count, expected, len(genuine), len(named), len(strangers), len(impostors)),
    )
    return threshold


def best_threshold(
    scores: np.ndarray, identities: np.ndarray, truth: Sequence[str | None], count: int
) -> tuple[float, float]:
    """Return the threshold with the highest mAP@count, and that; known and new count as much.

    Args:
        scores: (Q, I) similarities to identities.
        identities: The I identities.
        truth: The Q identities; None is a new one.
        count: How many names each gets.
    """
    candidates = np.unique(np.quantile(scores.max(1), np.linspace(0, 1, CANDIDATES)))
    new = np.array([name is None for name in truth])
    column = {name: i for i, name in enumerate(identities.tolist())}
    right = np.array([column.get(name, 0) if name is not None else 0 for name in truth])
    own = np.take_along_axis(scores, right[:, None], axis=1)
    rank = 1 + (scores > own).sum(1)
    means = []
    for candidate in candidates.tolist():
        before = (scores >= candidate).sum(1)  # identities before the new one
        place = np.where(new, before + 1, rank + (own[:, 0] < candidate))
        values = np.where(place <= count, 1 / place, 0.0)
        means.append((values[new].mean() + values[~new].mean()) / 2)
    best = int(np.argmax(means))
    return float(candidates[best]), float(means[best])
