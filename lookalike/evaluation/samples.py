"""Fill a competition's sample submission: its columns, separators, ids, order and list length.

    sample = read_sample(Path("sample_submission.csv"), queries, gallery)
    write_filled(sample, ranked, Path("submission.csv"))

Two forms are known: a row for each query with all names in one cell (`id,images` of Google Landmark
Retrieval), and a row for each rank (`query,rank,image`).
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.readers import read_text

Key = TypeVar("Key")
# The usual names of the column of gallery names, where its values do not tell.
USUAL = ("images", "image", "predictions", "prediction", "matches", "neighbors", "gallery", "names")


class Sample(NamedTuple):
    """What a sample submission says of the form.

    Attributes:
        path: The file.
        rows: Its rows, the header first.
        delimiter: Between columns.
        id_column: Number of the column of queries.
        names_column: Number of the column of gallery names.
        rank_column: Number of the column of ranks; None where a row holds all names.
        separator: Between the names of a cell; None where each row holds one name.
        length: How many names each query has.
        queries: The query of each row, by its own name.
        written: {name of a gallery picture: how the sample writes it}.
    """

    path: Path
    rows: list[list[str]]
    delimiter: str
    id_column: int
    names_column: int
    rank_column: int | None
    separator: str | None
    length: int
    queries: list[str]
    written: dict[str, str]


def read_sample(
    path: Path, queries: Sequence[str], gallery: Sequence[str], k: int | None = None
) -> Sample:
    """Read a sample submission and find out its form.

    Args:
        path: CSV, separated by commas, semicolons or tabs.
        queries: The names of the test's queries.
        gallery: The names of its gallery.
        k: How many names a query has, where the sample's cells hold no names of the gallery.

    Raises:
        UserError: The file is damaged, names other queries than the test, or its form is unknown.
    """
    rows, delimiter = _read_rows(path)
    head, body = rows[0], rows[1:]
    columns = [list(values) for values in zip(*body, strict=True)]
    query_of = _names_by_text(queries)
    id_column = _id_column(path, head, columns, query_of)
    found = [query_of[_text_of(value)] for value in columns[id_column]]
    if missing := sorted(set(queries) - set(found)):
        raise UserError(
            f"{path}: lacks {len(missing)} queries of the test, first {missing[0]!r}: is it the "
            "sample of this competition?"
        )
    times, *different = set(Counter(found).values())
    if different:
        raise UserError(f"{path}: queries have different numbers of rows")
    is_long = times > 1
    others = [i for i in range(len(head)) if i != id_column]
    ranks = [i for i in others if is_long and _are_ranks(columns[i], times)]
    others = [i for i in others if i not in ranks]
    picture_of = _names_by_text(gallery)
    names_column = _names_column(path, head, columns, others, picture_of)
    separator = None if is_long else _separator(columns[names_column])
    cells = [value.split(separator) for value in columns[names_column]]
    example = next((n for names in cells for n in names if _text_of(n) in picture_of), None)
    length = times if is_long else max(map(len, cells))
    if example is None and not is_long:  # placeholders
        length = k or length
    like = example or columns[id_column][0]
    return Sample(
        path,
        rows,
        delimiter,
        id_column,
        names_column,
        ranks[0] if ranks else None,
        separator or (None if is_long else " "),
        length,
        found,
        _written(path, gallery, like),
    )


def cell_names(sample: Sample) -> set[str]:
    """Return all names that stand where a sample's ranked lists belong."""
    cells = [row[sample.names_column] for row in sample.rows[1:]]
    return {name for cell in cells for name in cell.split(sample.separator) if name}


def write_filled(sample: Sample, ranked: Mapping[str, Sequence[str]], path: Path) -> Path:
    """Write a submission in the form of a sample, whole or not at all, after checking it.

    Args:
        sample: The sample.
        ranked: {query: [gallery names, best first]}, at least as many as the sample has.
        path: The file to write.

    Raises:
        UserError: A query has too few names, or a name holds the separator.
    """
    rows = [list(row) for row in sample.rows]
    for row, query, rank in zip(rows[1:], sample.queries, _ranks(sample), strict=True):
        names = [sample.written[name] for name in ranked[query][: sample.length]]
        if len(names) < sample.length and len(names) < len(sample.written):
            raise UserError(
                f"{sample.path}: has {sample.length} names for a query, and {query!r} has "
                f"{len(names)}: rank more by --k {sample.length}"
            )
        if sample.separator is None:
            row[sample.names_column] = names[rank]
            continue
        if torn := [name for name in names if sample.separator in name]:
            raise UserError(
                f"{sample.path}: separates names by {sample.separator!r}, which {torn[0]!r} holds"
            )
        row[sample.names_column] = sample.separator.join(names)
    with whole_file(path) as beside, beside.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=sample.delimiter, lineterminator="\n").writerows(rows)
    return path


