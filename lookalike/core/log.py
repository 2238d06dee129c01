"""The log: on standard error and in the run folder; errors as sentences and exit codes."""

import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from lookalike.core.errors import UserError

log = logging.getLogger("toolkit")


def log_to(folder: Path | None) -> None:
    """Send the log to standard error and, with times, to `folder`/log.txt."""
    log.handlers.clear()
    log.setLevel(logging.DEBUG)
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(logging.INFO)
    screen.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(screen)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(folder / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(file)


NAMED_ON_SCREEN = 10


def exit_code(work: Callable[[], None]) -> int:
    """Run the work of a command and log its error, if any, as a sentence.

    Returns:
        0, or 1 for a mistake or bad input, 130 for Ctrl-C.
    """
    try:
        work()
    except UserError as error:
        log.error("error: %s", error)
        return 1
    except OSError as error:
        log.debug("traceback", exc_info=error)
        log.error("error: %s", error)
        return 1
    except KeyboardInterrupt:
        log.error("stopped: the same command continues from here")
        return 130
    return 0


def report_each(what: str, names: Iterable[str], level: int = logging.WARNING) -> None:
    """Log a count and every name; beyond ten, names go only to the log file.

    Args:
        what: What is true of them, e.g. "pictures cannot be read and are left out".
        names: The names; nothing is logged if there are none.
        level: WARNING or INFO of `logging`.
    """
    names = list(names)
    if not names:
        return
    shown = ", ".join(names[:NAMED_ON_SCREEN])
    more = "" if len(names) <= NAMED_ON_SCREEN else ", … (all of them in log.txt)"
    kind = "warning: " if level == logging.WARNING else ""
    log.log(level, "%s%d %s: %s%s", kind, len(names), what, shown, more)
    if more:
        log.debug("all %d %s: %s", len(names), what, ", ".join(names))
