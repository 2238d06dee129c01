"""Embeddings -> index -> ranking -> submission.json: the stages index and retrieve."""

import json
from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
import pandas as pd

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, write_json, write_text
from lookalike.core.log import log
from lookalike.core.runs import Run
from lookalike.core.settings import RetrieveSettings
from lookalike.data.catalogue import bare_names, load_catalogue, readable, rows_of
from lookalike.data.splits import unseen_split, validation_rows
from lookalike.evaluation.submissions import TOP, write_submission
from lookalike.features.extractor import FeatureExtractor, embed, load_extractor
from lookalike.retrieval.ensemble import members
from lookalike.retrieval.fusion import fuse_ranks, fuse_scores, joined
from lookalike.retrieval.index import (
    Ranking,
    as_mapping,
    build_as,
    build_index,
    load_index,
    ranking_of,
    save_index,
    search,
    with_scores,
)
from lookalike.retrieval.postprocess import (
    Embeddings,
    apply,
    score_all,
    scores_wanted,
    sides,
    two_domains,
)


def run_index(run: Run) -> str:
    """The stage: gallery.faiss + .json of the test, and the same of the validation."""
    extractor = load_extractor(run)
    test = load_catalogue(run.path("test.csv"))
    gallery = test[(test.part == "gallery") & readable(test)]
    if gallery.empty:
        raise UserError("no picture of the test's gallery can be read")
    about = index_origin(run)
    index_pictures(run, extractor, gallery, bare_names(gallery.path).tolist(), about, "gallery")
    validation = validation_rows(run, "gallery")
    index_pictures(run, extractor, validation, list(validation.path), about, "validation_gallery")
    return f"{len(gallery)} gallery pictures, {len(validation)} for validation"


def index_origin(run: Run) -> dict[str, Any]:
    """The state of what an index is made from: the model, the catalogue, its kind, and what the
    model does not say of how pictures are shown to it."""
    names = ("model.safetensors", "test.csv", "training.csv", "split.json")
    settings = run.settings.embed
    shown = {"detector, flip or scales": f"{settings.detector}, {settings.flip}, {settings.scales}"}
    kind = {"--index": run.settings.retrieve.index}
    return {name: file_hash(run.path(name)) for name in names} | shown | kind


def index_pictures(
    run: Run,
    extractor: FeatureExtractor,
    rows: pd.DataFrame,
    keys: list[str],
    about: Any,
    name: str,
) -> None:
    """Embeds catalogue rows and writes their index under `name`, in the order of the keys."""
    order = np.argsort(np.array(keys, dtype=str), kind="stable")
    embeddings = embed(extractor, rows.iloc[order])
    index, made = build_as(run.settings.retrieve.index, embeddings, run.seed)
    save_index(index, sorted(keys), about | {"index": made}, run.path(f"{name}.faiss"))


def run_retrieve(run: Run) -> str:
    """The stage: submission.json of the test and validation.json, in the same form by path."""
    ready = [(member, load_extractor(member)) for member in members(run)]
    test = load_catalogue(run.path("test.csv"))
    queries = test[test.part == "query"]
    ranking = rank(run, ready, queries, bare_names(queries.path).tolist(), "gallery")
    path = write_submission(run.folder, as_mapping(ranking), run.settings.retrieve.format)
    validation = validation_rows(run, "query")
    seen = rank(run, ready, validation, list(validation.path), "validation_gallery")
    write_json(run.path("validation.json"), as_mapping(seen))
    # What a submission has no place for, and a person wants to see: how sure each place is.
    both = {"test": with_scores(ranking), "validation": with_scores(seen)}
    write_text(run.path("ranking.json"), json.dumps(both, ensure_ascii=False))
    if ranking.gallery.shape[1] < TOP:
        log.warning("warning: the gallery has fewer than %d pictures", TOP)
    return f"{len(ranking.queries)} queries × {ranking.gallery.shape[1]} -> {path}"


