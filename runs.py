"""The run folder: whole files only, what each stage was made from, the log, one process at a time.

`runs/<name>/` holds all that a run made. Every file is written beside its place and moved over it,
so that a killed run leaves whole files; `stages.json` remembers the inputs and outputs of each
stage by hash, so that the next run redoes just what is missing or was made from something else.
"""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from config import STAGES, Settings, UserError, recipe

log = logging.getLogger("toolkit")

STAMP = {"inputs", "outputs", "seconds", "made", "pictures_per_second"}
PLACES = (
    *("data", "run", "cache", "labels", "weights", "source_path", "lfw_home", "metadata"),
    "ensemble",
)
FILE_SETTINGS = {"weights", "labels"}  # settings that name a file: its content counts too
PACKAGES = ("torch", "torchvision", "timm", "faiss-gpu", "faiss-cpu", "numpy", "pandas", "pillow")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved over it at the end: the file is whole or not there.

    >>> with whole_file(Path("/tmp/example.txt")) as beside:
    ...     _ = beside.write_text("all of it")
    >>> Path("/tmp/example.txt").read_text()
    'all of it'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all; the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, made_by: str) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it is missing or broken; `made_by` says what would make it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: make it with {made_by}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): make it anew with {made_by}") from error


def file_hash(path: Path) -> str | None:
    """SHA-256 of a file in hexadecimal, None where there is no such file."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted, through linked folders too; links to nothing as well.

    Files and folders whose names start with a dot are left out.
    """
    found: list[Path] = []
    seen: set[Path] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = Path(here).resolve()
        folders[:] = [f for f in folders if not f.startswith(".")] if real not in seen else []
        if real not in seen:
            found += [Path(here, file) for file in files if not file.startswith(".")]
        seen.add(real)
    return sorted(found)


def listing(folder: Path) -> str:
    """A hash of the names, sizes and times of all files below a folder: it changes when they do."""
    digest = hashlib.sha256()
    for path in files_below(folder):
        if path.exists():
            state = path.stat()
            line = f"{path.relative_to(folder).as_posix()}\0{state.st_size}\0{state.st_mtime_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@contextmanager
