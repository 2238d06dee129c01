"""The scorer: a submission and labels -> Recall@k, mAP, score, with 95 % intervals.

    python evaluate.py runs/demo/submission.json
    python evaluate.py submission.csv --labels labels.json --json

For a query q with N_q relevant gallery pictures and the ranked list that was handed in:

    recall@k     1 if any of the first k is relevant, else 0 (what others call hit rate, success@k)
    score        600 recall@1 + 300 recall@5 + 100 recall@10: 0 to 1000
    map          1/N_q * the sum of precision@i over the ranks i of the hits in the list
    map@k        the same over the first k, with min(N_q, k) for N_q
    map@k_hits   the same over the first k, with the number of hits among them for N_q: the report's
                 figures, and those of some libraries; it calls a lucky single hit perfect

and the mean over queries. A query without a relevant picture in the gallery is left out; a query
that the submission lacks counts as 0. Intervals come from a bootstrap over identities.
"""

import csv
import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from tabulate import tabulate

from config import UserError, parse
from data import unseen_split
from data_extraction import find_layout
from runs import (
    Run,
    exit_code,
    file_hash,
    log,
    log_to,
    read_json,
    report_each,
    whole_file,
    write_json,
)

Ranked = dict[str, list[str]]  # query -> gallery names, best first
SCORE_WEIGHTS = {1: 600, 5: 300, 10: 100}
RESAMPLES = 1000
TOP = 10  # names that a leaderboard takes for a query


class Labels(NamedTuple):
    """The identities of a test: {name: identity} of its queries and of its gallery."""

    query: dict[str, str]
    gallery: dict[str, str]


# ---- reading ------------------------------------------------------------------------------------


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


