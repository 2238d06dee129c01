"""Score a submission against labels: measures with 95 % intervals.

    score("submission.json", "labels.json")["recall@1"]

A query without a relevant picture in the gallery is left out; a query that the submission lacks
scores 0. `metrics` defines the measures, `matching` the rules that a submission has to follow.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lookalike.core.errors import UserError
from lookalike.core.log import report_each
from lookalike.core.readers import TABLES, read_json
from lookalike.evaluation.intervals import clustered_interval
from lookalike.evaluation.matching import DefectKind, Matched, bare_name, errors, match
from lookalike.evaluation.metrics import (
    BALANCED,
    DEFAULT_METRIC,
    SCORE,
    TOP,
    Metric,
    measure_queries,
    measures_at,
    over_identities,
    parse_metric,
)
from lookalike.evaluation.submissions import RankedArrays, Submission, as_submission

ERRORS_SHOWN = 20


class Labels(NamedTuple):
    """The identities of a test.

    Attributes:
        query: {name of a query: its identity}.
        gallery: {name of a gallery picture: its identity}.
        leave_one_out: Query and gallery are one folder: a query's own picture is not searched for.
    """

    query: dict[str, str]
    gallery: dict[str, str]
    leave_one_out: bool = False

    def as_json(self) -> dict[str, dict[str, str]]:
        """Return what `read_labels` reads."""
        parts = {"query": self.query, "gallery": self.gallery}
        return {"test": self.query} if self.leave_one_out else parts


class LabeledParts(Protocol):
    """Anything with labeled queries and a labeled gallery, such as `data.splits.RetrievalTask`."""

    @property
    def query(self) -> Mapping[str, str]:
        """{name of a query: its identity}."""

    @property
    def gallery(self) -> Mapping[str, str]:
        """{name of a gallery picture: its identity}."""


class QueryHits(NamedTuple):
    """The ranked lists of queries compared with their labels.

    Attributes:
        queries: The Q queries that have a relevant picture in the gallery, in the order of the
            labels.
        identities: Their identities.
        hits: (Q, L) bool: whether the picture at each rank shows the query's identity.
        relevant: (Q,) int: how many pictures of the gallery show it.
        lengths: (Q,) int: how many names each list has.
        missing: Those of the queries that the submission lacks; they have no hits.
        left_out: The test's other queries: they have no relevant picture in the gallery.
        short: {query: length of its list}, where that is below `k`.
    """

    queries: list[str]
    identities: list[str]
    hits: np.ndarray
    relevant: np.ndarray
    lengths: np.ndarray
    missing: list[str]
    left_out: list[str]
    short: dict[str, int]


# ---- labels -------------------------------------------------------------------------------------


def read_labels(path: Path) -> Labels:
    """Read labels, {"query": {name: identity}, "gallery": {name: identity}}.

    {"test": {name: identity}} are those of pictures that are searched among themselves.

    Args:
        path: JSON of this form; a table of pictures, identities and parts, see
            `lookalike.data.tables.read_label_table`; or the text file of a published data set, see
            `lookalike.data.published`.

    Raises:
        UserError: There is no such file, or it has another form.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the labels of the test with --labels")
    if path.suffix.lower() in TABLES:
        from lookalike.data.tables import read_label_table  # pandas: --help needs none

        return _parse_labels(read_label_table(path), str(path))
    if path.suffix.lower() == ".txt":
        from lookalike.data.published import read_published_labels  # pandas, too

        return _parse_labels(read_published_labels(path), str(path))
    return _parse_labels(read_json(path, "the labels of the test"), str(path))


def as_labels(source: str | Path | Mapping[str, Mapping[str, str]] | LabeledParts) -> Labels:
    """Return labels from the path of a file, a mapping of the same form, or a retrieval task.

    Raises:
        UserError: There is no such file, or another form.
        TypeError: The source is anything else.

    Example:
        >>> as_labels({"query": {"q.jpg": "ada"}, "gallery": {"a.jpg": "ada"}}).gallery
        {'a.jpg': 'ada'}
    """
    if isinstance(source, str | Path):
        return read_labels(Path(source))
    if isinstance(source, Mapping):
        return _parse_labels(source, "labels")
    if not (hasattr(source, "query") and hasattr(source, "gallery")):
        raise TypeError(
            "labels must be the path of a file, a mapping or a retrieval task, not "
            f"{type(source).__name__}"
        )
    together = bool(getattr(source, "leave_one_out", False))
    return Labels(dict(source.query), dict(source.gallery), together)


