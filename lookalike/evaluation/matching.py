"""The rules of a submission: match its names with those of a test, and list every defect.

    matched = match(submission, labels.query, labels.gallery, k=10)
    errors(matched)      # sentences: what makes it impossible to score
    refusals(matched)    # lines: what a leaderboard refuses, one for each kind of defect

There is one list of defects. The scorer is lenient: it takes names with folders in front, missing
queries and short lists. A leaderboard takes none of these.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np

from lookalike.evaluation.submissions import TOP, Submission


class Defect(Enum):
    """A kind of defect, in the order in which a leaderboard lists them."""

    MISSING_QUERY = "a query of the test is not in the submission"
    QUERY_FOLDER = "a query's name has a folder in front"
    UNKNOWN_QUERY = "a query is not in the test"
    REPEATED_QUERY = "a query appears twice, with different folders in front"
    SHORT_LIST = "a list has too few gallery names"
    LONG_LIST = "a list has too many gallery names"
    REPEATED_NAME = "a list names a picture more than once"
    NAME_FOLDER = "a gallery name has a folder in front"
    UNKNOWN_NAME = "a gallery name is not in the gallery"


class Finding(NamedTuple):
    """A defect of one query.

    Attributes:
        defect: Its kind.
        query: The query, as the submission writes it.
        length: Length of the query's list.
        names: The gallery names concerned; none where the defect is not about single names.
    """

    defect: Defect
    query: str
    length: int = 0
    names: Sequence[str] = ()


class Matched(NamedTuple):
    """A submission by the names of a test.

    Attributes:
        submission: {query: [gallery names]} by the test's own names; unknown gallery names are
            left out.
        indices: (lists + 1, longest list, at most k) int32: the position in the gallery of each
            name; -1 after the end of a list, and in the last row, which stands for a missing query.
        k: The length that a list should have.
        findings: All defects: missing queries first, then in the order of the submission.
    """

    submission: Submission
    indices: np.ndarray
    k: int
    findings: list[Finding]


ERRORS = {
    Defect.UNKNOWN_QUERY: "query {query!r} is not among the test's queries",
    Defect.REPEATED_QUERY: "query {query!r} appears twice, with different folders in front",
    Defect.LONG_LIST: "query {query!r} has {length} gallery pictures, more than {k}",
    Defect.UNKNOWN_NAME: "query {query!r} names {names[0]!r}, which is not in the gallery",
    Defect.REPEATED_NAME: "query {query!r} names {names[0]!r} more than once",
}
REFUSALS = {
    Defect.MISSING_QUERY: "queries that are missing",
    Defect.QUERY_FOLDER: "query names with a folder in front",
    Defect.UNKNOWN_QUERY: "queries that the test does not have",
    Defect.SHORT_LIST: "queries without exactly {k} gallery names",
    Defect.LONG_LIST: "queries without exactly {k} gallery names",
    Defect.REPEATED_NAME: "queries that name a picture more than once",
    Defect.NAME_FOLDER: "gallery names with a folder in front",
    Defect.UNKNOWN_NAME: "names that the gallery does not have",
}


def match(
    submission: Submission,
    queries: Collection[str],
    gallery: Collection[str],
    k: int | None = None,
    leave_one_out: bool = False,
) -> Matched:
    """Match the names of a submission with those of a test; names may have folders in front.

    Args:
        submission: {query: [gallery names, best first]}.
        queries: The names of the test's queries.
        gallery: The names of its gallery.
        k: Length that a list should have. None: what a leaderboard takes, ten names, or all of a
            smaller gallery.
        leave_one_out: Query and gallery are one folder: a query's own name is taken out of its
            list.

    Returns:
        The submission by the test's names, and all its defects. Nothing is raised.

    Example:
        >>> matched = match({"query/q.jpg": ["a.jpg", "b.jpg"]}, ["q.jpg"], ["a.jpg"], k=2)
        >>> matched.submission
        {'q.jpg': ['a.jpg']}
        >>> [finding.defect.name for finding in matched.findings]
        ['QUERY_FOLDER', 'UNKNOWN_NAME']
    """
    known, index = set(queries), {name: i for i, name in enumerate(gallery)}
    if leave_one_out:
        submission = _without_own_names(submission, known, index)
    k = min(TOP, len(index)) if k is None else k
    indices = _gallery_indices(submission, index, k)
    # Most submissions have the test's own names, which their numbers show at once.
    if submission.keys() <= known and _are_distinct(indices, sum(map(len, submission.values()))):
        findings = [f for q, names in submission.items() for f in _check_length(q, len(names), k)]
    else:
        submission, findings = _match_by_name(submission, known, index, k)
        indices = _gallery_indices(submission, index, k)
    missing = [Finding(Defect.MISSING_QUERY, query) for query in queries if query not in submission]
    return Matched(submission, indices, k, [*missing, *findings])


def errors(matched: Matched) -> list[str]:
    """Return what makes it impossible to score a submission, a sentence for each defect.

    Example:
        >>> errors(match({"q.jpg": ["a.jpg", "d/a.jpg"]}, ["q.jpg"], ["a.jpg"], k=10))
        ["query 'q.jpg' names 'a.jpg' more than once"]
    """
    return [
        ERRORS[finding.defect].format(**finding._asdict(), k=matched.k)
        for finding in matched.findings
        if finding.defect in ERRORS
    ]


def refusals(matched: Matched) -> list[str]:
    """Return what a leaderboard refuses in a submission, a line for each kind of defect.

    Every query of the test must be there, with ten names (all, of a smaller gallery), each of a
    gallery picture and none repeated; no name may have a folder in front.

    Args:
        matched: A submission that was matched with the default `k`.

    Example:
        >>> refusals(match({"q.jpg": ["test/a.jpg"]}, ["q.jpg"], ["a.jpg"]))
        ["gallery names with a folder in front (1): 'test/a.jpg'"]
    """
    kinds: dict[str, dict[str, None]] = {line: {} for line in REFUSALS.values()}
    for defect, query, _, names in matched.findings:
        if defect in REFUSALS:
            about_names = defect in (Defect.NAME_FOLDER, Defect.UNKNOWN_NAME)
            kinds[REFUSALS[defect]].update(dict.fromkeys(names if about_names else [query]))
    return [
        f"{line.format(k=matched.k)} ({len(names)}): {_first_few(list(names))}"
        for line, names in kinds.items()
        if names
    ]


def _without_own_names(
    submission: Submission, queries: Collection[str], gallery: Collection[str]
) -> Submission:
    """Take each query's own picture out of its list."""
    without: Submission = {}
    for query, names in submission.items():
        own = _known_name(query, queries)
        without[query] = [n for n in names if own is None or _known_name(n, gallery) != own]
    return without


