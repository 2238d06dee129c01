"""The ranked lists of a run for display: its parts, the queries to show, thumbnails.

    parts = load_parts(run)                                   # test, and validation
    chosen = choose_queries(order_queries(parts[0]), most=150, seed=0)

A part's pictures are identified by the keys of its ranking: bare names in the test, paths in the
validation.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from lookalike.core.errors import UserError
from lookalike.core.runs import Run
from lookalike.data.catalogue import (
    bare_names,
    gallery_of,
    load_catalogue,
    queries_of,
    readable,
    rows_of,
)
from lookalike.data.images import map_images, read_known_picture
from lookalike.data.splits import unseen_split
from lookalike.evaluation.metrics import SCORE, Metric, measure_queries, run_metric
from lookalike.evaluation.scoring import Labels, QueryHits, find_hits, read_labels
from lookalike.retrieval.stage import RankedList, read_rankings

THUMBNAIL, QUALITY = 80, 72  # pixels of a side; quality of WebP


@dataclass(frozen=True)
class RankedPart:
    """The test or the validation of a run, with its ranking.

    Attributes:
        name: test or validation.
        ranked: {query key: its top ten}.
        queries: Catalogue rows, indexed by key.
        gallery: Catalogue rows, indexed by key.
        labels: None where they are not known.
        metric: What the score is.
    """

    name: str
    ranked: dict[str, RankedList]
    queries: pd.DataFrame
    gallery: pd.DataFrame
    labels: Labels | None
    metric: Metric = SCORE

    @cached_property
    def query_hits(self) -> QueryHits | None:
        """The ranking compared with the labels.

        None where labels are not known, or no query has its identity in the gallery.

        Raises:
            UserError: The labels are those of other pictures.
        """
        if self.labels is None:
            return None
        if not set(self.labels.query.values()) & set(self.labels.gallery.values()):
            return None
        names = {query: [name for name, _ in ranked] for query, ranked in self.ranked.items()}
        return find_hits(names, self.labels, max(map(len, names.values()), default=1))


def load_parts(run: Run) -> list[RankedPart]:
    """Load the test and, where the run has one, the validation.

    Raises:
        UserError: A file of the run is missing or broken, or names pictures that others lack.
    """
    path, metric = run.path("ranking.json"), run_metric(run.settings)
    ranked = read_rankings(path)
    test = load_catalogue(run.path("test.csv"))
    query, gallery = (
        rows.set_index(bare_names(rows.path).to_numpy())
        for rows in (queries_of(test), gallery_of(test))
    )
    labels = read_labels(known) if (known := run.path("labels.json")).is_file() else None
    parts = [RankedPart("test", ranked["test"], query, gallery, labels, metric)]
    if ranked["validation"]:
        split = unseen_split(run).validation
        training = load_catalogue(run.path("training.csv"))
        training["domain"] = training.domain.replace("", "unknown")
        rows = {name: rows_of(training, paths) for name, paths in split._asdict().items()}
        query, gallery = (rows[name].set_index("path", drop=False) for name in rows)
        own = Labels(*split)
        parts.append(RankedPart("validation", ranked["validation"], query, gallery, own, metric))
    for part in parts:
        _check_names(part, path)
    return parts


def _check_names(part: RankedPart, path: Path) -> None:
    """Raise UserError where a ranking names pictures that the catalogue does not have."""
    names = {name for ranked in part.ranked.values() for name, _ in ranked}
    for listed, rows in ((part.ranked.keys(), part.queries), (names, part.gallery)):
        if unknown := sorted(set(listed) - set(rows.index)):
            raise UserError(
                f"{path}: names {unknown[0]}, which is no picture of the {part.name}; make it anew "
                "with --stage retrieve"
            )


# ---- thumbnails ---------------------------------------------------------------------------------


class Thumbnails:
    """The small pictures of a page, each stored once however often it is shown.

    Attributes:
        root: Folder of the data set.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._indices: dict[str, int] = {}
        self._pictures: list[tuple[str, str]] = []  # path, content

    def indices(self, rows: pd.DataFrame) -> list[int]:
        """Return the indices of catalogue rows among the pictures; -1 for unreadable ones.

        Pictures that are not among them yet are added.
        """
        good = readable(rows)
        return [
            self._index(path, content) if can_be_read else -1
            for path, content, can_be_read in zip(rows.path, rows.content, good, strict=True)
        ]

    def _index(self, path: str, content: str) -> int:
        """Return the index of a picture, which is added where it is new."""
        if content not in self._indices:
            self._indices[content] = len(self._pictures)
            self._pictures.append((path, content))
        return self._indices[content]

    def __len__(self) -> int:
        return len(self._pictures)

    def draw(self) -> list[str]:
        """Return all pictures as data URIs, in the order of their indices.

        Raises:
            UserError: A picture has changed or gone since the catalogue was made.
        """

        def shrink(picture: tuple[str, str]) -> str:
            path, content = picture
            image = read_known_picture(self.root / path, content, THUMBNAIL)
            return as_uri(ImageOps.fit(image, (THUMBNAIL, THUMBNAIL), centering=(0.5, 0.4)))

        return list(map_images(shrink, self._pictures, "thumbnails"))


