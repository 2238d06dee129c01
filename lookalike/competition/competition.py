"""The command `lookalike competition`: hold a competition.

lookalike competition make --source-path faces --out friday
lookalike competition leaks friday
lookalike competition serve friday --closes "2026-12-04 12:00" --host 0.0.0.0
lookalike competition teams friday --add "the A team"
lookalike competition results friday
"""

from collections.abc import Sequence

from lookalike.competition.settings import (
    CompetitionProgram,
    LeaksCommand,
    MakeCommand,
    ServeCommand,
    TeamsCommand,
)
from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse


def main(arguments: Sequence[str]) -> int:
    """Run `lookalike competition`.

    Args:
        arguments: The command line after `competition`.

    Returns:
        The exit code: 0, 1 for a mistake or bad input, 130 for Ctrl-C.
    """
    about = "Hold a competition: make its package, serve its leaderboard, print its results."
    program: CompetitionProgram = parse(
        arguments, "lookalike competition", CompetitionProgram, about
    )
    log_to(None)

    return exit_code(lambda: _run(program))


def _run(program: CompetitionProgram) -> None:
    """Run a command; what it needs is loaded then, not for --help."""
    command = program.command
    if isinstance(command, MakeCommand | LeaksCommand):
        from lookalike.competition.make import make_competition, show_leaks

        if isinstance(command, MakeCommand):
            make_competition(command)
        else:
            show_leaks(command)
    elif isinstance(command, ServeCommand):
        from lookalike.competition.serve import serve

        serve(command)
    else:
        from lookalike.competition.tools import show_results, show_teams

        if isinstance(command, TeamsCommand):
            show_teams(command)
        else:
            show_results(command)