def _gallery_indices(submission: Submission, index: Mapping[str, int], k: int) -> np.ndarray:
    """Return `Matched.indices`; -1 also for a name that is not in the gallery."""
    # Lists are cut at k: one long list from outside must not make every row as long.
    lengths = np.minimum([*map(len, submission.values()), 0], k)
    indices = np.full((len(lengths), max(1, lengths.max())), -1, np.int32)
    filled = np.arange(indices.shape[1]) < lengths[:, None]
    names = chain.from_iterable(names[:k] for names in submission.values())
    indices[filled] = np.fromiter(map(index.get, names, repeat(-1)), np.int32, lengths.sum())
    return indices


def _are_distinct(indices: np.ndarray, count: int) -> bool:
    """Whether all of `count` names are in the gallery and no list repeats one."""
    ordered = np.sort(indices, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    return bool((indices >= 0).sum() == count and not repeated.any())


def _match_by_name(
    submission: Submission, queries: Collection[str], gallery: Collection[str], k: int
) -> tuple[Submission, list[Finding]]:
    """Match any submission, name by name."""
    matched: Submission = {}
    findings: list[Finding] = []
    for written, names in submission.items():
        query = _known_name(written, queries)
        found = [_known_name(name, gallery) for name in names]
        if query is None:
            findings.append(Finding(Defect.UNKNOWN_QUERY, written))
        elif query != written:
            findings.append(Finding(Defect.QUERY_FOLDER, written))
        if query in matched:
            findings.append(Finding(Defect.REPEATED_QUERY, query))
        findings += _check_length(written, len(names), k)
        findings += _check_names(written, names, found)
        matched[query or written] = [name for name in found if name is not None]
    return matched, findings


def _check_length(query: str, count: int, k: int) -> Iterator[Finding]:
    if count != k:
        yield Finding(Defect.SHORT_LIST if count < k else Defect.LONG_LIST, query, count)


def _check_names(
    query: str, names: Sequence[str], found: Sequence[str | None]
) -> Iterator[Finding]:
    """Find the defects of one list; `found`: the gallery picture that each name means, if any."""
    unknown = [name for name, known in zip(names, found, strict=True) if known is None]
    foldered = [n for n, known in zip(names, found, strict=True) if known not in (None, n)]
    means = [name if known is None else known for name, known in zip(names, found, strict=True)]
    for defect, concerned in (
        (Defect.UNKNOWN_NAME, unknown),
        (Defect.NAME_FOLDER, foldered),
        (Defect.REPEATED_NAME, _repeated(means)),
    ):
        if concerned:
            yield Finding(defect, query, len(names), concerned)


def _repeated(names: Sequence[str]) -> list[str]:
    """Return the names that stand earlier in the list, too."""
    seen: set[str] = set()
    repeated: list[str] = []
    for name in names:
        if name in seen:
            repeated.append(name)
        seen.add(name)
    return repeated


def _known_name(name: str, known: Collection[str]) -> str | None:
    """Return the known name that a name means, with or without its folders; None: there is none."""
    if name in known:
        return name
    bare = name.replace("\\", "/").rpartition("/")[2]
    return bare if bare in known else None


def _first_few(names: Sequence[str], count: int = 10) -> str:
    """Quote names as an error may: they come from outside, any length and any character."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(repr(name[:100]) for name in names[:count]) + more