def as_uri(image: Image.Image) -> str:
    """Return a picture as a data URI.

    The format is WebP, here a third smaller than JPEG, whose tables each thumbnail would repeat.
    """
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


# ---- queries to show ----------------------------------------------------------------------------

WITH_LABELS = "by the rank of the first hit, then by average precision"
WITHOUT_LABELS = "by the similarity at rank 1 (which results are hits is not known)"


def order_queries(part: RankedPart) -> list[str]:
    """Return the queries of a part, worst first.

    With labels the order is WITH_LABELS, and queries without a relevant picture in the gallery are
    left out; without labels it is WITHOUT_LABELS.
    """
    if part.query_hits is None:
        return sorted(part.ranked, key=lambda query: (part.ranked[query][0][1], query))
    hits, relevant = part.query_hits.hits, part.query_hits.relevant
    first = np.where(hits.any(1), hits.argmax(1), hits.shape[1])
    order = np.lexsort((measure_queries(hits, relevant)["map"], -first))
    queries = [part.query_hits.queries[i] for i in order]
    return [query for query in queries if query in part.ranked]


def choose_queries(order: Sequence[str], most: int, seed: int) -> list[int]:
    """Return the indices of the queries to show.

    Args:
        order: The queries, worst first.
        most: Maximum number. Of more, a third each are from the start, the end and the rest.
        seed: Seed of the draw from the rest.

    >>> choose_queries("abcdefgh", 3, seed=0)
    [0, 4, 7]
    """
    if len(order) <= most:
        return list(range(len(order)))
    end, third = len(order), max(1, most // 3)
    edges = [*range(third), *range(end - third, end)][:most]
    middle = np.random.default_rng(seed).permutation(np.arange(third, end - third))
    return sorted([*edges, *middle[: most - len(edges)].tolist()])


def make_panels(part: RankedPart, most: int, seed: int, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return what the page needs of a part's queries.

    Args:
        part: The test or the validation.
        most: Maximum number of queries.
        seed: Seed of their choice and of the random order.
        thumbnails: The pictures of the page; those that are needed are added.

    Returns:
        {"name", "total", "known", "order", "panels"}: the number of queries, whether hits are
        known, the order in words, and the panels, worst first. A panel is [query, thumbnail,
        identity, random position, top ten], each of the ten [name, thumbnail, score, identity,
        hit]; hit is None where it is not known.
    """
    order = order_queries(part)
    chosen = choose_queries(order, most, seed)
    shuffled = np.random.default_rng([seed, 1]).permutation(len(chosen)).tolist()
    known = part.query_hits is not None
    return {
        "name": part.name,
        "total": len(order),
        "known": known,
        "order": WITH_LABELS if known else WITHOUT_LABELS,
        "panels": [
            _panel(part, order[i], position, thumbnails)
            for i, position in zip(chosen, shuffled, strict=True)
        ],
    }


def _panel(part: RankedPart, query: str, position: int, thumbnails: Thumbnails) -> list[Any]:
    """Return the panel of one query, with its position in the random order."""
    labels = part.labels if part.query_hits is not None else None
    identity = labels.query[query] if labels else ""
    ranked = part.ranked[query]
    indices = thumbnails.indices(part.gallery.loc[[name for name, _ in ranked]])
    top: list[list[Any]] = []
    for (name, score), index in zip(ranked, indices, strict=True):
        retrieved = labels.gallery.get(name, "") if labels else ""
        hit = retrieved == identity if labels else None
        top.append([name, index, round(score, 3), retrieved, hit])
    return [query, *thumbnails.indices(part.queries.loc[[query]]), identity, position, top]
