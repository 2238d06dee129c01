"""Embeddings -> index -> ranking -> submission.json.

A Ranking is query keys, gallery keys and scores as arrays. Equal scores are ordered by gallery key,
so that a ranking is the same on every machine.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import pandas as pd

from config import RetrieveSettings, UserError
from data import bare_names, load_catalogue, load_split, readable, rows_of
from embed import Embedding, embed, run_embedding
from ensemble import fuse_ranks, fuse_scores, joined, members
from evaluate import TOP, write_csv
from model import load_model
from postprocess import Embeddings, apply, divided, score_all, scores_wanted, sides
from runs import Run, file_hash, log, read_json, whole_file, write_json, write_text

WIDEST_ON_GPU = 2048  # FAISS takes no more neighbours there
TIE = 1e-5  # two roundings of one inner product of unit vectors differ by less


class Ranking(NamedTuple):
    """For each query the best gallery pictures, best first.

    queries: Q keys. gallery: (Q, k) array of keys. scores: (Q, k) float64 cosines.
    """

    queries: list[str]
    gallery: np.ndarray
    scores: np.ndarray


# ---- the index ----------------------------------------------------------------------------------


def build_index(embeddings: np.ndarray) -> faiss.Index:
    """An exact inner-product index over (N, D) float32 unit rows."""
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(embeddings)
    return index


def save_index(index: faiss.Index, keys: Sequence[str], about: dict[str, Any], path: Path) -> None:
    """Writes `path` (.faiss) and, beside it, .json with the keys of its rows and `about`."""
    with whole_file(path) as beside:
        faiss.write_index(index, str(beside))
    write_json(path.with_suffix(".json"), about | {"keys": list(keys)})


def load_index(path: Path, made_from: dict[str, Any]) -> tuple[faiss.Index, list[str]]:
    """An index and the keys of its rows.

    made_from: what it must have been made from (see `index_origin`).

    Raises:
        UserError: it is missing or broken, or was made from something else.
    """
    about = read_json(path.with_suffix(".json"), "--stage index")
    other = [name for name, state in made_from.items() if about.get(name) != state]
    if other:
        raise UserError(f"{path} was made from another {other[0]}: run --stage index retrieve")
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise UserError(f"{path} cannot be read: --stage index makes it anew") from error
    if index.ntotal != len(about["keys"]):
        raise UserError(f"{path} does not fit its keys: --stage index makes both anew")
    return index, about["keys"]


# ---- search -------------------------------------------------------------------------------------


def search(
    index: faiss.Index, keys: Sequence[str], queries: np.ndarray, names: Sequence[str], k: int = TOP
) -> Ranking:
    """The k best gallery pictures of each query, equal scores by key.

    index, keys: the gallery; queries, names: (Q, D) float32 unit rows and their keys.

    FAISS finds candidates; their scores are taken again, one by one in double precision, since
    FAISS may round equal pictures differently depending on where they stand in the index.
    """
    k = min(k, index.ntotal)
    names_of_rows = np.array(keys)
    rows = np.zeros((len(queries), k), np.int64)
    scores = np.zeros((len(queries), k))
    at_hand, width, open_queries = _on_gpu(index), 2 * k, np.arange(len(queries))
    while len(open_queries):
        width = min(width, index.ntotal)
        at_hand = index if width > WIDEST_ON_GPU else at_hand
        found, candidates = at_hand.search(queries[open_queries], width)
        # All that could tie with the last place must be among the candidates.
        cut_off = (found[:, -1] >= found[:, k - 1] - TIE) & (width < index.ntotal)
        for i, near in zip(open_queries[~cut_off], candidates[~cut_off], strict=True):
            exact = _exact_scores(index, near, queries[i])
            order = np.lexsort((names_of_rows[near], -exact))[:k]
            rows[i], scores[i] = near[order], exact[order]
        open_queries, width = open_queries[cut_off], 4 * width
    return Ranking(list(names), names_of_rows[rows], scores)


def ranking_of(
    scores: np.ndarray, gallery: Sequence[str], keys: Sequence[str], k: int = TOP
) -> Ranking:
    """The k best of each row of a (Q, G) score matrix, equal scores by gallery key."""
    names = np.array(gallery)
    k = min(k, len(names))
    rows = np.zeros((len(keys), k), np.int64)
    for row, values in zip(rows, scores, strict=True):
        least = np.partition(values, -k)[-k]
        near = np.flatnonzero(values >= least)  # all that tie with the last place too
        row[:] = near[np.lexsort((names[near], -values[near]))[:k]]
    best = np.take_along_axis(scores, rows, 1).astype(np.float64)
    return Ranking(list(keys), names[rows], best)


def _exact_scores(index: faiss.Index, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    vectors = index.reconstruct_batch(rows).astype(np.float64)
    return np.multiply(vectors, query.astype(np.float64)).sum(axis=1)


def _on_gpu(index: faiss.Index) -> faiss.Index:
    """The index on the GPUs where FAISS finds any."""
    if getattr(faiss, "get_num_gpus", int)() > 0:
        return faiss.index_cpu_to_all_gpus(index)
    return index


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
    """The state of what an index is made from: the model, the catalogue, and what the model does
    not say of how pictures are shown to it."""
    names = ("model.safetensors", "test.csv", "training.csv", "split.json")
    asked = run.settings.embed
    shown = {"detector, flip or scales": f"{asked.detector}, {asked.flip}, {asked.scales}"}
    return {name: file_hash(run.path(name)) for name in names} | shown


def index_pictures(
    run: Run, job: Embedding, rows: pd.DataFrame, keys: list[str], about: Any, name: str
) -> None:
    """Embeds catalogue rows and writes their index under `name`, in the order of the keys."""
    order = np.argsort(np.array(keys, dtype=str), kind="stable")
    embeddings = embed(job, rows.iloc[order])
    save_index(build_index(embeddings), sorted(keys), about, run.path(f"{name}.faiss"))


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
    if asked == RetrieveSettings(format=asked.format):
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
    split = load_split(run)
    paths = {**split["train"], **split["holdout"]}
    if name == "gallery":
        paths |= split["validation"]["query"] | split["validation"]["gallery"]
    rows = rows_of(load_catalogue(run.path("training.csv")), sorted(paths))
    asks = (rows.domain == run.settings.split.query_domain).to_numpy()
    return divided(embed(job, rows), asks)


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
    paths = load_split(run)["validation"][part]
    return rows_of(load_catalogue(run.path("training.csv")), paths)
