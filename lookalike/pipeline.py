"""The pipeline: from an archive to a scored submission, in stages that can be restarted alone.

    python main.py --stage all
    python main.py --stage all --data data/celebrities --run runs/b0 --backbone efficientnet_b0
    python main.py --stage retrieve evaluate --run runs/b0

A stage whose inputs have not changed does nothing; --force redoes it. After a kill the same command
continues from the files that are complete.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from tabulate import tabulate

from lookalike.core.checks import check, option
from lookalike.core.config import from_table, read_config, settings_of
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, listing, only_process, write_json
from lookalike.core.log import exit_code, log, log_to
from lookalike.core.options import announce, named_settings, parse_settings
from lookalike.core.readers import read_if_good, read_text, saved_record
from lookalike.core.runs import BEFORE_REPORT, Run, Stage
from lookalike.core.settings import (
    OBJECTIVE_SETTINGS,
    EmbedSettings,
    ExtractSettings,
    ListingSettings,
    RetrieveSettings,
    Settings,
    TrainSettings,
    benchmark_summary,
    plain,
    recipe,
    validation_steps,
)
from lookalike.data.extraction import choose_data
from lookalike.evaluation.metrics import DEFAULT_METRIC, STANDARD, run_metric
from lookalike.evaluation.results import metric_of_block, read_metrics
from lookalike.evaluation.scoring import read_labels
from lookalike.evaluation.stage import evaluate_state
from lookalike.leaderboard.client import configured_target, required_target
from lookalike.retrieval.ensemble import adopt, inherited, members_state


def stage_work(name: str) -> Callable[[Run], str | None]:
    """Return a stage's function, which is imported only when it is called.

    PyTorch takes seconds to import, and in a second run most stages have nothing to do.

    Args:
        name: Module and function, as `pkgutil.resolve_name` takes them.
    """
    return lambda run: resolve_name(name)(run)


# Settings that an embedding depends on: all stages that embed depend on them.
EMBEDDING = tuple(field.name for field in fields(EmbedSettings))
# Settings that a ranking depends on; of an ensemble's runs their content counts, not their paths.
RANKING = tuple(field.name for field in fields(RetrieveSettings) if field.name != "ensemble")
EXTRACTION = tuple(field.name for field in fields(ExtractSettings) if field.name != "keep_archive")
LISTING = tuple(field.name for field in fields(ListingSettings))
LEARNING = tuple(field.name for field in fields(TrainSettings) if field.name != "log_to")
MEASURING = ("metric", "k")  # what the score is, and how long the lists are
TRAINING = ("training.csv", "split.json")
SUBMISSIONS = ("submission.json", "submission.csv", "submission.trec")
INDEX = ("gallery.faiss", "gallery.json", "validation_gallery.faiss", "validation_gallery.json")

STAGE_LIST = (
    Stage(
        "extract",
        stage_work("lookalike.data.extraction:run_extract"),
        settings=EXTRACTION,
        files=(),
        outputs=(),
        always=True,
    ),
    Stage(
        "split",
        stage_work("lookalike.data.splits:run_split"),
        settings=(*LISTING, "split", "domain_pattern", "query_domain", "seed"),
        files=(),
        outputs=("training.csv", "test.csv", "split.json"),
        watch=lambda run: listing(run.data),
    ),
    Stage(
        "auto",
        lambda run: resolve_name("lookalike.retrieval.search:run_search")(run, make_submission),
        settings=(*EMBEDDING, *RANKING, *MEASURING, "time_limit", "seed"),
        files=("test.csv", *TRAINING),
        outputs=("recipe.json", "timeline.csv", "unseen.json"),
        watch=lambda run: " ".join(sorted(run.named)),
    ),
    Stage(
        "crop",
        stage_work("lookalike.faces.dataset:run_crop"),
        settings=("backbone", "crop", "crop_margin", "detector"),
        files=("training.csv", "test.csv"),
        outputs=("faces.csv", "crops.jpg"),
    ),
    Stage(
        "train",
        stage_work("lookalike.training.stage:run_train"),
        settings=(*EMBEDDING, *LEARNING, *MEASURING, "seed"),
        files=TRAINING,
        outputs=("model.safetensors", "history.csv", "training.png"),
        watch=lambda run: training_validation(run.settings),
    ),
    Stage(
        "index",
        stage_work("lookalike.retrieval.stage:run_index"),
        settings=(*EMBEDDING, "index", "refit", "seed"),
        files=("model.safetensors", "test.csv", *TRAINING),
        outputs=INDEX,
    ),
    Stage(
        "retrieve",
        stage_work("lookalike.retrieval.stage:run_retrieve"),
        settings=(*EMBEDDING, *RANKING, *MEASURING, "refit", "sample_submission"),
        files=("model.safetensors", "test.csv", *TRAINING, *INDEX),
        outputs=(*SUBMISSIONS, "validation.json", "ranking.json"),
        watch=members_state,
    ),
    Stage(
        "forecast",
        stage_work("lookalike.retrieval.forecast:run_forecast"),
        settings=(*EMBEDDING, *RANKING, *MEASURING, *OBJECTIVE_SETTINGS, "seed"),
        files=("model.safetensors", "test.csv", "unseen.json", *TRAINING),
        outputs=("forecast.json",),
    ),
    Stage(
        "evaluate",
        stage_work("lookalike.evaluation.stage:run_evaluate"),
        settings=("labels", *MEASURING),
        files=("submission.json", "validation.json", "test.csv", "split.json", "forecast.json"),
        outputs=("metrics.json", "labels.json"),
        watch=evaluate_state,
    ),
    Stage(
        "report",
        stage_work("lookalike.report.page:run_report"),
        settings=(
            *EMBEDDING,
            "report_queries",
            "projection",
            "points",
            "perplexity",
            "iterations",
            "benchmark",
            "seed",
        ),
        files=(
            "metrics.json",
            "ranking.json",
            "labels.json",
            "history.csv",
            "faces.csv",
            "timeline.csv",
            "model.safetensors",
            "test.csv",
            *TRAINING,
        ),
        outputs=("report.html",),
        watch=lambda run: (
            f"{run.results(BEFORE_REPORT)} {file_hash(benchmark_summary(run.settings.report))}"
        ),
    ),
    # Its own history of submissions says whether there is anything to send.
    Stage(
        "submit",
        stage_work("lookalike.leaderboard.submit:run_submit"),
        settings=(),
        files=("submission.json",),
        outputs=(),
        always=True,
    ),
)

# Stages that make a submission of an embedding and a ranking.
SUBMISSION = ("crop", "train", "index", "retrieve")
# Stages that an ensemble leaves to its members.
BY_MEMBERS = ("extract", "split", "auto", "crop", "train", "index", "forecast", "report")


def training_validation(settings: Settings) -> str:
    """Return the ranking steps that training is validated by; empty for a linear probe."""
    return "" if settings.train.is_linear_probe else str(validation_steps(settings.retrieve))


# ---- settings and folders -----------------------------------------------------------------------


def prepare(arguments: Sequence[str]) -> Run:
    """Return the run of a command line, checked as `checked_run` does.

    Raises:
        UserError: See `checked_run`.
        SystemExit: 2 on an unknown option or a bad value, 0 on --help.
    """
    settings = read_settings(arguments)
    named = named_settings(arguments) | settings_named_before(settings).keys()
    return checked_run(settings, frozenset(named))


def checked_run(settings: Settings, named: frozenset[str]) -> Run:
    """Return the run of the settings, checked as far as possible before any work.

    Args:
        settings: Of the run.
        named: The names of those that its user has named.

    Raises:
        UserError: A setting, label file, leaderboard or folder that cannot be used.
    """
    if not settings.train.is_linear_probe:
        resolve_name("lookalike.training.losses:parse_objective")(settings.train.objective)
    run_metric(settings)
    if settings.general.sample_submission is not None:
        read_text(settings.general.sample_submission)
    if settings.evaluate.labels is not None:
        read_labels(settings.evaluate.labels)
    if "submit" in settings.general.stage:
        required_target(settings.submit)
    elif "all" in settings.general.stage:
        configured_target(settings.submit)
    settings = replace(settings, embed=settings.embed.located())
    for path in settings.embed.files:
        if not path.is_file():
            raise UserError(f"{path}: no such file, named by --backbone or --detector")
    run = replace(locate(settings), named=named)
    require_run(run)
    require_separate_folders(run)
    return run


STARTS = {"all", "extract", "split"}  # stages that a new run can begin with


def require_run(run: Run) -> None:
    """Check that the run is there where --stage goes on with one.

    Raises:
        UserError: There is no run folder.
    """
    goes_on = not STARTS & {*run.settings.general.stage} and not run.settings.retrieve.ensemble
    if goes_on and not run.folder.is_dir():
        folder = run.folder
        raise UserError(f"--run {folder}: no run there; make one with main.py --run {folder}")


def read_settings(arguments: Sequence[str]) -> Settings:
    """Return the settings of a command line.

    A single stage goes on with the settings of its run; an ensemble inherits the data of its first
    member.
    """
    return parse_settings(arguments, settings_to_inherit)


def settings_to_inherit(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a run takes from its ensemble's members and its own config.json.

    Args:
        named: What the command line and --config say of stages, runs and data, by name.
    """
    table = inherited([Path(folder) for folder in named.get("ensemble", ())])
    folder = run_folder({**table, **named})
    if "all" in named.get("stage", ("all",)):
        return table if named.get("reset") else table | named_before(folder)
    remembered = folder / "config.json"
    if remembered.is_file():
        table |= read_config(remembered)
    return table


