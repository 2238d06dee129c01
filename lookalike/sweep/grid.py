r"""Compare backbones and settings: a grid of runs, and tables of their scores (`lookalike sweep`).

    lookalike sweep --data data/celebrities --backbones efficientnet_lite0,mobilenet_v2,sface
    lookalike sweep --source-path lfw62 --lrs 1e-1,1e-2,1e-3 --epochs 3,5 --grid all \
        --ablate normalization,augmentation --seeds 0,1,2,3,4 -- --embed-dim 512

Options after `--` go to every row. A row is a run of the pipeline in a process and a run folder of
its own; the embedding cache makes sure that no picture is embedded twice. The same command resumes
after a kill: what is done is in `rows/<row>/row.json`. In --out the sweep leaves rows.csv,
summary.csv, report.md and plots.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from tqdm import tqdm

from lookalike.core.checks import option
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, listing, only_process
from lookalike.core.log import exit_code, log, log_to
from lookalike.core.options import parse, parse_settings
from lookalike.core.readers import Count, Finite, as_form, read_if_good, read_json
from lookalike.core.sealed import read_sealed, write_sealed
from lookalike.core.settings import Settings
from lookalike.evaluation.results import Block, read_metrics
from lookalike.training.loggers import load_tracker, numbers_of, track

COMMAND = "lookalike sweep"
ROW_STAGES = ("extract", "split", "crop", "train", "index", "retrieve", "evaluate")
ROW_OPTIONS = ("stage", "run", "data", "seed", "force", "config", "source", "source_path")
AUGMENTED_VIEWS = 4
BYTES_OF_MAXRSS = 1 if sys.platform == "darwin" else 1024
PACKAGE = Path(__file__).parents[2]  # the folder that the package lies in, installed or not


@dataclass
class SweepSettings:
    """Settings of a sweep; lists are separated by commas."""

    data: Path | None = None
    """Folder of the data set."""
    source_path: Path | None = None
    """Instead of --data: a folder of class folders, laid out anew for every seed."""
    backbones: str = "efficientnet_lite0"
    """Backbones."""
    lrs: str = "1e-3"
    """Learning rates."""
    epochs: str = "3"
    """Numbers of epochs."""
    batch_sizes: str = "32"
    """Batch sizes."""
    ablate: str = ""
    """`normalization` adds a row without it, `augmentation` one with four augmented views."""
    grid: Literal["one", "all"] = "one"
    """`one` changes one factor at a time from the base, which is the pipeline's default where it is
    among the values, else the first of them; `all` takes every combination."""
    seeds: str = "0"
    """Seeds; the tables give means and standard deviations over them."""
    out: Path = Path("runs/benchmark")
    """Folder for rows, tables and plots."""
    log_to: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"
    """Log each new row to TensorBoard, Weights & Biases or MLflow too."""


@dataclass(frozen=True)
class Factors:
    """The settings that differ between rows, named as those of the pipeline."""

    backbone: str
    lr: float
    epochs: int
    batch_size: int
    normalization: str = "auto"
    train_views: int = 0


class GridRow(NamedTuple):
    """One run of the grid.

    Attributes:
        factors: Its settings.
        seed: Its seed.
    """

    factors: Factors
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder.

        >>> GridRow(Factors("onnx:model.onnx", 0.001, 3, 32), 0).name
        'onnx_model.onnx-0.001-3-32-auto-0-seed0'
        """
        values = "-".join(str(value) for value in asdict(self.factors).values())
        return re.sub(r"[^\w.-]+", "_", f"{values}-seed{self.seed}")

    @property
    def options(self) -> list[str]:
        """Its factors and seed as options of the pipeline."""
        factors = [f"{option(name)}={value}" for name, value in asdict(self.factors).items()]
        return [*factors, f"--seed={self.seed}"]


class RowResult(Block):
    """What a row has measured, see `run_row`."""

    part: Literal["test", "validation"]
    head_seconds: Finite
    training_pictures: Count
    memory: NotRequired[Count]


class RowRecord(TypedDict):
    """The content of a row.json; the result is a RowResult, or {"failed": the reason}."""

    made_from: dict[str, Any]
    result: dict[str, Any]


