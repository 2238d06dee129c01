"""TODO lookalike.core.options."""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import tyro

from lookalike.core.checks import _option, check
from lookalike.core.errors import UserError
from lookalike.core.settings import NOT_REMEMBERED, Settings


def read_config(path: Path) -> dict[str, Any]:
    """The flat table of settings in a JSON or TOML file.

    Raises:
        UserError: no such file, not a table, or an unknown name (the nearest known one is named).
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON or TOML ({error})") from error
    if not isinstance(table, dict):
        raise UserError(f"{path}: must hold a table of settings, like {{'seed': 1}}")
    known = {name: value for name, value in Settings().flat().items() if name != "config"}
    for name in table:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise UserError(f"{path}: unknown setting '{name}'; did you mean '{near}'?")
        if not _fits(table[name], known[name]):
            raise UserError(f"{path}: {name} cannot be {table[name]!r}; see main.py --help")
    return table


def _fits(value: Any, default: Any) -> bool:
    """Whether a file may hold this for a setting; the command line's parser checks the rest."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, list):
        return isinstance(value, list)
    return value is None or isinstance(value, str | int | float)


def as_arguments(table: Mapping[str, Any]) -> list[str]:
    """A table of settings as the words of a command line, so that one parser checks both.

    >>> as_arguments({"lr": 0.1, "force": True, "stage": ["split", "train"], "embed_dim": None})
    ['--lr=0.1', '--force', '--stage', 'split', 'train', '--embed-dim=None']
    """
    words: list[str] = []
    for name, value in table.items():
        option = _option(name)
        if isinstance(value, bool):
            words += [option] if value else []
        elif isinstance(value, list | tuple):
            words += [option, *map(str, value)]
        else:
            words += [f"{option}={value}"]
    return words


def parse(arguments: Sequence[str], program: str, cls: Any, description: str = "") -> Any:
    """Reads a command line into dataclass `cls`, or into one of a union of them (subcommands).

    Groups inside a dataclass do not show in the options' names.

    Raises:
        SystemExit: 2 on an unknown option (the nearest is named) or a bad value, 0 on --help.
    """
    flat = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    return tyro.cli(cls, args=list(arguments), prog=program, description=description, config=flat)


def parse_settings(
    arguments: Sequence[str],
    remembered: Path | None = None,
    inherited: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from defaults, `inherited`, `remembered`, --config and the command line, later ones
    winning.

    remembered: the config.json of a run that goes on. inherited: a table as such a file holds.

    Raises:
        UserError: a config file that cannot be used, or a value outside its range.
        SystemExit: see `parse`.
    """
    what = "From an archive to a scored submission."
    settings: Settings = parse(arguments, "main.py", Settings, what)
    files = [path for path in (remembered, settings.general.config) if path is not None]
    tables = [inherited or {}, *map(read_config, files)]
    if any(tables):
        words = [word for table in tables for word in as_arguments(table)]
        settings = parse([*words, *arguments], "main.py", Settings, what)
    check(settings)
    return settings


def without_secrets(url: str) -> str:
    """A URL as it may be shown and kept: no user name, password or query string.

    >>> without_secrets("https://me:secret@example.org:8000/retrieval/?token=1")
    'https://example.org:8000/retrieval/'
    """
    try:
        scheme, place, path, *_ = urlsplit(url)
    except ValueError:
        place = ""
    return f"{scheme}://{place.rpartition('@')[2]}{path}" if place else "(not a URL)"


def announce(settings: Settings) -> str:
    """One line per origin: what was set, and which defaults fill the rest."""
    default, embeddings = Settings().flat(), settings.flat()
    if embeddings["url"]:
        embeddings["url"] = without_secrets(embeddings["url"])
    chosen = {k: v for k, v in embeddings.items() if v != default[k]}
    filled = {k: v for k, v in embeddings.items() if v == default[k] and k not in NOT_REMEMBERED}

    def show(table: Mapping[str, Any]) -> str:
        return (
            ", ".join(f"{k}={_words(v)}" for k, v in table.items() if v not in (None, []))
            or "nothing"
        )

    return f"settings: {show(chosen)}\ndefaults: {show(filled)}"


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
