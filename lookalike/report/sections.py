"""The sections of the report, as tables and drawings for its template.

    cards = score_cards(metrics)                     # scores with their intervals
    tables = error_tables(part, faces)               # confusions, scores by group
    space = embedding_section(extractor, part, settings, seed, thumbnails)

Where a section has no data, its function returns None, and the template leaves it out.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from lookalike.core.readers import read_if_good, read_table
from lookalike.core.runs import BEFORE_REPORT, Run, read_versions
from lookalike.core.settings import ReportSettings, Settings, benchmark_summary, recipe
from lookalike.data.catalogue import readable
from lookalike.evaluation.results import Metrics, metric_of_block
from lookalike.features.embedding import embed
from lookalike.features.extractor import Extractor
from lookalike.report.embedding_space import (
    Spreads,
    measure_spreads,
    perplexity_for,
    project_to_plane,
    rank_overlaps,
)
from lookalike.report.errors import (
    confusions,
    detection_groups,
    domain_groups,
    recall_by_domain,
    relevant_groups,
    score_groups,
)
from lookalike.report.panels import RankedPart, Thumbnails
from lookalike.sweep.tables import read_summary, table_for_reading
from lookalike.training.history import read_history
from lookalike.viz import plots

PAIRS_SHOWN, IDENTITIES_SHOWN, BOXES_SHOWN = 15, 16, 40
MEASURES = {
    "recall@1": "Recall@1",
    "recall@5": "Recall@5",
    "recall@10": "Recall@10",
    "map": "mAP",
    "map@10": "mAP@10",
    "map@10_hits": "mAP@10 (hits)",
}
LEFT_OUT = "left out of the report"


# ---- scores, errors, the run --------------------------------------------------------------------


def score_cards(metrics: Metrics) -> list[dict[str, Any]]:
    """Return a card for each block of metrics.json: test, validation, forecast."""
    blocks: dict[str, Any] = dict(metrics)
    return [
        {
            "name": name,
            "score": block["score"],
            "metric": metric_of_block(block),
            "interval": block["ci95"]["score"],
            "queries": block.get("queries"),
            "left_out": block.get("left_out", 0),
            "measures": [
                (title, block[key], block["ci95"].get(key))
                for key, title in MEASURES.items()
                if key in block
            ],
        }
        for name, block in blocks.items()
    ]


def run_summary(run: Run) -> dict[str, Any]:
    """Return the stages with their run times, the settings, and the versions of packages.

    Returns:
        {"stages", "chosen", "defaults", "versions"}; `chosen` holds the settings that differ from
        the defaults.
    """
    default, settings = Settings().flat(), recipe(run.settings)
    chosen = {name: value for name, value in settings.items() if value != default[name]}
    return {
        "stages": run.results(BEFORE_REPORT),
        "chosen": chosen | {"data": run.data, "seed": run.seed},
        "defaults": {k: v for k, v in settings.items() if k not in chosen and v is not None},
        "versions": read_if_good(read_versions, run.path("versions.json"), LEFT_OUT) or {},
    }


def error_tables(part: RankedPart, faces: pd.DataFrame | None) -> dict[str, Any]:
    """Return the error analysis of a labeled part.

    Args:
        part: The test or the validation.
        faces: Content of faces.csv; None where the backbone sees whole pictures.
    """
    groups = {
        "by the query's domain": domain_groups(part),
        "by how the query's face was found": {} if faces is None else detection_groups(part, faces),
        "by relevant pictures in the gallery": relevant_groups(part),
    }
    return {
        "part": part.name,
        "metric": part.metric,
        "confusions": confusions(part).head(PAIRS_SHOWN).to_dict("records"),
        "scores": {
            title: score_groups(part, of_query).to_dict("records")
            for title, of_query in groups.items()
            if of_query
        },
        "recalls": recall_by_domain(part).to_dict("records"),
        "faces": faces is not None,
    }


def training_curves(path: Path) -> Markup | None:
    """Draw the learning curves of a history.csv; None where nothing was trained."""
    history = read_if_good(read_history, path, LEFT_OUT)
    if history is None or history.empty:
        return None
    by_retrieval = "score" in history
    figure = (
        plots.retrieval_curves(history) if by_retrieval else plots.learning_curves({"": history})
    )
    return Markup(plots.as_svg(figure))


TIMELINE = {
    "minutes": float,
    "choice": str,
    "before": float,
    "after": float,
    "chance_of_none": float,
    "kept": bool,
}


def timeline_section(path: Path) -> dict[str, Any] | None:
    """Return the plot of what was tried within the time limit, and the choices that stayed.

    Args:
        path: A timeline.csv; None is returned where there is none, or nothing was tried.
    """
    if not path.is_file():
        return None
    trials: pd.DataFrame | None = read_if_good(
        lambda file: read_table(file, "--stage auto", TIMELINE), path, LEFT_OUT
    )
    if trials is None or trials.empty:
        return None
    chosen = trials[~trials.choice.str.startswith("chosen on one half")]
    return {
        "plot": Markup(plots.as_svg(plots.score_by_minutes(chosen))),
        "tried": len(chosen),
        "kept": chosen[chosen.kept].to_dict("records"),
    }


def sweep_section(settings: ReportSettings) -> dict[str, Any] | None:
    """Return the table and the plot of a sweep; None where there is none."""
    summary = read_if_good(read_summary, benchmark_summary(settings), LEFT_OUT)
    if summary is None:
        return None
    drawable = summary[summary.score.notna() & summary.training_seconds.notna()]
    plot = Markup(plots.as_svg(plots.score_against_time(drawable))) if len(drawable) else None
    table = table_for_reading(summary)
    return {"columns": list(table.columns), "rows": table.to_numpy().tolist(), "plot": plot}


# ---- embedding space ----------------------------------------------------------------------------


def embedding_section(
    extractor: Extractor,
    part: RankedPart,
    settings: ReportSettings,
    seed: int,
    thumbnails: Thumbnails,
) -> dict[str, Any] | None:
    """Return the map, the spreads and the overlaps of a labeled part.

    Args:
        extractor: Makes the embeddings.
        part: The test or the validation, with labels.
        settings: Of the map.
        seed: Seed of the map and of the choice of pictures.
        thumbnails: The pictures of the page; those that are needed are added.

    Returns:
        None where there are too few pictures for a map.

    Raises:
        UserError: UMAP is chosen and not installed, or a picture has changed.
    """
    rows = labeled_rows(part)
    embeddings = embed(extractor, rows)
    chosen = np.arange(len(rows))
    if len(rows) > settings.points:
        rng = np.random.default_rng([seed, 2])
        chosen = np.sort(rng.choice(len(rows), settings.points, replace=False))
    positions = project_to_plane(embeddings[chosen], settings, seed)
    if not len(positions):
        return None
    # The map's pictures come first on the page, then the medoids.
    points = map_points(rows.iloc[chosen], positions, thumbnails)
    spreads = measure_spreads(embeddings, rows.identity.tolist(), seed)
    return {
        "part": part.name,
        "total": len(rows),
        "method": "t-SNE" if settings.projection == "tsne" else "UMAP",
        "perplexity": perplexity_for(settings, len(chosen)),
        "map": points,
        **distance_tables(spreads, rows, thumbnails),
    }


def labeled_rows(part: RankedPart) -> pd.DataFrame:
    """Return catalogue rows of a part's readable pictures whose identity is known.

    Raises:
        ValueError: The part has no labels.
    """
    if part.labels is None:
        raise ValueError(f"the {part.name} has no labels")
    identities = [part.labels.query.get(key, "") for key in part.queries.index]
    identities += [part.labels.gallery.get(key, "") for key in part.gallery.index]
    rows = pd.concat([part.queries, part.gallery]).assign(identity=identities)
    return rows[(rows.identity != "") & readable(rows)].reset_index(drop=True)


def map_points(rows: pd.DataFrame, positions: np.ndarray, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return the points of the map for the page's script.

    Args:
        rows: Catalogue rows of N pictures.
        positions: (N, 2), from 0 to 1.
        thumbnails: The pictures of the page.

    Returns:
        {"identities", "domains", "points"}: names, and for each picture [x, y, index of the
        thumbnail, index of the identity, index of the domain, path].
    """
    identities, domains = sorted(set(rows.identity)), sorted(set(rows.domain))
    columns = (
        *positions.round(4).T.tolist(),
        thumbnails.indices(rows),
        map(identities.index, rows.identity),
        map(domains.index, rows.domain),
        rows.path,
    )
    points = list(zip(*columns, strict=True))
    return {"identities": identities, "domains": domains, "points": points}