def rank(
    run: Run,
    ready: Sequence[tuple[Run, FeatureExtractor]],
    rows: pd.DataFrame,
    keys: list[str],
    name: str,
) -> Ranking:
    """Searches the index `name` for catalogue rows, in the order of their keys.

    ready: the run itself, or the members of an ensemble, each with its way to embed.

    A query that cannot be read gets the first of the gallery, with scores of 0: a leaderboard
    refuses a submission that lacks a query.
    """
    stored = [load_index(m.path(f"{name}.faiss"), index_origin(m)) for m, _ in ready]
    gallery = stored[0][1]
    order = np.argsort(np.array(keys, dtype=str), kind="stable")
    rows = rows.iloc[order]
    if rows.empty or not gallery:
        return Ranking([], np.zeros((0, TOP), str), np.zeros((0, TOP)))
    good = readable(rows).to_numpy()
    keys = sorted(keys)
    known = [key for key, known in zip(keys, good, strict=True) if known]
    parts = [
        (member, extractor, index, embed(extractor, rows[good]))
        for (member, extractor), (index, _) in zip(ready, stored, strict=True)
    ]
    found = rank_parts(run, parts, gallery, known, name)
    width = found.gallery.shape[1]
    indices = np.tile(np.array(gallery)[:width], (len(keys), 1))
    scores = np.zeros((len(keys), width))
    indices[good], scores[good] = found.gallery, found.scores
    return Ranking(keys, indices, scores)


Part = tuple[Run, FeatureExtractor, faiss.Index, np.ndarray]  # a member, its gallery, its queries


def rank_parts(
    run: Run, parts: Sequence[Part], gallery: list[str], keys: list[str], name: str
) -> Ranking:
    """Ranks the gallery by the steps asked for: of the run itself, or of an ensemble's members."""
    settings = run.settings.retrieve
    if settings == RetrieveSettings(format=settings.format, index=settings.index):
        ((_, _, index, queries),) = parts
        return search(index, gallery, queries, keys)
    embeddings = [
        Embeddings(
            queries, index.reconstruct_n(0, index.ntotal), *seen_embeddings(m, extractor, name)
        )
        for m, extractor, index, queries in parts
    ]
    weights = settings.ensemble_weights
    if len(embeddings) == 1 or settings.fusion == "concat":
        whole = [joined(side, weights) for side in zip(*map(sides, embeddings), strict=True)]
        return rank_embeddings(Embeddings(*whole), settings, gallery, keys)
    steps = [member.settings.retrieve for member, *_ in parts]
    scores = [score_all(apply(e, own), own) for e, own in zip(embeddings, steps, strict=True)]
    fuse = {"scores": fuse_scores, "ranks": fuse_ranks}[settings.fusion]
    return ranking_of(fuse(scores, weights), gallery, keys)


def rank_embeddings(
    embeddings: Embeddings, settings: RetrieveSettings, gallery: list[str], keys: list[str]
) -> Ranking:
    """Ranks the gallery for the queries, by the steps asked for."""
    embeddings = apply(embeddings, settings)
    if scores_wanted(settings):
        return ranking_of(score_all(embeddings, settings), gallery, keys)
    return search(build_index(embeddings.gallery), gallery, embeddings.queries, keys)


def seen_embeddings(
    run: Run, extractor: FeatureExtractor, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of labelled pictures that a ranking may learn from: those of the query's domain,
    and the others; all of them twice where domains are unknown. Empty where no step wants them.

    name: `gallery` may learn from all of them, `validation_gallery` not from the validation.
    """
    settings = run.settings.retrieve
    if not (
        settings.whiten
        or (settings.no_transductive and (settings.center or settings.hubs != "none"))
    ):
        return (np.zeros((0, extractor.embedder.dim), np.float32),) * 2
    split = unseen_split(run)
    paths = split.labelled if name == "gallery" else {**split.train, **split.holdout}
    rows = rows_of(load_catalogue(run.path("training.csv")), sorted(paths))
    asks = (rows.domain == run.settings.split.query_domain).to_numpy()
    return two_domains(embed(extractor, rows), asks)
