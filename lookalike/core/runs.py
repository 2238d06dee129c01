"""The run folder: whole files only, what each stage was made from, the log, one process at a time.

`runs/<name>/` holds all that a run made. Every file is written beside its place and moved over it,
so that a killed run leaves whole files; `stages.json` remembers the inputs and outputs of each
stage by hash, so that the next run redoes just what is missing or was made from something else.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, write_json
from lookalike.core.log import log
from lookalike.core.options import parse_settings
from lookalike.core.settings import STAGES, Settings, recipe

STAMP = {"inputs", "outputs", "seconds", "made", "pictures_per_second"}
PLACES = (
    *("data", "run", "cache", "labels", "weights", "source_path", "lfw_home", "metadata"),
    "ensemble",
)
FILE_SETTINGS = {"weights", "labels"}  # settings that name a file: its content counts too
PACKAGES = ("torch", "torchvision", "timm", "faiss-gpu", "faiss-cpu", "numpy", "pandas", "pillow")


@dataclass
class Pace:
    """Count of the pictures that were embedded, and the seconds that this took."""

    pictures: int = 0
    seconds: float = 0.0

    def rate(self) -> float | None:
        """Return pictures per second; None where there were none."""
        return round(self.pictures / self.seconds, 1) if self.pictures else None


@dataclass
class Session:
    """What the stages of one process share, and no file holds.

    Attributes:
        pace: Of the stage at work.
        extractors: The last feature extractor that was loaded, by all that it depends on.
    """

    pace: Pace = field(default_factory=Pace)
    extractors: dict[str, Any] = field(default_factory=dict)


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
    session: Session = field(default_factory=Session, repr=False, compare=False)

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
        pace = self.session.pace
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


def open_run(folder: Path) -> Run:
    """A finished run, with its own settings.

    Raises:
        UserError: there is no run, or it does not say where its data are.
    """
    remembered = folder / "config.json"
    if not remembered.is_file():
        raise UserError(f"--run {folder}: no run there; make one with main.py --run {folder}")
    settings = parse_settings([], remembered)
    if settings.general.data is None:
        raise UserError(f"{remembered}: names no data; make the run anew with main.py")
    return Run(folder, settings.general.data, settings)
