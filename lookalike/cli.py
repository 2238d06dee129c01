"""The command `lookalike`: one subcommand for each part of the package.

lookalike run --stage all                     # the whole pipeline, as main.py
lookalike identify who party.jpg --run runs/faces
python -m lookalike verify score --help       # the same without `pip install .`
"""

import difflib
import sys
from collections.abc import Sequence
from pkgutil import resolve_name

from lookalike import __version__

# Name: (function, what it does). A command is imported only when it is called.
COMMANDS = {
    "run": ("lookalike.pipeline:main", "run the pipeline: from an archive to a scored submission"),
    "data": ("lookalike.data.catalogue_tool:main", "count and check a data set's pictures"),
    "backbones": ("lookalike.models.backbones_tool:main", "list the backbones, and which are here"),
    "model": ("lookalike.features.costs_tool:main", "print a backbone's size and speed"),
    "extract": ("lookalike.data.extraction:main", "lay a competition out in data/"),
    "evaluate": ("lookalike.evaluation.evaluate:main", "score a submission against labels"),
    "submit": ("lookalike.leaderboard.submit:main", "check, send and list submissions"),
    "competition": (
        "lookalike.competition.competition:main",
        "make and hold a competition",
    ),
    "report": ("lookalike.report.report:main", "write the HTML report of a run"),
    "runs": ("lookalike.report.runs_table:main", "list one's runs, their settings and scores"),
    "sweep": ("lookalike.sweep.grid:main", "compare backbones and settings side by side"),
    "identify": ("lookalike.identification.identify:main", "name faces, or find a lookalike"),
    "verify": ("lookalike.verification.verify:main", "same person or not: score, train, pair"),
    "detector": ("lookalike.training.detector_tool:main", "train a detector of one's own"),
    "simclr": ("lookalike.training.simclr:main", "pretrain a backbone without labels"),
    "cache": ("lookalike.features.cache_tool:main", "list or prune the embedding cache"),
    "demo": ("lookalike.data.demo:main", "draw an overview of the demo competition"),
}


def usage() -> str:
    """Return the help page, with a line for each command."""
    lines = [f"  {name:<12}{what}" for name, (_, what) in COMMANDS.items()]
    head = ["usage: lookalike COMMAND [options]", "A toolkit for image-retrieval competitions."]
    tail = "`lookalike COMMAND --help` lists the options of a command, --version says the version."
    return "\n".join([*head, "", "commands:", *lines, "", tail])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command named first.

    Args:
        arguments: The command line without the program's name. Default: that of this process.

    Returns:
        The exit code: 0, 1 for a mistake or bad input, 2 for an unknown command, 130 for Ctrl-C.
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"lookalike {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"error: no command {name!r}{hint}\n\n{usage()}", file=sys.stderr)
        return 2
    return call(COMMANDS[name][0], rest)


def call(command: str, arguments: Sequence[str]) -> int:
    """Import the function of a command and call it; Ctrl-C meanwhile is a line, not a traceback.

    Args:
        command: Module and function, as `pkgutil.resolve_name` takes them.
        arguments: The command line without the program's name.

    Returns:
        Its exit code; 130 for Ctrl-C.
    """
    try:
        code: int = resolve_name(command)(arguments)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return code
