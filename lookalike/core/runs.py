"""The run folder: its settings, its files, and what each stage was made from.

`runs/<name>/` holds all results of a run. Files are written beside their path and moved over it, so
that a killed run leaves complete files; `stages.json` keeps the inputs and outputs of each stage by
hash, so that the next run redoes only what is missing or was made from something else.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import msgspec

from lookalike.core.config import load_settings
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, write_json
from lookalike.core.log import log
from lookalike.core.readers import read_json, saved_record
from lookalike.core.settings import RENAMED, STAGES, Settings, recipe

BEFORE_REPORT = STAGES[: STAGES.index("report")]
RESULT = ("seconds", "pictures_per_second", "made")
PATH_SETTINGS = (
    "data",
    "run",
    "cache",
    "labels",
    "weights",
    "train",
    "query",
    "gallery",
    "test",
    "source_path",
    "lfw_home",
    "metadata",
    "ensemble",
    "sample_submission",
)
# Settings that name a file: its content counts too.
FILE_SETTINGS = {"weights", "labels", "train", "query", "gallery", "test", "sample_submission"}
PACKAGE = Path(__file__).parents[1]
PACKAGES = (
    *("torch", "torchvision", "timm", "openvino", "faiss-gpu", "faiss-cpu", "numpy", "pandas"),
    *("scikit-learn", "scipy", "pillow", "opencv-python-headless"),
)


class Inputs(TypedDict):
    """The state of everything that a stage's work depends on."""

    settings: dict[str, Any]
    named_files: dict[str, str | None]
    files: dict[str, str | None]
    watched: str


