r"""Regular expressions on the paths of pictures, which users write: --domain-pattern and its kin.

    matches = search_paths(["training/ada/photo_1.jpg"], r"(?P<domain>photo|drawing)_\d+",
                           "--domain-pattern", "domain")

The expressions are those of RE2, which takes a time that is linear in the path, whatever the
expression; Python's own engine can take centuries for a short one.
"""

import re
from collections.abc import Sequence
from typing import Any

import re2

from lookalike.core.errors import UserError
from lookalike.core.log import report_each

_QUIET = re2.Options()
_QUIET.log_errors = False


def search_paths(paths: Sequence[str], pattern: str, option: str, group: str) -> list[str | None]:
    r"""Return what a group of an expression matches in each path; None where nothing fits.

    Args:
        paths: Of pictures, in their data set.
        pattern: The expression.
        option: The option that names it, for errors.
        group: The name of the group.

    Raises:
        UserError: The pattern is no such expression, or has no such group.

    >>> search_paths(["ada/1.jpg", "2.jpg"], r"^(?P<identity>[^/]+)/", "--x", "identity")
    ['ada', None]
    """
    compiled = _compiled(pattern, option, group)
    if re.search(r"\\[wWbB]", pattern):
        report_each(
            rf"paths have letters that \w and \b of {option} do not know, being for ASCII: "
            r"write \pL for any letter",
            [path for path in paths if not path.isascii()],
        )
    found = [compiled.search(path) for path in paths]
    return [match.group(group) or "" if match else None for match in found]


def _compiled(pattern: str, option: str, group: str) -> Any:
    """Compile an expression, or explain what is wrong with it."""
    if not isinstance(pattern, str):
        raise UserError(f"{option} {pattern!r} is no regular expression, which is a text")
    try:
        compiled = re2.compile(pattern, _QUIET)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0]
        raise UserError(
            f"{option} {pattern!r} is no regular expression of RE2, which has no "
            "look-around and no back-references: "
            f"{reason.decode(errors='replace') if isinstance(reason, bytes) else error}"
        ) from error
    if group not in compiled.groupindex:
        raise UserError(f"{option} {pattern!r} has no group (?P<{group}>...)")
    return compiled