def only_process(lock: Path, what: str) -> Iterator[None]:
    """Holds a lock that the system releases even when the process is killed.

    Raises:
        UserError: another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"another process works on {what}: wait for it, or stop it") from error


@dataclass
class Pace:
    """How many pictures the stage at work has embedded, and in how many seconds."""

    pictures: int = 0
    seconds: float = 0.0

    def rate(self) -> float | None:
        """Pictures a second; None where there were none."""
        return round(self.pictures / self.seconds, 1) if self.pictures else None


pace = Pace()


@dataclass(frozen=True)
class Stage:
    """One step of the way: its work, and everything that the work depends on.

    work: makes `outputs` in the run folder and returns one line that says what it made, or None
        where it found nothing to do.
    settings: names of the settings it depends on; one that names a file counts with its content.
    files: the files of the run folder it reads.
    watch: what else it reads, as a value that changes when that does.
    always: its work finds out by itself whether there is anything to do.
    """

    name: str
    work: Callable[["Run"], str | None]
    settings: tuple[str, ...]
    files: tuple[str, ...]
    outputs: tuple[str, ...]
    watch: Callable[["Run"], str] = lambda run: ""
    always: bool = False


@dataclass(frozen=True)
class Run:
    """A run folder with the settings, data set and cache that it works with."""

    folder: Path
    data: Path
    settings: Settings

    def path(self, name: str) -> Path:
        """The place of one of the run's files."""
        return self.folder / name

    @property
    def cache(self) -> Path:
        """The embedding cache."""
        return self.settings.general.cache

    @property
    def seed(self) -> int:
        """Seed of every random choice."""
        return self.settings.general.seed

    def remember_settings(self) -> None:
        """Writes config.json (a file for --config) and versions.json."""
        kept = recipe(self.settings) | {"data": str(self.data), "run": str(self.folder)}
        # Absolute, so that the run can go on from anywhere.
        absolute = {name: _absolute(kept[name]) for name in PLACES}
        write_json(self.path("config.json"), kept | absolute)
        write_json(self.path("versions.json"), versions())

    def sweep(self) -> None:
        """Removes what a killed process has left half written."""
        for path in self.folder.glob(".*.partial"):
            path.unlink()

    def stamps(self) -> dict[str, Any]:
        """What stages.json remembers: {stage: {inputs, outputs, seconds, made}}."""
        try:
            stamps = json.loads(self.path("stages.json").read_text(encoding="utf-8"))
            return {k: v for k, v in stamps.items() if v.keys() >= STAMP}
        except (OSError, ValueError, AttributeError):  # none, or damaged by someone
            return {}

    def inputs(self, stage: Stage) -> dict[str, Any]:
        """The state of everything that the stage's work depends on."""
        flat = self.settings.flat()
        settings = {name: flat[name] for name in stage.settings}
        named = {
            flat[name]: file_hash(Path(flat[name]))
            for name in FILE_SETTINGS & settings.keys()
            if flat[name]
        }
        return {
            "settings": settings,
            "named_files": named,
            "files": {name: file_hash(self.path(name)) for name in stage.files},
            "watched": stage.watch(self),
        }

    def outputs(self, stage: Stage) -> dict[str, str | None]:
        """The state of everything that the stage makes; None: it is not there."""
        return {name: file_hash(self.path(name)) for name in stage.outputs}

    def do(self, stage: Stage) -> None:
        """Does the stage's work, unless it was done and nothing has changed since."""
        inputs, stamp = self.inputs(stage), self.stamps().get(stage.name, {})
        unchanged = stamp.get("inputs") == inputs and stamp["outputs"] == self.outputs(stage)
        if unchanged and not self.settings.general.force and not stage.always:
            log.info("%s: inputs unchanged, nothing to do (%s)", stage.name, stamp["made"])
            return
        pace.pictures, pace.seconds = 0, 0.0
        start = time.perf_counter()
        made = stage.work(self)
        if made is None:
            log.info("%s: everything is in place, nothing to do", stage.name)
            return
        seconds = round(time.perf_counter() - start, 3)
        done = {"inputs": inputs, "outputs": self.outputs(stage), "seconds": seconds, "made": made}
        speed = {"pictures_per_second": pace.rate(), "embedding_seconds": round(pace.seconds, 3)}
        self.stamp(stage.name, done | speed)
        log.info("%s: %s (%.1f s)", stage.name, made, seconds)

    def stamp(self, name: str, stamp: dict[str, Any]) -> None:
        """Remembers a finished stage."""
        write_json(self.path("stages.json"), self.stamps() | {name: stamp})


def way_so_far(run: Run) -> dict[str, dict[str, Any]]:
    """{stage: {seconds, pictures_per_second, made}} of the last time that each stage before the
    report did something, in their order."""
    stamps = run.stamps()
    before = STAGES[: STAGES.index("report")]
    shown = ("seconds", "pictures_per_second", "made")
    return {name: {k: stamps[name][k] for k in shown} for name in before if name in stamps}


def _absolute(value: Any) -> Any:
    """The absolute path of a place, or of each in a list; what is not there stays as it is."""
    if isinstance(value, list):
        return [_absolute(part) for part in value]
    return str(Path(value).resolve()) if value and Path(value).exists() else value


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def log_to(folder: Path | None) -> None:
    """Sends the log to standard error and, with times, to `folder`/log.txt."""
    log.handlers.clear()
    log.setLevel(logging.DEBUG)
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(logging.INFO)
    screen.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(screen)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        book = logging.FileHandler(folder / "log.txt", encoding="utf-8")
        book.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(book)


NAMED_ON_SCREEN = 10


def exit_code(work: Callable[[], None]) -> int:
    """Does a program's work: 0, or 1 for a mistake or bad input, 130 for Ctrl-C, said in words."""
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
        log.error("stopped: the same command goes on from here")
        return 130
    return 0


def report_each(what: str, names: Iterable[str], level: int = logging.WARNING) -> None:
    """Logs a count and every name; beyond ten, names go only to the log file.

    what: says it for the count, e.g. "pictures cannot be read and are left out".
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
