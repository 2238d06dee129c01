"""Config files and tables of settings: reading them, and building typed settings from them.

A table is flat, `{"backbone": "resnet50", "lr": 0.01}`: what a JSON or TOML file holds, and what
`Settings.flat` returns. Every value is converted to the type of its field, or refused.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lookalike.core.checks import check
from lookalike.core.errors import UserError
from lookalike.core.log import log
from lookalike.core.readers import parse_json, read_text
from lookalike.core.settings import REMOVED, RENAMED, Settings

T = TypeVar("T")
IN_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path",
    NoneType: "null",
}


def load_settings(path: Path) -> Settings:
    """Return the settings that a config file holds, with defaults for the others.

    Raises:
        UserError: The file cannot be used, or a value is out of bounds.
    """
    settings = from_table(Settings, read_config(path))
    check(settings)
    return settings


def read_config(path: Path) -> dict[str, Any]:
    """Return the flat table of settings in a JSON or TOML file.

    Raises:
        UserError: No such file, not a table, an unknown name (the nearest known one is named) or a
            value of another type.
    """
    text = read_text(path)
    table = _parse_toml(text, path) if path.suffix == ".toml" else parse_json(text, str(path))
    if not isinstance(table, dict):
        raise UserError(f"{path}: must hold a table of settings, like {{'seed': 1}}")
    table = with_current_names(table, path)
    try:
        settings_of(table)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return table


def _parse_toml(text: str, path: Path) -> dict[str, Any]:
    """Parse TOML that may be anything."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from error


def settings_of(table: Mapping[str, Any]) -> Settings:
    """Return the settings of a table whose names are all settings.

    Raises:
        UserError: An unknown name (the nearest known one is named), or a value of another type.
    """
    known = Settings().flat().keys() - {"config"}
    for name in table:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
            raise UserError(f"unknown setting '{name}'; did you mean '{near}'?")
    return from_table(Settings, table)


def with_current_names(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return a table with the present names of settings that an earlier release called otherwise.

    Args:
        table: Settings by name.
        path: The file it is from, named in the log line.
    """
    old = [name for name in table if name in RENAMED]
    if old:
        pairs = ", ".join(f"{name} -> {RENAMED[name]}" for name in old)
        log.warning("warning: %s: settings have new names: %s", path, pairs)
    kept = {name: value for name, value in table.items() if name not in REMOVED}
    return {RENAMED.get(name, name): value for name, value in kept.items()}


def from_table(cls: type[T], table: Mapping[str, Any]) -> T:
    """Return a settings dataclass with values from a flat table.

    Args:
        cls: A dataclass; groups inside it (fields that are dataclasses) take from the same table.
        table: Values by field name, as JSON holds them. Missing ones keep their default, names that
            the class lacks are ignored.

    Raises:
        UserError: A value does not fit its field's type.

    >>> from lookalike.core.settings import EmbedSettings
    >>> from_table(EmbedSettings, {"scales": [1, 0.9], "lr": 0.1}).scales
    (1.0, 0.9)
    """
    values: dict[str, Any] = {}
    for name, kind in get_type_hints(cls, include_extras=True).items():
        if isinstance(kind, type) and is_dataclass(kind):
            values[name] = from_table(kind, table)
        elif name in table:
            try:
                values[name] = convert(table[name], kind)
            except ValueError as error:
                takes = _in_words(kind)
                raise UserError(f"{name} cannot be {table[name]!r}: it takes {takes}") from error
    return cls(**values)


def convert(value: Any, kind: Any) -> Any:
    """Return a JSON value as a field's type.

    Raises:
        ValueError: It does not fit; the message says what does.

    >>> convert([1, 2], tuple[float, ...]), convert(None, int | None), convert("x", Path)
    ((1.0, 2.0), None, PosixPath('x'))
    >>> convert(1.5, int | Literal["all"])
    Traceback (most recent call last):
    ValueError: a whole number or 'all'
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return convert(value, parts[0])
    if origin in (Union, UnionType):
        return _convert_to_one_of(value, parts)
    if origin is tuple and isinstance(value, list):
        return tuple(convert(part, parts[0]) for part in value)
    if origin is Literal and value in parts:
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    raise ValueError(_in_words(kind))


def _convert_to_one_of(value: Any, kinds: tuple[Any, ...]) -> Any:
    """Return a value as the first of several types that it fits."""
    for kind in kinds:
        try:
            return convert(value, kind)
        except ValueError:
            continue
    raise ValueError(_in_words(Union[kinds]))  # noqa: UP007


def _in_words(kind: Any) -> str:
    """Return what a type takes, for an error message."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _in_words(parts[0])
    if origin in (Union, UnionType):
        return " or ".join(map(_in_words, parts))
    if origin is tuple:
        return f"a list, each {_in_words(parts[0])}"
    if origin is Literal:
        return ", ".join(map(repr, parts))
    return IN_WORDS[kind]
