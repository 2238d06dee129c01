"""The stored galleries of a run: open one, and rank it for pictures by the run's steps.

    gallery = open_gallery(run, "gallery")
    ranking = rank_rows([gallery], queries, names, run.settings.retrieve, k=10)

Several galleries are those of an ensemble's members, whose embeddings or scores are fused.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import faiss
import numpy as np
import pandas as pd

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash
from lookalike.core.log import log
from lookalike.core.runs import Run
from lookalike.core.settings import RetrieveSettings
from lookalike.data.catalogue import (
    bare_names,
    gallery_of,
    load_catalogue,
    readable,
    rows_of,
)
from lookalike.data.splits import unseen_split, validation_rows
from lookalike.evaluation.metrics import TOP
from lookalike.features.embedding import embed
from lookalike.features.extractor import Extractor, trained_extractor
from lookalike.retrieval.embeddings import Embeddings, split_domains
from lookalike.retrieval.fusion import (
    concatenate,
    fuse_ranks,
    fuse_scores,
    joined_widths,
    learn_weights,
)
from lookalike.retrieval.index import (
    Ranking,
    load_index,
    ranking_of,
    search,
)
from lookalike.retrieval.local_matching import PictureMatcher, matcher_of
from lookalike.retrieval.postprocess import (
    apply,
    needs_labeled,
    score_all,
)
from lookalike.retrieval.ranking import rank_embeddings


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
        rows=lambda: gallery_rows(run, name)[0],
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


def gallery_rows(run: Run, gallery: str) -> tuple[pd.DataFrame, list[str]]:
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