def read_labels(path: Path) -> Labels:
    """Labels from {"query": {name: identity}, "gallery": {name: identity}}.

    Raises:
        UserError: no such file, or another form.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the labels of the test with --labels")
    content = read_json(path, "the labels of the test")
    parts = content if isinstance(content, dict) else {}
    for part in Labels._fields:
        table = parts.get(part)
        if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
            form = '{"query": {name: identity}, "gallery": {name: identity}}'
            raise UserError(f"{path}: labels must have the form {form}")
    return Labels(parts["query"], parts["gallery"])


# ---- checking -----------------------------------------------------------------------------------


def check_names(ranked: Ranked, labels: Labels, k: int, leave_one_out: bool = False) -> Ranked:
    """The submission by the names that the labels know; names may have folders in front.

    leave_one_out: query and gallery are one folder, and a query's own name is taken out.

    Raises:
        UserError: an unknown query, an unknown or repeated gallery name, or more than `k` names;
            every defect is a sentence with the query's name in it.
    """
    return _checked(ranked, labels, k, leave_one_out)[0]


def _checked(
    ranked: Ranked, labels: Labels, k: int, leave_one_out: bool
) -> tuple[Ranked, np.ndarray]:
    """What check_names returns, and its numbers.

    Most submissions have no defect, which their numbers show at once; others go name by name.
    """
    if not leave_one_out and max(map(len, ranked.values()), default=0) <= k:
        numbers = _numbers(ranked, labels)
        ordered = np.sort(numbers, axis=1)
        repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        names = sum(map(len, ranked.values()))
        if (
            (numbers >= 0).sum() == names
            and not repeated.any()
            and ranked.keys() <= labels.query.keys()
        ):
            _report_short(ranked, k)
            return ranked, numbers
    known = _made_out(ranked, labels, k, leave_one_out)
    return known, _numbers(known, labels)


def _numbers(ranked: Ranked, labels: Labels) -> np.ndarray:
    """(lists + 1, longest) int32: which picture of the gallery each name is, -1 where it is none.

    A list that is shorter is filled up with -1; so is the last row, for a query that is missing.
    """
    number = {name: i for i, name in enumerate(labels.gallery)}
    lengths = np.array([*map(len, ranked.values()), 0])
    numbers = np.full((len(lengths), max(1, lengths.max())), -1, np.int32)
    names = chain.from_iterable(ranked.values())
    filled = np.arange(numbers.shape[1]) < lengths[:, None]
    numbers[filled] = np.fromiter(map(number.get, names, repeat(-1)), np.int32, lengths.sum())
    return numbers


def _made_out(ranked: Ranked, labels: Labels, k: int, leave_one_out: bool) -> Ranked:
    """The same for any submission, name by name: what each stands for, or what is wrong."""
    known: Ranked = {}
    defects: list[str] = []
    lists: Ranked = {}
    for given, names in ranked.items():
        query = _known_name(given, labels.query)
        if leave_one_out:
            names = [name for name in names if _known_name(name, labels.gallery) != query]
        found = [_known_name(name, labels.gallery) for name in names]
        if query is None:
            defects.append(f"query {given!r} is not among the test's queries")
        elif query in known:
            defects.append(f"query {query!r} stands there twice, with different folders in front")
        defects += _defects_of_list(given, names, found, k)
        lists[given] = names
        known[query or given] = [name for name in found if name is not None]
    if defects:
        more = f"\n... and {len(defects) - 20} more" if len(defects) > 20 else ""
        raise UserError("\n".join(["the submission has defects:", *defects[:20]]) + more)
    _report_short(lists, k)
    return known


def _report_short(ranked: Ranked, k: int) -> None:
    short = [f"{query} ({len(names)})" for query, names in ranked.items() if len(names) < k]
    report_each(f"queries have fewer than {k} gallery pictures", short)


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


def _known_name(name: str, known: Mapping[str, str]) -> str | None:
    if name in known:
        return name
    bare = _bare(name)
    return bare if bare in known else None


def _defects_of_list(
    query: str, names: Sequence[str], found: Sequence[str | None], k: int
) -> Iterable[str]:
    if len(found) > k:
        yield f"query {query!r} has {len(found)} gallery pictures, more than {k}"
    if None in found:
        unknown = names[found.index(None)]
        yield f"query {query!r} names {unknown!r}, which is not in the gallery"
    elif len(set(found)) < len(found):
        repeated = next(name for i, name in enumerate(found) if name in found[:i])
        yield f"query {query!r} names {repeated!r} more than once"


# ---- scoring ------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """Queries against their labels.

    hits: (Q, L) bool, whether the picture at each rank shows the query's identity.
    relevant: (Q,) int, how many pictures of the gallery do.
    """

    queries: list[str]
    identities: list[str]
    hits: np.ndarray
    relevant: np.ndarray
    missing: list[str]
    left_out: list[str]


def judge(ranked: Ranked, labels: Labels, leave_one_out: bool = False) -> Judged:
    """Compares a checked submission with the labels; a missing query has no hits.

    Raises:
        UserError: no query has a relevant picture in the gallery.
    """
    return _judged(ranked, _numbers(ranked, labels), labels, leave_one_out)


def check_and_judge(ranked: Ranked, labels: Labels, k: int, leave_one_out: bool = False) -> Judged:
    """Both at once, each name looked up once. Raises: see check_names and judge."""
    known, numbers = _checked(ranked, labels, k, leave_one_out)
    return _judged(known, numbers, labels, leave_one_out)


def _judged(ranked: Ranked, numbers: np.ndarray, labels: Labels, leave_one_out: bool) -> Judged:
    """See judge; numbers: see _numbers."""
    code: dict[str, int] = {}
    for identity in (*labels.query.values(), *labels.gallery.values()):
        code.setdefault(identity, len(code))
    shown = np.array([*map(code.__getitem__, labels.gallery.values()), -1])  # -1: no picture
    counts = np.bincount(shown[:-1], minlength=len(code)).tolist()
    relevant = {query: counts[code[identity]] for query, identity in labels.query.items()}
    if leave_one_out:
        for query, identity in labels.query.items():
            relevant[query] -= labels.gallery.get(query) == identity
    queries = [query for query in labels.query if relevant[query]]
    if not queries:
        raise UserError("no query has a picture of its identity in the gallery: nothing to score")
    place = {query: i for i, query in enumerate(ranked)}
    found = shown[numbers[[place.get(query, -1) for query in queries]]]
    identities = [labels.query[query] for query in queries]
    return Judged(
        queries,
        identities,
        found == np.array([code[identity] for identity in identities])[:, None],
        np.array([relevant[query] for query in queries]),
        [query for query in queries if query not in ranked],
        [query for query in labels.query if not relevant[query]],
    )


def measure(hits: np.ndarray, relevant: np.ndarray, ks: Iterable[int] = (10,)) -> dict[str, Any]:
    """Every measure of every query, {name: (Q,) floats}; see the top of this file.

    hits: (Q, L) bool, in the order of the ranking. relevant: (Q,) int, N_q, at least 1.
    ks: lengths at which mAP@k is taken beside 10, and Recall@k beside 1, 5 and 10.

    >>> hits = np.array([[1, 0, 0, 0, 1]], bool)  # 2 hits among 5, of 4 relevant
    >>> values = measure(hits, np.array([4]), ks=(5,))
    >>> [round(float(values[name][0]), 3) for name in ("map", "map@5", "map@5_hits", "recall@1")]
    [0.35, 0.35, 0.7, 1.0]
    """
    lengths = sorted({10, *ks})
    # Only the hits count, and there are few: all sums are taken over them.
    query, place = np.divmod(np.flatnonzero(hits), hits.shape[1])
    before = np.searchsorted(query, query)  # hits of the queries above
    precision = (np.arange(1, len(query) + 1) - before) / (place + 1)

    def first(k: int, values: np.ndarray | None = None) -> np.ndarray:
        """Each query's number of hits among its first k, or the sum of their values."""
        chosen = place < k
        weights = None if values is None else values[chosen]
        return np.bincount(query[chosen], weights, len(hits))

    values = {f"recall@{k}": (first(k) > 0) * 1.0 for k in sorted({1, 5, *lengths})}
    score = sum(weight * values[f"recall@{k}"] for k, weight in SCORE_WEIGHTS.items())
    gained = first(hits.shape[1], precision)
    values = {"score": np.asarray(score), **values, "map": gained / relevant}
    for k in lengths:
        gained = first(k, precision)
        values[f"map@{k}"] = gained / np.minimum(relevant, k)
        values[f"map@{k}_hits"] = gained / np.maximum(first(k), 1)
    return values


