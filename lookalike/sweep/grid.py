"""Backbones and settings side by side, beside the report's own tables.

    lookalike sweep --data data/celebrities --backbones efficientnet_lite0,mobilenet_v2,sface
    lookalike sweep --source-path lfw62 --lrs 1e-1,1e-2,1e-3 --epochs 3,5 --grid all \\
        --ablate normalization,augmentation --seeds 0,1,2,3,4 -- --embed-dim 512

What stands behind `--` goes to main.py with every row. A row is a run of main.py in a process and a
run folder of its own; the embedding cache sees to it that no picture is embedded twice. The same
command goes on after a kill: what is done stands in `rows/<row>/row.json`. In --out it leaves
rows.csv, summary.csv, report.md and plots.
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
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, listing, only_process, read_json, write_json
from lookalike.core.log import exit_code, log, log_to
from lookalike.core.options import as_arguments, parse, parse_settings
from lookalike.core.settings import Settings
from lookalike.sweep.tables import write_tables
from lookalike.training.loggers import load_tracker, numbers_of, track

STAGES_OF_ROW = ("extract", "split", "crop", "train", "index", "retrieve", "evaluate")
OWN = ("stage", "run", "data", "seed", "force", "config", "source", "source_path")
AUGMENTED_VIEWS = 4
BYTES_OF_MAXRSS = 1 if sys.platform == "darwin" else 1024
PACKAGE = Path(__file__).parents[2]  # the folder that the package lies in, installed or not


@dataclass
class Program:
    """Settings of the benchmark; lists are separated by commas."""

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
    """`one` changes one factor at a time from the base, which is main.py's default where it is
    among the values, else the first of them; `all` takes every combination."""
    seeds: str = "0"
    """Seeds; the tables give means and standard deviations over them."""
    out: Path = Path("runs/benchmark")
    """Folder for rows, tables and plots."""
    log_to: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"
    """Log each new row to TensorBoard, Weights & Biases or MLflow too."""


@dataclass(frozen=True)
class Factors:
    """What differs between rows; the names are main.py's."""

    backbone: str
    lr: float
    epochs: int
    batch_size: int
    normalization: str = "auto"
    train_views: int = 0


class Row(NamedTuple):
    """One run of the grid."""

    factors: Factors
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        made = "-".join(f"{value}" for value in asdict(self.factors).values())
        return re.sub(r"[^\w.-]+", "_", f"{made}-seed{self.seed}")


# ---- the grid -----------------------------------------------------------------------------------


