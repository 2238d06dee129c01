"""Candidates of the search: changes that may help, and what they cost here.

embedder = CandidateEmbedder(run, paths=labeled)
for candidate in find_candidates(prior, named=frozenset(), labeled=True):
embedder.seconds(candidate.applied(settings))       # measured on this machine
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from time import perf_counter
from typing import Any, NamedTuple

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
from lookalike.retrieval.prior import Prior, sees_faces

SAMPLE = 64  # pictures that a candidate's speed is measured on
FIRST = 8  # pictures before them, which wait for the backbone to be compiled
SAMPLES = 20  # samples that are looked at for pictures which are not in the cache
LOCAL_MOST = 4000  # gallery pictures whose points the memory is taken to hold, 2 MB each
MATCHED = 24  # pictures that the speed of local features is measured on
KEPT = 4  # embeddings of the labeled pictures that are kept in memory


class Candidate(NamedTuple):
    """A change of the embedding, or of the ranking, that may help.

    Attributes:
        name: As the timeline has it.
        gain: Points that it may be expected to gain, from other data.
        change: Settings of the embedding, by name.
        trusted: Whether it is a part of the prior recipe, which needs no proof.
        steps: Settings of the ranking to choose among, where it changes that.
    """

    name: str
    gain: float
    change: dict[str, Any]
    trusted: bool = False
    steps: tuple[dict[str, Any], ...] = ()

    @property
    def names(self) -> list[str]:
        """What the timeline calls each change."""
        if not self.steps:
            return [self.name]
        return [f"{self.name} {in_words(value)}" for step in self.steps for value in step.values()]

    def applied(self, settings: EmbedSettings) -> EmbedSettings:
        """Return the settings with the change."""
        return replace(settings, **self.change)


FACE_CANDIDATES = (
    Candidate("scales 0.85 1", 4.0, {"scales": (0.85, 1.0)}),
    Candidate("scales 0.7 0.85 1", 3.0, {"scales": (0.7, 0.85, 1.0)}),
)
WHOLE_CANDIDATES = (
    Candidate("resolutions 1 1.4", 15.0, {"resolutions": (1.0, 1.4)}),
    Candidate("flip on", 5.0, {"flip": "on"}),
)


# The least has gained something in folds of all data it was tried on; labels may choose more.
LOCAL_WEIGHTS = (0.1, 0.25, 0.5, 1.0)


def local_features(labeled: bool) -> Candidate:
    """Return local features as a candidate; without labels to choose by, of the least weight."""
    weights = LOCAL_WEIGHTS if labeled else LOCAL_WEIGHTS[:1]
    steps = tuple({"local_weight": weight} for weight in weights)
    return Candidate("local features", 20.0, {}, trusted=True, steps=steps)


def find_candidates(prior: Prior, named: frozenset[str], labeled: bool) -> list[Candidate]:
    """Return the changes that are worth trying.

    Args:
        prior: The prior recipe; each further step of its ladder is a candidate.
        named: Settings that the user has named, which stay.
        labeled: Whether there are labeled pictures to judge further ones by.
    """
    ladder, found = prior.ladder, []
    for gain, lower, higher in zip(prior.gains[1:], ladder, ladder[1:], strict=False):
        now = asdict(higher)
        change = {name: now[name] for name, value in asdict(lower).items() if value != now[name]}
        name = ", ".join(f"{key} {in_words(value)}" for key, value in change.items())
        found.append(Candidate(name, gain, change, trusted=True))
    more: tuple[Candidate, ...] = ()
    if not sees_faces(ladder[0]):
        more = (local_features(labeled),)
        more += WHOLE_CANDIDATES if labeled and len(ladder) == 1 and ladder[0].networks else ()
    elif labeled:
        more = FACE_CANDIDATES
    changes = [candidate.change for candidate in found]
    more = tuple(candidate for candidate in more if candidate.change not in changes)
    return found + [candidate for candidate in more if not _settings_of(candidate) & named]


def _settings_of(candidate: Candidate) -> set[str]:
    """Return the names of what a candidate changes."""
    return set(candidate.change).union(*candidate.steps)


def in_words(value: Any) -> str:
    """Return a value as a command line has it.

    >>> in_words((1.0, 1.4)), in_words("on")
    ('1.0 1.4', 'on')
    """
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return " ".join(map(str, value)) if is_list else str(value)


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