def means(judged: Judged) -> dict[str, float]:
    """Every measure's mean over the judged queries; see `measure`."""
    values = measure(judged.hits, judged.relevant)
    return {name: float(column.mean()) for name, column in values.items()}


def interval(values: np.ndarray, identities: Sequence[str], seed: int = 0) -> np.ndarray:
    """95 % intervals of means, (2, M), from (Q, M) values by a bootstrap over identities.

    Queries of one person are alike, so persons are drawn, not queries (a cluster bootstrap).
    """
    _, cluster = np.unique(np.asarray(identities), return_inverse=True)
    counts = np.bincount(cluster).astype(float)
    sums = np.stack([np.bincount(cluster, column) for column in values.T], axis=1)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES)
    means = (drawn @ sums) / (drawn @ counts)[:, None]
    return np.percentile(means, [2.5, 97.5], axis=0)


def summarise(judged: Judged, ks: Iterable[int] = (10,)) -> dict[str, Any]:
    """One block of metrics.json: every measure's mean, its interval, and the counts."""
    values = measure(judged.hits, judged.relevant, ks)
    low, high = interval(np.stack(list(values.values()), axis=1), judged.identities)
    return {
        **{name: float(column.mean()) for name, column in values.items()},
        "queries": len(judged.queries),
        "missing": len(judged.missing),
        "left_out": len(judged.left_out),
        "ci95": {name: [float(low[i]), float(high[i])] for i, name in enumerate(values)},
    }


def score(
    ranked: Ranked, labels: Labels, k: int = 10, leave_one_out: bool = False
) -> tuple[dict[str, Any], Judged]:
    """Checks and scores a submission of at most `k` names a query: (block, judged queries).

    Raises:
        UserError: see check_names and judge.

    >>> block, _ = score({"a.jpg": ["x.jpg"]}, Labels({"a.jpg": "ada"}, {"x.jpg": "ada"}), k=1)
    >>> block["score"]
    1000.0
    """
    judged = check_and_judge(ranked, labels, k, leave_one_out)
    report_each("queries have no relevant picture in the gallery: left out", judged.left_out)
    report_each("queries are missing from the submission: they score 0", judged.missing)
    return summarise(judged, (k,)), judged


# ---- the stage ----------------------------------------------------------------------------------


def labels_path(run: Run) -> Path | None:
    """The labels of the run's test: --labels, else labels.json in the data set, else None."""
    if run.settings.evaluate.labels is not None:
        return run.settings.evaluate.labels
    layout = find_layout(run.data)
    if layout is None:
        raise UserError(f"{run.data}: no data set there, and no --labels: nothing to score against")
    return layout.labels if layout.labels.is_file() else None


