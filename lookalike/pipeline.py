"""From an archive to a scored submission on the leaderboard: the stages, each restartable alone.

    python main.py --stage all
    python main.py --stage all --data data/celebrities --run runs/b0 --backbone efficientnet_b0
    python main.py --stage retrieve evaluate --run runs/b0

A stage whose inputs have not changed does nothing; --force redoes it. A run that was killed goes
on, by the same command, from what is whole.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from pkgutil import resolve_name

from tabulate import tabulate

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, listing, only_process, read_json, write_json
from lookalike.core.log import exit_code, log, log_to
from lookalike.core.options import announce, parse_settings
from lookalike.core.runs import Run, Stage, way_so_far
from lookalike.core.settings import (
    CHANGED,
    STAGES,
    EmbedSettings,
    RetrieveSettings,
    Settings,
    TrainSettings,
    benchmark_summary,
    judging_steps,
    with_choice,
)
from lookalike.data.extraction import choose_data
from lookalike.evaluation.scoring import labels_state, read_labels
from lookalike.leaderboard.client import required_target, target
from lookalike.retrieval.ensemble import adopt, inherited, members_state


def stage_work(name: str) -> Callable[[Run], str | None]:
    """Return a stage's function, which is imported only when it is called.

    PyTorch takes seconds to import, and in a second run most stages have nothing to do.

    Args:
        name: Module and function, as `pkgutil.resolve_name` takes them.
    """

    def work(run: Run) -> str | None:
        result: str | None = resolve_name(name)(run)
        return result

    return work


# What makes an embedding of a picture: all stages that embed depend on it.
EMBEDDING = tuple(field.name for field in fields(EmbedSettings))
# What a ranking depends on; of an ensemble's runs only what they hold counts, not where they lie.
RANKING = tuple(field.name for field in fields(RetrieveSettings) if field.name != "ensemble")
LEARNING = tuple(field.name for field in fields(TrainSettings) if field.name != "log_to")
TRAINING = ("training.csv", "split.json")
INDEX = ("gallery.faiss", "gallery.json", "validation_gallery.faiss", "validation_gallery.json")

STAGE_LIST = (
    Stage(
        "extract",
        stage_work("lookalike.data.extraction:run_extract"),
        settings=(
            *("source", "source_path", "protocol", "drive_id", "lfw_home", "metadata"),
            *("min_pictures", "min_size", "one_face", "train_per_person", "test_per_person"),
        ),
        files=(),
        outputs=(),
        always=True,
    ),
    Stage(
        "split",
        stage_work("lookalike.data.splits:run_split"),
        settings=("split", "domain_pattern", "query_domain", "seed"),
        files=(),
        outputs=("training.csv", "test.csv", "split.json"),
        watch=lambda run: listing(run.data),
    ),
    Stage(
        "auto",
        stage_work("lookalike.retrieval.selection:run_auto"),
        settings=(*EMBEDDING, *RANKING, "auto_backbones", *CHANGED, "query_domain", "seed"),
        files=TRAINING,
        outputs=("auto.json", "auto.csv"),
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
        settings=(*EMBEDDING, *LEARNING, "seed"),
        files=TRAINING,
        outputs=("model.safetensors", "history.csv", "training.png"),
        watch=lambda run: judged_by(run.settings),
    ),
    Stage(
        "index",
        stage_work("lookalike.retrieval.ranking:run_index"),
        settings=(*EMBEDDING, "index", "refit", "seed"),
        files=("model.safetensors", "test.csv", *TRAINING),
        outputs=INDEX,
    ),
    Stage(
        "retrieve",
        stage_work("lookalike.retrieval.ranking:run_retrieve"),
        settings=(*EMBEDDING, *RANKING, "refit", "query_domain"),
        files=("model.safetensors", "test.csv", *TRAINING, *INDEX),
        outputs=("submission.json", "submission.csv", "validation.json", "ranking.json"),
        watch=members_state,
    ),
    Stage(
        "forecast",
        stage_work("lookalike.retrieval.forecast:run_forecast"),
        settings=(*EMBEDDING, *RANKING, *CHANGED, "query_domain", "seed"),
        files=("model.safetensors", "test.csv", *TRAINING),
        outputs=("forecast.json",),
    ),
    Stage(
        "evaluate",
        stage_work("lookalike.evaluation.scoring:run_evaluate"),
        settings=("labels",),
        files=("submission.json", "validation.json", "split.json", "forecast.json"),
        outputs=("metrics.json", "labels.json"),
        watch=labels_state,
    ),
    Stage(
        "report",
        stage_work("lookalike.report.page:run_report"),
        settings=(
            *EMBEDDING,
            *("report_queries", "projection", "points", "perplexity", "iterations", "benchmark"),
            "seed",
        ),
        files=(
            *("metrics.json", "ranking.json", "labels.json", "history.csv", "faces.csv"),
            *("model.safetensors", "test.csv", *TRAINING),
        ),
        outputs=("report.html",),
        watch=lambda run: f"{way_so_far(run)} {file_hash(benchmark_summary(run.settings.report))}",
    ),
    # The history of what was sent knows whether there is anything to do.
    Stage(
        "submit",
        stage_work("lookalike.leaderboard.submit:run_submit"),
        settings=(),
        files=(),
        outputs=(),
        always=True,
    ),
)


def judged_by(settings: Settings) -> str:
    """The steps of the ranking, where a ranking judges the training."""
    return "" if settings.train.is_linear_probe else str(judging_steps(settings.retrieve))


def prepare(arguments: Sequence[str]) -> Run:
    """The run that a command line asks for."""
    settings = read_settings(arguments)
    # What is wrong shows now, not after an hour's work.
    if not settings.train.is_linear_probe:
        resolve_name("lookalike.training.losses:parse_objective")(settings.train.objective)
    if settings.evaluate.labels is not None:
        read_labels(settings.evaluate.labels)
    if "submit" in settings.general.stage:
        required_target(settings.submit)
    elif "all" in settings.general.stage:
        target(settings.submit)
    run = locate(settings)
    keep_apart(run)
    return run


def read_settings(arguments: Sequence[str]) -> Settings:
    """The settings that a command line asks for. A single stage goes on with the run's own; an
    ensemble is on the data of its first member."""
    settings = parse_settings(arguments)
    shared = inherited(settings)
    if shared:
        settings = parse_settings(arguments, inherited=shared)
    if "all" not in settings.general.stage:
        remembered = (settings.general.run or locate(settings).folder) / "config.json"
        if remembered.is_file():
            settings = parse_settings(arguments, remembered, shared)
    return settings


def keep_apart(run: Run) -> None:
    """Raises UserError where a data set, which is only read, and what is written share a place."""
    data, folder, cache = (path.resolve() for path in (run.data, run.folder, run.cache))
    source = Path(run.settings.extract.source_path or "").resolve()
    pairs = [("--run", folder, "--data", data), ("--data", data, "--run", folder)]
    pairs += [("--cache", cache, "--data", data)]
    if run.settings.extract.source in ("folder", "imdb"):
        pairs += [
            ("--data", data, "--source-path", source),
            ("--source-path", source, "--data", data),
        ]
    ensemble = run.settings.retrieve.ensemble
    pairs += [("--run", folder, "--ensemble", member.resolve()) for member in ensemble]
    for name, inner, other, outer in pairs:
        if inner.is_relative_to(outer):
            raise UserError(f"{name} {inner} lies in {other} {outer}: choose a place of its own")


def locate(settings: Settings) -> Run:
    """Fills in the data set's folder and the run's."""
    source = settings.extract.source
    data = choose_data(settings.general.data, settings.extract)
    if settings.extract.source != source:
        log.info("no data set named and none in data/: the built-in demo competition is used")
    folder = settings.general.run or Path("runs") / data.resolve().name
    return Run(folder, data, settings)


# Stages that an ensemble leaves to its members.
BY_MEMBERS = ("extract", "split", "auto", "crop", "train", "index", "forecast", "report")


def do_stages(run: Run) -> Run:
    """Does the stages that were asked for, in the order of the way, and shows what came of it.

    Returns the run, with the settings that the stage auto has chosen.

    The submission is sent after that: a leaderboard that does not answer hides no result.
    """
    settings = run.settings.general.stage
    *stages, submit = STAGE_LIST
    ensemble = bool(run.settings.retrieve.ensemble)
    if ensemble and ("retrieve" in settings or "all" in settings):
        adopt(run)
    for stage in stages:
        if stage.name == "report":  # it shows how long the others took
            keep_timing(run)
        if not wanted(stage.name, run.settings):
            continue
        if ensemble and stage.name in BY_MEMBERS:
            log.info("%s: not needed, the runs of the --ensemble have done it", stage.name)
        else:
            run.do(stage)
        if stage.name == "auto":
            run = chosen_by_auto(run)
    log.info("\n%s", summary(run))
    if "submit" in settings or ("all" in settings and target(run.settings.submit)):
        run.do(submit)
    elif "all" in settings:
        log.info("submit: not sent, since no leaderboard is named (--url and --group, or --kaggle)")
    return run


def wanted(stage: str, settings: Settings) -> bool:
    """Whether a stage is stages for; `all` means auto only where --auto says so."""
    stages = settings.general.stage
    return stage in stages or ("all" in stages and (stage != "auto" or settings.general.auto))


def chosen_by_auto(run: Run) -> Run:
    """The run with the settings that the stage auto has written, where it has."""
    path = run.path("auto.json")
    if not path.is_file():
        return run
    run = replace(run, settings=with_choice(run.settings, read_json(path, "--stage auto")))
    log.info("auto has chosen: %s", announce(run.settings).splitlines()[0])
    run.remember_settings()
    return run


def keep_timing(run: Run) -> None:
    """Puts the seconds of each stage's last real run into metrics.json."""
    stamps = run.stamps()
    if "evaluate" in stamps and run.path("metrics.json").is_file():
        seconds = {name: stamp["seconds"] for name, stamp in way_so_far(run).items()}
        metrics = read_json(run.path("metrics.json"), "--stage evaluate")
        write_json(run.path("metrics.json"), metrics | {"timing": seconds})
        evaluated = next(stage for stage in STAGE_LIST if stage.name == "evaluate")
        run.stamp("evaluate", stamps["evaluate"] | {"outputs": run.outputs(evaluated)})


