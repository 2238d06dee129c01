"""What goes wrong in a ranking: who is taken for whom, and for which kinds of queries.

confusions(part).head(10)
score_by(part, {query: "photo" for query in part.ranked})
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lookalike.evaluation.metrics import bootstrap_interval, measure_queries
from lookalike.report.panels import Part

BINS = (1, 2, 4, 8, 16, 32, 64)  # least numbers of relevant gallery pictures of each group


def confusions(part: Part) -> pd.DataFrame:
    """Whom the first place shows instead: columns asked, shown, queries, of; the most first.

    of: how many queries ask for this identity.
    """
    labels, judged = part.labels, part.judged
    if labels is None or judged is None:
        return pd.DataFrame(columns=["asked", "shown", "queries", "of"])
    settings = Counter(judged.identities)
    wrong: Counter[tuple[str, str]] = Counter()
    for query, identity in zip(judged.queries, judged.identities, strict=True):
        first = labels.gallery[part.ranked[query][0][0]] if part.ranked.get(query) else identity
        if first != identity:
            wrong[identity, first] += 1
    rows = [(*pair, count, settings[pair[0]]) for pair, count in sorted(wrong.items())]
    table = pd.DataFrame(rows, columns=["asked", "shown", "queries", "of"])
    return table.sort_values("queries", ascending=False, kind="stable", ignore_index=True)


def score_by(part: Part, groups: Mapping[str, str]) -> pd.DataFrame:
    """The score of each group of queries: columns group, queries, score, low, high, recall@1, in
    the order of the groups. low, high: 95 % intervals.

    groups: {query: group}; a query without one is left out.
    """
    judged = part.judged
    if judged is None:
        return pd.DataFrame(columns=["group", "queries", "score", "low", "high", "recall@1"])
    values = measure_queries(judged.hits, judged.relevant)
    of_query = np.array([groups.get(query, "") for query in judged.queries])
    rows = []
    for group in dict.fromkeys(groups.values()):
        chosen = np.flatnonzero(of_query == group)
        if not len(chosen) or not group:
            continue
        scores = values["score"][chosen]
        low, high = bootstrap_interval(scores[:, None], [judged.identities[i] for i in chosen])[:, 0]
        first = values["recall@1"][chosen].mean()
        rows.append((group, len(chosen), scores.mean(), low, high, first))
    return pd.DataFrame(rows, columns=["group", "queries", "score", "low", "high", "recall@1"])


def by_domain(part: Part) -> dict[str, str]:
    """{query: its domain}, in the order of the domains' names."""
    domains = part.queries.domain.sort_values(kind="stable")
    return {str(query): str(domain) for query, domain in domains.items()}


def by_detection(part: Part, faces: pd.DataFrame) -> dict[str, str]:
    """{query: how its face was found}. faces: the rows of faces.csv."""
    found = faces.set_index("path").found
    known = part.queries[part.queries.path.isin(found.index)]
    ways = {str(query): str(found[path]) for query, path in known.path.items()}
    return dict(sorted(ways.items(), key=lambda pair: pair[1]))


def by_gallery_size(part: Part) -> dict[str, str]:
    """{query: a range for the number of relevant pictures in the gallery}, the least first."""
    if part.judged is None:
        return {}
    pairs = sorted(zip(part.judged.relevant.tolist(), part.judged.queries, strict=True))
    return {query: size_range(count) for count, query in pairs}


def size_range(count: int) -> str:
    """The range of BINS that a number is in.

    >>> [size_range(count) for count in (1, 3, 9, 100)]
    ['1', '2 to 3', '8 to 15', '64 or more']
    """
    place = int(np.searchsorted(BINS, count, side="right")) - 1
    low = BINS[place]
    if place + 1 == len(BINS):
        return f"{low} or more"
    high = BINS[place + 1] - 1
    return str(low) if low == high else f"{low} to {high}"


def reached_by_domain(part: Part) -> pd.DataFrame:
    """How much of the relevant reaches the ten, by the domain of the gallery picture: columns
    group, relevant (pairs of a query and a gallery picture of its identity), reached, share."""
    labels, judged = part.labels, part.judged
    if labels is None or judged is None:
        return pd.DataFrame(columns=["group", "relevant", "reached", "share"])
    domains = part.gallery.domain
    there: Counter[tuple[str, str]] = Counter()
    for name, identity in labels.gallery.items():
        there[identity, str(domains.get(name, ""))] += 1
    relevant: Counter[str] = Counter()
    reached: Counter[str] = Counter()
    kinds = sorted({domain for _, domain in there})
    for query, identity in zip(judged.queries, judged.identities, strict=True):
        relevant.update({kind: there[identity, kind] for kind in kinds})
        hits = [name for name, _ in part.ranked.get(query, []) if labels.gallery[name] == identity]
        reached.update(str(domains[name]) for name in hits)
    rows = [(k, relevant[k], reached[k], reached[k] / relevant[k]) for k in kinds if relevant[k]]
    return pd.DataFrame(rows, columns=["group", "relevant", "reached", "share"])
