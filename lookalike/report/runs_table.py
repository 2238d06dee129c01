"""The command `lookalike runs`: one's runs in a table, the best forecast first.

    lookalike runs
    lookalike runs runs other/runs --csv runs.csv

Each run has a line: when it last did something, the settings that differ from the defaults, what
its validation, its forecast and a leaderboard say of it, and the minutes that its stages took.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import tyro

from lookalike.core.config import read_config
from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.log import exit_code, log, log_to, printable
from lookalike.core.numeric import score_text
from lookalike.core.options import differences, parse
from lookalike.core.readers import read_if_good, read_json
from lookalike.core.settings import SubmitSettings
from lookalike.evaluation.results import Metrics, read_metrics

OF_THE_DATA = ("stage", "run", "data", "cache", "labels", "url", "group", "submissions")
PARTS = ("validation", "forecast", "test")


@dataclass
class RunsCommand:
    """Options of `lookalike runs`."""

    folder: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Folders that hold run folders."""
    csv: Path | None = None
    """File to write the table to as well, as CSV with all digits."""
    submissions: Path = field(default=SubmitSettings.submissions)
    """The history of submissions, which holds the leaderboard's scores."""


def runs_in(folders: Sequence[Path]) -> list[Path]:
    """Return the run folders that lie directly in some folders.

    Raises:
        UserError: A folder is not there, or none of them holds a run.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name the folder that holds your runs")
    found = [path.parent for folder in folders for path in folder.glob("*/config.json")]
    if not found:
        raise UserError(f"{', '.join(map(str, folders))}: no run there; make one with main.py")
    return sorted(found)


def describe_run(run: Path, leaderboard: dict[str, float]) -> dict[str, Any]:
    """Return a line of the table; what a damaged file would say is left out, and said.

    Args:
        run: The run folder.
        leaderboard: {run folder: its last score there}.

    Returns:
        `run`, `date`, `settings`, `minutes`, `leaderboard`; and of each of PARTS the score, the
        ends of its interval as `…_low` and `…_high`. None where it is not known.
    """
    what = "left out of the table"
    settings = read_if_good(read_config, run / "config.json", what) or {}
    timing = read_if_good(
        lambda path: read_json(path, "main.py", dict[str, float]), run / "timing.json", what
    )
    metrics: Metrics = read_if_good(read_metrics, run / "metrics.json", what) or {}
    changed = differences(settings)
    line: dict[str, Any] = {
        "run": str(run),
        "date": datetime.fromtimestamp((run / "config.json").stat().st_mtime),
        "settings": ", ".join(f"{k}={v}" for k, v in changed.items() if k not in OF_THE_DATA),
    }
    for part in PARTS:
        block: Any = metrics.get(part)
        low, high = block["ci95"]["score"] if block else (None, None)
        line |= {part: block and block["score"], f"{part}_low": low, f"{part}_high": high}
    line["leaderboard"] = leaderboard.get(str(run))
    line["minutes"] = sum(timing.values()) / 60 if timing else None
    return line


def leaderboard_scores(history: Path) -> dict[str, float]:
    """Return {run folder: the last score that a leaderboard gave it}.

    Raises:
        UserError: The file is not a history of submissions.
    """
    from lookalike.leaderboard.client import finite_number
    from lookalike.leaderboard.history import read_history

    scores = {row["run"]: finite_number(row["score"]) for row in read_history(history)}
    return {run: score for run, score in scores.items() if score is not None}


def rank_of(line: dict[str, Any]) -> tuple[float, str]:
    """Return what lines are sorted by: the forecast, or else the validation; then the name."""
    known = [line[part] for part in ("forecast", "validation") if line[part] is not None]
    return -(known[0] if known else -1.0), line["run"]


def readable_line(line: dict[str, Any]) -> list[str]:
    """Return a line as it is shown."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    def score(part: str) -> str:
        if line[part] is None:
            return "-"
        low, high = line[f"{part}_low"], line[f"{part}_high"]
        digits = 0 if high > 1 else 3
        return f"{score_text(line[part])} ({low:.{digits}f} to {high:.{digits}f})"

    return [
        printable(line["run"]),
        f"{line['date']:%Y-%m-%d %H:%M}",
        *map(score, PARTS),
        "-" if line["leaderboard"] is None else score_text(line["leaderboard"]),
        number(line["minutes"], ".1f"),
        printable(line["settings"]) or "the defaults",
    ]


def show(command: RunsCommand) -> None:
    """Print the table, and write it where asked to."""
    from tabulate import tabulate

    scores = leaderboard_scores(command.submissions)
    lines = sorted((describe_run(run, scores) for run in runs_in(command.folder)), key=rank_of)
    heads = ["run", "date", *PARTS, "leaderboard", "minutes", "settings"]
    rows = [readable_line(line) for line in lines]
    width = [None] * (len(heads) - 1) + [60]
    print(tabulate(rows, heads, disable_numparse=True, maxcolwidths=width))
    if command.csv is not None:
        import pandas as pd

        with whole_file(command.csv) as beside:
            pd.DataFrame(lines).to_csv(beside, index=False)
        log.info("%d runs: %s", len(lines), command.csv)


def main(arguments: Sequence[str]) -> int:
    """Print a table of runs.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        The exit code: 0, 1 for a mistake or bad input, 130 for Ctrl-C.
    """
    command = parse(arguments, "lookalike runs", RunsCommand, "Print a table of one's runs.")
    log_to(None)
    return exit_code(lambda: show(command))
