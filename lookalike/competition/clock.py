"""The clock of a competition: it shows the time of day and does not jump while a server runs."""

import time
from collections.abc import Callable
from datetime import datetime

from lookalike.core.errors import UserError


def running_seconds() -> float:
    """Return seconds that nobody can set; on Linux they go on while the machine sleeps."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Clock:
    """A clock that is set once, when a server starts: opening and closing do not move after that.

    Example:
        >>> clock = Clock(wall=lambda: 1e9, running=iter([5.0, 65.0]).__next__)
        >>> clock.now() - 1e9
        60.0
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        running: Callable[[], float] = running_seconds,
    ) -> None:
        """Set the clock.

        Args:
            wall: Returns the time of day in seconds since the epoch.
            running: Returns seconds that only go forward.
        """
        self._running = running
        self._zero = wall() - running()

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        return self._zero + self._running()


def parse_time(text: str, option: str) -> float:
    """Return a date and time in seconds since the epoch; without a zone, it is this machine's.

    Args:
        text: Such as `2026-12-04 12:00` or `2026-12-04T12:00+01:00`.
        option: Who names it, for the error.

    Raises:
        UserError: It is none.

    >>> parse_time("1970-01-01 01:00+00:00", "--closes")
    3600.0
    """
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise UserError(
            f"{option} {text!r}: no date and time; write it like '2026-12-04 12:00'"
        ) from error


def show_time(seconds: float) -> str:
    """Return a time as people read it, with its zone."""
    return time.strftime("%a %d %b %Y, %H:%M:%S %Z", time.localtime(seconds))


def show_moment(seconds: float) -> str:
    """Return a time as a table shows it."""
    return time.strftime("%d %b %H:%M:%S", time.localtime(seconds))
