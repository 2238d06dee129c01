r"""Which labeled pictures were taken together: in one session, encounter or film.

    find_sessions(catalogue, None)     # of left_0085.jpg and right_0085.jpg: "0085"

Such pictures share light, place and pose: with one of them as query and another in the gallery, a
validation measures how well these are found, and not the identity.
"""

import re
from pathlib import PurePosixPath

import pandas as pd

from lookalike.core.log import log
from lookalike.data.layout import LABELED
from lookalike.data.patterns import search_paths

NUMBER = re.compile(r"\d+$")
OPTION = "--session-pattern"


def find_sessions(catalogue: pd.DataFrame, pattern: str | None) -> pd.Series:
    r"""Return the session of each picture, "" where it is unknown, as in the test.

    Args:
        catalogue: Columns path, identity and part; where it has a column `session`, from a table,
            that counts.
        pattern: Regular expression with a group named `session`, searched in the paths of labeled
            pictures. Default: the number that a file name ends in, where several pictures of an
            identity have it and hardly any other identity does.

    Raises:
        UserError: The pattern is no such expression.

    >>> names = ["left_07", "right_07", "left_09", "right_09"]
    >>> rows = pd.DataFrame({"path": [f"training/{n[-1]}/{n}.jpg" for n in names]})
    >>> find_sessions(rows.assign(identity=["a", "a", "b", "b"], part="training"), None).tolist()
    ['07', '07', '09', '09']
    """
    told = catalogue.get("session")
    labeled = catalogue[catalogue.part.isin(LABELED)]
    if pattern is not None:
        found = search_paths(labeled.path.tolist(), pattern, OPTION, "session")
        sessions = _placed([name or "" for name in found], labeled, catalogue)
    elif told is not None and (told != "").any():
        sessions = told
    else:
        sessions = _placed(_by_number(labeled), labeled, catalogue)
    known = sessions[sessions != ""]
    if len(known):
        log.info(
            "%d pictures of %d sessions, such as %s: pictures of a session stay on one side "
            "(%s names others)",
            len(known),
            known.nunique(),
            known.iloc[0],
            OPTION,
        )
    return sessions


def _placed(values: list[str], labeled: pd.DataFrame, catalogue: pd.DataFrame) -> pd.Series:
    """Return a value for each row of the catalogue, "" for those that are not labeled."""
    return pd.Series(values, labeled.index, dtype=str).reindex(catalogue.index, fill_value="")


def _by_number(labeled: pd.DataFrame) -> list[str]:
    """Return the number that each file name ends in, "" for all where these are no sessions."""
    stems = [PurePosixPath(path).stem for path in labeled.path]
    numbers = [match.group() if (match := NUMBER.search(stem)) else "" for stem in stems]
    rows = pd.DataFrame({"number": numbers, "identity": labeled.identity.to_numpy()})
    nothing = [""] * len(rows)
    if len(rows) == 0 or (rows.number == "").any():
        return nothing
    pictures = rows.groupby("number").size()
    identities = rows.groupby("number").identity.nunique()
    # Numbers that begin anew with each identity are no sessions, nor are those of single pictures.
    if (identities > 1).mean() > 0.01 or (pictures > 1).mean() < 0.5:
        return nothing
    return numbers