class Costs(TypedDict):
    """The content of backbones/<name>.json, see `backbone_costs`."""

    parameters: Finite | None
    flops: Finite | None
    pictures_per_second: Finite | None


class TrainTimes(TypedDict):
    """What a stages.json holds of the stage train, and is needed here."""

    seconds: Finite
    embedding_seconds: Finite


class Stamps(TypedDict):
    """What a stages.json holds, and is needed here."""

    train: TrainTimes


# ---- the grid -----------------------------------------------------------------------------------


def parse_list(name: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    """Return the values of a comma-separated list, without repeats.

    Args:
        name: The option that holds it, for error messages.
        text: The list.
        kind: Converts a value.

    Raises:
        UserError: There is no value, or one cannot be converted.

    >>> parse_list("--epochs", "3,5", int)
    [3, 5]
    """
    try:
        values = [kind(word.strip()) for word in text.split(",") if word.strip()]
    except ValueError as error:
        raise UserError(f"{name} {text}: not a list of numbers ({error})") from error
    if not values:
        raise UserError(f"{name}: name at least one, several with commas between them")
    return list(dict.fromkeys(values))


def make_grid(settings: SweepSettings) -> list[Factors]:
    """Return the factors of all rows, the base first; ablations change only the base.

    Raises:
        UserError: A list holds no value, or one that cannot be used.
    """
    axes = {
        "backbone": parse_list("--backbones", settings.backbones, str),
        "lr": parse_list("--lrs", settings.lrs, float),
        "epochs": parse_list("--epochs", settings.epochs, int),
        "batch_size": parse_list("--batch-sizes", settings.batch_sizes, int),
    }
    default = Settings().flat()
    base = {k: default[k] if default[k] in values else values[0] for k, values in axes.items()}
    changes = [{name: value} for name, values in axes.items() for value in values]
    if settings.grid == "all":
        changes = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    if settings.ablate:
        changes += [_ablation(word) for word in parse_list("--ablate", settings.ablate, str)]
    return list(dict.fromkeys(Factors(**base | change) for change in [{}, *changes]))


def _ablation(word: str) -> dict[str, Any]:
    """Return the changed factor of an ablation."""
    if word == "normalization":
        return {"normalization": "none"}
    if word == "augmentation":
        return {"train_views": AUGMENTED_VIEWS}
    raise UserError(f"--ablate {word}: can be normalization, augmentation, or both")


def check_grid(settings: SweepSettings, rows: Sequence[GridRow], words: Sequence[str]) -> None:
    """Check before the first row what would fail in every row.

    Args:
        settings: Of the sweep.
        rows: All rows.
        words: The options after `--`.

    Raises:
        UserError: The data are not there, or an option cannot be used.
        SystemExit: An option after `--` is unknown.
    """
    if (settings.data is None) == (settings.source_path is None):
        raise UserError("name the data by --data or by --source-path, and not by both")
    folder = settings.data or settings.source_path
    if folder and not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    own = {option(name) for name in (*ROW_OPTIONS, *(f.name for f in fields(Factors)))}
    taken = sorted(own & {word.partition("=")[0] for word in words})
    if taken:
        raise UserError(f"{taken[0]} cannot be given after --: every row has its own")
    for row in rows:
        parse_settings([*words, *row.options])


# ---- a row --------------------------------------------------------------------------------------


def row_arguments(settings: SweepSettings, row: GridRow, words: Sequence[str]) -> list[str]:
    """Return a row's options of the pipeline, except --stage and --run."""
    data = [f"--data={settings.data}"]
    if settings.source_path:
        laid_out = settings.out / "data" / f"seed{row.seed}"
        source = ["--source=folder", "--protocol=report", f"--source-path={settings.source_path}"]
        data = [f"--data={laid_out}", *source]
    return [*data, "--time-limit=0", *words, *row.options]


def run_row(
    settings: SweepSettings, row: GridRow, words: Sequence[str], state: str
) -> dict[str, Any]:
    """Return a row's result, from row.json or by running it now.

    A row of another state or with other options is run again; so is one that failed, whose cause
    may have gone.

    Args:
        settings: Of the sweep.
        row: The row.
        words: The options after `--`.
        state: Of the data.

    Returns:
        What `read_result` returns, with `memory`, the peak in bytes; or {"failed": the reason}.

    Raises:
        UserError: Another process works on the row.
    """
    folder = settings.out / "rows" / row.name
    arguments = row_arguments(settings, row, words)
    made_from = {"arguments": arguments, "state": state}
    record = read_if_good(read_row, folder / "row.json", "the row is run again")
    if record and record["made_from"] == made_from and "failed" not in record["result"]:
        return record["result"]
    # The process of a row may outlive a sweep that was killed: its folder must not be deleted.
    with only_process(folder / ".lock", str(folder)):
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "lookalike", "run", "--stage", *ROW_STAGES, f"--run={folder}"]
    code, peak = run_measured([*command, *arguments], folder / "output.txt")
    if code == 0:
        result = read_result(folder, row) | {"memory": peak}
    else:
        output = (folder / "output.txt").read_bytes().decode(errors="replace")
        result = {"failed": failure_reason(output)}
    write_sealed(folder / "row.json", {"made_from": made_from, "result": result})
    about = asdict(row.factors) | {"seed": row.seed, "failed": result.get("failed")}
    with track(settings.log_to, "retrieval-benchmark", row.name, about, folder) as tell:
        tell(numbers_of(result), 0)
    return result


