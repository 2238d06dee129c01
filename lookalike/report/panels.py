"""What a run ranked, ready to be looked at: its parts, the queries to show, thumbnails.

    parts = load_parts(run)                       # test, and validation
    chosen = choose(order_of(parts[0]), most=150, seed=0)

A part's pictures are known by the keys of its ranking: bare names in the test, paths in the
validation.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from PIL import ImageOps

from lookalike.core.files import read_json
from lookalike.core.runs import Run
from lookalike.data.catalogue import bare_names, load_catalogue, readable, rows_of
from lookalike.data.images import map_images, read_known_picture
from lookalike.data.splits import unseen_split
from lookalike.evaluation.metrics import measure
from lookalike.evaluation.scoring import Judged, Labels, check_and_judge, read_labels
from lookalike.evaluation.submissions import TOP

THUMBNAIL, QUALITY = 80, 72
Places = list[tuple[str, float]]  # gallery keys with their scores, best first


@dataclass(frozen=True)
class Part:
    """The test or the validation of a run.

    ranked: {query key: its ten}. queries, gallery: catalogue rows, indexed by key. labels: None
    where they are not known.
    """

    name: str
    ranked: dict[str, Places]
    queries: pd.DataFrame
    gallery: pd.DataFrame
    labels: Labels | None

    @cached_property
    def judged(self) -> Judged | None:
        """The part's queries against its labels; None where these are not known or do not meet.

        Raises:
            UserError: the labels are those of something else.
        """
        if self.labels is None:
            return None
        if not set(self.labels.query.values()) & set(self.labels.gallery.values()):
            return None
        names = {query: [name for name, _ in indices] for query, indices in self.ranked.items()}
        return check_and_judge(names, self.labels, TOP)


def load_parts(run: Run) -> list[Part]:
    """The test and, where the run has one, the validation.

    Raises:
        UserError: a file of the run is missing or broken.
    """
    ranked = read_json(run.path("ranking.json"), "--stage retrieve")
    test = load_catalogue(run.path("test.csv"))
    parts = [test[test.part == name] for name in ("query", "gallery")]
    query, gallery = (rows.set_index(bare_names(rows.path).to_numpy()) for rows in parts)
    labels = run.path("labels.json")
    known = read_labels(labels) if labels.is_file() else None
    made = [Part("test", ranked["test"], query, gallery, known)]
    if ranked["validation"]:
        split = unseen_split(run).validation
        training = load_catalogue(run.path("training.csv"))
        training["domain"] = training.domain.replace("", "unknown")
        rows = {name: rows_of(training, paths) for name, paths in split._asdict().items()}
        query, gallery = (rows[name].set_index("path", drop=False) for name in rows)
        made.append(Part("validation", ranked["validation"], query, gallery, Labels(*split)))
    return made


# ---- thumbnails ---------------------------------------------------------------------------------


class Thumbnails:
    """Small pictures for a page, each of them once however often it is shown."""

    def __init__(self, run: Run) -> None:
        self.root = run.data
        self._numbers: dict[str, int] = {}
        self._pictures: list[tuple[str, str]] = []  # path, content

    def numbers(self, rows: pd.DataFrame) -> list[int]:
        """The places among the page's pictures of catalogue rows; -1 where one cannot be read."""
        good = readable(rows)
        return [
            self._number(path, content) if known else -1
            for path, content, known in zip(rows.path, rows.content, good, strict=True)
        ]

    def _number(self, path: str, content: str) -> int:
        if content not in self._numbers:
            self._numbers[content] = len(self._pictures)
            self._pictures.append((path, content))
        return self._numbers[content]

    def __len__(self) -> int:
        return len(self._pictures)

    def draw(self) -> list[str]:
        """All pictures as data URIs, in the order of their numbers.

        Raises:
            UserError: a picture has changed or gone since the catalogue was made.
        """

        def small(picture: tuple[str, str]) -> str:
            path, content = picture
            image = read_known_picture(self.root / path, content, THUMBNAIL)
            return as_uri(ImageOps.fit(image, (THUMBNAIL, THUMBNAIL), centering=(0.5, 0.4)))

        return list(map_images(small, self._pictures, "thumbnails"))


def as_uri(image: Any) -> str:
    """A picture as a data URI (WebP: a third smaller here than JPEG, whose tables each repeats)."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


# ---- queries to show ----------------------------------------------------------------------------

WITH_LABELS = "by the rank of the first hit, then by average precision"
WITHOUT_LABELS = "by the similarity of the first place (which are hits cannot be known)"


def order_of(part: Part) -> list[str]:
    """The queries of a part, worst first: see WITH_LABELS and WITHOUT_LABELS. Queries without a
    relevant picture in the gallery are left out."""
    if part.judged is None:
        return sorted(part.ranked, key=lambda query: (part.ranked[query][0][1], query))
    hits, relevant = part.judged.hits, part.judged.relevant
    first = np.where(hits.any(1), hits.argmax(1), hits.shape[1])
    order = np.lexsort((measure(hits, relevant)["map"], -first))
    shown = [part.judged.queries[i] for i in order]
    return [query for query in shown if query in part.ranked]


def choose(order: Sequence[str], most: int, seed: int) -> list[int]:
    """Places in an order that are shown: all, or a third each from its start, its end and the rest.

    >>> choose("abcdefgh", 3, seed=0)
    [0, 4, 7]
    """
    if len(order) <= most:
        return list(range(len(order)))
    end, third = len(order), max(1, most // 3)
    edges = [*range(third), *range(end - third, end)][:most]
    middle = np.random.default_rng(seed).permutation(np.arange(third, end - third))
    return sorted([*edges, *middle[: most - len(edges)].tolist()])


def panels_of(part: Part, most: int, seed: int, thumbnails: Thumbnails) -> dict[str, Any]:
    """What the page needs of a part's queries: how many there are, the order, and the panels.

    A panel is [query, thumbnail, identity, random place, the ten as [name, thumbnail, score,
    identity, hit]]; hit is None where it cannot be known. They stand worst first.
    """
    order = order_of(part)
    chosen = choose(order, most, seed)
    lots = np.random.default_rng([seed, 1]).permutation(len(chosen)).tolist()
    known = part.judged is not None
    return {
        "name": part.name,
        "total": len(order),
        "known": known,
        "order": WITH_LABELS if known else WITHOUT_LABELS,
        "panels": [
            _panel(part, order[i], lot, thumbnails) for i, lot in zip(chosen, lots, strict=True)
        ],
    }


def _panel(part: Part, query: str, lot: int, thumbnails: Thumbnails) -> list[Any]:
    labels = part.labels if part.judged is not None else None
    identity = labels.query[query] if labels else ""
    indices = part.ranked[query]
    numbers = thumbnails.numbers(part.gallery.loc[[name for name, _ in indices]])
    ten: list[list[Any]] = []
    for (name, score), number in zip(indices, numbers, strict=True):
        shown = labels.gallery.get(name, "") if labels else ""
        hit = shown == identity if labels else None
        ten.append([name, number, round(score, 3), shown, hit])
    return [query, *thumbnails.numbers(part.queries.loc[[query]]), identity, lot, ten]