SHOWN = ("pictures_per_second", "made")


def summary(run: Run) -> str:
    """What was made, where, how long it took, and the scores with their intervals."""
    stamps = run.stamps()
    rows = [
        (name, f"{stamps[name]['seconds']:.1f}", *map(stamps[name].get, SHOWN))
        for name in STAGES
        if name in stamps
    ]
    made = tabulate(rows, ["stage", "seconds", "pictures/s", "made"], disable_numparse=True)
    metrics = {}
    if run.path("metrics.json").is_file():
        metrics = read_json(run.path("metrics.json"), "--stage evaluate")
    names = ("score", "recall@1", "recall@5", "recall@10", "map", "map@10", "map@10_hits")
    scores = [
        (
            part,
            *(format(block[name], ".1f" if name == "score" else ".3f") for name in names),
            "{:.1f} to {:.1f}".format(*block["ci95"]["score"]),
        )
        for part, block in metrics.items()
        if part in ("test", "validation")
    ]
    heads = ["", *names, "95 % of score"]
    judged = tabulate(scores, heads, disable_numparse=True) if scores else "nothing scored"
    if "forecast" in metrics:
        low, high = metrics["forecast"]["ci95"]["score"]
        judged += (
            f"\nforecast of the test: {metrics['forecast']['score']:.1f} ({low:.1f} to {high:.1f})"
        )
    return f"{made}\n\n{judged}\n\nall of it in {run.folder}/"


