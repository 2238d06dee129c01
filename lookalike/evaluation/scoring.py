"""TODO lookalike.evaluation.scoring."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, read_json, write_json
from lookalike.core.log import log, report_each
from lookalike.core.runs import Run
from lookalike.data.layout import find_layout
from lookalike.data.splits import unseen_split
from lookalike.evaluation.metrics import interval, measure
from lookalike.evaluation.submissions import Ranked, _bare, read_submission


class Labels(NamedTuple):
    """The identities of a test: {name: identity} of its queries and of its gallery."""

    query: dict[str, str]
    gallery: dict[str, str]


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
    for embeddings, names in ranked.items():
        query = _known_name(embeddings, labels.query)
        if leave_one_out:
            names = [name for name in names if _known_name(name, labels.gallery) != query]
        found = [_known_name(name, labels.gallery) for name in names]
        if query is None:
            defects.append(f"query {embeddings!r} is not among the test's queries")
        elif query in known:
            defects.append(f"query {query!r} stands there twice, with different folders in front")
        defects += _defects_of_list(embeddings, names, found, k)
        lists[embeddings] = names
        known[query or embeddings] = [name for name in found if name is not None]
    if defects:
        more = f"\n... and {len(defects) - 20} more" if len(defects) > 20 else ""
        raise UserError("\n".join(["the submission has defects:", *defects[:20]]) + more)
    _report_short(lists, k)
    return known


def _report_short(ranked: Ranked, k: int) -> None:
    short = [f"{query} ({len(names)})" for query, names in ranked.items() if len(names) < k]
    report_each(f"queries have fewer than {k} gallery pictures", short)


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


def means(judged: Judged) -> dict[str, float]:
    """Every measure's mean over the judged queries; see `measure`."""
    values = measure(judged.hits, judged.relevant)
    return {name: float(column.mean()) for name, column in values.items()}


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
    task = unseen_split(run).validation
    labels = Labels(*task)
    if task.answerable:
        log.info("validation:")
        metrics["validation"], _ = score(read_submission(run.path("validation.json")), labels)
    elif labels.query:
        log.warning("warning: no validation query has its person in the gallery: nothing to score")
    scores = [f"{name} {block['score']:.1f}" for name, block in metrics.items()]
    if run.path("forecast.json").is_file():
        metrics["forecast"] = read_json(run.path("forecast.json"), "--stage forecast")
    write_json(run.path("metrics.json"), metrics)
    return "score: " + (", ".join(scores) or "nothing to score against")
