"""Rank a gallery for every query: one function for arrays, and the stages index and retrieve.

    ranking = rank(queries, gallery, RetrieveSettings(center=True), k=10)
    as_mapping(ranking)     # {query: [gallery names, best first]}

A stage embeds the pictures, opens the stored index and ranks by the same steps as `rank`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict, get_args, get_type_hints

import faiss
import msgspec
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, write_json, write_text
from lookalike.core.log import log
from lookalike.core.numeric import unit
from lookalike.core.readers import Finite, read_json
from lookalike.core.runs import Run
from lookalike.core.settings import RetrieveSettings
from lookalike.data.catalogue import (
    bare_names,
    gallery_of,
    load_catalogue,
    queries_of,
    readable,
    rows_of,
    searches_itself,
)
from lookalike.data.splits import unseen_split, validation_rows
from lookalike.evaluation.metrics import TOP, run_metric
from lookalike.evaluation.samples import Sample, cell_names, read_sample, write_filled
from lookalike.evaluation.submissions import write_run_submission
from lookalike.features.extractor import Extractor, embed, trained_extractor
from lookalike.retrieval.embeddings import Embeddings, split_domains
from lookalike.retrieval.ensemble import members
from lookalike.retrieval.fusion import (
    concatenate,
    fuse_ranks,
    fuse_scores,
    joined_widths,
    learn_weights,
)
from lookalike.retrieval.index import (
    Ranking,
    as_mapping,
    build_and_measure,
    build_index,
    load_index,
    ranking_of,
    save_index,
    search,
    with_scores,
    without_own,
)
from lookalike.retrieval.local_matching import PictureMatcher, matcher_of
from lookalike.retrieval.postprocess import (
    apply,
    learns_projection,
    needs_labeled,
    needs_scores,
    score_all,
)

UNIT_TOLERANCE = 1e-5  # rows whose lengths differ from 1 by less count as normalized

# ---- arrays -------------------------------------------------------------------------------------


def rank(
    queries: ArrayLike,
    gallery: ArrayLike,
    settings: RetrieveSettings | None = None,
    k: int = TOP,
    query_names: Iterable[str] | None = None,
    gallery_names: Iterable[str] | None = None,
    labeled: np.ndarray | tuple[np.ndarray, np.ndarray] | None = None,
    identities: Sequence[str] | tuple[Sequence[str], Sequence[str]] | None = None,
) -> Ranking:
    """Rank the gallery for every query, by cosine and the chosen post-processing steps.

    Equal scores are ordered by gallery name, ascending.

    Args:
        queries: (Q, D) embeddings of the queries. Rows that are not of length 1 are normalized.
        gallery: (G, D) embeddings of the gallery.
        settings: The steps, such as `RetrieveSettings(center=True, rerank="reciprocal")`; by
            default none. What concerns files, the kind of index and ensembles is ignored.
        k: How many gallery pictures to return; a smaller gallery gives all it has.
        query_names: The Q names of the queries, without repeats; by default the row numbers.
        gallery_names: The G names of the gallery pictures, without repeats; by default the row
            numbers.
        labeled: (L, D) embeddings of labeled pictures, for the steps that learn from them:
            `whiten`, and with `no_transductive` also `center` and `hubs`. Where domains differ, a
            pair: labeled pictures of the queries' domain, and of the gallery's.
        identities: The identities of the labeled pictures, which `project_steps` learns from; a
            pair where `labeled` is one.

    Returns:
        The k best gallery pictures of each query, in the order of the queries.

    Raises:
        UserError: An array is empty, not of shape (N, D) or not finite, or has another D; names
            are repeated or not as many as rows; k is below 1; a setting is out of its bounds or not
            among its choices; or a step needs `labeled`.
        TypeError: `settings` is no `RetrieveSettings`.

    >>> queries = np.array([[1.0, 0.1]])
    >>> gallery = np.array([[0.0, 2.0], [3.0, 0.0], [1.0, 1.0]])
    >>> ranking = rank(queries, gallery, k=2, query_names=["q.jpg"], gallery_names=["a", "b", "c"])
    >>> as_mapping(ranking)
    {'q.jpg': ['b', 'c']}
    >>> as_mapping(rank(queries, gallery))
    {'0': ['1', '2', '0']}
    """
    settings = RetrieveSettings() if settings is None else settings
    _check_steps(settings)
    if k < 1:
        raise UserError(f"k = {k}: must be at least 1")
    arrays = [_unit_rows(queries, "queries"), _unit_rows(gallery, "gallery")]
    names = [
        _unique_names(query_names, len(arrays[0]), "query_names"),
        _unique_names(gallery_names, len(arrays[1]), "gallery_names"),
    ]
    if labeled is not None:
        pair = labeled if isinstance(labeled, tuple) else (labeled,)
        rows = [_unit_rows(part, "labeled") for part in pair]
        arrays += [rows[0], rows[-1]]
    elif needs_labeled(settings):
        raise UserError(
            "whiten, and with no_transductive also center and hubs, learn from labeled pictures: "
            "pass their embeddings as labeled"
        )
    else:
        arrays += [arrays[0][:0]] * 2
    dims = sorted({rows.shape[1] for rows in arrays})
    if len(dims) > 1:
        raise UserError(f"all embeddings must have the same number of columns, not {dims}")
    known = _identities_of(arrays[2:], identities, settings)
    embeddings = Embeddings(arrays[0], arrays[1], arrays[2], arrays[3], known)
    return rank_embeddings(embeddings, settings, names[1], names[0], k)


def _identities_of(
    labeled: Sequence[np.ndarray],
    identities: Sequence[str] | tuple[Sequence[str], Sequence[str]] | None,
    settings: RetrieveSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the identities of both sides' labeled rows; UserError where they do not fit."""
    if identities is None:
        if learns_projection(settings):
            raise UserError("project_steps learns from identities: pass those of labeled")
        return np.zeros(0, str), np.zeros(0, str)
    pair = identities if isinstance(identities, tuple) else (identities, identities)
    first, second = (np.array(list(map(str, side)), str) for side in pair)
    if (len(first), len(second)) != tuple(map(len, labeled)):
        raise UserError("identities: as many as labeled has rows, in a pair where it is one")
    return (first, first) if labeled[0] is labeled[1] else (first, second)


