"""The log: on standard error and in the run folder; errors as sentences and exit codes."""

import io
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike.core.errors import UserError

log = logging.getLogger("toolkit")


def printable(text: str, keep: str = "") -> str:
    r"""Return text from outside as it may be shown: what no terminal prints is written as escapes.

    Args:
        text: Any text, such as a file's name.
        keep: Characters that stay although they are not printable.

    >>> printable("a\x1b[31m\r\udcff é")
    'a\\x1b[31m\\r\\udcff é'
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


class _Printable(logging.Formatter):
    """A formatter whose lines no name can colour, overwrite or break the encoding of."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")


def log_to(folder: Path | None) -> None:
    """Send the log to standard error and, with times, to `folder`/log.txt."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may know fewer characters than names
        sys.stdout.reconfigure(errors="backslashreplace")
    log.handlers.clear()
    log.setLevel(logging.DEBUG)
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(logging.INFO)
    screen.setFormatter(_Printable("%(message)s"))
    log.addHandler(screen)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(folder / "log.txt", encoding="utf-8")
        file.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(file)


@contextmanager
def quietly() -> Iterator[None]:
    """Show only warnings and errors on the screen; the log file gets everything."""
    screens = [handler for handler in log.handlers if type(handler) is logging.StreamHandler]
    levels = [screen.level for screen in screens]
    for screen in screens:
        screen.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for screen, level in zip(screens, levels, strict=True):
            screen.setLevel(level)


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
    except (OSError, MemoryError) as error:
        log.debug("traceback", exc_info=error)
        log.error("error: %s", str(error) or "not enough memory")
        return 1
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, which is not imported for it
            raise
        log.debug("traceback", exc_info=error)
        log.error(
            "error: the GPU's memory is full: name a smaller --batch-size, --image-size or "
            "backbone, or end other programs that use it"
        )
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
    names = [printable(name) for name in names]
    if not names:
        return
    shown = ", ".join(names[:NAMED_ON_SCREEN])
    more = "" if len(names) <= NAMED_ON_SCREEN else ", … (all of them in log.txt)"
    kind = "warning: " if level == logging.WARNING else ""
    log.log(level, "%s%d %s: %s%s", kind, len(names), what, shown, more)
    if more:
        log.debug("all %d %s: %s", len(names), what, ", ".join(names))
