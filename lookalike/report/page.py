"""What a person looks at: report.html, one file that opens offline, in light and dark.

    python main.py --stage report --run runs/demo
    lookalike report runs/demo --perplexity 15 --report-queries 60

It shows the scores, the way of the run, queries with their ten, what goes wrong, and how the
embeddings lie. Plots are SVG by matplotlib; the map is SVG too, drawn by the page's own script,
since its points show pictures: a plotting library for that would weigh more than all pictures.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import tyro
from markupsafe import Markup

from lookalike.core.checks import check_report
from lookalike.core.files import only_process, read_json, write_text
from lookalike.core.log import exit_code, log_to
from lookalike.core.options import as_arguments, parse, parse_settings
from lookalike.core.runs import Run, way_so_far
from lookalike.core.settings import ReportSettings, Settings, benchmark_summary, recipe
from lookalike.data.catalogue import readable
from lookalike.features.extractor import embed, load_extractor
from lookalike.report import errors as mistakes
from lookalike.report.embedding_space import (
    Spreads,
    measure_spreads,
    overlapping,
    perplexity_for,
    project,
)
from lookalike.report.panels import THUMBNAIL, Part, Thumbnails, load_parts, panels_of
from lookalike.sweep.tables import table_for_reading
from lookalike.viz import plots

TEMPLATES = Path(__file__).parent / "templates"
SHOWN_PAIRS, SHOWN_IDENTITIES, SHOWN_BOXES = 15, 16, 40

MEASURES = {
    "recall@1": "Recall@1",
    "recall@5": "Recall@5",
    "recall@10": "Recall@10",
    "map": "mAP",
    "map@10": "mAP@10",
    "map@10_hits": "mAP@10 (hits)",
}


# ---- sections -----------------------------------------------------------------------------------


def score_cards(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A card for each block of metrics.json that has a score: test, validation, forecast."""
    return [
        {
            "name": name,
            "score": block["score"],
            "interval": block.get("ci95", {}).get("score"),
            "queries": block.get("queries"),
            "left_out": block.get("left_out", 0),
            "measures": [
                (title, block[key], block.get("ci95", {}).get(key))
                for key, title in MEASURES.items()
                if key in block
            ],
        }
        for name, block in metrics.items()
        if isinstance(block, dict) and "score" in block
    ]


def way_of(run: Run) -> dict[str, Any]:
    """The stages with their times, the settings that were chosen and all others, the versions."""
    default, embeddings = Settings().flat(), recipe(run.settings)
    chosen = {name: value for name, value in embeddings.items() if value != default[name]}
    return {
        "stages": way_so_far(run),
        "chosen": chosen | {"data": run.data, "seed": run.seed},
        "others": {k: v for k, v in embeddings.items() if k not in chosen and v is not None},
        "versions": read_json(run.path("versions.json"), "main.py")
        if run.path("versions.json").is_file()
        else {},
    }


def mistakes_of(run: Run, part: Part) -> dict[str, Any]:
    """The tables of what goes wrong in a part whose labels are known."""
    faces = run.path("faces.csv")
    groups = {
        "by the query's domain": mistakes.by_domain(part),
        "by how the query's face was found": mistakes.by_detection(part, pd.read_csv(faces))
        if faces.is_file()
        else {},
        "by relevant pictures in the gallery": mistakes.by_gallery_size(part),
    }
    return {
        "part": part.name,
        "confusions": mistakes.confusions(part).head(SHOWN_PAIRS).to_dict("records"),
        "scores": {
            title: mistakes.score_by(part, of_query).to_dict("records")
            for title, of_query in groups.items()
            if of_query
        },
        "reached": mistakes.reached_by_domain(part).to_dict("records"),
        "faces": faces.is_file(),
    }


def space_of(run: Run, part: Part, thumbnails: Thumbnails) -> dict[str, Any] | None:
    """The map, the spreads and the overlaps of a part whose labels are known; None where it has too
    few pictures for a map."""
    assert part.labels is not None
    rows = pd.concat([part.queries, part.gallery])
    names = [part.labels.query.get(key, "") for key in part.queries.index]
    names += [part.labels.gallery.get(key, "") for key in part.gallery.index]
    rows = rows.assign(identity=names)
    rows = rows[(rows.identity != "") & readable(rows)].reset_index(drop=True)
    embeddings = embed(load_extractor(run), rows)
    settings, rng = run.settings.report, np.random.default_rng([run.seed, 2])
    chosen = np.arange(len(rows))
    if len(rows) > settings.points:
        chosen = np.sort(rng.choice(len(rows), settings.points, replace=False))
    indices = project(embeddings[chosen], settings, run.seed)
    if not len(indices):
        return None
    shown = rows.iloc[chosen]
    spreads = measure_spreads(embeddings, rows.identity.tolist(), run.seed)
    return {
        "part": part.name,
        "total": len(rows),
        "method": "t-SNE" if settings.projection == "tsne" else "UMAP",
        "perplexity": perplexity_for(settings, len(chosen)),
        "map": map_of(shown, indices, thumbnails),
        **distances_of(spreads, rows, thumbnails),
    }


def map_of(rows: pd.DataFrame, indices: np.ndarray, thumbnails: Thumbnails) -> dict[str, Any]:
    """The points of the map, [x, y, thumbnail, number of identity, number of domain, path]."""
    identities, domains = sorted(set(rows.identity)), sorted(set(rows.domain))
    columns = (
        *indices.round(4).T.tolist(),
        thumbnails.numbers(rows),
        map(identities.index, rows.identity),
        map(domains.index, rows.domain),
        rows.path,
    )
    points = list(zip(*columns, strict=True))
    return {"identities": identities, "domains": domains, "points": points}