def _parse_labels(content: Any, source: str) -> Labels:
    parts = content if isinstance(content, Mapping) else {}
    together = parts.keys() == {"test"}
    named: dict[str, dict[str, str]] = {}
    for part in parts if together else ("query", "gallery"):
        table = parts.get(part)
        if not isinstance(table, Mapping) or not all(isinstance(v, str) for v in table.values()):
            form = '{"query": {name: identity}, "gallery": {name: identity}}'
            raise UserError(
                f"{source}: labels must have the form {form}, or "
                '{"test": {name: identity}} where both are one folder; identities as text'
            )
        bare = Counter(map(bare_name, table))
        if bare and (most := bare.most_common(1)[0])[1] > 1:
            raise UserError(
                f"{source}: {part} has {most[0]!r} in {most[1]} folders: one name counts"
            )
        named[part] = {bare_name(name): identity for name, identity in table.items()}
    if together:
        return Labels(named["test"], named["test"], leave_one_out=True)
    return Labels(named["query"], named["gallery"])


# ---- hits ---------------------------------------------------------------------------------------


def find_hits(submission: Submission, labels: Labels, k: int = TOP) -> QueryHits:
    """Compare a submission with the labels of its test.

    Args:
        submission: {query: [gallery names, best first]}; names may have folders in front.
        labels: The identities of the test.
        k: Most names that a query may have.

    Raises:
        UserError: The submission has defects, all listed: an unknown query, an unknown or repeated
            gallery name, or more than `k` names; or no query has a relevant picture in the gallery.

    Example:
        >>> labels = Labels({"q.jpg": "ada"}, {"a.jpg": "ada", "b.jpg": "bo"})
        >>> find_hits({"q.jpg": ["b.jpg", "a.jpg"]}, labels).hits.tolist()
        [[False, True]]
    """
    matched = match(submission, labels.query, labels.gallery, k, labels.leave_one_out)
    if found := errors(matched):
        more = len(found) - ERRORS_SHOWN
        rest = [f"... and {more} more"] if more > 0 else []
        raise UserError("\n".join(["the submission has defects:", *found[:ERRORS_SHOWN], *rest]))
    return hits_of_match(matched, labels)


def hits_of_match(matched: Matched, labels: Labels) -> QueryHits:
    """Compare a submission that was matched with these labels; its defects are not looked at.

    Args:
        matched: The submission.
        labels: The labels whose queries and gallery it was matched with.

    Raises:
        UserError: No query has a relevant picture in the gallery.
    """
    codes: dict[str, int] = {}
    for identity in (*labels.query.values(), *labels.gallery.values()):
        codes.setdefault(identity, len(codes))
    gallery = np.array([*map(codes.__getitem__, labels.gallery.values()), -1])  # -1: no picture
    relevant = _count_relevant(labels, codes, gallery[:-1])
    queries = [query for query in labels.query if relevant[query]]
    if not queries:
        raise UserError("no query has a picture of its identity in the gallery: nothing to score")
    row = {query: i for i, query in enumerate(matched.submission)}
    indices = matched.indices[[row.get(query, -1) for query in queries]]
    listed = gallery[indices]
    identities = [labels.query[query] for query in queries]
    return QueryHits(
        queries=queries,
        identities=identities,
        hits=listed == np.array([codes[identity] for identity in identities])[:, None],
        relevant=np.array([relevant[query] for query in queries]),
        lengths=(indices >= 0).sum(1),
        missing=[query for query in queries if query not in matched.submission],
        left_out=[query for query in labels.query if not relevant[query]],
        short={d.query: d.length for d in matched.defects if d.kind is DefectKind.SHORT_LIST},
    )


def _count_relevant(
    labels: Labels, codes: Mapping[str, int], gallery: np.ndarray
) -> dict[str, int]:
    """Count each query's relevant pictures; `gallery`: the code of each picture's identity."""
    counts = np.bincount(gallery, minlength=len(codes)).tolist()
    relevant = {query: counts[codes[identity]] for query, identity in labels.query.items()}
    if labels.leave_one_out:
        for query, identity in labels.query.items():
            relevant[query] -= labels.gallery.get(query) == identity
    return relevant


def hits_of_queries(hits: QueryHits, chosen: Collection[str]) -> QueryHits:
    """Return the part of hits that is about some of the queries."""
    rows = [i for i, query in enumerate(hits.queries) if query in chosen]
    return QueryHits(
        queries=[hits.queries[i] for i in rows],
        identities=[hits.identities[i] for i in rows],
        hits=hits.hits[rows],
        relevant=hits.relevant[rows],
        lengths=hits.lengths[rows],
        missing=[query for query in hits.missing if query in chosen],
        left_out=[query for query in hits.left_out if query in chosen],
        short={query: length for query, length in hits.short.items() if query in chosen},
    )