def named_before(folder: Path) -> dict[str, Any]:
    """Return the settings that were named for a run folder before, by name."""
    path = folder / "named.json"
    return read_config(path) if path.is_file() else {}


def settings_named_before(settings: Settings) -> dict[str, Any]:
    """Return what was named before for the run of the settings, and counts unless --reset."""
    if settings.general.reset:
        return {}
    data, _ = choose_data(settings.general.data, settings.extract)
    return named_before(settings.general.run or default_folder(data))


def run_folder(named: Mapping[str, Any]) -> Path:
    """Return the run folder that settings by name lead to."""
    if named.get("run"):
        return Path(named["run"])
    data = Path(named["data"]) if named.get("data") else None
    return default_folder(choose_data(data, from_table(ExtractSettings, named))[0])


def default_folder(data: Path) -> Path:
    """Return the run folder of a data set where --run names none."""
    return Path("runs") / data.resolve().name


def locate(settings: Settings) -> Run:
    """Return the run of the settings, with the data set's folder and its own filled in."""
    data, extract = choose_data(settings.general.data, settings.extract)
    folder = settings.general.run or default_folder(data)
    return Run(folder, data, replace(settings, extract=extract))


def require_separate_folders(run: Run) -> None:
    """Check that nothing is written into a data set, which is only read, or into a source.

    Raises:
        UserError: One folder lies in another.
    """
    data, folder, cache = (path.resolve() for path in (run.data, run.folder, run.cache))
    source = Path(run.settings.extract.source_path or "").resolve()
    pairs = [
        ("--run", folder, "--data", data),
        ("--data", data, "--run", folder),
        ("--cache", cache, "--data", data),
    ]
    if run.settings.extract.source in ("folder", "imdb"):
        pairs += [
            ("--data", data, "--source-path", source),
            ("--source-path", source, "--data", data),
        ]
    ensemble = run.settings.retrieve.ensemble
    pairs += [("--run", folder, "--ensemble", member.resolve()) for member in ensemble]
    for name, inner, other, outer in pairs:
        if inner.is_relative_to(outer):
            raise UserError(f"{name} {inner} lies in {other} {outer}: choose a separate folder")


