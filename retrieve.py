"""Embeddings -> index -> ranking -> submission.json: the stages index and retrieve."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd

from config import RetrieveSettings, UserError
from data import all_labelled, bare_names, load_catalogue, readable, rows_of, unseen_split
from embed import Embedding, embed, run_embedding
from ensemble import fuse_ranks, fuse_scores, joined, members
from evaluate import TOP, write_csv
from index import Ranking, build_as, build_index, load_index, ranking_of, save_index, search
from model import load_model
from postprocess import Embeddings, apply, score_all, scores_wanted, sides, two_domains
from runs import Run, file_hash, log, write_json, write_text

# ---- submissions --------------------------------------------------------------------------------


def as_mapping(ranking: Ranking) -> dict[str, list[str]]:
    """{query: [gallery keys, best first]}, in the order of the queries."""
    return {
        query: names.tolist() for query, names in zip(ranking.queries, ranking.gallery, strict=True)
    }


def with_scores(ranking: Ranking) -> dict[str, list[tuple[str, float]]]:
    """{query: [(gallery key, score), best first]}, in the order of the queries."""
    scores = ranking.scores.round(6).tolist()
    return {
        query: list(zip(names, row, strict=True))
        for (query, names), row in zip(as_mapping(ranking).items(), scores, strict=True)
    }


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


# ---- the stages ---------------------------------------------------------------------------------


def run_index(run: Run) -> str:
    """The stage: gallery.faiss + .json of the test, and the same of the validation."""
    job = load_job(run)
    test = load_catalogue(run.path("test.csv"))
    gallery = test[(test.part == "gallery") & readable(test)]
    if gallery.empty:
        raise UserError("no picture of the test's gallery can be read")
    about = index_origin(run)
    index_pictures(run, job, gallery, bare_names(gallery.path).tolist(), about, "gallery")
    validation = validation_rows(run, "gallery")
    index_pictures(run, job, validation, list(validation.path), about, "validation_gallery")
    return f"{len(gallery)} gallery pictures, {len(validation)} for validation"


def index_origin(run: Run) -> dict[str, Any]:
    """The state of what an index is made from: the model, the catalogue, its kind, and what the
    model does not say of how pictures are shown to it."""
    names = ("model.safetensors", "test.csv", "training.csv", "split.json")
    asked = run.settings.embed
    shown = {"detector, flip or scales": f"{asked.detector}, {asked.flip}, {asked.scales}"}
    kind = {"--index": run.settings.retrieve.index}
    return {name: file_hash(run.path(name)) for name in names} | shown | kind


def index_pictures(
    run: Run, job: Embedding, rows: pd.DataFrame, keys: list[str], about: Any, name: str
) -> None:
    """Embeds catalogue rows and writes their index under `name`, in the order of the keys."""
    order = np.argsort(np.array(keys, dtype=str), kind="stable")
    embeddings = embed(job, rows.iloc[order])
    index, made = build_as(run.settings.retrieve.index, embeddings, run.seed)
    save_index(index, sorted(keys), about | {"index": made}, run.path(f"{name}.faiss"))


def run_retrieve(run: Run) -> str:
    """The stage: submission.json of the test and validation.json, in the same form by path."""
    ready = [(member, load_job(member)) for member in members(run)]
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
    ready: Sequence[tuple[Run, Embedding]],
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
        (member, job, index, embed(job, rows[good]))
        for (member, job), (index, _) in zip(ready, stored, strict=True)
    ]
    found = rank_parts(run, parts, gallery, known, name)
    width = found.gallery.shape[1]
    places = np.tile(np.array(gallery)[:width], (len(keys), 1))
    scores = np.zeros((len(keys), width))
    places[good], scores[good] = found.gallery, found.scores
    return Ranking(keys, places, scores)


Part = tuple[Run, Embedding, faiss.Index, np.ndarray]  # a member, its gallery, its queries


def rank_parts(
    run: Run, parts: Sequence[Part], gallery: list[str], keys: list[str], name: str
) -> Ranking:
    """Ranks the gallery by the steps asked for: of the run itself, or of an ensemble's members."""
    asked = run.settings.retrieve
    if asked == RetrieveSettings(format=asked.format, index=asked.index):
        ((_, _, index, queries),) = parts
        return search(index, gallery, queries, keys)
    given = [
        Embeddings(queries, index.reconstruct_n(0, index.ntotal), *seen_embeddings(m, job, name))
        for m, job, index, queries in parts
    ]
    weights = asked.ensemble_weights
    if len(given) == 1 or asked.fusion == "concat":
        whole = [joined(side, weights) for side in zip(*map(sides, given), strict=True)]
        return rank_embeddings(Embeddings(*whole), asked, gallery, keys)
    steps = [member.settings.retrieve for member, *_ in parts]
    scores = [score_all(apply(e, own), own) for e, own in zip(given, steps, strict=True)]
    fuse = {"scores": fuse_scores, "ranks": fuse_ranks}[asked.fusion]
    return ranking_of(fuse(scores, weights), gallery, keys)


def rank_embeddings(
    given: Embeddings, asked: RetrieveSettings, gallery: list[str], keys: list[str]
) -> Ranking:
    """Ranks the gallery for the queries, by the steps asked for."""
    given = apply(given, asked)
    if scores_wanted(asked):
        return ranking_of(score_all(given, asked), gallery, keys)
    return search(build_index(given.gallery), gallery, given.queries, keys)


def seen_embeddings(run: Run, job: Embedding, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of labelled pictures that a ranking may learn from: those of the query's domain,
    and the others; all of them twice where domains are unknown. Empty where no step wants them.

    name: `gallery` may learn from all of them, `validation_gallery` not from the validation.
    """
    asked = run.settings.retrieve
    if not (asked.whiten or (asked.no_transductive and (asked.center or asked.hubs != "none"))):
        return (np.zeros((0, job.embedder.dim), np.float32),) * 2
    split = unseen_split(run)
    paths = all_labelled(split) if name == "gallery" else {**split["train"], **split["holdout"]}
    rows = rows_of(load_catalogue(run.path("training.csv")), sorted(paths))
    asks = (rows.domain == run.settings.split.query_domain).to_numpy()
    return two_domains(embed(job, rows), asks)


_ready: dict[str, Embedding] = {}


def load_job(run: Run) -> Embedding:
    """The run's trained model, ready to embed the run's pictures.

    The last one is kept: the stages that embed share it, since to load and to compile a backbone
    takes seconds. Raises: see load_model.
    """
    asked, model = run.settings.embed, run.path("model.safetensors")
    files = (model, Path(asked.weights or ""))
    state = (run.folder.resolve(), run.data, run.cache, asked, *map(file_hash, files))
    key = " ".join(map(str, state))
    if key not in _ready:
        _ready.clear()
        _ready[key] = run_embedding(run, load_model(model, asked, run.cache))
    return _ready[key]


def validation_rows(run: Run, part: str) -> pd.DataFrame:
    """Catalogue rows of the validation's `query` or `gallery`."""
    paths = unseen_split(run)["validation"][part]
    return rows_of(load_catalogue(run.path("training.csv")), paths)
