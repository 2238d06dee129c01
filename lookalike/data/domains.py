r"""The domain of a labeled picture (photo, caricature, ...), which a regular expression finds.

pattern = domain_pattern(settings.domain_pattern, data)      # (?P<domain>photo|drawing)_\d+
find_domains(["training/ada/photo_1.jpg"], pattern)          # ["photo"]
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from lookalike.core.log import report_each
from lookalike.core.readers import read_if_good, read_json
from lookalike.data.patterns import search_paths


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
    found = search_paths(paths, pattern, "--domain-pattern", "domain")
    report_each(
        "training pictures do not fit --domain-pattern: their domain is unknown",
        [path for path, domain in zip(paths, found, strict=True) if domain is None],
    )
    return [domain or "" for domain in found]
