"""Read a submission in any form found in the wild, and write it in three of them.

    submission = read_submission("submission.csv")           # {query: [gallery names, best first]}
    write_submission(submission, "submission.json")

`matching` holds the rules that a submission has to follow.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file, write_json
from lookalike.core.readers import parse_json, read_text

Submission = dict[str, list[str]]  # query -> gallery names, best first
QUERY_KEYS = ("filename", "query")
NAMES_KEYS = ("gallery_images", "samples", "neighbors")
BESIDE_IMAGES = {"groupname"}  # what a request to a leaderboard holds besides `images`


class RankedArrays(Protocol):
    """Rankings as arrays, as `retrieval.index.Ranking` holds them."""

    @property
    def queries(self) -> Sequence[str]:
        """The Q queries."""

    @property
    def gallery(self) -> np.ndarray:
        """(Q, k) array of gallery names, best first."""


# ---- reading ------------------------------------------------------------------------------------


def read_submission(path: str | Path) -> Submission:
    """Read a submission in any known form.

    The forms: {query: [names]}; {"groupname": ..., "images": {query: [names]}}; a list of
    {"filename": query, "gallery_images": [names]}, of {"filename", "samples"} or of {"query",
    "neighbors"}; CSV with the columns id,images (names separated by spaces).

    Args:
        path: The file; a name that ends in .csv is read as CSV, any other as JSON.

    Returns:
        {query: [gallery names, best first]}, with the names as they are written.

    Raises:
        UserError: There is no such file, it has none of these forms, or a query appears twice.
    """
    path = Path(path)
    return parse_submission(read_text(path), str(path), path.suffix.lower() == ".csv")


def parse_submission(text: str, source: str, as_csv: bool = False) -> Submission:
    r"""Parse the text of a submission in any form that `read_submission` knows.

    Args:
        text: What the file holds.
        source: What to call it in errors, such as its path.
        as_csv: Whether it is CSV, not JSON.

    Returns:
        {query: [gallery names, best first]}.

    Raises:
        UserError: It has none of the forms, a query or another key appears twice, or it is not
            clear which of two keys counts.

    Example:
        >>> parse_submission("id,images\nq.jpg,a.jpg b.jpg", "s.csv", as_csv=True)
        {'q.jpg': ['a.jpg', 'b.jpg']}
        >>> parse_submission('[{"query": "q.jpg", "neighbors": ["a.jpg"]}]', "s.json")
        {'q.jpg': ['a.jpg']}
    """
    pairs = _pairs_of_csv(source, text) if as_csv else _pairs_of_json(source, text)
    submission: Submission = {}
    for query, names in pairs:
        if query in submission:
            raise UserError(f"{source}: query {query!r} appears twice")
        if not isinstance(names, list) or set(map(type, names)) - {str}:
            raise UserError(f"{source}: query {query!r} has no list of gallery names")
        submission[query] = names
    return submission


def as_submission(source: str | Path | Mapping[str, Sequence[str]] | RankedArrays) -> Submission:
    """Return a submission from the path of a file, a mapping or a ranking.

    Raises:
        UserError: The file cannot be read as a submission, or a query of the mapping has a single
            name in the place of a list.
        TypeError: The source is anything else.

    Example:
        >>> as_submission({"q.jpg": ("a.jpg", "b.jpg")})
        {'q.jpg': ['a.jpg', 'b.jpg']}
    """
    if isinstance(source, str | Path):
        return read_submission(source)
    if isinstance(source, Mapping):
        single = next((query for query, names in source.items() if isinstance(names, str)), None)
        if single is not None:
            raise UserError(f"query {single!r} has no list of gallery names")
        return {str(query): list(map(str, names)) for query, names in source.items()}
    if not (hasattr(source, "queries") and hasattr(source, "gallery")):
        raise TypeError(
            "a submission must be the path of a file, a mapping {query: [gallery names]} or a "
            f"ranking, not {type(source).__name__}"
        )
    return dict(zip(source.queries, source.gallery.tolist(), strict=True))


def _pairs_of_csv(source: str, text: str) -> list[tuple[str, list[str]]]:
    try:
        # Lines end in any way; blank ones say nothing.
        head, *rows = [row for row in csv.reader(re.split(r"[\r\n]+", text)) if row]
    except (ValueError, csv.Error) as error:
        raise UserError(f"{source}: no CSV ({error})") from error
    if head != ["id", "images"]:
        raise UserError(f"{source}: a CSV submission has the columns id,images")
    for number, row in enumerate(rows, 2):
        if len(row) != 2:
            raise UserError(f"{source}, row {number}: {len(row)} columns instead of id,images")
    return [(query, names.split()) for query, names in rows]


def _pairs_of_json(source: str, text: str) -> list[tuple[str, Any]]:
    content = parse_json(text, source)
    if isinstance(content, dict):
        if not isinstance(content.get("images"), dict):
            return list(content.items())
        if others := content.keys() - {"images", *BESIDE_IMAGES}:
            raise UserError(f"{source}: {min(others)!r} stands beside images: which one counts?")
        return list(content["images"].items())
    if isinstance(content, list):
        return [_pair_of_entry(source, i, entry) for i, entry in enumerate(content)]
    raise UserError(f"{source}: must hold {{query: [gallery names]}} or a list of such entries")


def _pair_of_entry(source: str, i: int, entry: Any) -> tuple[str, Any]:
    table = entry if isinstance(entry, dict) else {}
    values = []
    for keys in (QUERY_KEYS, NAMES_KEYS):
        found = [key for key in keys if key in table]
        if not found:
            names = f"{', '.join(QUERY_KEYS)} and one of {', '.join(NAMES_KEYS)}"
            raise UserError(f"{source}: entry {i} must have one of {names}")
        if len(found) > 1:
            raise UserError(f"{source}: entry {i} has {' and '.join(found)}: which one counts?")
        values.append(table[found[0]])
    query, names = values
    if not isinstance(query, str):
        raise UserError(f"{source}: entry {i} has no text as its {QUERY_KEYS[0]}")
    return query, names


# ---- writing ------------------------------------------------------------------------------------


def write_submission(
    submission: Mapping[str, Sequence[str]] | RankedArrays,
    path: str | Path,
    format: str | None = None,
) -> Path:
    r"""Write a submission to a file, whole or not at all.

    Args:
        submission: {query: [gallery names, best first]}, or a ranking.
        path: The file to write.
        format: `mapping`, {query: [names]}; `list`, a list of {"filename": query,
            "gallery_images": [names]}; or `csv`, Kaggle's columns id,images. Default: `csv` for a
            path that ends in .csv, else `mapping`.

    Returns:
        The path of the file.

    Raises:
        UserError: The format is unknown, or CSV cannot hold a name: a gallery name with a space, a
            name with a line break or of nothing but spaces.

    Example:
        >>> path = write_submission({"q.jpg": ["a.jpg", "b.jpg"]}, "/tmp/submission.csv")
        >>> path.read_text()
        'id,images\nq.jpg,a.jpg b.jpg\n'
    """
    path, lists = Path(path), as_submission(submission)
    if format is None:
        format = "csv" if path.suffix.lower() == ".csv" else "mapping"
    if format == "csv":
        _write_csv(path, lists)
    elif format == "list":
        write_json(path, [{"filename": q, "gallery_images": names} for q, names in lists.items()])
    elif format == "mapping":
        write_json(path, lists)
    else:
        raise UserError(f"format {format!r}: must be mapping, list or csv")
    return path


def write_run_submission(submission: Submission, folder: Path, format: str) -> Path:
    """Write the submission of a run folder and remove what belongs to an earlier one.

    Args:
        submission: {query: [gallery names, best first]}.
        folder: The run folder.
        format: `mapping` and `list` give submission.json; `csv` gives submission.csv, and the
            mapping as submission.json beside it.

    Returns:
        The path of the file in the chosen format.

    Raises:
        UserError: CSV cannot hold a name, see `write_submission`.
    """
    path, table = folder / "submission.json", folder / "submission.csv"
    if format == "csv":
        write_submission(submission, table, "csv")
    else:
        table.unlink(missing_ok=True)
    # Earlier scores would be taken for those of the new submission.
    (folder / "metrics.json").unlink(missing_ok=True)
    write_submission(submission, path, "mapping" if format == "csv" else format)
    return table if format == "csv" else path


def _write_csv(path: Path, submission: Submission) -> None:
    names = (name for names in submission.values() for name in names)
    for name in (*submission, *names):
        if not name.strip() or re.search(r"[\r\n]", name):
            raise UserError(f"{name!r}: the CSV form cannot hold this name; use another form")
    spaced = (name for names in submission.values() for name in names if name.split() != [name])
    if (with_space := next(spaced, None)) is not None:
        raise UserError(f"{with_space!r}: the CSV form separates names by spaces; use another form")
    with whole_file(path) as beside, beside.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["id", "images"])
        writer.writerows([query, " ".join(names)] for query, names in submission.items())