def work(arguments: Sequence[str]) -> None:
    """Does what a command line asks for."""
    run = prepare(arguments)
    log_to(run.folder)
    log.info("run %s on %s\n%s", run.folder, run.data, announce(run.settings))
    with only_process(run.path(".lock"), str(run.folder)):
        run.sweep()
        if "all" in run.settings.general.stage:
            run.remember_settings()
        # Settings of a single stage count for the run once they have worked.
        do_stages(run).remember_settings()


def work_together(arguments: Sequence[str]) -> None:
    """The same with the processes that torchrun has started: the others help the first to train."""
    processes, train_ft = map(
        resolve_name, ("lookalike.training.distributed", "lookalike.training.stage")
    )
    settings = read_settings(arguments)
    if settings.general.auto or "auto" in settings.general.stage:
        raise UserError("--auto chooses in one process: run it alone, then torchrun --stage train")
    processes.join()
    try:
        if processes.number() == 0:
            work(arguments)
            processes.agree(train_ft.OVER)
        else:
            log.setLevel("ERROR")
            train_ft.help_training(prepare(arguments))
    finally:
        processes.leave()


def main(arguments: Sequence[str]) -> int:
    """Runs the stages; returns the exit code: 0, 1 for a mistake or bad input, 130 for Ctrl-C."""
    log_to(None)
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return exit_code(lambda: (work_together if several else work)(arguments))
