"""The command `lookalike competition`: hold a competition.

lookalike competition make --source-path faces --out friday
lookalike competition leaks friday
"""

from collections.abc import Sequence

from lookalike.competition.settings import CompetitionProgram, MakeCommand
from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse


def main(arguments: Sequence[str]) -> int:
    """Run `lookalike competition`.

    Args:
        arguments: The command line after `competition`.

    Returns:
        The exit code: 0, 1 for a mistake or bad input, 130 for Ctrl-C.
    """
    about = "Hold a competition: make its package, and see what that gives away."
    program: CompetitionProgram = parse(
        arguments, "lookalike competition", CompetitionProgram, about
    )
    log_to(None)

    def work() -> None:
        from lookalike.competition.make import make_competition, show_leaks  # pandas, slow

        if isinstance(program.command, MakeCommand):
            make_competition(program.command)
        else:
            show_leaks(program.command)

    return exit_code(work)
