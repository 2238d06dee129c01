"""Serve a competition that was made: the server, and its backups while it runs.

lookalike competition serve friday --closes "2026-12-04 12:00" --host 0.0.0.0
"""

import ipaddress
import secrets
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike.competition.access import PASSWORD, organizer_password
from lookalike.competition.board import Board, schedule_of
from lookalike.competition.clock import Clock, parse_time, show_time
from lookalike.competition.judge import Judge, solution_of
from lookalike.competition.sessions import Organizer
from lookalike.competition.settings import ServeCommand
from lookalike.competition.store import Quota, Store
from lookalike.competition.web import HEADERS_OF_PAGES, Site, make_app
from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.files import only_process
from lookalike.core.log import log, printable
from lookalike.core.settings import RunSettings
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
    if command.proxy is not None and not _is_address(command.proxy):
        raise UserError(f"--proxy {command.proxy}: name its address, such as 127.0.0.1")
    store, (password, is_new) = store_of(command.folder), organizer_password()
    metric, k = _metric(store, command)
    judge = Judge.of_folder(command.folder, metric, k)
    changes = _times(store, command)
    board = Board(
        store, judge, clock or Clock(), Quota(command.per_hour, command.per_day), command.open
    )
    changes |= {"metric": metric, "k": str(k or "")}
    for name, value in changes.items():
        store.set_state(name, value)
    _warn_of_clock(board)
    store.first_state("join_code", secrets.token_urlsafe(9))
    site = Site(
        board,
        Organizer(password, board.secret),
        printable(command.title or command.folder.resolve().name),
        judge.largest / 1e6,
        command.proxy is not None,
    )
    headers = [*HEADERS_OF_PAGES.items()]
    server = listen(
        make_app(site), command.host, command.port, judge.largest, headers, command.proxy
    )
    _announce(board, page_url(server), password if is_new else None)
    return server


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _metric(store: Store, command: ServeCommand) -> tuple[str, int | None]:
    """Return the metric and the length of lists: those of the command, or else as before."""
    state = store.state()
    if command.metric is not None:
        return command.metric, command.k
    k = state.get("k", "")
    return state.get("metric", RunSettings.metric), command.k or (int(k) if k else None)


def _times(store: Store, command: ServeCommand) -> dict[str, str]:
    """Return what to keep of when the competition opens and closes.

    The same command, started again after a crash, does not undo what the organizer has changed.

    Raises:
        UserError: A time is none, or it would close before it opens.
    """
    state, changes = store.state(), dict[str, str]()
    for name, text in (("opens", command.opens), ("closes", command.closes)):
        if text is not None and state.get(f"{name} of the command") != text:
            changes |= {name: str(parse_time(text, f"--{name}")), f"{name} of the command": text}
    if changes:
        schedule_of(state | changes).check()
    return changes


def _warn_of_clock(board: Board) -> None:
    """Say that this machine's clock went back since the last entry, which moves the closing."""
    newest = board.store.audit(last=1)
    ahead = (newest[0].time if newest else 0) - board.clock.now()
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
        for old in sorted(folder.glob("*.sqlite"), key=_age)[:-BACKUPS]:
            old.unlink(missing_ok=True)
    except (sqlite3.Error, OSError, UserError) as error:
        log.error("error: no backup can be made in %s: %s", folder, error)
        return None
    return path


def _age(path: Path) -> float:
    """Return when a copy was made: its name is that of a clock that may have been wrong."""
    return path.stat().st_mtime


def _keep_backing_up(store: Store, stopped: threading.Event) -> None:
    while not stopped.wait(BACKUP_EVERY):
        back_up(store, time.time())


def serve(command: ServeCommand) -> None:
    """Run a competition until Ctrl-C.

    Raises:
        UserError: A setting or a file cannot be used, or the port is taken.
    """
    solution_of(command.folder)
    lock = command.folder / "organizer" / ".serving.lock"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # how containers stop it
    with only_process(lock, f"{command.folder} (a server of this competition)"):
        server, store = make_server(command), store_of(command.folder)
        stopped = threading.Event()
        threading.Thread(target=_keep_backing_up, args=(store, stopped), daemon=True).start()
        try:
            server.run()
        finally:
            stopped.set()
            back_up(store, time.time())
