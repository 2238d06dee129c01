r"""The domain of a labeled picture (photo, caricature, ...), which a regular expression finds.

    pattern = domain_pattern(settings.domain_pattern, data)      # (?P<domain>photo|drawing)_\d+
    find_domains(["training/ada/photo_1.jpg"], pattern)          # ["photo"]

The expressions are those of RE2, which takes a time that is linear in the path, whatever the
expression; Python's own engine can take centuries for a short one.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import re2

from lookalike.core.errors import UserError
from lookalike.core.log import report_each
from lookalike.core.readers import read_if_good, read_json

_QUIET = re2.Options()
_QUIET.log_errors = False


class _Origin(TypedDict, total=False):
    """What is read of a layout.json here."""

    source: str
    domain_pattern: str | None


def domain_pattern(named: str | None, data: Path) -> str | None:
    """Return --domain-pattern, else that of the data set's layout.json, else None.

    A layout.json that cannot be read is reported: the domains are unknown then.

    Args:
        named: The value of --domain-pattern.
        data: Folder of the data set.
    """
    if named:
        return named
    origin = read_if_good(_read_origin, data / "layout.json", "domains are unknown") or {}
    return origin.get("domain_pattern") if "source" in origin else None


def _read_origin(path: Path) -> _Origin:
    origin: _Origin = read_json(path, "data_extraction.py", _Origin)
    return origin


def find_domains(paths: Sequence[str], pattern: str) -> list[str]:
    r"""Return the domain of each picture; the log counts those that do not fit the pattern.

    Args:
        paths: The pictures, by their path in the data set.
        pattern: Regular expression with a group named `domain`, searched in each path.

    Raises:
        UserError: The pattern is no such expression.

    >>> find_domains(["training/ada/photo_1.jpg"], r"(?P<domain>[a-z]+)_\d+")
    ['photo']
    """
    found = [_compiled(pattern).search(path) for path in paths]
    report_each(
        "training pictures do not fit --domain-pattern: their domain is unknown",
        [path for path, match in zip(paths, found, strict=True) if match is None],
    )
    if re.search(r"\\[wWbB]", pattern):
        report_each(
            r"paths have letters that \w and \b of --domain-pattern do not know, being for ASCII: "
            r"write \pL for any letter",
            [path for path in paths if not path.isascii()],
        )
    return [match.group("domain") or "" if match else "" for match in found]


def _compiled(pattern: str) -> Any:
    """Compile --domain-pattern, or explain what is wrong with it."""
    if not isinstance(pattern, str):
        raise UserError(f"--domain-pattern {pattern!r} is no regular expression, which is a text")
    try:
        compiled = re2.compile(pattern, _QUIET)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0]
        raise UserError(
            f"--domain-pattern {pattern!r} is no regular expression of RE2, which has no "
            "look-around and no back-references: "
            f"{reason.decode(errors='replace') if isinstance(reason, bytes) else error}"
        ) from error
    if "domain" not in compiled.groupindex:
        raise UserError(f"--domain-pattern {pattern!r} has no group (?P<domain>...)")
    return compiled