def _ranks(sample: Sample) -> list[int]:
    """Return the rank of each row among those of its query, from 0."""
    if sample.rank_column is not None:
        numbers = [int(row[sample.rank_column]) for row in sample.rows[1:]]
        return [number - min(numbers) for number in numbers]
    seen: Counter[str] = Counter()
    ranks = []
    for query in sample.queries:
        ranks.append(seen[query])
        seen[query] += 1
    return ranks


# ---- the form -----------------------------------------------------------------------------------


def _read_rows(path: Path) -> tuple[list[list[str]], str]:
    """Return the rows of a separated file, and what separates its columns."""
    text = read_text(path)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    except csv.Error as error:
        raise UserError(f"{path}: no CSV ({error})") from error
    if len(rows) < 2 or len(rows[0]) < 2:
        raise UserError(f"{path}: a sample submission has a header of two columns, and rows")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise UserError(f"{path}, row {number}: {len(row)} columns, not {len(rows[0])}")
    return rows, delimiter


def _text_of(name: str) -> str:
    """Return what two ways to write a name have in common: no folders and no suffix of a picture.

    >>> _text_of("test/0a1b.jpg"), _text_of("0a1b")
    ('0a1b', '0a1b')
    """
    path = PurePosixPath(name.replace("\\", "/"))
    return path.stem if re.fullmatch(r"\.[A-Za-z]\w{1,4}", path.suffix) else path.name


def _names_by_text(names: Iterable[str]) -> dict[str, str]:
    """Return {what a name has in common with its other forms: the name}."""
    return {_text_of(name): name for name in names}


def _id_column(
    path: Path, head: Sequence[str], columns: Sequence[Sequence[str]], query_of: Mapping[str, str]
) -> int:
    """Return the number of the column whose values are all queries."""
    shares = [sum(_text_of(v) in query_of for v in values) / len(values) for values in columns]
    best = max(range(len(shares)), key=lambda i: shares[i])
    if shares[best] < 1:
        unknown = next(v for v in columns[best] if _text_of(v) not in query_of)
        raise UserError(
            f"{path}: no column names the test's queries alone; nearest is {head[best]} "
            f"({shares[best]:.0%}), with {unknown!r}"
        )
    return best


def _are_ranks(values: Sequence[str], count: int) -> bool:
    """Return whether values are ranks, from 0 or 1."""
    numbers = set(values)
    return any(numbers == set(map(str, range(first, first + count))) for first in (0, 1))


def _names_column(
    path: Path,
    head: Sequence[str],
    columns: Sequence[Sequence[str]],
    others: Sequence[int],
    picture_of: Mapping[str, str],
) -> int:
    """Return the number of the column that gallery names belong in."""
    named = [
        i
        for i in others
        if any(_text_of(n) in picture_of for n in re.split(r"[ ,;|]+", columns[i][0]) if n)
    ]
    found = named[0] if len(named) == 1 else usual_or_only({i: head[i] for i in others}, USUAL)
    if found is not None:
        return found
    names = ", ".join(head[i] for i in others)
    raise UserError(
        f"{path}: which column takes the gallery names? {names or 'None'} could be; it should "
        f"hold some, or be called {', '.join(USUAL)}"
    )


def usual_or_only(names: Mapping[Key, str], usual: Collection[str]) -> Key | None:
    """Return the column with a usual name where there is one, else the only one; None if neither.

    Args:
        names: {column: its name} of those that may be it.
        usual: The usual names, in lower case.

    >>> usual_or_only({0: "note", 1: "Score "}, {"score"}), usual_or_only({0: "a", 1: "b"}, {"c"})
    (1, None)
    """
    known = [column for column, name in names.items() if name.strip().lower() in usual]
    return next((found[0] for found in (known, list(names)) if len(found) == 1), None)


def _separator(cells: Sequence[str]) -> str:
    """Return what stands between the names of cells; a space where there is a single name."""
    counts = {sign: sum(cell.strip().count(sign) for cell in cells) for sign in " ,;|"}
    return max(counts, key=lambda sign: counts[sign])


def _written(path: Path, gallery: Sequence[str], example: str) -> dict[str, str]:
    """Return how to write each gallery name, with or without suffix as an example."""
    if _text_of(example) != PurePosixPath(example.replace("\\", "/")).name:
        return {name: name for name in gallery}
    written = {name: _text_of(name) for name in gallery}
    if len(set(written.values())) < len(written):
        raise UserError(f"{path}: names have no suffix, and two gallery pictures differ in it only")
    return written
