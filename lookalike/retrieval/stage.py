"""The stages index and retrieve: store the galleries, write submission.json and its validation.

Both rank by the steps of `ranking`, what `galleries` has stored.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypedDict

import msgspec

from lookalike.core.errors import UserError
from lookalike.core.files import write_json, write_text
from lookalike.core.log import log
from lookalike.core.readers import Finite, read_json
from lookalike.core.runs import Run
from lookalike.data.catalogue import (
    bare_names,
    load_catalogue,
    queries_of,
    searches_itself,
)
from lookalike.data.splits import validation_rows
from lookalike.evaluation.metrics import run_metric
from lookalike.evaluation.samples import Sample, cell_names, read_sample, write_filled
from lookalike.evaluation.submissions import write_run_submission
from lookalike.features.embedding import embed
from lookalike.features.extractor import trained_extractor
from lookalike.retrieval.ensemble import members
from lookalike.retrieval.galleries import (
    gallery_rows,
    index_origin,
    learned_weights,
    open_gallery,
    rank_rows,
)
from lookalike.retrieval.index import (
    as_mapping,
    build_and_measure,
    save_index,
    with_scores,
    without_own,
)


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
        rows, names = gallery_rows(run, gallery)
        embeddings = embed(extractor, rows)
        index, record = build_and_measure(embeddings, run.settings.retrieve.index, run.seed)
        origin = index_origin(run) | {"index": record}
        save_index(index, names, run.path(f"{gallery}.faiss"), origin)
        counts.append(len(names))
    return f"{counts[0]} gallery pictures, {counts[1]} for validation"


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