def read_row(path: Path) -> RowRecord:
    """Read a row.json.

    Raises:
        UserError: The file is missing or damaged.
    """
    record: RowRecord = read_sealed(path, COMMAND, RowRecord)
    if "failed" not in record["result"]:
        as_form(record["result"], str(path), RowResult)
    return record


def run_measured(command: Sequence[str], output: Path) -> tuple[int, int]:
    """Run a command with the package on its path.

    Args:
        command: The program and its arguments.
        output: File for what it prints.

    Returns:
        Its exit code, and its peak memory in bytes.
    """
    path = os.pathsep.join(filter(None, (str(PACKAGE), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment
        )
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * BYTES_OF_MAXRSS


def failure_reason(output: str) -> str:
    r"""Return why a run failed: the last line that is an error, else the very last line.

    >>> failure_reason("embedding: 3 %\nerror: no such backbone\n")
    'no such backbone'
    """
    lines = [line for line in output.splitlines() if line.strip()] or ["it printed nothing"]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines)[-1][:300]


def read_result(folder: Path, row: GridRow) -> dict[str, Any]:
    """Read the result of a finished run.

    Args:
        folder: The run folder.
        row: The row that was run.

    Returns:
        The measures of the test (of the validation where the test has no labels), `part`, which of
        both it is, `head_seconds`, the seconds of the training without those of the embedding, and
        `training_pictures`, how many pictures the training needs embedded.
    """
    metrics = read_metrics(folder / "metrics.json")
    block = metrics.get("test") or metrics.get("validation")
    if block is None:
        return {"failed": "neither the test nor a validation could be scored"}
    stamps: Stamps = read_json(folder / "stages.json", COMMAND, Stamps)
    split = import_module("lookalike.data.splits").load_split(folder / "split.json")  # pandas
    pictures = len(split.train) * max(1, row.factors.train_views) + len(split.holdout)
    seconds = stamps["train"]["seconds"] - stamps["train"]["embedding_seconds"]
    return {
        "part": "test" if "test" in metrics else "validation",
        **block,
        "head_seconds": seconds,
        "training_pictures": pictures,
    }


# ---- a backbone ---------------------------------------------------------------------------------


def backbone_costs(
    name: str, folder: Path, image_size: int | None = None
) -> dict[str, float | None]:
    """Return what a backbone costs, measured once per folder.

    The weights do not matter. The speed is that of blank pictures through the engine that embeds,
    without decoding.

    Args:
        name: The backbone.
        folder: Where the figures are stored.
        image_size: Of the pictures; by default the backbone's own.

    Returns:
        `parameters`, `flops` per picture and `pictures_per_second`; None where a backbone cannot be
        inspected. Empty for a backbone that cannot be loaded.
    """
    stem = f"{name} {image_size}" if image_size else name
    path = folder / (re.sub(r"[^\w.-]+", "_", stem) + ".json")
    if stored := read_if_good(read_costs, path, f"{name} is measured again"):
        return stored
    # In a process of its own: a row's memory, as the system counts it, starts from its parent's.
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        try:
            costs = apart.submit(_measure_costs, name, folder, image_size).result()
        except UserError as error:
            log.warning("warning: %s", error)
            return {}
    write_sealed(path, costs)
    return costs


def read_costs(path: Path) -> dict[str, float | None]:
    """Read a stored result of `backbone_costs`.

    Raises:
        UserError: The file is missing or damaged.
    """
    costs: dict[str, float | None] = read_sealed(path, COMMAND, Costs)
    return costs


def _measure_costs(name: str, folder: Path, image_size: int | None) -> dict[str, float | None]:
    """Measure a backbone's costs in this process."""
    log_to(None)
    costs = import_module("lookalike.features.costs").measure_costs(name, folder, image_size)
    return {key: getattr(costs, key) for key in ("parameters", "flops", "pictures_per_second")}


# ---- the command --------------------------------------------------------------------------------


def run_sweep(settings: SweepSettings, words: Sequence[str]) -> None:
    """Run all rows, write tables and plots after each seed, and print the report.

    Args:
        settings: Of the sweep.
        words: The options after `--`.

    Raises:
        UserError: Settings that cannot be used, or all rows have failed.
    """
    grid = make_grid(settings)
    seeds = parse_list("--seeds", settings.seeds, int)
    rows = [GridRow(factors, seed) for seed in seeds for factors in grid]
    check_grid(settings, rows, words)
    if settings.log_to != "none":
        load_tracker(settings.log_to)
    write_tables = import_module("lookalike.sweep.tables").write_tables  # pandas and SciPy
    image_size = parse_settings(words).embed.image_size
    costs = {
        name: backbone_costs(name, settings.out / "backbones", image_size)
        for name in dict.fromkeys(factors.backbone for factors in grid)
    }
    results = []
    for row, result in run_rows(settings, rows, words):
        results.append({**asdict(row.factors), "seed": row.seed, "row": row.name, **result})
        if len(results) % len(grid) == 0:
            text = write_tables(results, costs, settings.out)
    log.info("\n%s\nall of it in %s/", text, settings.out)
    if all("failed" in result for result in results):
        raise UserError("all rows have failed; each says why in the table")


def run_rows(
    settings: SweepSettings, rows: Sequence[GridRow], words: Sequence[str]
) -> Iterator[tuple[GridRow, dict[str, Any]]]:
    """Run the rows one after another, and yield each with its result."""
    folder = settings.data or settings.source_path
    state = f"{listing(folder) if folder else ''} {hashes_of_files(words)}"
    bar = tqdm(rows, "rows", unit=" rows")
    for row in bar:
        bar.set_postfix_str(row.name)
        result = run_row(settings, row, words, state)
        if "failed" in result:
            log.warning("warning: %s: %s", row.name, result["failed"])
        yield row, result


def hashes_of_files(words: Sequence[str]) -> dict[str, str | None]:
    """Return {path: hash} of the files that options name, such as --labels."""
    values = [word.partition("=")[2] or word for word in words]
    return {value: file_hash(Path(value)) for value in values if Path(value).is_file()}


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: The command line after `sweep`.

    Returns:
        The exit code: 0, 1 for a mistake or bad input, 130 for Ctrl-C.
    """
    own, words = list(arguments), []
    if "--" in own:
        end = own.index("--")
        own, words = own[:end], own[end + 1 :]
    settings = parse(own, COMMAND, SweepSettings, "Compare backbones and settings side by side.")
    log_to(None)

    def work() -> None:
        log_to(settings.out)
        with only_process(settings.out / ".lock", str(settings.out)):
            run_sweep(settings, words)

    return exit_code(work)