# ---- stages -------------------------------------------------------------------------------------


def run_stages(run: Run) -> Run:
    """Run the stages of --stage in their order, and log a summary.

    The submission is sent after the summary: a leaderboard that does not answer hides no result.

    Returns:
        The run, with the settings that the stage auto has chosen.
    """
    ensemble = bool(run.settings.retrieve.ensemble)
    if ensemble and is_wanted("retrieve", run.settings):
        adopt(run)
    *stages, submit = STAGE_LIST
    wanted = run.settings.general.stage
    for stage in stages:
        if not is_wanted(stage.name, run.settings):
            continue
        if ensemble and stage.name in BY_MEMBERS:
            log.info("%s: not needed, the runs of the --ensemble have done it", stage.name)
        elif stage.name == "train" and in_several_processes():
            train_on_all_ranks(run, stage)
        else:
            run.do(stage)
        if stage.name == "split" and run.settings.embed.files:
            resolve_name("lookalike.features.extractor:require_stored")(run)
        if stage.name == "auto" and not ensemble:
            run = with_auto_choice(run)
        if stage.name == "split" and run.settings.submit.dry_run and "submit" not in wanted:
            log.info("dry run: nothing else is done")
            return run
    write_timing(run)
    log.info("\n%s", summary(run))
    send(run, submit)
    return run


