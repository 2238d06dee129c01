"""The command line: one parser for every command, and the layers of settings under it.

From the weakest to the strongest: defaults, what a run inherits (from an ensemble's members, or its
own config.json), the file of --config, the command line.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import tyro

from lookalike.core.checks import check
from lookalike.core.config import from_table, read_config
from lookalike.core.log import log
from lookalike.core.settings import NOT_REMEMBERED, REMOVED, RENAMED, STAGES, Settings, SourceName

Table = dict[str, Any]


def parse(
    arguments: Sequence[str], program: str, cls: Any, description: str = "", default: Any = None
) -> Any:
    """Parse a command line into a dataclass, or into one of a union of them (subcommands).

    The names of groups inside the dataclass are not part of the options' names.

    Args:
        arguments: The words behind the program's name.
        program: Name shown in the usage line.
        cls: The dataclass.
        description: First line of the help page.
        default: Settings loaded from files. Each flag then has an opposite (`--no-center`), so that
            what was loaded can be switched off.

    Raises:
        SystemExit: 2 on an unknown option (the nearest is named) or a bad value, 0 on --help.
    """
    config: list[Any] = [tyro.conf.OmitArgPrefixes]
    loaded = {} if default is None else {"default": default}
    if not loaded:
        config.append(tyro.conf.FlagCreatePairsOff)
    words = with_current_options(arguments)
    return tyro.cli(cls, args=words, prog=program, description=description, config=config, **loaded)


def parse_settings(
    arguments: Sequence[str], inherit: Callable[[Table], Mapping[str, Any]] | None = None
) -> Settings:
    """Return the settings of a run.

    Args:
        arguments: The command line of main.py.
        inherit: Given what the command line and --config say of runs and data (see `first_look`),
            returns a table of settings that both override.

    Raises:
        UserError: A config file that cannot be used, or a value out of bounds.
        SystemExit: See `parse`.
    """
    what = "From an archive to a scored submission."
    table: Table = {}
    if not {"-h", "--help"} & set(arguments):
        named = first_look(arguments)
        config = read_config(Path(named.pop("config"))) if "config" in named else {}
        table = {**(inherit(config | named) if inherit else {}), **config}
    settings: Settings = parse(
        arguments, "main.py", Settings, what, default=from_table(Settings, table)
    )
    check(settings)
    return settings


def first_look(arguments: Sequence[str]) -> Table:
    """Return the options that say where settings are read from: stages, run and data.

    All others are left to the parser proper.

    >>> first_look(["--stage", "split", "train", "--run=runs/a", "--lr", "1"])
    {'stage': ['split', 'train'], 'run': 'runs/a'}
    """
    parser = argparse.ArgumentParser(
        "main.py", "main.py [options]; --help lists them", add_help=False, allow_abbrev=False
    )
    parser.add_argument("--stage", nargs="*", choices=("all", *STAGES))
    parser.add_argument("--ensemble", nargs="*")
    parser.add_argument("--source", nargs="?", choices=(*get_args(SourceName), "None"))
    parser.add_argument("--reset", action="store_true")
    for name in ("config", "run", "data", "source-path", "metadata"):
        parser.add_argument(f"--{name}", nargs="?")
    found, _ = parser.parse_known_args(with_current_options(arguments, quiet=True))
    unset = (None, "None", False)
    return {name: value for name, value in vars(found).items() if value not in unset}


def named_settings(arguments: Sequence[str]) -> set[str]:
    """Return the names of the settings that a command line and its --config name.

    >>> sorted(named_settings(["--backbone=sface", "--no-center", "--scales", "1", "0.85"]))
    ['backbone', 'center', 'scales']
    """
    known = Settings().flat().keys()
    words = [word.partition("=")[0] for word in with_current_options(arguments, quiet=True)]
    names = {word[2:].replace("-", "_") for word in words if word.startswith("--")}
    named = {name if name in known else name.removeprefix("no_") for name in names} & known
    config = first_look(arguments).get("config")
    return named | (read_config(Path(config)).keys() if config else set())


def with_current_options(arguments: Sequence[str], quiet: bool = False) -> list[str]:
    """Return a command line with the present names of options that were renamed.

    Args:
        arguments: The command line.
        quiet: Log nothing of it.

    >>> with_current_options(["--side=64", "--per_person", "2"], quiet=True)
    ['--image-size=64', '--samples-per-class', '2']
    """
    words = []
    for word in arguments:
        name, equals, value = word.partition("=")
        key = name.removeprefix("--").replace("-", "_") if name.startswith("--") else ""
        if key in REMOVED:
            if not quiet:
                log.warning("warning: %s: is the default now; --time-limit 0 turns it off", name)
            continue
        if key:
            now = "--" + RENAMED.get(key, key).replace("_", "-")
            if key in RENAMED and not quiet:
                log.warning("warning: %s is now called %s", name, now)
            word = now + equals + value
        words.append(word)
    return words


def without_secrets(url: str) -> str:
    """Return a URL as it may be shown and saved: no user name, password or query string.

    >>> without_secrets("https://me:secret@example.org:8000/retrieval/?token=1")
    'https://example.org:8000/retrieval/'
    """
    try:
        scheme, host, path, *_ = urlsplit(url)
    except ValueError:
        host = ""
    return f"{scheme}://{host.rpartition('@')[2]}{path}" if host else "(not a URL)"


def announce(settings: Settings) -> tuple[str, str]:
    """Return two lines: the settings that differ from the defaults, and the defaults."""
    default, values = Settings().flat(), settings.flat()
    if values["url"]:
        values["url"] = without_secrets(values["url"])
    if values["token"]:
        values["token"] = "(not shown)"
    chosen = {k: v for k, v in values.items() if v != default[k]}
    unchanged = {k: v for k, v in values.items() if v == default[k] and k not in NOT_REMEMBERED}
    return f"settings: {_in_words(chosen)}", f"defaults: {_in_words(unchanged)}"


def differences(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a table of settings is set and differs from the defaults.

    >>> differences({"backbone": "sface", "epochs": Settings().train.epochs, "scales": [1, 0.9]})
    {'backbone': 'sface', 'scales': '1 0.9'}
    """
    default = Settings().flat()
    return _shown({k: v for k, v in table.items() if v != default.get(k)})


def _in_words(table: Mapping[str, Any]) -> str:
    """Return name=value for all that is set."""
    return ", ".join(f"{k}={v}" for k, v in _shown(table).items()) or "nothing"


def _shown(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is set, lists as text."""
    shown = {k: v for k, v in table.items() if v not in (None, [])}
    lists = {k: " ".join(map(str, v)) for k, v in shown.items() if isinstance(v, list)}
    return shown | lists