def values_of(option: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    """The values of a list on the command line.

    Raises:
        UserError: none there, or one that is not of the kind.

    >>> values_of("--epochs", "3,5", int)
    [3, 5]
    """
    try:
        values = [kind(word.strip()) for word in text.split(",") if word.strip()]
    except ValueError as error:
        raise UserError(f"{option} {text}: not a list of numbers ({error})") from error
    if not values:
        raise UserError(f"{option}: name at least one, several with commas between them")
    return list(dict.fromkeys(values))


def make_grid(program: Program) -> list[Factors]:
    """The factors of all rows, the base first; ablations change the base only.

    Raises:
        UserError: a value that cannot be used.
    """
    axes = {
        "backbone": values_of("--backbones", program.backbones, str),
        "lr": values_of("--lrs", program.lrs, float),
        "epochs": values_of("--epochs", program.epochs, int),
        "batch_size": values_of("--batch-sizes", program.batch_sizes, int),
    }
    default = Settings().flat()
    base = {k: default[k] if default[k] in values else values[0] for k, values in axes.items()}
    changed = [{name: value} for name, values in axes.items() for value in values]
    if program.grid == "all":
        changed = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    for word in values_of("--ablate", program.ablate, str) if program.ablate else []:
        changed.append(_ablation(word))
    return list(dict.fromkeys(Factors(**base | change) for change in [{}, *changed]))


def _ablation(word: str) -> dict[str, Any]:
    if word == "normalization":
        return {"normalization": "none"}
    if word == "augmentation":
        return {"train_views": AUGMENTED_VIEWS}
    raise UserError(f"--ablate {word}: can be normalization, augmentation, or both")


def check(program: Program, rows: Sequence[Row], words: Sequence[str]) -> None:
    """Raises UserError for what would fail in every row: it shows now, not after an hour."""
    if (program.data is None) == (program.source_path is None):
        raise UserError("name the data by --data or by --source-path, and not by both")
    place = program.data or program.source_path
    if place and not place.is_dir():
        raise UserError(f"{place}: no such folder")
    own = {"--" + name.replace("_", "-") for name in (*OWN, *(f.name for f in fields(Factors)))}
    taken = sorted(own & {word.partition("=")[0] for word in words})
    if taken:
        raise UserError(f"{taken[0]} cannot stand behind --: every row has its own")
    for row in rows:
        parse_settings([*words, *as_arguments(asdict(row.factors)), f"--seed={row.seed}"])


# ---- a row --------------------------------------------------------------------------------------


def command_of(program: Program, row: Row, words: Sequence[str]) -> list[str]:
    """The arguments of main.py for a row, but for --stage and --run."""
    where = [f"--data={program.data}"]
    if program.source_path:
        laid_out = program.out / "data" / f"seed{row.seed}"
        source = ["--source=folder", "--protocol=report", f"--source-path={program.source_path}"]
        where = [f"--data={laid_out}", *source]
    return [*where, *words, *as_arguments(asdict(row.factors)), f"--seed={row.seed}"]


def do_row(program: Program, row: Row, words: Sequence[str], state: str) -> dict[str, Any]:
    """A row's result: the one that stands in row.json, or that of a run now. See `measure_run`.

    state: of the data; a row of another state, or with other words, is done anew. So is one that
        has failed: its cause may have gone.
    """
    folder = program.out / "rows" / row.name
    arguments = command_of(program, row, words)
    made_from = {"arguments": arguments, "state": state}
    if (folder / "row.json").is_file():
        known: dict[str, Any] = read_json(folder / "row.json", "lookalike sweep")
        if known.get("made_from") == made_from and "failed" not in known["result"]:
            return dict(known["result"])
    # A row outlives a benchmark that was killed: it must not lose its folder under its feet.
    with only_process(folder / ".lock", str(folder)):
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    command = [
        sys.executable,
        "-m",
        "lookalike",
        "run",
        "--stage",
        *STAGES_OF_ROW,
        f"--run={folder}",
        *arguments,
    ]
    code, peak = run_and_watch(command, folder / "output.txt")
    said = (folder / "output.txt").read_text(encoding="utf-8", errors="replace")
    result = measure_run(folder, row) | {"memory": peak} if code == 0 else {"failed": why(said)}
    write_json(folder / "row.json", {"made_from": made_from, "result": result})
    about = asdict(row.factors) | {"seed": row.seed, "failed": result.get("failed")}
    with track(program.log_to, "retrieval-benchmark", row.name, about, folder) as tell:
        tell(numbers_of(result), 0)
    return result


def run_and_watch(command: Sequence[str], output: Path) -> tuple[int, int]:
    """Runs a command; its exit code, and the most memory that it held, in bytes."""
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


def why(said: str) -> str:
    """Why a run failed: its last line that says so, else its very last.

    >>> why("embedding: 3 %\\nerror: no such backbone\\n")
    'no such backbone'
    """
    lines = [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines)[-1][:300]


def measure_run(folder: Path, row: Row) -> dict[str, Any]:
    """The measures of a finished run's test (of its validation where the test has no labels), the
    seconds of its training without the embedding, and how many pictures training needs embedded."""
    metrics = read_json(folder / "metrics.json", "lookalike sweep")
    part = "test" if "test" in metrics else "validation"
    if part not in metrics:
        return {"failed": "neither the test nor a validation could be scored"}
    stamp = read_json(folder / "stages.json", "lookalike sweep")["train"]
    split = read_json(folder / "split.json", "lookalike sweep")
    shown = len(split.train) * max(1, row.factors.train_views) + len(split.holdout)
    head = stamp["seconds"] - stamp["embedding_seconds"]
    return {"part": part, **metrics[part], "head_seconds": head, "training_pictures": shown}


# ---- a backbone ---------------------------------------------------------------------------------


def describe_backbone(
    name: str, folder: Path, image_size: int | None = None
) -> dict[str, float | None]:
    """A backbone's parameters, floating-point operations a picture, and pictures a second.

    Kept in `folder`. side: of the pictures, by default its own. The speed is that of blank pictures
    through the engine that embeds, without decoding; None where a backbone cannot be looked into.
    Weights do not matter to any of it.
    """
    path = folder / (
        re.sub(r"[^\w.-]+", "_", f"{name} {image_size}" if image_size else name) + ".json"
    )
    if path.is_file():
        known: dict[str, float | None] = read_json(path, "lookalike sweep")
        return known
    # In a process of its own: a row's memory, as the system counts it, starts from its parent's.
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        try:
            found = apart.submit(_measure_costs, name, folder, image_size).result()
        except UserError as error:
            log.warning("warning: %s", error)
            return {}
    write_json(path, found)
    return found


def _measure_costs(name: str, folder: Path, image_size: int | None) -> dict[str, float | None]:
    log_to(None)
    costs = import_module("lookalike.features.costs")
    found: dict[str, float | None] = costs.measure_costs(name, folder, image_size)
    return found


# ---- the program --------------------------------------------------------------------------------


def do_benchmark(program: Program, words: Sequence[str]) -> None:
    """Does all rows, writes tables and plots after each seed, and prints what came of it.

    Raises:
        UserError: settings that cannot be used, or all rows have failed.
    """
    grid = make_grid(program)
    seeds = values_of("--seeds", program.seeds, int)
    rows = [Row(factors, seed) for seed in seeds for factors in grid]
    check(program, rows, words)
    if program.log_to != "none":
        load_tracker(program.log_to)
    names, image_size = (
        dict.fromkeys(f.backbone for f in grid),
        parse_settings(words).embed.image_size,
    )
    backbones = {
        name: describe_backbone(name, program.out / "backbones", image_size) for name in names
    }
    results = []
    for row, result in do_rows(program, rows, words):
        results.append({**asdict(row.factors), "seed": row.seed, "row": row.name, **result})
        if len(results) % len(grid) == 0:
            text = write_tables(results, backbones, program.out)
    log.info("\n%s\nall of it in %s/", text, program.out)
    if all("failed" in result for result in results):
        raise UserError("all rows have failed; each says why in the table")


def do_rows(
    program: Program, rows: Sequence[Row], words: Sequence[str]
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Does the rows one after another, with a bar that shows the row at work."""
    place = program.data or program.source_path
    state = f"{listing(place) if place else ''} {named_files(words)}"
    bar = tqdm(rows, "rows", unit=" rows")
    for row in bar:
        bar.set_postfix_str(row.name)
        result = do_row(program, row, words, state)
        if "failed" in result:
            log.warning("warning: %s: %s", row.name, result["failed"])
        yield row, result


def named_files(words: Sequence[str]) -> dict[str, str | None]:
    """The content of the files among the words for main.py, like its --labels, by hash."""
    values = [word.partition("=")[2] or word for word in words]
    return {value: file_hash(Path(value)) for value in values if Path(value).is_file()}


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark; returns the exit code."""
    own, words = list(arguments), []
    if "--" in own:
        place = own.index("--")
        own, words = own[:place], own[place + 1 :]
    program = parse(own, "lookalike sweep", Program, "Backbones and settings side by side.")
    log_to(None)

    def work() -> None:
        log_to(program.out)
        with only_process(program.out / ".lock", str(program.out)):
            do_benchmark(program, words)

    return exit_code(work)
