"""Candidates of the search: changes of the embedding or the ranking that may help.

for candidate in find_candidates(prior, named=frozenset(), labeled=True):
    settings = candidate.applied(settings)
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from lookalike.core.settings import EmbedSettings
from lookalike.retrieval.prior import Prior, sees_faces


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
