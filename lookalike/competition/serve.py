"""Serve a competition that was made: the server, and its backups while it runs.

lookalike competition serve friday --closes "2026-12-04 12:00" --host 0.0.0.0
"""

import secrets
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike.competition.access import PASSWORD, organizer_password
from lookalike.competition.board import Board
from lookalike.competition.clock import Clock, parse_time, show_time
from lookalike.competition.judge import Judge
from lookalike.competition.sessions import Organizer
from lookalike.competition.settings import ServeCommand
from lookalike.competition.store import Quota, Store
from lookalike.competition.web import HEADERS_OF_PAGES, Site, make_app
from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.log import log, printable
from lookalike.leaderboard.listening import listen, page_url

if TYPE_CHECKING:
    from waitress.server import BaseWSGIServer

BACKUP_EVERY = 600.0  # seconds
BACKUPS = 24  # the newest ones stay
JUMP = 60.0  # seconds by which a clock that went back is worth a warning


def store_of(folder: Path) -> Store:
    """Return what a competition keeps; the file is made where there is none.

    Raises:
        UserError: It cannot be used.
    """
    return Store(folder / "organizer" / "competition.sqlite")


def make_server(command: ServeCommand, clock: Clock | None = None) -> "BaseWSGIServer":
    """Return a server that listens already; its `run()` answers until it is stopped.

    Args:
        command: The settings.
        clock: The time; this machine's by default.

    Raises:
        UserError: A setting or a file cannot be used, or the port is taken.
    """
    check_bounds(command)
    judge = Judge.of_folder(command.folder, command.metric, command.k)
    password, is_new = organizer_password()
    store, quota = store_of(command.folder), Quota(command.per_hour, command.per_day)
    board = Board(store, judge, clock or Clock(), quota, command.open)
    _set_times(board, command)
    _warn_of_clock(board)
    store.first_state("join_code", secrets.token_urlsafe(9))
    site = Site(
        board,
        Organizer(password, board.secret),
        printable(command.title or command.folder.resolve().name),
        command.largest,
        command.proxy is not None,
    )
    largest, headers = int(command.largest * 1e6), [*HEADERS_OF_PAGES.items()]
    server = listen(make_app(site), command.host, command.port, largest, headers, command.proxy)
    _announce(board, page_url(server), password if is_new else None)
    return server


def _set_times(board: Board, command: ServeCommand) -> None:
    """Keep when the competition opens and closes, where the command names another time.

    The same command, started again after a crash, does not undo what the organizer has changed.
    """
    store = board.store
    for name, text in (("opens", command.opens), ("closes", command.closes)):
        if text is not None and store.state().get(f"{name} of the command") != text:
            store.set_state(name, str(parse_time(text, f"--{name}")))
            store.set_state(f"{name} of the command", text)
    schedule = board.schedule
    if None not in schedule and schedule.opens >= schedule.closes:  # type: ignore[operator]
        raise UserError("--opens is not before --closes")


def _warn_of_clock(board: Board) -> None:
    """Say that this machine's clock went back since the last entry, which moves the closing."""
    audit = board.store.audit()
    ahead = (audit[-1].time if audit else 0) - board.clock.now()
    if ahead > JUMP:
        log.warning(
            "warning: this machine's clock is %.0f s behind the last entry: set it right and start "
            "the server anew, or change the times on the organizer's page",
            ahead,
        )
        board.note("server", f"started with a clock that had gone back by {ahead:.0f} s")


def _announce(board: Board, url: str, password: str | None) -> None:
    """Say where everything is, and write the start in the audit log."""
    board.note("server", "started")
    log.info("ranking: %s\nsubmissions: %sretrieval/", url, url)
    log.info("organizer: %sorganizer", url)
    if password is not None:
        log.info("password: %s (of this start; the environment's %s sets one)", password, PASSWORD)
    if code := board.store.state().get("join_code"):
        log.info("join code: %s", code)
    schedule = board.schedule
    for name, seconds in schedule._asdict().items():
        log.info("%s: %s", name, "at no set time" if seconds is None else show_time(seconds))
    log.info("everything is kept in %s; Ctrl-C stops the server", board.store.path)


def back_up(store: Store, now: float) -> Path | None:
    """Copy what a competition keeps beside it, and remove the oldest copies.

    Args:
        store: What it keeps.
        now: The time in seconds since the epoch, which names the copy.

    Returns:
        The copy; None where it cannot be made, which is logged.
    """
    folder = store.path.parent / "backups"
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}.sqlite"
    try:
        store.back_up(path)
    except (sqlite3.Error, OSError, UserError) as error:
        log.error("error: no backup can be made in %s: %s", folder, error)
        return None
    for old in sorted(folder.glob("*.sqlite"))[:-BACKUPS]:
        old.unlink(missing_ok=True)
    return path


def _keep_backing_up(store: Store, stopped: threading.Event) -> None:
    while not stopped.wait(BACKUP_EVERY):
        back_up(store, time.time())


def serve(command: ServeCommand) -> None:
    """Run a competition until Ctrl-C.

    Raises:
        UserError: A setting or a file cannot be used, or the port is taken.
    """
    server, store = make_server(command), store_of(command.folder)
    stopped = threading.Event()
    threading.Thread(target=_keep_backing_up, args=(store, stopped), daemon=True).start()
    try:
        server.run()
    finally:
        stopped.set()
        back_up(store, time.time())