class Stamp(TypedDict):
    """What stages.json holds of a stage: what it read and wrote, and its result."""

    inputs: Inputs
    outputs: dict[str, str | None]
    seconds: float
    made: str
    pictures_per_second: float | None
    embedding_seconds: NotRequired[float]
    versions: NotRequired[dict[str, str]]


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
        started: When the process began, by `time.perf_counter`.
        pace: Of the stage at work.
        extractors: Feature extractors that were loaded, by all that each depends on.
        matches: Scores of local features, by the pictures.
    """

    started: float = field(default_factory=time.perf_counter)
    pace: Pace = field(default_factory=Pace)
    extractors: dict[str, Any] = field(default_factory=dict)
    matches: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline: its work, and everything that the work depends on.

    Attributes:
        name: As --stage names it.
        work: Writes `outputs` into the run folder and returns one line that describes the result,
            or None where there was nothing to do.
        settings: Names of the settings it depends on; one that names a file counts with the file's
            content.
        files: Files of the run folder that it reads.
        outputs: Files of the run folder that it writes.
        watch: Returns a value that changes with whatever else it reads.
        always: Whether its work is called even where the inputs are unchanged, because it finds out
            by itself whether there is anything to do.
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
    """A run folder with the settings, data set and cache that it works with.

    Attributes:
        folder: The run folder.
        data: Folder of the data set.
        settings: All settings of the run.
        named: Names of the settings that its user has named; others may be chosen.
        session: What its stages share in this process.
    """

    folder: Path
    data: Path
    settings: Settings
    named: frozenset[str] = frozenset()
    session: Session = field(default_factory=Session, repr=False, compare=False)

    def path(self, name: str) -> Path:
        """Return the path of one of the run's files."""
        return self.folder / name

    @property
    def cache(self) -> Path:
        """Folder of the embedding cache."""
        return self.settings.general.cache

    @property
    def seed(self) -> int:
        """Seed of every random choice."""
        return self.settings.general.seed

    def save_settings(self, kept: Collection[str] = ()) -> None:
        """Write config.json (a file for --config) and versions.json.

        Args:
            kept: Names of settings that stay as config.json has them.
        """
        before = saved_record(self.path("config.json"))
        table = recipe(self.settings) | {"data": str(self.data), "run": str(self.folder)}
        # Absolute, so that the run can go on from any folder.
        table |= {name: _absolute(table[name]) for name in PATH_SETTINGS}
        table |= {name: before[name] for name in kept if name in before}
        write_json(self.path("config.json"), table)
        write_json(self.path("versions.json"), self.versions())

    def save_named(self) -> None:
        """Write named.json: the settings that the run's user has named, with their values."""
        table = recipe(self.settings)
        table |= {name: _absolute(table[name]) for name in PATH_SETTINGS}
        named = sorted(self.named & table.keys() - {"data", "run"})
        write_json(self.path("named.json"), {name: table[name] for name in named})

    def versions(self) -> dict[str, str]:
        """Return the version of every package that made what is there, by its name.

        Where stages were made by several versions, all of them are named with their stages.
        """
        made: dict[str, dict[str, list[str]]] = {}
        for name, stamp in self.stamps().items():
            for package, number in stamp.get("versions", {}).items():
                made.setdefault(package, {}).setdefault(number, []).append(name)
        return {
            package: next(iter(numbers))
            if len(numbers) == 1
            else "; ".join(f"{number} ({', '.join(names)})" for number, names in numbers.items())
            for package, numbers in made.items()
        }

    def remove_partial_files(self) -> None:
        """Remove the incomplete files of a process that was killed."""
        for path in self.folder.glob(".*.partial"):
            path.unlink()

    # ---- stages ---------------------------------------------------------------------------------

    def do(self, stage: Stage) -> None:
        """Do a stage's work, unless it is done and nothing has changed since.

        Raises:
            UserError: From the stage's work; the stage then counts as not done.
        """
        inputs = self.inputs(stage)
        if self.is_done(stage, inputs):
            stamp = self.stamps()[stage.name]
            log.info("%s: inputs unchanged, nothing to do (%s)", stage.name, stamp["made"])
            _report_other_versions(stage.name, stamp.get("versions", {}))
            return
        self._require_unchanged(inputs["files"])
        pace = self.session.pace
        pace.pictures, pace.seconds = 0, 0.0
        start = time.perf_counter()
        result = stage.work(self)
        if result is None:
            log.info("%s: everything is in place, nothing to do", stage.name)
            return
        seconds = round(time.perf_counter() - start, 3)
        stamp = {
            "inputs": inputs,
            "outputs": self.outputs(stage),
            "seconds": seconds,
            "made": result,
            "pictures_per_second": pace.rate(),
            "embedding_seconds": round(pace.seconds, 3),
            "versions": versions(),
        }
        write_json(self.path("stages.json"), self.stamps() | {stage.name: stamp})
        log.info("%s: %s (%.1f s)", stage.name, result, seconds)

    def verify(self, *names: str) -> None:
        """Check that files of the run are what the stages wrote.

        Raises:
            UserError: One has changed since.
        """
        self._require_unchanged({name: file_hash(self.path(name)) for name in names})

    def _require_unchanged(self, hashes: Mapping[str, str | None]) -> None:
        """Raise an error where a file is not what the stage that wrote it has recorded."""
        for stage, stamp in self.stamps().items():
            for name, recorded in stamp["outputs"].items():
                if hashes.get(name, recorded) not in (recorded, None):
                    raise UserError(
                        f"{self.path(name)} is not what --stage {stage} wrote: "
                        f"make it anew with --stage {stage} --force"
                    )

    def is_done(self, stage: Stage, inputs: Inputs) -> bool:
        """Return whether a stage is done with these inputs, has its outputs, and is not forced."""
        stamp = self.stamps().get(stage.name)
        if stamp is None or self.settings.general.force or stage.always:
            return False
        return stamp["inputs"] == inputs and stamp["outputs"] == self.outputs(stage)

    def is_current(self, name: str) -> bool:
        """Return whether a stage's outputs are there, and were made with the present settings.

        The settings and the files that it depended on count; what it has watched does not.

        Args:
            name: Of the stage.
        """
        stamp = self.stamps().get(name)
        if stamp is None:
            return False
        recorded = stamp["inputs"]
        flat = self.settings.flat()
        return (
            recorded["settings"] == {name: flat.get(name) for name in recorded["settings"]}
            and recorded["files"] == {n: file_hash(self.path(n)) for n in recorded["files"]}
            and stamp["outputs"] == {n: file_hash(self.path(n)) for n in stamp["outputs"]}
        )

    def stamps(self) -> dict[str, Stamp]:
        """Return what stages.json holds: {stage: stamp}, without damaged ones."""
        stamps = {}
        for name, value in saved_record(self.path("stages.json")).items():
            with suppress(msgspec.ValidationError):  # damaged: the stage counts as not done
                stamps[name] = stamp = msgspec.convert(value, Stamp)
                settings = stamp["inputs"]["settings"]
                stamp["inputs"]["settings"] = {RENAMED.get(k, k): v for k, v in settings.items()}
        return stamps

    def inputs(self, stage: Stage) -> Inputs:
        """Return the state of everything that the stage's work depends on."""
        flat = self.settings.flat()
        settings = {name: flat[name] for name in stage.settings}
        named = {
            flat[name]: file_hash(Path(flat[name]))
            for name in FILE_SETTINGS & settings.keys()
            if flat[name]
        }
        if "backbone" in settings:
            named |= {str(path): file_hash(path) for path in self.settings.embed.files}
        return {
            "settings": settings,
            "named_files": named,
            "files": {name: file_hash(self.path(name)) for name in stage.files},
            "watched": stage.watch(self),
        }

    def outputs(self, stage: Stage) -> dict[str, str | None]:
        """Return the hash of each file that the stage writes; None where it is not there."""
        return {name: file_hash(self.path(name)) for name in stage.outputs}

    def results(self, stages: Sequence[str] = STAGES) -> dict[str, dict[str, Any]]:
        """Return what stages did when they last did something.

        Args:
            stages: Names of those asked for.

        Returns:
            {stage: {seconds, pictures_per_second, made}} of those that were done, in this order.
        """
        stamps = self.stamps()
        return {
            name: {key: dict(stamps[name])[key] for key in RESULT}
            for name in stages
            if name in stamps
        }


