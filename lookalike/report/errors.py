"""Error analysis of a ranking: which identities are confused, and which queries score worse.

    confusions(part).head(10)
    score_groups(part, {query: "photo" for query in part.ranked})

The tables are empty where the labels are not known.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lookalike.evaluation.scoring import hits_of_queries, mean_interval, measures_of
from lookalike.report.panels import RankedPart

BINS = (1, 2, 4, 8, 16, 32, 64)  # lower bounds of the groups by number of relevant pictures


def confusions(part: RankedPart) -> pd.DataFrame:
    """Count the wrong identities at rank 1.

    Args:
        part: The test or the validation.

    Returns:
        Columns `identity` (of the query), `retrieved` (the identity at rank 1), `queries` (how many
        have this confusion) and `of` (all queries of the identity), the most frequent first. Empty
        where labels are not known.
    """
    columns = ["identity", "retrieved", "queries", "of"]
    labels, hits = part.labels, part.query_hits
    if labels is None or hits is None:
        return pd.DataFrame(columns=columns)
    totals = Counter(hits.identities)
    wrong: Counter[tuple[str, str]] = Counter()
    for query, identity in zip(hits.queries, hits.identities, strict=True):
        first = labels.gallery[part.ranked[query][0][0]] if part.ranked.get(query) else identity
        if first != identity:
            wrong[identity, first] += 1
    rows = [(*pair, count, totals[pair[0]]) for pair, count in sorted(wrong.items())]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("queries", ascending=False, kind="stable", ignore_index=True)


def score_groups(part: RankedPart, groups: Mapping[str, str]) -> pd.DataFrame:
    """Score each group of queries.

    Args:
        part: The test or the validation.
        groups: {query: group}; queries without a group are left out.

    Returns:
        Columns `group`, `queries`, `score`, `low`, `high` (the ends of a 95 % interval) and
        `recall@1`, in the order of the groups. Empty where labels are not known.
    """
    columns = ["group", "queries", "score", "low", "high", "recall@1"]
    hits = part.query_hits
    if hits is None:
        return pd.DataFrame(columns=columns)
    of_query = np.array([groups.get(query, "") for query in hits.queries])
    rows = []
    for group in dict.fromkeys(groups.values()):
        chosen = np.flatnonzero(of_query == group)
        if not len(chosen) or not group:
            continue
        of_group = hits_of_queries(hits, {hits.queries[i] for i in chosen})
        values = measures_of(of_group, part.metric)
        ends = mean_interval("score", values["score"], of_group.identities, part.metric)
        means = values["score"].mean(), *ends, values["recall@1"].mean()
        rows.append((group, len(chosen), *means))
    return pd.DataFrame(rows, columns=columns)


def domain_groups(part: RankedPart) -> dict[str, str]:
    """Return {query: its domain}, in the order of the domains' names."""
    domains = part.queries.domain.sort_values(kind="stable")
    return {str(query): str(domain) for query, domain in domains.items()}


def detection_groups(part: RankedPart, faces: pd.DataFrame) -> dict[str, str]:
    """Return {query: how its face was found}.

    Args:
        part: The test or the validation.
        faces: Content of faces.csv, with the columns `path` and `found`.
    """
    found = faces.set_index("path").found
    listed = part.queries[part.queries.path.isin(found.index)]
    ways = {str(query): str(found[path]) for query, path in listed.path.items()}
    return dict(sorted(ways.items(), key=lambda pair: pair[1]))


def relevant_groups(part: RankedPart) -> dict[str, str]:
    """Return {query: a range for its number of relevant gallery pictures}, the lowest first."""
    if part.query_hits is None:
        return {}
    pairs = sorted(zip(part.query_hits.relevant.tolist(), part.query_hits.queries, strict=True))
    return {query: size_range(count) for count, query in pairs}


def size_range(count: int) -> str:
    """Return the range between two of BINS that holds a number.

    >>> [size_range(count) for count in (1, 3, 9, 100)]
    ['1', '2 to 3', '8 to 15', '64 or more']
    """
    index = int(np.searchsorted(BINS, count, side="right")) - 1
    low = BINS[index]
    if index + 1 == len(BINS):
        return f"{low} or more"
    high = BINS[index + 1] - 1
    return str(low) if low == high else f"{low} to {high}"


def recall_by_domain(part: RankedPart) -> pd.DataFrame:
    """Measure how many of the relevant gallery pictures of each domain are in the top ten.

    Args:
        part: The test or the validation.

    Returns:
        Columns `group` (the domain), `relevant` (pairs of a query and a gallery picture of its
        identity), `retrieved` (those within the top ten) and `share`. Empty where labels are not
        known.
    """
    columns = ["group", "relevant", "retrieved", "share"]
    labels, hits = part.labels, part.query_hits
    if labels is None or hits is None:
        return pd.DataFrame(columns=columns)
    domains = part.gallery.domain
    in_gallery: Counter[tuple[str, str]] = Counter()
    for name, identity in labels.gallery.items():
        in_gallery[identity, str(domains.get(name, ""))] += 1
    relevant: Counter[str] = Counter()
    retrieved: Counter[str] = Counter()
    groups = sorted({domain for _, domain in in_gallery})
    for query, identity in zip(hits.queries, hits.identities, strict=True):
        relevant.update({group: in_gallery[identity, group] for group in groups})
        names = [name for name, _ in part.ranked.get(query, [])]
        retrieved.update(str(domains[n]) for n in names if labels.gallery[n] == identity)
    rows = [
        (g, relevant[g], retrieved[g], retrieved[g] / relevant[g]) for g in groups if relevant[g]
    ]
    return pd.DataFrame(rows, columns=columns)