def is_wanted(stage: str, settings: Settings) -> bool:
    """Return whether --stage names a stage; `all` includes auto where there is anything to choose.

    A trained embedding is not chosen, nor is anything by several processes.
    """
    stages = settings.general.stage
    if stage in stages or stage != "auto":
        return stage in stages or "all" in stages
    free = settings.general.time_limit > 0 and not settings.train.changes_embedding
    return "all" in stages and free and not in_several_processes()


def make_submission(run: Run) -> None:
    """Do the stages that make submission.json, for other settings than the run's own."""
    for stage in STAGE_LIST:
        if stage.name in SUBMISSION:
            run.do(stage)


def with_auto_choice(run: Run) -> Run:
    """Return the run with the recipe that the stage auto has written."""
    chosen = read_config(run.path("recipe.json"))
    names = {*EMBEDDING, *RANKING, "epochs"} & chosen.keys()
    settings = from_table(Settings, run.settings.flat() | {name: chosen[name] for name in names})
    run = replace(run, settings=settings)
    run.save_settings()
    return run


def send(run: Run, submit: Stage) -> None:
    """Run the stage submit where it is asked for, or where `all` finds a leaderboard configured."""
    stages = run.settings.general.stage
    if "submit" in stages or ("all" in stages and configured_target(run.settings.submit)):
        run.do(submit)
    elif "all" in stages:
        log.info("submit: not sent, since no leaderboard is named (--url and --group, or --kaggle)")


# ---- results ------------------------------------------------------------------------------------


def write_timing(run: Run) -> None:
    """Write timing.json: the seconds that each stage took when it last did something."""
    timing = {name: result["seconds"] for name, result in run.results().items()}
    write_json(run.path("timing.json"), timing)


def summary(run: Run) -> str:
    """Return the stages' results, with their times, and the scores with their intervals."""
    metrics = read_if_good(read_metrics, run.path("metrics.json"), "left out of the summary")
    scores = score_table(metrics or {})
    return f"{stage_table(run)}\n\n{scores}\n\nall results in {run.folder}/"


def stage_table(run: Run) -> str:
    """Return a table of the stages that the run has done."""
    rows = [
        (name, f"{result['seconds']:.1f}", result["pictures_per_second"], result["made"])
        for name, result in run.results().items()
    ]
    return tabulate(rows, ["stage", "seconds", "pictures/s", "result"], disable_numparse=True)


def score_table(metrics: Mapping[str, Any]) -> str:
    """Return a table of the scores in metrics.json, and the forecast."""
    rows = []
    for part in ("test", "validation"):
        if block := metrics.get(part):
            shown, low, high = _shown(block)
            measures = [f"{block[name]:.3f}" for name in STANDARD]
            rows.append((part, shown, *measures, f"{low} to {high}"))
    heads = ["", "score", *STANDARD, "95 % of score"]
    table = tabulate(rows, heads, disable_numparse=True) if rows else "nothing scored"
    if "forecast" in metrics:
        shown, low, high = _shown(metrics["forecast"])
        table += f"\nforecast of the test: {shown} ({low} to {high})"
    names = {metric_of_block(block).name for block in metrics.values()} - {DEFAULT_METRIC}
    return "\n".join([table, *(f"score: {name}" for name in sorted(names))])


