"""The time that a run may take: what has gone, what is left, and what is tried meanwhile."""

import time
from dataclasses import dataclass, field


@dataclass
class Clock:
    """The time limit of a run, over all the processes that have worked on it.

    Attributes:
        limit: Seconds in all.
        before: Seconds that earlier processes of the run took.
        started: When this process began, by `time.perf_counter`.

    >>> clock = Clock(limit=600, before=540)
    >>> 0 < clock.left() <= 60
    True
    """

    limit: float
    before: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def spent(self) -> float:
        """Return the seconds that the run has taken."""
        return self.before + time.perf_counter() - self.started

    def left(self) -> float:
        """Return the seconds that are left; below 0 where the limit is over."""
        return self.limit - self.spent()