def distances_of(spreads: Spreads, rows: pd.DataFrame, thumbnails: Thumbnails) -> dict[str, Any]:
    """The overlapping pairs, the medoid distances among those identities, and the boxplots."""
    pairs = overlapping(spreads)
    names = list(spreads.within)
    medoids = dict(zip(names, thumbnails.numbers(rows.iloc[spreads.medoids]), strict=True))
    nearest = pairs[["one", "two"]].to_numpy().ravel().tolist()
    shown = sorted(list(dict.fromkeys(nearest or names))[:SHOWN_IDENTITIES])
    indices = [names.index(name) for name in shown]
    widest = sorted(
        (name for name, distances in spreads.within.items() if len(distances)),
        key=lambda name: -float(np.median(spreads.within[name])),
    )[:SHOWN_BOXES]
    boxes = {name: spreads.within[name] for name in widest}
    return {
        "identities": len(names),
        "pairs": pairs.head(SHOWN_PAIRS).to_dict("records"),
        "reaching": int((pairs.overlap > 1).sum()),
        "all_pairs": len(pairs),
        "medoids": medoids,
        "names": shown,
        "between": shaded(spreads.between[np.ix_(indices, indices)]),
        "boxes": Markup(plots.as_svg(plots.distance_boxes(boxes))) if boxes else None,
        "boxes_shown": len(boxes),
    }


def shaded(distances: np.ndarray) -> list[list[tuple[float, float]]]:
    """(distance, nearness from 0 to 1 among those shown) of each cell; the diagonal counts for
    nothing."""
    others = distances[~np.eye(len(distances), dtype=bool)]
    low, high = (float(others.min()), float(others.max())) if len(others) else (0.0, 1.0)
    near = np.clip((high - distances) / max(high - low, 1e-9), 0, 1)
    return [list(zip(*rows, strict=True)) for rows in zip(distances, near, strict=True)]


def curves_of(run: Run) -> Markup | None:
    """The learning curves; None where nothing was trained."""
    path = run.path("history.csv")
    history = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    if history.empty:
        return None
    judged = "score" in history
    figure = plots.retrieval_curves(history) if judged else plots.learning_curves({"": history})
    return Markup(plots.as_svg(figure))


def benchmark_of(settings: ReportSettings) -> dict[str, Any] | None:
    """The benchmark's table and its plot; None where there is none."""
    path = benchmark_summary(settings)
    if not path.is_file():
        return None
    summary = pd.read_csv(path)
    known = summary[summary.score.notna() & summary.training_seconds.notna()]
    plot = Markup(plots.as_svg(plots.score_against_time(known))) if len(known) else None
    table = table_for_reading(summary)
    return {"columns": list(table.columns), "rows": table.to_numpy().tolist(), "plot": plot}


# ---- the page -----------------------------------------------------------------------------------


def make_page(run: Run) -> tuple[str, int]:
    """The text of report.html, and how many pictures it shows.

    Raises:
        UserError: a file of the run is missing or broken, or a picture has changed.
    """
    settings = run.settings.report
    parts, thumbnails = load_parts(run), Thumbnails(run)
    known = [part for part in parts if part.judged is not None]
    panels = [panels_of(part, settings.report_queries, run.seed, thumbnails) for part in parts]
    space = space_of(run, known[0], thumbnails) if known else None
    text = render(
        name=run.folder.resolve().name,
        cards=score_cards(read_json(run.path("metrics.json"), "--stage evaluate")),
        way=way_of(run),
        parts=panels,
        mistakes=[mistakes_of(run, part) for part in known],
        space=space,
        curves=curves_of(run),
        benchmark=benchmark_of(settings),
        side=THUMBNAIL,
        data={"parts": panels, "map": space and space["map"], "thumbs": thumbnails.draw()},
    )
    return text, len(thumbnails)


def render(**content: Any) -> str:
    """The page from its template. The browser is told to load nothing, and to run the page's own
    script, known by its hash, and nothing else: names that come from outside can do no harm."""
    house = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    house.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{digest}'"
    return house.get_template("report.html").render(
        script=Markup(script),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        policy=policy,
        **content,
    )


def run_report(run: Run) -> str:
    """The stage: report.html."""
    text, pictures = make_page(run)
    write_text(run.path("report.html"), text)
    return f"{run.path('report.html')}: {pictures} pictures, {len(text.encode()) / 1e6:.1f} MB"


# ---- the program --------------------------------------------------------------------------------


@dataclass
class Program:
    """Settings of this file as a program; others are those of the run."""

    run: tyro.conf.Positional[Path]
    """Run folder of a run that was evaluated."""
    report: ReportSettings = field(default_factory=ReportSettings)


def main(arguments: Sequence[str]) -> int:
    """Makes one report; returns the exit code."""
    program = parse(list(arguments), "lookalike report", Program, "A page about a run.")
    log_to(None)

    def work() -> None:
        check_report(program.report)
        words = [*as_arguments(asdict(program.report)), f"--run={program.run}"]
        settings = parse_settings(words, program.run / "config.json")
        run = Run(program.run, Path(settings.general.data or ""), settings)
        with only_process(run.path(".lock"), str(run.folder)):
            log_to(run.folder)
            print(run_report(run))

    return exit_code(work)
