"""TODO lookalike.evaluation.submissions."""

import csv
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lookalike.core.errors import UserError
from lookalike.core.files import whole_file, write_json

Ranked = dict[str, list[str]]  # query -> gallery names, best first
TOP = 10  # names that a leaderboard takes for a query


def read_submission(path: Path) -> Ranked:
    """A submission in any form found in the wild, as {query: [gallery names]}.

    Forms: {query: [names]}; {"groupname": ..., "images": {query: [names]}}; a list of
    {"filename": query, "gallery_images": [names]}, of {"filename", "samples"} or of {"query",
    "neighbors"}; CSV with the columns id,images (names separated by spaces).

    Raises:
        UserError: no such file, none of these forms, or a query that stands there twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    return parse_submission(text, str(path), path.suffix.lower() == ".csv")


def parse_submission(text: str, source: str, as_csv: bool = False) -> Ranked:
    """The text of a submission in any of the forms of `read_submission`.

    source: what to call it in errors.

    Raises:
        UserError: none of the forms, or a query that stands there twice.
    """
    pairs = _pairs_of_csv(source, text) if as_csv else _pairs_of_json(source, text)
    ranked: Ranked = {}
    for query, names in pairs:
        if query in ranked:
            raise UserError(f"{source}: query {query!r} stands there twice")
        if not isinstance(names, list) or set(map(type, names)) - {str}:
            raise UserError(f"{source}: query {query!r} has no list of gallery names")
        ranked[query] = names
    return ranked


def write_csv(path: Path, ranked: Ranked) -> None:
    """Writes Kaggle's form, id,images, whole or not at all.

    Raises:
        UserError: a gallery name with a space, which this form cannot hold.
    """
    spaced = [name for names in ranked.values() for name in names if " " in name]
    if spaced:
        raise UserError(f"{spaced[0]!r}: the CSV form separates names by spaces; use another form")
    with whole_file(path) as beside, beside.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["id", "images"])
        writer.writerows([query, " ".join(names)] for query, names in ranked.items())


def _pairs_of_csv(source: str, text: str) -> list[tuple[str, list[str]]]:
    try:
        head, *rows = csv.reader(text.splitlines())
    except (ValueError, csv.Error) as error:
        raise UserError(f"{source}: no CSV ({error})") from error
    if head != ["id", "images"]:
        raise UserError(f"{source}: a CSV submission has the columns id,images")
    for number, row in enumerate(rows, 2):
        if len(row) != 2:
            raise UserError(f"{source}, row {number}: {len(row)} columns instead of id,images")
    return [(query, names.split()) for query, names in rows]


QUERY_KEYS, NAMES_KEYS = ("filename", "query"), ("gallery_images", "samples", "neighbors")


def _pairs_of_json(source: str, text: str) -> list[tuple[str, Any]]:
    try:
        # A JSON object may repeat a key, and Python would silently keep the last: keep pairs.
        content = json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: not valid JSON ({error})") from error
    if isinstance(content, _Object):
        table = dict(content)
        images = table.get("images")
        return list(images) if isinstance(images, _Object) else list(content)
    if isinstance(content, list):
        return [_pair_of_entry(source, i, entry) for i, entry in enumerate(content)]
    raise UserError(f"{source}: must hold {{query: [gallery names]}} or a list of such entries")


class _Object(list[tuple[str, Any]]):
    """A JSON object as the list of its pairs."""


def _pair_of_entry(source: str, i: int, entry: Any) -> tuple[str, Any]:
    table = dict(entry) if isinstance(entry, _Object) else {}
    query = next((table[key] for key in QUERY_KEYS if key in table), None)
    names = next((table[key] for key in NAMES_KEYS if key in table), None)
    if not isinstance(query, str) or names is None:
        raise UserError(
            f"{source}: entry {i} must have one of {', '.join(QUERY_KEYS)} and one of "
            f"{', '.join(NAMES_KEYS)}"
        )
    return query, names


def refusals(ranked: Ranked, queries: Collection[str], gallery: Collection[str]) -> list[str]:
    """What a leaderboard refuses, a line a kind of defect; empty where there is none.

    Every query of the test must be there, with ten names (all, of a smaller gallery), each of a
    gallery picture and none repeated; and all names must be bare.

    >>> refusals({"q.jpg": ["test/a.jpg"]}, ["q.jpg"], ["a.jpg"])
    ["gallery names with a folder in front (1): 'test/a.jpg'"]
    """
    known, pictures = set(queries), set(gallery)
    wanted = min(TOP, len(pictures))
    strangers = [query for query in ranked if query not in known]
    misnamed = [query for query in strangers if _bare(query) in known]
    there = ranked.keys() | {_bare(query) for query in misnamed}
    others = {name: None for names in ranked.values() for name in names if name not in pictures}
    kinds: dict[str, list[str]] = {
        "queries that are missing": [query for query in queries if query not in there],
        "query names with a folder in front": misnamed,
        "queries that the test does not have": [q for q in strangers if _bare(q) not in known],
        f"queries without exactly {wanted} gallery names": [
            query for query, names in ranked.items() if len(names) != wanted
        ],
        "queries that name a picture more than once": [
            query for query, names in ranked.items() if len(set(names)) < len(names)
        ],
        "gallery names with a folder in front": [n for n in others if _bare(n) in pictures],
        "names that the gallery does not have": [n for n in others if _bare(n) not in pictures],
    }
    return [f"{kind} ({len(names)}): {_first_few(names)}" for kind, names in kinds.items() if names]


def _first_few(names: Sequence[str], count: int = 10) -> str:
    """Names as an error may quote them: they come from outside, any length and any character."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(repr(name[:100]) for name in names[:count]) + more


def _bare(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def write_submission(folder: Path, mapping: dict[str, list[str]], form: str) -> Path:
    """Writes a submission into a run folder and returns its path.

    form: `mapping` and `list` are submission.json; `csv` is submission.csv beside the mapping.

    Raises:
        UserError: a name with a space, which the CSV form cannot hold.
    """
    path, table = folder / "submission.json", folder / "submission.csv"
    # Neither old scores nor an old form may stand beside a new submission.
    if form == "csv":
        write_csv(table, mapping)
    else:
        table.unlink(missing_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)
    if form == "list":
        write_json(path, [{"filename": q, "gallery_images": names} for q, names in mapping.items()])
    else:
        write_json(path, mapping)
    return table if form == "csv" else path