def warn_incomplete(hits: QueryHits, k: int) -> None:
    """Log a warning for short lists, for queries that are left out and for missing ones."""
    short = [f"{query} ({count})" for query, count in hits.short.items()]
    report_each(f"queries have fewer than {k} gallery pictures", short)
    report_each("queries have no relevant picture in the gallery: left out", hits.left_out)
    report_each("queries are missing from the submission: they score 0", hits.missing)


# ---- scores -------------------------------------------------------------------------------------


def measures_of(
    hits: QueryHits, metric: Metric = SCORE, also: Iterable[str] = ()
) -> dict[str, np.ndarray]:
    """Return the measures of every query, see `measure_queries`."""
    return measure_queries(hits.hits, hits.relevant, metric, also, hits.identities, hits.lengths)


def mean_measures(hits: QueryHits, metric: Metric = SCORE) -> dict[str, float]:
    """Return the mean of every measure over the queries; `measure_queries` lists them."""
    return {name: float(column.mean()) for name, column in measures_of(hits, metric).items()}


def summarize(hits: QueryHits, metric: Metric = SCORE, also: Iterable[str] = ()) -> dict[str, Any]:
    """Return one block of metrics.json.

    Args:
        hits: The queries.
        metric: What the score is.
        also: Names of further measures.

    Returns:
        The mean of every measure by its name; `metric`, the name of what the score is; the counts
        `queries`, `missing` and `left_out`; and `ci95`, the 95 % interval of every mean, {name:
        [lower end, upper end]}.
    """
    values = measures_of(hits, metric, also)
    return {
        **{name: float(column.mean()) for name, column in values.items()},
        "metric": metric.name,
        "queries": len(hits.queries),
        "missing": len(hits.missing),
        "left_out": len(hits.left_out),
        "ci95": {
            name: mean_interval(name, column, hits.identities, metric)
            for name, column in values.items()
        },
    }


def mean_interval(
    name: str, values: np.ndarray, identities: Sequence[str], metric: Metric = SCORE
) -> list[float]:
    """Return the 95 % interval of a measure's mean.

    Args:
        name: Of the measure.
        values: (Q,) of the queries, as `measure_queries` returns them.
        identities: The Q identities.
        metric: What the score is.
    """
    highest = metric.highest if name == "score" else 1.0
    if metric.is_balanced if name == "score" else name.startswith(BALANCED):
        values, identities = over_identities(values, identities)
    ends = clustered_interval(values[:, None], identities, highest)[:, 0]
    return [float(end) for end in ends]


def score(
    submission: str | Path | Mapping[str, Sequence[str]] | RankedArrays,
    labels: str | Path | Mapping[str, Mapping[str, str]] | LabeledParts,
    k: int | None = None,
    leave_one_out: bool = False,
    metric: str = DEFAULT_METRIC,
) -> dict[str, Any]:
    """Score a submission: every measure's mean with its 95 % interval.

    Args:
        submission: The path of a file in any form that `read_submission` knows, a mapping {query:
            [gallery names, best first]}, or a ranking. Names may have folders in front.
        labels: The path of a JSON file or a mapping, {"query": {name: identity}, "gallery": {name:
            identity}}, or an object with these two as attributes: `Labels`, a retrieval task.
            {"test": {name: identity}} are those of one folder.
        k: Most names that a query may have; Recall and mAP are taken at this length, too. Default:
            as many as the metric looks at, at least ten.
        leave_one_out: Query and gallery are one folder: a query's own picture is left out.
        metric: What the score is, such as `map@100`; see `parse_metric`.

    Returns:
        The block that `summarize` describes.

    Raises:
        UserError: A file cannot be read, the metric is unknown, the submission has defects (all
            are listed), or no query has a relevant picture in the gallery.

    Example:
        >>> labels = {"query": {"q.jpg": "ada"}, "gallery": {"a.jpg": "ada", "b.jpg": "bo"}}
        >>> block = score({"q.jpg": ["b.jpg", "a.jpg"]}, labels, k=2)
        >>> block["score"], block["recall@1"], block["map"], block["queries"]
        (400.0, 0.0, 0.5, 1)
        >>> score({"q.jpg": ["b.jpg", "a.jpg"]}, labels, metric="mrr")["score"]
        0.5
    """
    chosen = parse_metric(metric, k)
    known = as_labels(labels)
    known = known._replace(leave_one_out=leave_one_out or known.leave_one_out)
    hits = find_hits(as_submission(submission), known, chosen.length)
    warn_incomplete(hits, chosen.length)
    return summarize(hits, chosen, measures_at(k))
