"""A ranking of four queries, small enough to count by hand."""

import pandas as pd

from lookalike.evaluation.scoring import Labels
from lookalike.report.panels import RankedPart

GALLERY = {"a1": "ada", "a2": "ada", "b1": "bo", "c1": "cy"}
QUERIES = {"q1": "ada", "q2": "ada", "q3": "bo", "q4": "nobody"}
RANKED = {
    "q1": ["a1", "b1", "a2", "c1"],
    "q2": ["b1", "c1", "a1", "a2"],
    "q3": ["c1", "a1", "a2", "b1"],
    "q4": ["a1", "b1", "c1", "a2"],
}


KNOWN = Labels(QUERIES, GALLERY)


def catalogue(names: dict[str, str], domains: list[str]) -> pd.DataFrame:
    rows = {
        "path": [f"test/{n}.jpg" for n in names],
        "domain": domains,
        "content": "",
        "problem": "",
    }
    return pd.DataFrame(rows, index=list(names))


def make_part(labels: Labels | None = KNOWN) -> RankedPart:
    ranked = {
        query: [(name, 0.9 - 0.1 * i - 0.01 * int(query[1])) for i, name in enumerate(names)]
        for query, names in RANKED.items()
    }
    queries = catalogue(QUERIES, ["photo", "photo", "film", "film"])
    return RankedPart(
        "test", ranked, queries, catalogue(GALLERY, ["line", "flat", "flat", "line"]), labels
    )
