"""report.html, one file that opens offline: scores, queries, errors, embeddings of a run.

    python main.py --stage report --run runs/demo

Plots are SVG by matplotlib. The map of the embeddings is SVG as well, drawn by the page's own
script, since its points show pictures: a plotting library for it would be larger than all pictures.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lookalike.core.files import write_text
from lookalike.core.readers import read_if_good
from lookalike.core.runs import Run
from lookalike.evaluation.results import read_metrics
from lookalike.faces.dataset import read_faces
from lookalike.features.extractor import trained_extractor
from lookalike.report.panels import THUMBNAIL, Thumbnails, load_parts, make_panels
from lookalike.report.sections import (
    LEFT_OUT,
    embedding_section,
    error_tables,
    run_summary,
    score_cards,
    sweep_section,
    timeline_section,
    training_curves,
)

TEMPLATES = Path(__file__).parent / "templates"


def make_page(run: Run) -> tuple[str, int]:
    """Compose report.html.

    Returns:
        The text of the page, and the number of pictures in it.

    Raises:
        UserError: A file of the run is missing or broken, or a picture has changed.
    """
    settings = run.settings.report
    parts, thumbnails = load_parts(run), Thumbnails(run.data)
    labeled = [part for part in parts if part.query_hits is not None]
    panels = [make_panels(part, settings.report_queries, run.seed, thumbnails) for part in parts]
    space = None
    if labeled:
        extractor = trained_extractor(run)
        space = embedding_section(extractor, labeled[0], settings, run.seed, thumbnails)
    faces = read_if_good(read_faces, run.path("faces.csv"), LEFT_OUT)
    text = render(
        name=run.folder.resolve().name,
        cards=score_cards(read_metrics(run.path("metrics.json"))),
        run=run_summary(run),
        parts=panels,
        errors=[error_tables(part, faces) for part in labeled],
        space=space,
        timeline=timeline_section(run.path("timeline.csv")),
        curves=training_curves(run.path("history.csv")),
        sweep=sweep_section(settings),
        thumbnail=THUMBNAIL,
        data={"parts": panels, "map": space and space["map"], "thumbnails": thumbnails.draw()},
    )
    return text, len(thumbnails)


def render(**content: Any) -> str:
    """Fill the page's template.

    The page's policy lets the browser load nothing, and run only the page's own script, which is
    identified by its hash: names from outside can do no harm.

    Args:
        **content: The variables of the template.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{digest}'"
    return environment.get_template("report.html").render(
        script=Markup(script),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        policy=policy,
        **content,
    )


def run_report(run: Run) -> str:
    """Write report.html: the stage `report`.

    Raises:
        UserError: A file of the run is missing or broken, or a picture has changed.
    """
    text, pictures = make_page(run)
    write_text(run.path("report.html"), text)
    return f"{run.path('report.html')}: {pictures} pictures, {len(text.encode()) / 1e6:.1f} MB"
