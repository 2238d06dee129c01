"""Pages that mkdocs makes when it builds the site: the settings, and documents of the top level."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lookalike.core.settings import RENAMED, Settings  # noqa: E402 (the package need not be installed)

TOP_LEVEL = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def on_files(files: Any, config: Any) -> Any:
    """Add the documents of the top level to the site's pages."""
    from mkdocs.structure.files import File

    for page, document in TOP_LEVEL.items():
        text = (ROOT / document).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Any, **others: Any) -> str:
    """Fill in the tables of settings, and link to the site's copy of a top-level document."""
    for name, document in TOP_LEVEL.items():
        markdown = markdown.replace(f"](../{document}", f"]({name}")
    return markdown.replace("<!-- settings -->", settings_tables())


def settings_tables() -> str:
    """Return one section per group of settings, each with a table of its options."""
    return "\n".join(line for group in fields(Settings) for line in section(group.type, group.name))


def section(group: Any, name: str) -> Iterator[str]:
    """Yield the Markdown lines of one settings class."""
    yield from (f"## {name}", "", str(group.__doc__), "")
    yield from ("| option | values | default | |", "|---|---|---|---|")
    hints, helps = get_type_hints(group, include_extras=True), help_texts(group)
    for field in fields(group):
        names = ", ".join(f"`{option}`" for option in options(field.name))
        cells = (values(hints[field.name]), default(field), helps[field.name])
        yield f"| {names} | " + " | ".join(map(escaped, cells)) + " |"
    yield ""


def escaped(cell: str) -> str:
    """Return text that is safe in a table: no column's end, and no HTML outside of `code`."""
    parts = cell.replace("|", "\\|").split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))


def options(name: str) -> list[str]:
    """Return a setting's option, and the names that it had before."""
    names = [name, *(old for old, new in RENAMED.items() if new == name)]
    return ["--" + name.replace("_", "-") for name in names]


def extras(hint: Any) -> tuple[Any, ...]:
    """Return the metadata of Annotated[type, …]; none for a plain type."""
    return getattr(hint, "__metadata__", ())


def values(hint: Any) -> str:
    """Describe the values that a setting takes: its type or choices, and bounds."""
    if extras(hint):
        limits = [
            f"{sign} {getattr(extra, bound):g}"
            for extra in extras(hint)
            for bound, sign in BOUNDS.items()
            if getattr(extra, bound, None) is not None
        ]
        return f"{values(hint.__origin__)} {', '.join(limits)}"
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return f"{values(parts[0])}, one or more"
    if origin in (Union, UnionType):
        return " or ".join(values(part) for part in parts if part is not NoneType)
    return {bool: "flag", Path: "path", str: "text"}.get(hint, getattr(hint, "__name__", str(hint)))


def default(field: Field[Any]) -> str:
    """Return a setting's default; nothing where there is none."""
    value = field.default if field.default is not MISSING else None
    if value is None or value is False or value == ():
        return ""
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def help_texts(group: type) -> dict[str, str]:
    """Return the docstring below each field of a settings class, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(group))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: re.sub(r"\s+", " ", str(text.value.value))
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }
