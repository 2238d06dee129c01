"""The rules of a submission: match its names with those of a test, and list every defect.

    matched = match(submission, labels.query, labels.gallery, k=10)
    errors(matched)      # sentences: what makes it impossible to score
    refusals(matched)    # lines: what a leaderboard refuses, one for each kind of defect

Both read one list of defects. The scorer is lenient: it accepts names with folders in front,
missing queries and short lists. A leaderboard accepts none of these.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np

from lookalike.evaluation.metrics import TOP
from lookalike.evaluation.submissions import Submission


class DefectKind(Enum):
    """A kind of defect."""

    MISSING_QUERY = "a query of the test is not in the submission"
    QUERY_FOLDER = "a query's name has a folder in front"
    UNKNOWN_QUERY = "a query is not in the test"
    REPEATED_QUERY = "a query appears twice, with different folders in front"
    SHORT_LIST = "a list has too few gallery names"
    LONG_LIST = "a list has too many gallery names"
    REPEATED_NAME = "a list names a picture more than once"
    NAME_FOLDER = "a gallery name has a folder in front"
    UNKNOWN_NAME = "a gallery name is not in the gallery"


class Defect(NamedTuple):
    """A defect of one query.

    Attributes:
        kind: What is wrong.
        query: The query, as the submission writes it; a repeated one as the test does.
        length: Length of the query's list.
        names: The gallery names concerned; none where the defect is not about single names.
    """

    kind: DefectKind
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
        defects: All defects: missing queries first, then in the order of the submission.
    """

    submission: Submission
    indices: np.ndarray
    k: int
    defects: list[Defect]


ERRORS = {
    DefectKind.UNKNOWN_QUERY: "query {query!r} is not among the test's queries",
    DefectKind.REPEATED_QUERY: "query {query!r} appears twice, with different folders in front",
    DefectKind.LONG_LIST: "query {query!r} has {length} gallery pictures, more than {k}",
    DefectKind.UNKNOWN_NAME: "query {query!r} names {names[0]!r}, which is not in the gallery",
    DefectKind.REPEATED_NAME: "query {query!r} names {names[0]!r} more than once",
}
REFUSALS = {
    DefectKind.MISSING_QUERY: "queries that are missing",
    DefectKind.QUERY_FOLDER: "query names with a folder in front",
    DefectKind.UNKNOWN_QUERY: "queries that the test does not have",
    DefectKind.SHORT_LIST: "queries without exactly {k} gallery names",
    DefectKind.LONG_LIST: "queries without exactly {k} gallery names",
    DefectKind.REPEATED_NAME: "queries that name a picture more than once",
    DefectKind.NAME_FOLDER: "gallery names with a folder in front",
    DefectKind.UNKNOWN_NAME: "names that the gallery does not have",
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
        >>> [defect.kind.name for defect in matched.defects]
        ['QUERY_FOLDER', 'UNKNOWN_NAME']
    """
    known, index = set(queries), {name: i for i, name in enumerate(gallery)}
    if leave_one_out:
        submission = _without_own_names(submission, known, index)
    k = min(TOP, len(index)) if k is None else k
    indices = _gallery_indices(submission, index, k)
    # Most submissions use the test's own names only: NumPy checks that, without a loop over names.
    if submission.keys() <= known and _are_distinct(indices, sum(map(len, submission.values()))):
        defects = [d for q, names in submission.items() for d in _check_length(q, len(names), k)]
    else:
        submission, defects = _match_by_name(submission, known, index, k)
        indices = _gallery_indices(submission, index, k)
    missing = [
        Defect(DefectKind.MISSING_QUERY, query) for query in queries if query not in submission
    ]
    return Matched(submission, indices, k, [*missing, *defects])


def errors(matched: Matched) -> list[str]:
    """Return what makes it impossible to score a submission, a sentence for each defect.

    Example:
        >>> errors(match({"q.jpg": ["a.jpg", "d/a.jpg"]}, ["q.jpg"], ["a.jpg"], k=10))
        ["query 'q.jpg' names 'a.jpg' more than once"]
    """
    return [
        ERRORS[defect.kind].format(**defect._asdict(), k=matched.k)
        for defect in matched.defects
        if defect.kind in ERRORS
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
    concerned: dict[str, dict[str, None]] = {line: {} for line in REFUSALS.values()}
    for kind, query, _, names in matched.defects:
        if kind in REFUSALS:
            about_names = kind in (DefectKind.NAME_FOLDER, DefectKind.UNKNOWN_NAME)
            concerned[REFUSALS[kind]].update(dict.fromkeys(names if about_names else [query]))
    return [
        f"{line.format(k=matched.k)} ({len(names)}): {_first_few(list(names))}"
        for line, names in concerned.items()
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
    """Return whether all of `count` names are in the gallery and no list repeats one."""
    ordered = np.sort(indices, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    return bool((indices >= 0).sum() == count and not repeated.any())


def _match_by_name(
    submission: Submission, queries: Collection[str], gallery: Collection[str], k: int
) -> tuple[Submission, list[Defect]]:
    """Match any submission, name by name."""
    matched: Submission = {}
    defects: list[Defect] = []
    for written, names in submission.items():
        query = _known_name(written, queries)
        found = [_known_name(name, gallery) for name in names]
        if query is None:
            defects.append(Defect(DefectKind.UNKNOWN_QUERY, written))
        elif query != written:
            defects.append(Defect(DefectKind.QUERY_FOLDER, written))
        if query in matched:
            defects.append(Defect(DefectKind.REPEATED_QUERY, query))
        defects += _check_length(written, len(names), k)
        defects += _check_names(written, names, found)
        matched[query or written] = [name for name in found if name is not None]
    return matched, defects


def _check_length(query: str, count: int, k: int) -> Iterator[Defect]:
    if count != k:
        yield Defect(DefectKind.SHORT_LIST if count < k else DefectKind.LONG_LIST, query, count)


def _check_names(query: str, names: Sequence[str], found: Sequence[str | None]) -> Iterator[Defect]:
    """Find the defects of one list; `found`: the gallery picture that each name means, if any."""
    pairs = list(zip(names, found, strict=True))
    unknown = [name for name, picture in pairs if picture is None]
    in_folder = [name for name, picture in pairs if picture not in (None, name)]
    pictures = [name if picture is None else picture for name, picture in pairs]
    for kind, concerned in (
        (DefectKind.UNKNOWN_NAME, unknown),
        (DefectKind.NAME_FOLDER, in_folder),
        (DefectKind.REPEATED_NAME, _repeated(pictures)),
    ):
        if concerned:
            yield Defect(kind, query, len(names), concerned)


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
    bare = bare_name(name)
    return bare if bare in known else None


def bare_name(name: str) -> str:
    r"""Return a name without folders in front.

    >>> bare_name("test/query/a.jpg"), bare_name(r"query\a.jpg")
    ('a.jpg', 'a.jpg')
    """
    if "/" not in name and "\\" not in name:
        return name
    return name.replace("\\", "/").rpartition("/")[2]


def _first_few(names: Sequence[str], count: int = 10) -> str:
    """Quote names as an error may: they come from outside, any length and any character."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(repr(name[:100]) for name in names[:count]) + more