def _shown(block: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the score of a block of metrics.json, and the ends of its interval, as text."""
    metric = metric_of_block(block)
    low, high = block["ci95"]["score"]
    return metric.show(block["score"]), metric.show(low), metric.show(high)


# ---- the command --------------------------------------------------------------------------------


def work(arguments: Sequence[str]) -> None:
    """Run what a command line asks for, in this process."""
    execute(prepare(arguments))


def run_pipeline(**settings: Any) -> Run:
    """Run the pipeline from Python, as main.py does from the command line.

    Args:
        **settings: Settings by name, see `lookalike.core.settings`: `data="data/demo"`,
            `stage=("retrieve", "evaluate")`, `backbone="sface"`.

    Returns:
        The run: its folder holds the results.

    Raises:
        UserError: An unknown setting, one that cannot be used, or a stage that failed.
    """
    table = {name: plain(value) for name, value in settings.items()}
    settings_of(table)
    before = settings_to_inherit(table)
    result = from_table(Settings, before | table)
    check(result)
    named = table.keys() | settings_named_before(result).keys()
    return execute(checked_run(result, frozenset(named)))


def execute(run: Run) -> Run:
    """Run the stages in the run's folder, which no other process may use meanwhile.

    Returns:
        The run, with the settings that the stage auto has chosen.
    """
    log_to(run.folder)
    chosen, defaults = announce(run.settings)
    log.info("run %s on %s\n%s", run.folder, run.data, chosen)
    log.debug("%s", defaults)
    report_changes(run)
    with only_process(run.path(".lock"), str(run.folder)):
        run.remove_partial_files()
        if "all" in run.settings.general.stage:
            run.save_settings()
            run.save_named()
        kept = settings_to_keep(run)
        # Settings of a single stage count for the run once they have worked.
        run = run_stages(run)
        run.save_settings(kept)
    return run


def report_changes(run: Run) -> None:
    """Log which settings have other values than they were named with for this run folder before."""
    now = recipe(run.settings)
    for name, value in named_before(run.folder).items():
        if now.get(name) != value:
            log.info("%s: %s → %s", name, value, now.get(name))


def settings_to_keep(run: Run) -> set[str]:
    """Return the settings that stay as config.json has them, since their stages do not run now.

    config.json says what made the files of the run: `--stage evaluate --center` centers nothing.
    """
    done = run.stamps()
    running = [stage for stage in STAGE_LIST if is_wanted(stage.name, run.settings)]
    idle = [stage for stage in STAGE_LIST if stage.name in done and stage not in running]
    kept = {name for stage in idle for name in stage.settings}
    kept -= {name for stage in running for name in stage.settings}
    before = saved_record(run.path("config.json"))
    now = recipe(run.settings)
    ignored = [option(name) for name in sorted(kept & before.keys()) if before[name] != now[name]]
    if ignored:
        log.warning(
            "warning: %s: no stage that runs now depends on it; the run keeps what its files were "
            "made with",
            ", ".join(ignored),
        )
    return kept


def work_together(arguments: Sequence[str]) -> None:
    """Run a command line in all processes that torchrun has started.

    Every rank trains; rank 0 runs the other stages and writes.

    Raises:
        UserError: The stage auto is named: it chooses in a single process.
    """
    settings = read_settings(arguments)
    if "auto" in settings.general.stage:
        raise UserError(
            "--stage auto chooses in one process: run it alone, then torchrun --stage train"
        )
    distributed = import_module("lookalike.training.distributed")
    with distributed.process_group():
        if distributed.rank() == 0:
            work(arguments)
            return
        log.setLevel("ERROR")
        run = prepare(arguments)
        train = next(stage for stage in STAGE_LIST if stage.name == "train")
        if is_wanted(train.name, run.settings) and not run.settings.retrieve.ensemble:
            train_on_all_ranks(run, train)


def train_on_all_ranks(run: Run, stage: Stage) -> None:
    """Run the stage train on every rank, unless rank 0 finds that it is done."""
    distributed = import_module("lookalike.training.distributed")
    first = distributed.rank() == 0
    is_done = distributed.broadcast(first and run.is_done(stage, run.inputs(stage)))
    if first:
        run.do(stage)
    elif not is_done:
        stage.work(run)


def in_several_processes() -> bool:
    """Return whether torchrun has started several processes.

    Raises:
        UserError: WORLD_SIZE, which torchrun sets, is not a number.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if not (count.isascii() and count.isdecimal()):
        raise UserError(f"WORLD_SIZE={count!r} is not a number: unset it, torchrun sets it")
    return int(count) > 1


def main(arguments: Sequence[str]) -> int:
    """Run the stages of a command line.

    Returns:
        The exit code: 0, 1 for a mistake or bad input, 130 for Ctrl-C.
    """
    log_to(None)
    return exit_code(lambda: (work_together if in_several_processes() else work)(arguments))