def labels_state(run: Run) -> str:
    """Changes when the labels do."""
    path = labels_path(run)
    return f"{path} {file_hash(path)}" if path else ""


def run_evaluate(run: Run) -> str:
    """The stage: metrics.json from submission.json, validation.json and their labels."""
    metrics: dict[str, Any] = {}
    path = labels_path(run)
    if path is not None:
        labels = read_labels(path)
        metrics["test"], _ = score(read_submission(run.path("submission.json")), labels)
        write_json(run.path("labels.json"), labels._asdict())
    else:
        run.path("labels.json").unlink(missing_ok=True)
        log.info("the test's labels are not known (--labels): only the validation is scored")
    if run.settings.train.all_seen:
        log.info("the validation has been trained on (--refit): its score is in history.csv")
    labels = Labels(**unseen_split(run)["validation"])
    if set(labels.query.values()) & set(labels.gallery.values()):
        log.info("validation:")
        metrics["validation"], _ = score(read_submission(run.path("validation.json")), labels)
    elif labels.query:
        log.warning("warning: no validation query has its person in the gallery: nothing to score")
    scores = [f"{name} {block['score']:.1f}" for name, block in metrics.items()]
    if run.path("forecast.json").is_file():
        metrics["forecast"] = read_json(run.path("forecast.json"), "--stage forecast")
    write_json(run.path("metrics.json"), metrics)
    return "score: " + (", ".join(scores) or "nothing to score against")


# ---- the program --------------------------------------------------------------------------------


@dataclass
class Program:
    """Settings of this file as a program."""

    submission: tyro.conf.Positional[Path]
    """Submission: JSON in any known form, or CSV."""
    labels: Path | None = None
    """Labels, {"query": {name: identity}, "gallery": {...}}. Default: labels.json beside it."""
    json: bool = False
    """Print one JSON object and nothing else on standard output."""
    k: int = 10
    """Names a query may have; mAP and Recall are taken at this length too."""
    per_query: bool = False
    """Show the worst and the best queries."""
    leave_one_out: bool = False
    """Query and gallery are one folder: a picture's own name is left out."""


def show(block: Mapping[str, Any]) -> str:
    """A block as a table of measures with their intervals."""
    form: Callable[[str], str] = lambda name: ".1f" if name == "score" else ".4f"  # noqa: E731
    rows = [
        (name, format(block[name], form(name)), *(format(end, form(name)) for end in ends))
        for name, ends in block["ci95"].items()
    ]
    counts = f"{block['queries']} queries, {block['missing']} missing, {block['left_out']} left out"
    heads = ["measure", "value", "95 % from", "to"]
    return tabulate(rows, heads, disable_numparse=True) + f"\n{counts}"


def show_queries(judged: Judged, count: int = 10) -> str:
    """The worst and best queries: by first hit, then by average precision."""
    precision = measure(judged.hits, judged.relevant)["map"]
    first = np.where(judged.hits.any(1), judged.hits.argmax(1) + 1, judged.hits.shape[1] + 1)
    order = np.lexsort((-precision, first))
    best = order[:count]
    worst = order[count:][::-1][:count]
    rows = [
        (
            title,
            judged.queries[i],
            judged.identities[i],
            int(first[i]) if judged.hits[i].any() else "none",
            f"{int(judged.hits[i].sum())} of {judged.relevant[i]}",
            f"{precision[i]:.4f}",
        )
        for title, chosen in (("worst", worst), ("best", best))
        for i in chosen
    ]
    heads = ["", "query", "identity", "first hit at", "hits", "average precision"]
    return tabulate(rows, heads, disable_numparse=True)


def main(arguments: Iterable[str]) -> int:
    """Scores one submission; returns the exit code."""
    program = parse(list(arguments), "evaluate.py", Program, "Scores a submission.")
    log_to(None)
    return exit_code(lambda: score_file(program))


def score_file(program: Program) -> None:
    """Scores what the program was given and prints it."""
    if program.k < 1:
        raise UserError(f"--k {program.k}: must be at least 1")
    labels = read_labels(program.labels or program.submission.with_name("labels.json"))
    ranked = read_submission(program.submission)
    block, judged = score(ranked, labels, program.k, program.leave_one_out)
    print(json.dumps(block) if program.json else show(block))
    if program.per_query and not program.json:
        print(f"\n{show_queries(judged)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
