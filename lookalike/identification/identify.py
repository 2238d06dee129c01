"""Identify the faces in photographs, or find the identities that pictures resemble.

    lookalike identify who party.jpg --run runs/faces           # red boxes, names, and JSON
    lookalike identify who party.jpg --run runs/faces --folder friends --method knn
    lookalike identify like me.jpg --run runs/faces             # the nearest identity, and JSON
    lookalike identify test --run runs/whales --sample-submission sample_submission.csv
    lookalike identify cluster --run runs/whales

This is open-set identification: each identity has reference embeddings, by default those of the
run's labeled pictures, and a face that is too dissimilar to all of them is "unknown". Every picture
is written with JSON beside it; `--json` prints all of that as one object.
"""

from collections.abc import Iterable

from lookalike.core.log import exit_code, log_to
from lookalike.core.options import parse
from lookalike.identification.settings import (
    ClusterCommand,
    IdentifyProgram,
    LikeCommand,
    NamesCommand,
    WhoCommand,
)


def run_command(command: WhoCommand | LikeCommand | NamesCommand | ClusterCommand) -> None:
    """Execute one command of `lookalike identify`.

    Raises:
        UserError: Its settings or inputs cannot be used.
    """
    # Each imports torch, which --help does not need.
    if isinstance(command, WhoCommand):
        from lookalike.identification.identifier import identify_photos

        identify_photos(command)
    elif isinstance(command, NamesCommand):
        from lookalike.identification.naming import name_test

        name_test(command)
    elif isinstance(command, ClusterCommand):
        from lookalike.identification.clustering import cluster_test

        cluster_test(command)
    else:
        from lookalike.identification.likeness import find_likenesses

        find_likenesses(command)


def main(arguments: Iterable[str]) -> int:
    """Run `lookalike identify`.

    Args:
        arguments: The command line after `identify`.

    Returns:
        The exit code: 0, 1 for bad input or where a picture could not be read, 130 for Ctrl-C.
    """
    description = "Identify the faces in photographs, or find the identities they resemble."
    program: IdentifyProgram = parse(
        list(arguments), "lookalike identify", IdentifyProgram, description
    )
    named = program.command
    folder = named.references.run if isinstance(named, WhoCommand | LikeCommand) else named.run
    log_to(folder if (folder / "config.json").is_file() else None)
    return exit_code(lambda: run_command(program.command))
