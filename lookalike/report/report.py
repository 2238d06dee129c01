"""`lookalike report`: write the report of a run again, with other settings.

    lookalike report runs/demo --perplexity 15 --report-queries 60

It changes only report.html; every other setting is that of the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from lookalike.core.checks import check_bounds
from lookalike.core.config import load_settings
from lookalike.core.files import only_process
from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse
from lookalike.core.runs import Run
from lookalike.core.settings import ReportSettings


@dataclass
class ReportProgram:
    """Settings of `lookalike report`; all others are those of the run."""

    run: tyro.conf.Positional[Path]
    """Run folder of an evaluated run."""
    report: ReportSettings = field(default_factory=ReportSettings)


def write_report(program: ReportProgram) -> None:
    """Write report.html of a run, and print its path and size.

    Raises:
        UserError: A setting is out of bounds, or a file of the run is missing or broken.
    """
    from lookalike.report.page import run_report  # imports torch: not needed for --help

    check_bounds(program.report)
    settings = load_settings(program.run / "config.json")
    settings = replace(settings, report=program.report)
    run = Run(program.run, Path(settings.general.data or ""), settings)
    with only_process(run.path(".lock"), str(run.folder)):
        log_to(run.folder)
        print(run_report(run))


def main(arguments: Sequence[str]) -> int:
    """Run `lookalike report`.

    Args:
        arguments: The command line after `report`.

    Returns:
        The exit code: 0, 1 for a mistake or bad input, 130 for Ctrl-C.
    """
    description = "Write the HTML report of a run."
    program: ReportProgram = parse(list(arguments), "lookalike report", ReportProgram, description)
    log_to(None)
    return exit_code(lambda: write_report(program))