def _check_steps(settings: RetrieveSettings) -> None:
    """Raise an error where a step has an impossible value, which a command line would refuse."""
    if not isinstance(settings, RetrieveSettings):
        raise TypeError(f"settings must be RetrieveSettings, not {type(settings).__name__}")
    check_bounds(settings)
    for name in ("hubs", "rerank"):
        value, choices = getattr(settings, name), get_args(get_type_hints(RetrieveSettings)[name])
        if value not in choices:
            raise UserError(f"{name} {value!r}: must be one of {', '.join(choices)}")


def _unit_rows(rows: ArrayLike, name: str) -> np.ndarray:
    """Return float32 rows of length 1; those that are of length 1 already stay the same bits."""
    rows = np.ascontiguousarray(rows, np.float32)
    if rows.ndim != 2 or not rows.size:
        raise UserError(f"{name}: must be a non-empty array of shape (N, D), not {rows.shape}")
    if not np.isfinite(rows).all():
        raise UserError(f"{name}: holds values that are not finite")
    lengths = np.linalg.norm(rows, axis=1)
    return rows if np.allclose(lengths, 1, rtol=0, atol=UNIT_TOLERANCE) else unit(rows)


def _unique_names(names: Iterable[str] | None, count: int, option: str) -> list[str]:
    """Return the names, by default row numbers; raise UserError where they do not fit the rows."""
    chosen = [str(number) for number in range(count)] if names is None else list(map(str, names))
    if len(chosen) != count:
        raise UserError(f"{option}: {len(chosen)} names for {count} rows")
    if len(set(chosen)) < count:
        repeated = next(name for name, number in Counter(chosen).items() if number > 1)
        raise UserError(f"{option}: {repeated!r} is there more than once")
    return chosen


def rank_embeddings(
    embeddings: Embeddings,
    settings: RetrieveSettings,
    gallery_names: Sequence[str],
    query_names: Sequence[str],
    k: int = TOP,
) -> Ranking:
    """Rank the gallery of a retrieval task by the chosen steps, with exact search.

    Args:
        embeddings: Of the task. Steps that learn from labeled pictures change nothing where there
            are none.
        settings: The steps.
        gallery_names: The name of each gallery row.
        query_names: The name of each query row.
        k: How many to return.
    """
    embeddings = apply(embeddings, settings)
    if needs_scores(settings):
        return ranking_of(score_all(embeddings, settings), gallery_names, query_names, k)
    return search(
        build_index(embeddings.gallery), gallery_names, embeddings.queries, query_names, k
    )


# ---- the stage index ----------------------------------------------------------------------------


