"""Pair verification: do two pictures show the same person?

    lookalike verify score --data cfp --kind FP --backbone sface --run runs/cfp-sface
    lookalike verify train --data cfp --kind FP --backbone mobilenet_v2 --run runs/siamese
    lookalike verify pair A.jpg B.jpg --run runs/cfp-sface
    lookalike verify table runs/cfp-sface runs/siamese
    lookalike verify fill sample_submission.csv --data test --backbone sface

`score` evaluates an embedder as it is on a protocol; `train` trains a Siamese network for each fold
on the people of the other folds. Both write a run folder: config.json, metrics.json, pairs.csv (the
score of every pair), roc.png, errors.jpg (the worst errors of both kinds) and calibration.json;
`train` also the network and the history of each fold. `pair` decides on any two pictures with the
thresholds and the calibration of such a run. `table` compares runs. `fill` writes the similarity of
each pair into a competition's sample submission.
"""

from collections.abc import Iterable

from lookalike.core.files import only_process
from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse
from lookalike.verification.settings import (
    FillCommand,
    PairCommand,
    ScoreCommand,
    TableCommand,
    TrainCommand,
    VerifyProgram,
)

Command = ScoreCommand | TrainCommand | PairCommand | TableCommand | FillCommand


def run_command(command: Command) -> None:
    """Execute one command of `lookalike verify`.

    Raises:
        UserError: Its settings or inputs cannot be used.
    """
    # They import torch: not needed for --help.
    from lookalike.verification import commands, filling
    from lookalike.verification.results import results_table

    if isinstance(command, TableCommand):
        print(results_table(command.run))
    elif isinstance(command, PairCommand):
        commands.compare_pair(command)
    elif isinstance(command, FillCommand):
        filling.fill_sample(command)
    else:
        with only_process(command.run / ".lock", str(command.run)):
            if isinstance(command, ScoreCommand):
                commands.score_protocol(command)
            else:
                commands.train_protocol(command)


def main(arguments: Iterable[str]) -> int:
    """Run `lookalike verify`.

    Args:
        arguments: The command line after `verify`.

    Returns:
        The exit code: 0 for either verdict, 1 for a mistake or bad input, 130 for Ctrl-C.
    """
    description = "Pair verification: do two pictures show the same person?"
    program: VerifyProgram = parse(list(arguments), "lookalike verify", VerifyProgram, description)
    command = program.command
    log_to(command.run if isinstance(command, ScoreCommand | TrainCommand) else None)
    return exit_code(lambda: run_command(command))
