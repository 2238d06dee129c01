"""Draw a competition: which pictures are training, queries and gallery, and what they are called.

    drawn = draw(pictures, settings)     # the pictures with `part`, `name` and `usage`

The identities of the test are in no training picture. Names are numbers in random order.
"""

import numpy as np
import pandas as pd

from lookalike.competition.settings import MakeCommand
from lookalike.core.errors import UserError
from lookalike.data.protocols import count_test_identities, count_test_queries

PUBLIC, PRIVATE = "Public", "Private"


def draw(pictures: pd.DataFrame, settings: MakeCommand) -> pd.DataFrame:
    """Draw a competition.

    Args:
        pictures: Rows with `identity`, `path` and `domain`.
        settings: Of the draw.

    Returns:
        The rows that were drawn, with `part` (training, query or gallery), `name` (the path in the
        package) and `usage` (of a query: Public or Private; else empty).

    Raises:
        UserError: There are too few identities or pictures.
    """
    rng = np.random.default_rng(settings.seed)
    pictures = pictures.iloc[rng.permutation(len(pictures))]
    pictures = pictures.assign(asks=True, answers=True)
    if settings.query_domain is not None:
        pictures["asks"] = _in_domain(pictures, settings.query_domain)
        pictures["answers"] = ~pictures.asks
    roles = _roles(pictures, settings, rng)
    groups = pictures.groupby("identity", sort=True)
    parts = [_part_of(rows, roles[str(identity)], settings) for identity, rows in groups]
    drawn = pictures.assign(part=pd.concat(parts)).query("part != ''")
    public = _public(roles, settings.public)
    usage = np.where(drawn.identity.isin(public), PUBLIC, PRIVATE)
    drawn = drawn.assign(usage=np.where(drawn.part == "query", usage, ""))
    return _named(drawn.iloc[rng.permutation(len(drawn))].drop(columns=["asks", "answers"]))


def _in_domain(pictures: pd.DataFrame, domain: str) -> pd.Series:
    """Return which pictures are of the queries' domain."""
    inside = pictures.domain == domain
    if not inside.any():
        known = ", ".join(sorted(set(pictures.domain) - {""})) or "none (name --domain-pattern)"
        raise UserError(f"--query-domain {domain}: known domains are {known}")
    return inside


def _roles(
    pictures: pd.DataFrame, settings: MakeCommand, rng: np.random.Generator
) -> dict[str, str]:
    """Return the role of each identity: test, unknown, distractor or training."""
    counts = pictures.groupby("identity").agg(
        asks=("asks", "sum"), answers=("answers", "sum"), pictures=("asks", "size")
    )
    free = rng.permutation(sorted(counts.index)).tolist()
    both = (counts.asks > 0) & (counts.answers > 0) & (counts.pictures > 1)
    wanted = {
        "test": (settings.identities or count_test_identities(int(both.sum())), both),
        "unknown": (settings.unknown, counts.asks > 0),
        "distractor": (settings.distractors, counts.answers > 0),
    }
    roles = dict.fromkeys(free, "training")
    for role, (count, fits) in wanted.items():
        able = [identity for identity in free if fits[identity]]
        if count > len(able):
            option = {"test": "identities", "distractor": "distractors"}.get(role, role)
            raise UserError(f"--{option} {count}: only {len(able)} have the pictures for it")
        roles |= dict.fromkeys(able[:count], role)
        free = [identity for identity in free if roles[identity] == "training"]
    return roles


def _part_of(rows: pd.DataFrame, role: str, settings: MakeCommand) -> pd.Series:
    """Return the part of each picture of an identity; empty for one that is left out."""
    if role == "training":
        return pd.Series("training", index=rows.index)
    most = settings.queries if role in ("test", "unknown") else 0
    if role == "test" and settings.query_domain is None:  # most of them stay for the gallery
        most = min(most, count_test_queries(len(rows)))
    is_query = rows.asks & (rows.asks.cumsum() <= most)
    others = rows.answers & ~is_query
    shown = settings.gallery if role in ("test", "distractor") else 0
    is_gallery = others & (others.cumsum() <= shown)
    return pd.Series(np.select([is_query, is_gallery], ["query", "gallery"], ""), index=rows.index)


def _public(roles: dict[str, str], share: float) -> set[str]:
    """Return the identities whose queries make the public score, a share of each role."""
    public: set[str] = set()
    for role in ("test", "unknown"):
        identities = [identity for identity, its in roles.items() if its == role]
        public |= set(identities[: round(share * len(identities))])
    return public


def _named(drawn: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the paths that they have in the package."""
    group = drawn.identity.where(drawn.part == "training", "")
    numbers = drawn.groupby([drawn.part, group]).cumcount() + 1
    rows = zip(drawn.part, drawn.identity, numbers, strict=True)
    names = [_name(part, identity, number) for part, identity, number in rows]
    return drawn.assign(name=names).sort_values("name", kind="stable")


def _name(part: str, identity: str, number: int) -> str:
    """Return the path of a picture in the package.

    >>> _name("query", "ada", 7), _name("training", "ada", 7)
    ('test/query/q00007.jpg', 'training/ada/00007.jpg')
    """
    if part == "training":
        return f"training/{identity}/{number:05}.jpg"
    return f"test/{part}/{part[0]}{number:05}.jpg"