def _absolute(value: Any) -> Any:
    """Return the absolute path of a file, or of each in a list; others as they are."""
    if isinstance(value, list):
        return [_absolute(part) for part in value]
    return str(Path(value).resolve()) if value and Path(value).exists() else value


def versions() -> dict[str, str]:
    """Return the versions of Python, of the packages and of the code that a result depends on."""
    found = {"python": sys.version.split()[0], "lookalike": _code_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _code_version() -> str:
    """Return a hash of the package's modules: a released number stays while its code is edited."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE)}\0".encode() + path.read_bytes())
    return f"code {digest.hexdigest()[:12]}"


def _report_other_versions(stage: str, made_by: Mapping[str, str]) -> None:
    """Log which versions differ between a stage's result, which is kept, and this process."""
    changed = [
        f"{name} {made_by[name]}"
        for name, now in versions().items()
        if made_by.get(name, now) != now
    ]
    if changed:
        what = "%s: made by other versions (%s) and kept; --force makes it anew"
        log.warning(what, stage, ", ".join(changed))


def read_versions(path: Path) -> dict[str, str]:
    """Read a versions.json.

    Raises:
        UserError: The file is missing or damaged.
    """
    table: dict[str, str] = read_json(path, "main.py", dict[str, str])
    return table


def open_run(folder: Path, reads: Collection[str] = ()) -> Run:
    """Return a finished run, with its own settings.

    Args:
        folder: The run folder.
        reads: Files of the run that are about to be read: they must be what its stages wrote.

    Raises:
        UserError: There is no run, its settings do not name its data, or a file has changed.
    """
    remembered = folder / "config.json"
    if not remembered.is_file():
        raise UserError(f"--run {folder}: no run there; make one with main.py --run {folder}")
    settings = load_settings(remembered)
    if settings.general.data is None:
        raise UserError(f"{remembered}: names no data; make the run anew with main.py")
    run = Run(folder, settings.general.data, settings)
    run.verify(*reads)
    return run
