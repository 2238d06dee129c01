"""Embed a run's pictures by the settings of a candidate, and estimate beforehand what it takes.

embedder = CandidateEmbedder(run, labeled=paths)
embedder.seconds(candidate.applied(settings))       # measured on this machine
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from time import perf_counter
from typing import NamedTuple

import pandas as pd

from lookalike.core.errors import UserError
from lookalike.core.runs import Run
from lookalike.core.settings import EmbedSettings
from lookalike.data.catalogue import (
    gallery_of,
    load_catalogue,
    load_full_catalogue,
    queries_of,
    readable,
    rows_of,
)
from lookalike.features.embedding import count_missing, embed
from lookalike.features.extractor import flips, untrained_extractor
from lookalike.features.local import local_points, unsearched
from lookalike.retrieval.labeled_tasks import EmbeddedRows, embedded_rows
from lookalike.retrieval.local_matching import count_distances, match

SAMPLE = 64  # pictures that a candidate's speed is measured on
FIRST = 8  # pictures before them, which wait for the backbone to be compiled
SAMPLES = 20  # samples that are looked at for pictures which are not in the cache
LOCAL_MOST = 4000  # gallery pictures whose points the memory is taken to hold, 2 MB each
MATCHED = 24  # pictures that the speed of local features is measured on
KEPT = 4  # embeddings of the labeled pictures that are kept in memory


class MatchCosts(NamedTuple):
    """What local features take on this machine, and how many there are.

    Attributes:
        to_find: Seconds of finding the points of a picture.
        to_compare: Seconds of a distance between points.
        points: Points of a query and of a gallery picture.
    """

    to_find: float
    to_compare: float
    points: tuple[float, float]


def _passes(settings: EmbedSettings) -> set[tuple[str, float, float, bool]]:
    """Return how often a picture is embedded: by backbone, resolution, scale, and mirrored."""
    sides = (False, True) if flips(settings) else (False,)
    parts = settings.networks, settings.resolutions, settings.scales, sides
    return set(product(*parts))


@dataclass
class CandidateEmbedder:
    """Embeds a run's pictures by the settings of a candidate.

    Attributes:
        run: Its data, cache and catalogue are used.
        labeled: The labeled pictures, by path, that choices are judged by.
    """

    run: Run
    labeled: Collection[str]
    _rows: dict[str, EmbeddedRows] = field(default_factory=dict, repr=False)
    _rates: dict[str, float] = field(default_factory=dict, repr=False)
    _first: float = 0.0  # seconds that a picture took in the first embedding
    _match_costs: MatchCosts | None = None

    @cached_property
    def pictures(self) -> pd.DataFrame:
        """The rows of all pictures of the run that can be read."""
        catalogue = load_full_catalogue(self.run.folder)
        return catalogue[readable(catalogue)]

    def measure_first(self) -> None:
        """Take the pace of the first embedding, of one backbone at its own resolution."""
        pace = self.run.session.pace
        self._first = pace.seconds / pace.pictures if pace.pictures else 0.0

    def least_seconds(self, now: EmbedSettings, then: EmbedSettings) -> float:
        """Return a bound of what another embedding takes, which needs no backbone to be loaded.

        Args:
            now: The present settings, whose embeddings are cached.
            then: The other ones.
        """
        work = sum(resolution**2 for _, resolution, _, _ in _passes(then) - _passes(now))
        return len(load_full_catalogue(self.run.folder)) * work * self._first

    def seconds(self, settings: EmbedSettings) -> float:
        """Estimate how long the embedding of all pictures takes, less those that are cached.

        The speed is measured once, on a few pictures that are not.
        """
        catalogue = self.pictures
        missing = count_missing(untrained_extractor(self.run, settings), catalogue)
        if missing and str(settings) not in self._rates:
            self._rates[str(settings)] = self._seconds_each(settings, catalogue)
        return missing * self._rates.get(str(settings), 0.0)

    def _seconds_each(self, settings: EmbedSettings, catalogue: pd.DataFrame) -> float:
        """Return the seconds that an embedding takes, measured on a few pictures."""
        extractor = untrained_extractor(self.run, settings)
        shuffled = catalogue.sample(frac=1, random_state=0)
        for start in range(0, min(len(shuffled), SAMPLES * (FIRST + SAMPLE)), FIRST + SAMPLE):
            first = shuffled[start : start + FIRST]
            sample = shuffled[start + FIRST : start + FIRST + SAMPLE]
            embed(extractor, first, shown=False)
            missing = count_missing(extractor, sample)
            if missing:
                started = perf_counter()
                embed(extractor, sample, shown=False)
                return (perf_counter() - started) / missing
        return 0.0

    def seconds_to_match(self) -> float:
        """Estimate how long local features take, of the labeled pictures and of the test.

        The labeled pictures are matched in the folds, in the folds of both halves, and in the
        halves; half of them are queries.
        """
        catalogue = self.pictures
        if self._match_costs is None:
            self._match_costs = self._measure_matching(catalogue)
        costs, missing = self._match_costs, len(unsearched(catalogue, self.run.cache))
        half, (queries, gallery) = len(self.labeled) / 2, costs.points
        test = len(queries_of(catalogue)) * queries, len(gallery_of(catalogue)) * gallery
        labeled = count_distances(half * queries, half * gallery)
        return missing * costs.to_find + costs.to_compare * (3 * labeled + count_distances(*test))

    def _measure_matching(self, catalogue: pd.DataFrame) -> MatchCosts:
        """Measure what local features take on a few pictures of both sides of the test."""
        points = []
        started = perf_counter()
        for side in (queries_of(catalogue), gallery_of(catalogue)):
            new = unsearched(side, self.run.cache)
            pool = new if len(new) else side
            sample = pool.sample(min(len(pool), MATCHED), random_state=0)
            points.append(local_points(sample, self.run.data, self.run.cache))
        found = perf_counter()
        queries, gallery = points
        match([queries], gallery, queries.pictures)
        matched = perf_counter() - found
        distances = count_distances(len(queries.owners), len(gallery.owners))
        return MatchCosts(
            (found - started) / (queries.pictures + gallery.pictures),
            matched / max(distances, 1.0),
            (len(queries.owners) / queries.pictures, len(gallery.owners) / gallery.pictures),
        )

    def check_matching(self) -> None:
        """Raise UserError where the points of all pictures of a gallery are too many to hold."""
        test = gallery_of(load_catalogue(self.run.path("test.csv")))
        if (most := max(len(test), len(self.labeled))) > LOCAL_MOST:
            raise UserError(f"{most:,} pictures have more points than the memory is taken to hold")

    def embed_test(self, settings: EmbedSettings) -> None:
        """Embed the test into the cache, so that a submission is made in little time."""
        test = load_catalogue(self.run.path("test.csv"))
        embed(untrained_extractor(self.run, settings), test[readable(test)])

    def rows_of(self, settings: EmbedSettings) -> EmbeddedRows:
        """Return the embeddings of the labeled pictures, by path."""
        key = str(settings)
        if key not in self._rows:
            paths = sorted(self.labeled)
            pictures = rows_of(load_catalogue(self.run.path("training.csv")), paths)
            extractor = untrained_extractor(self.run, settings)
            rows = embedded_rows(paths, embed(extractor, pictures), extractor.widths)
            if len(self._rows) >= KEPT:
                self._rows.pop(next(iter(self._rows)))
            self._rows[key] = rows
        return self._rows[key]