def run_index(run: Run) -> str:
    """Run the stage: write the index of the test's gallery, and that of the validation.

    Args:
        run: The run; its trained model, catalogue and split are read.

    Returns:
        A line that says how many pictures each index has.

    Raises:
        UserError: No picture of the test's gallery can be read, or a file of the run is missing.
    """
    extractor, counts = trained_extractor(run), []
    for gallery in ("gallery", "validation_gallery"):
        rows, names = _gallery_rows(run, gallery)
        embeddings = embed(extractor, rows)
        index, record = build_and_measure(embeddings, run.settings.retrieve.index, run.seed)
        origin = index_origin(run) | {"index": record}
        save_index(index, names, run.path(f"{gallery}.faiss"), origin)
        counts.append(len(names))
    return f"{counts[0]} gallery pictures, {counts[1]} for validation"


def _gallery_rows(run: Run, gallery: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the catalogue rows of an index, see `open_gallery`, and their names, ascending."""
    if gallery == "gallery":
        test = load_catalogue(run.path("test.csv"))
        rows = gallery_of(test[readable(test)])
        names = bare_names(rows.path).tolist()
        if rows.empty:
            raise UserError("no picture of the test's gallery can be read")
    else:
        rows = validation_rows(run, "gallery")
        names = list(rows.path)
    return rows.iloc[_order_of(names)], sorted(names)


def _order_of(names: Sequence[str]) -> np.ndarray:
    """Return the numbers of the names in ascending order."""
    return np.argsort(np.array(names, dtype=str), kind="stable")


def index_origin(run: Run) -> dict[str, Any]:
    """Return the state of all that a run's index is made from.

    That is the model, the catalogue, the kind of index, and those settings of the embedding that
    the model's file does not hold.
    """
    files = ("model.safetensors", "test.csv", "training.csv", "split.json")
    settings = run.settings.embed
    views = {"detector, flip or scales": f"{settings.detector}, {settings.flip}, {settings.scales}"}
    if len(set(settings.factors)) > 1:
        views["--backbone"] = settings.backbone
    kind = {"--index": run.settings.retrieve.index}
    return {name: file_hash(run.path(name)) for name in files} | views | kind


# ---- the stage retrieve -------------------------------------------------------------------------


def run_retrieve(run: Run) -> str:
    """Run the stage: write the submission, validation.json and ranking.json.

    validation.json is {query: [gallery pictures]} by path; ranking.json holds both rankings with
    their scores, which a submission has no place for.

    Args:
        run: The run, or an ensemble of runs; their models and indices are read.

    Returns:
        A line that says how many queries were ranked.

    Raises:
        UserError: A file of a run is missing or was made from something else, or the members of
            the ensemble do not fit together.
    """
    runs, settings = members(run), run.settings.retrieve
    k = run_metric(run.settings).length
    test = load_catalogue(run.path("test.csv"))
    queries, itself = queries_of(test), searches_itself(test)
    galleries = [open_gallery(member, "gallery") for member in runs]
    validation = validation_rows(run, "query")
    validation_galleries = [open_gallery(member, "validation_gallery") for member in runs]
    if settings.fusion == "learned":
        weights = learned_weights(runs, validation_galleries, validation)
        settings = replace(settings, fusion="scores", ensemble_weights=weights)
    names = bare_names(queries.path).tolist()
    sample = _sample_of(run, names, galleries[0].names, k)
    length = max(k, sample.length if sample else 0)
    ranked = rank_rows(galleries, queries, names, settings, length + itself)
    if itself:
        ranked = without_own(ranked)
    ranking = ranked.first(k)
    path = write_run_submission(as_mapping(ranking), run.folder, settings.format)
    if sample is not None:
        path = write_filled(sample, as_mapping(ranked), run.path("submission.csv"))
    validated = rank_rows(validation_galleries, validation, list(validation.path), settings, k)
    write_json(run.path("validation.json"), as_mapping(validated))
    both = {"test": with_scores(ranking), "validation": with_scores(validated)}
    write_text(run.path("ranking.json"), json.dumps(both, ensure_ascii=False))
    if ranking.gallery.shape[1] < k:
        log.warning("warning: the gallery has fewer than %d pictures", k)
    return f"{len(ranking.queries)} queries × {ranking.gallery.shape[1]} -> {path}"


def _sample_of(run: Run, queries: Sequence[str], gallery: Sequence[str], k: int) -> Sample | None:
    """Return the sample submission that the run is to fill, if any.

    Raises:
        UserError: It cannot be used, or names identities instead of pictures.
    """
    path = run.settings.general.sample_submission
    if path is None:
        return None
    sample = read_sample(path, queries, gallery, k)
    identities = set(load_catalogue(run.path("training.csv")).identity)
    if named := sorted(cell_names(sample) & (identities - set(gallery))):
        raise UserError(
            f"{path}: asks for identities, such as {named[0]!r}, not for pictures of the gallery: "
            f"leave it out (--reset), then python -m lookalike identify test --run {run.folder} "
            f"--sample-submission {path}"
        )
    return sample


RankedList = Annotated[list[tuple[str, Finite]], msgspec.Meta(min_length=1)]  # names and scores


class StoredRankings(TypedDict):
    """The content of ranking.json: {query: its ranked list} of both parts."""

    test: dict[str, RankedList]
    validation: dict[str, RankedList]


def read_rankings(path: Path) -> StoredRankings:
    """Read a ranking.json.

    Raises:
        UserError: The file is missing or damaged.
    """
    rankings: StoredRankings = read_json(path, "--stage retrieve", StoredRankings)
    return rankings


class StoredGallery(NamedTuple):
    """The stored gallery of a run, with what it takes to rank it.

    Attributes:
        extractor: Embeds queries as the gallery was embedded.
        index: Of the gallery.
        names: The names of its rows, ascending.
        settings: The run's own steps.
        labeled: Labeled embeddings, those of the query domain and the others; both of them empty
            where no step needs them.
        identities: The identities of their pictures.
        rows: Reads the catalogue rows of the index, which few steps need.
        matcher: Scores pictures by local features.
    """

    extractor: Extractor
    index: faiss.Index
    names: list[str]
    settings: RetrieveSettings
    labeled: tuple[np.ndarray, np.ndarray]
    identities: tuple[np.ndarray, np.ndarray]
    rows: Callable[[], pd.DataFrame]
    matcher: PictureMatcher

    @property
    def vectors(self) -> np.ndarray:
        """The (G, D) embeddings in the index."""
        # A tensor where another package has imported faiss.contrib.torch_utils.
        return np.asarray(self.index.reconstruct_n(0, self.index.ntotal))

    def embeddings(self, rows: pd.DataFrame) -> Embeddings:
        """Return the retrieval task of some queries, by their catalogue rows."""
        sides, widths = (embed(self.extractor, rows), self.vectors), self.extractor.widths
        return Embeddings(
            *sides,
            *self.labeled,
            self.identities,
            widths,
            local=lambda: self.matcher.scores(rows, self.rows()),
        )


def open_gallery(run: Run, name: str) -> StoredGallery:
    """Open an index of a run.

    Args:
        run: The run.
        name: `gallery`, whose steps may learn from all labeled pictures; or `validation_gallery`,
            whose steps may not learn from those of the validation.

    Raises:
        UserError: The index is missing or damaged, or was made from something else.
    """
    extractor, settings = trained_extractor(run), run.settings.retrieve
    index, names = load_index(run.path(f"{name}.faiss"), index_origin(run))
    none = np.zeros((0, extractor.dim), np.float32)
    labeled, identities = (none, none), (np.zeros(0, str), np.zeros(0, str))
    if needs_labeled(settings):
        split = unseen_split(run)
        paths = split.labeled if name == "gallery" else split.train | split.holdout
        rows = rows_of(load_catalogue(run.path("training.csv")), sorted(paths))
        labeled = embed_by_domain(extractor, rows, split.query_domain)
        identities = split_domains(
            rows.identity.to_numpy(str), (rows.domain == split.query_domain).to_numpy()
        )
        _warn_of_missing_labels(settings, len(rows), name)
    return StoredGallery(
        extractor,
        index,
        names,
        settings,
        labeled,
        identities,
        rows=lambda: _gallery_rows(run, name)[0],
        matcher=matcher_of(run),
    )


def _warn_of_missing_labels(settings: RetrieveSettings, labeled: int, name: str) -> None:
    """Log which steps change nothing since there are too few labeled pictures to learn from."""
    steps = {}
    if settings.whiten is not None and labeled <= settings.whiten:
        steps[f"--whiten {settings.whiten}"] = settings.whiten + 1
    if settings.no_transductive and labeled < 2:
        steps |= {"--center": 2} if settings.center else {}
        steps |= {f"--hubs {settings.hubs}": 1} if settings.hubs != "none" and not labeled else {}
    for step, least in steps.items():
        what = (
            "warning: %s changes nothing for the %s: it learns from %d labeled pictures or more, "
        )
        log.warning(what + "and there are %d", step, name.replace("_", " "), least, labeled)


def embed_by_domain(
    extractor: Extractor, rows: pd.DataFrame, query_domain: str
) -> tuple[np.ndarray, np.ndarray]:
    """Embed catalogue rows and divide them by domain.

    Returns:
        The embeddings of the query domain, and those of the other domains; all of them twice where
        there is only one domain.
    """
    return split_domains(embed(extractor, rows), (rows.domain == query_domain).to_numpy())


def rank_rows(
    galleries: Sequence[StoredGallery],
    rows: pd.DataFrame,
    names: Sequence[str],
    settings: RetrieveSettings,
    k: int = TOP,
) -> Ranking:
    """Embed query pictures and rank the stored gallery for them.

    A query that cannot be read gets the first pictures of the gallery, with scores of 0: a
    leaderboard refuses a submission that lacks a query.

    Args:
        galleries: Of the run itself, or of each member of an ensemble.
        rows: The catalogue rows of the queries.
        names: The name of each row.
        settings: The steps, or how the members of an ensemble are fused.
        k: How many gallery pictures to return for each query.

    Returns:
        The k best of each query, in the order of their names.
    """
    gallery_names = galleries[0].names
    if rows.empty or not gallery_names:
        return Ranking([], np.zeros((0, k), str), np.zeros((0, k)))
    rows, names = rows.iloc[_order_of(names)], sorted(names)
    good = readable(rows).to_numpy()
    good_names = [name for name, is_good in zip(names, good, strict=True) if is_good]
    found = rank_galleries(galleries, rows[good], good_names, settings, k)
    width = found.gallery.shape[1]
    ranked = np.tile(np.array(gallery_names)[:width], (len(names), 1))
    scores = np.zeros((len(names), width))
    ranked[good], scores[good] = found.gallery, found.scores
    return Ranking(names, ranked, scores)


def rank_galleries(
    galleries: Sequence[StoredGallery],
    rows: pd.DataFrame,
    query_names: Sequence[str],
    settings: RetrieveSettings,
    k: int = TOP,
) -> Ranking:
    """Rank a stored gallery by the chosen steps, or fuse what the members of an ensemble find.

    Args:
        galleries: Of the run itself, or of each member of an ensemble; all of the same pictures.
        rows: The catalogue rows of the queries.
        query_names: The names of the queries.
        settings: The steps, or the ensemble's fusion and weights.
        k: How many gallery pictures to return for each query.

    Returns:
        The k best of each query. Without any step, the stored index is searched.
    """
    names = galleries[0].names
    if settings == RetrieveSettings(format=settings.format, index=settings.index):
        queries = embed(galleries[0].extractor, rows)
        return search(galleries[0].index, names, queries, query_names, k)
    weights = settings.ensemble_weights
    if len(galleries) == 1 or settings.fusion == "concat":
        tasks = [gallery.embeddings(rows) for gallery in galleries]
        arrays = zip(*(task.arrays for task in tasks), strict=True)
        whole = tasks[0].with_arrays(concatenate(parts, weights) for parts in arrays)
        dims = [task.queries.shape[1] for task in tasks]
        widths = joined_widths([task.widths for task in tasks], dims)
        whole = replace(whole, widths=widths)
        return rank_embeddings(whole, settings, names, query_names, k)
    fuse = {"scores": fuse_scores, "ranks": fuse_ranks}[settings.fusion]
    return ranking_of(fuse(_scores_of_each(galleries, rows), weights), names, query_names, k)


def learned_weights(
    runs: Sequence[Run], galleries: Sequence[StoredGallery], rows: pd.DataFrame
) -> tuple[float, ...]:
    """Learn how much each member of an ensemble counts, from the validation.

    Args:
        runs: The members.
        galleries: The validation's gallery, as each of them has it.
        rows: The catalogue rows of the validation's queries.

    Raises:
        UserError: The validation has no query with a relevant picture.
    """
    rows = rows[readable(rows)]
    same = rows.identity.to_numpy(str)[:, None] == galleries[0].rows().identity.to_numpy(str)
    if not same.any():
        raise UserError("--fusion learned: no query of the validation has a relevant picture")
    weights = learn_weights(_scores_of_each(galleries, rows), same)
    shown = ", ".join(f"{r.folder} {w:.3f}" for r, w in zip(runs, weights, strict=True))
    log.info("weights learned on %d validation queries: %s", same.any(axis=1).sum(), shown)
    return tuple(weights.tolist())


def _scores_of_each(galleries: Sequence[StoredGallery], rows: pd.DataFrame) -> list[np.ndarray]:
    """Return the (Q, G) scores of each member of an ensemble, by its own steps."""
    return [
        score_all(apply(gallery.embeddings(rows), gallery.settings), gallery.settings)
        for gallery in galleries
    ]
