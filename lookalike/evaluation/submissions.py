"""Read a submission in any form found in the wild, and write it in four of them.

    submission = read_submission("submission.csv")           # {query: [gallery names, best first]}
    write_submission(submission, "submission.json")

`matching` holds the rules that a submission has to follow.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file, write_json, write_text
from lookalike.core.readers import parse_json, read_text

Submission = dict[str, list[str]]  # query -> gallery names, best first
PLAIN = msgspec.json.Decoder(Submission)
QUERY_KEYS = ("filename", "query")
TREC = (".trec", ".run")  # suffixes of TREC runs
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
    "neighbors"}; CSV with the columns id,images (names separated by spaces); a TREC run, lines of
    query, Q0, gallery name, rank, score and a tag.

    Args:
        path: The file; a name that ends in .csv is read as CSV, in .trec or .run as a TREC run, any
            other as JSON.

    Returns:
        {query: [gallery names, best first]}, with the names as they are written.

    Raises:
        UserError: There is no such file, it has none of these forms, or a query appears twice.
    """
    path = Path(path)
    if path.suffix.lower() in TREC:
        return _parse_trec(read_text(path), str(path))
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
    if not as_csv and (plain := _plain_lists(text)) is not None:
        return plain
    pairs = _pairs_of_csv(source, text) if as_csv else _pairs_of_json(source, text)
    submission: Submission = {}
    for query, names in pairs:
        if query in submission:
            raise UserError(f"{source}: query {query!r} appears twice")
        if not isinstance(names, list) or set(map(type, names)) - {str}:
            raise UserError(f"{source}: query {query!r} has no list of gallery names")
        submission[query] = names
    return submission


def _parse_trec(text: str, source: str) -> Submission:
    """Parse a TREC run; as trec_eval does, lists are sorted by score, equal ones by name."""
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            query, _, name, _, score, _ = words
            value = float(score)
        except ValueError as error:
            form = "query Q0 name rank score tag"
            raise UserError(f"{source}, line {number}: not of the form {form!r}") from error
        if name in found.setdefault(query, {}):
            raise UserError(f"{source}, line {number}: query {query!r} names {name!r} again")
        found[query][name] = value
    return {
        query: sorted(sorted(scores, reverse=True), key=lambda name: -scores[name])
        for query, scores in found.items()
    }


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


def _plain_lists(text: str) -> Submission | None:
    """Return {query: [names]} where the text is just that, and at twice the speed; else None.

    msgspec takes the last of equal keys: a bracket more than there are lists gives that away.
    """
    if "\\" in text:  # escapes may stand for half characters
        return None
    try:
        lists: Submission = PLAIN.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return lists if text.count("[") == len(lists) else None


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
            "gallery_images": [names]}; `csv`, Kaggle's columns id,images; or `trec`, a run that
            trec_eval reads. Default: what the path ends in, .csv or .trec, else `mapping`.

    Returns:
        The path of the file.

    Raises:
        UserError: The format is unknown, or cannot hold a name: CSV a gallery name with a space, a
            name with a line break or of nothing but spaces, TREC any name with a space.

    Example:
        >>> path = write_submission({"q.jpg": ["a.jpg", "b.jpg"]}, "/tmp/submission.csv")
        >>> path.read_text()
        'id,images\nq.jpg,a.jpg b.jpg\n'
    """
    path, lists = Path(path), as_submission(submission)
    if format is None:
        format = {"csv": "csv", "trec": "trec"}.get(path.suffix.lower()[1:], "mapping")
    if format == "csv":
        _write_csv(path, lists)
    elif format == "list":
        write_json(path, [{"filename": q, "gallery_images": names} for q, names in lists.items()])
    elif format == "trec":
        _write_trec(path, lists)
    elif format == "mapping":
        write_json(path, lists)
    else:
        raise UserError(f"format {format!r}: must be mapping, list, csv or trec")
    return path


def write_run_submission(submission: Submission, folder: Path, format: str) -> Path:
    """Write the submission of a run folder and remove what belongs to an earlier one.

    Args:
        submission: {query: [gallery names, best first]}.
        folder: The run folder.
        format: `mapping` and `list` give submission.json; `csv` and `trec` give submission.csv or
            submission.trec, and the mapping as submission.json beside it.

    Returns:
        The path of the file in the chosen format.

    Raises:
        UserError: The format cannot hold a name, see `write_submission`.
    """
    path = folder / "submission.json"
    beside = {name: folder / f"submission.{name}" for name in ("csv", "trec")}
    for name, other in beside.items():
        if name == format:
            write_submission(submission, other, name)
        else:
            other.unlink(missing_ok=True)
    # Earlier scores would be taken for those of the new submission.
    (folder / "metrics.json").unlink(missing_ok=True)
    write_submission(submission, path, "mapping" if format in beside else format)
    return beside.get(format, path)


def _write_trec(path: Path, submission: Submission) -> None:
    """Write a TREC run; scores only keep the order."""
    for name in {*submission, *(name for names in submission.values() for name in names)}:
        if name.split() != [name]:
            raise UserError(
                f"{name!r}: a TREC run cannot hold a name with spaces; use another form"
            )
    lines = [
        f"{query} Q0 {name} {rank} {len(names) - rank} lookalike\n"
        for query, names in submission.items()
        for rank, name in enumerate(names, 1)
    ]
    write_text(path, "".join(lines))


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