def distance_tables(spreads: Spreads, rows: pd.DataFrame, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return the overlapping pairs, the distances of their medoids, and the box plots.

    Args:
        spreads: Of the identities.
        rows: Catalogue rows of the pictures that were measured.
        thumbnails: The pictures of the page.
    """
    pairs, names = rank_overlaps(spreads), list(spreads.within)
    medoids = dict(zip(names, thumbnails.indices(rows.iloc[spreads.medoids]), strict=True))
    overlapping = pairs[["one", "two"]].to_numpy().ravel().tolist()
    chosen = sorted(list(dict.fromkeys(overlapping or names))[:IDENTITIES_SHOWN])
    indices = [names.index(name) for name in chosen]
    boxes = widest_spreads(spreads)
    return {
        "identities": len(names),
        "pairs": pairs.head(PAIRS_SHOWN).to_dict("records"),
        "overlaps": int((pairs.overlap > 1).sum()),
        "all_pairs": len(pairs),
        "medoids": medoids,
        "names": chosen,
        "between": with_shades(spreads.between[np.ix_(indices, indices)]),
        "boxes": Markup(plots.as_svg(plots.distance_boxes(boxes))) if boxes else None,
        "boxes_shown": len(boxes),
    }


def widest_spreads(spreads: Spreads) -> dict[str, np.ndarray]:
    """Return the pairwise distances within the identities with the greatest median of them."""
    widest = sorted(
        (name for name, distances in spreads.within.items() if len(distances)),
        key=lambda name: -float(np.median(spreads.within[name])),
    )
    return {name: spreads.within[name] for name in widest[:BOXES_SHOWN]}


def with_shades(distances: np.ndarray) -> list[list[tuple[float, float]]]:
    """Return (distance, shade) of each cell of an (I, I) matrix.

    The shade is 1 for the smallest distance outside the diagonal and 0 for the greatest.
    """
    others = distances[~np.eye(len(distances), dtype=bool)]
    low, high = (float(others.min()), float(others.max())) if len(others) else (0.0, 1.0)
    shades = np.clip((high - distances) / max(high - low, 1e-9), 0, 1)
    return [list(zip(*row, strict=True)) for row in zip(distances, shades, strict=True)]
