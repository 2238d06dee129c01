"""The faces of a data set: found once per picture ever, counted by domain, and shown to a person.

    python main.py --stage crop --run runs/faces --backbone sface

`runs/<name>/faces.csv` has a row for every picture; `crops.jpg` shows the crops, misses first.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageOps
from tabulate import tabulate

from lookalike.core.cache import FeatureCache, keys_of
from lookalike.core.files import whole_file
from lookalike.core.log import log
from lookalike.core.runs import Run
from lookalike.data.catalogue import load_catalogue, readable
from lookalike.data.images import map_images, read_known_picture
from lookalike.data.pictures import open_source, sources
from lookalike.faces.detection import (
    FOUND,
    LOOK,
    MISSED,
    RETRIES,
    SURE,
    Detector,
    find_face,
    load_detector,
)
from lookalike.faces.geometry import Crop, Face, crop_face, crop_kind, pixels_needed

ROW = 16  # numbers of a face in the cache: box, points, score, number of FOUND


def detect(pictures: pd.DataFrame, root: Path, cache: Path, detector: Detector) -> dict[str, Face]:
    """{content hash: its face} of catalogue rows; a picture is searched once ever, and cached.

    pictures: rows with `path` (below `root`) and `content` that can be read.

    Raises:
        UserError: a picture has changed or gone since the catalogue was made.
    """
    store = FeatureCache(cache, "faces", way_to_find(detector), ROW)
    keys = keys_of(pictures.content)
    _search(pictures.iloc[store.missing(keys)], root, store, detector)
    return dict(zip(pictures.content, map(_from_row, store.rows(keys)), strict=True))


def way_to_find(detector: Detector) -> dict[str, Any]:
    """All that decides which face is found in a picture: what a cache must know."""
    return {"detector": detector.name, "look": LOOK, "sure": SURE, "surest of": RETRIES}


def _search(pictures: pd.DataFrame, root: Path, store: FeatureCache, detector: Detector) -> None:
    """Finds the faces that are not cached; what is found when an error comes is kept."""
    if pictures.empty:
        return

    def search(picture: tuple[Path | np.ndarray, str]) -> np.ndarray:
        return _as_row(find_face(open_source(*picture, LOOK), detector))

    files = list(zip(sources(pictures, root), pictures.content, strict=True))
    try:
        rows = map_images(search, files, "finding faces")
        for content, row in zip(pictures.content, rows, strict=True):
            store.add(keys_of([content]), row[None])
    finally:
        store.flush()


def _as_row(face: Face) -> np.ndarray:
    return np.array([*face.box, *face.points.flat, face.score, FOUND.index(face.found)], np.float32)


def _from_row(row: np.ndarray) -> Face:
    return Face(row[:4], row[4:14].reshape(5, 2), float(row[14]), FOUND[int(row[15])])


# ---- the stage ----------------------------------------------------------------------------------


def run_crop(run: Run) -> str:
    """The stage: faces.csv and crops.jpg, where the backbone sees faces."""
    settings = run.settings.embed
    kind = crop_kind(settings)
    if kind == "none":
        for stale in ("faces.csv", "crops.jpg"):
            run.path(stale).unlink(missing_ok=True)
        return "whole pictures: no faces wanted"
    parts = [load_catalogue(run.path(name)) for name in ("training.csv", "test.csv")]
    pictures = pd.concat(parts, ignore_index=True)
    pictures = pictures[readable(pictures)]
    detector = load_detector(settings.detector, run.cache)
    found = detect(pictures, run.data, run.cache, detector)
    table = face_table(pictures, found)
    with whole_file(run.path("faces.csv")) as beside:
        table.to_csv(beside, index=False)
    with whole_file(run.path("crops.jpg")) as beside:
        crop = Crop(kind, settings.crop_margin)
        contact_sheet(pictures, found, run.data, crop).save(beside, "JPEG", quality=88)
    log.info("%s", found_rates(table))
    return f"faces in {(table.found != MISSED).sum()} of {len(table)} pictures, see crops.jpg"


def face_table(pictures: pd.DataFrame, faces: dict[str, Face]) -> pd.DataFrame:
    """A row a picture: path, domain (the part where it is unknown), how its face was found, the
    confidence, and the box in shares of the picture's width and height."""
    chosen = [faces[content] for content in pictures.content]
    boxes = np.array([face.box for face in chosen]).reshape(-1, 4).astype(float)
    return pd.DataFrame(
        {
            "path": pictures.path.to_numpy(),
            "domain": pictures.domain.where(pictures.domain != "", pictures.part).to_numpy(),
            "found": [face.found for face in chosen],
            "confidence": [round(face.score, 4) for face in chosen],
            **{name: boxes[:, i].round(4) for i, name in enumerate(BOX)},
        }
    )


BOX = ("left", "top", "width", "height")


def found_rates(table: pd.DataFrame) -> str:
    """For each domain how many faces were found, and by what."""
    rows = []
    for domain, group in table.groupby("domain", sort=True):
        counts = group.found.value_counts()
        rate = (group.found != MISSED).mean()
        rows.append([domain, len(group), *(counts.get(how, 0) for how in FOUND), f"{rate:.2%}"])
    return tabulate(rows, ["domain", "pictures", *FOUND, "found"], disable_numparse=True)


# ---- a sheet to look at -------------------------------------------------------------------------

CELL, CAPTION, COLUMNS, SHOWN = 112, 14, 6, 120


def contact_sheet(
    pictures: pd.DataFrame, faces: dict[str, Face], root: Path, crop: Crop
) -> Image.Image:
    """The 120 pictures whose faces are least certain, misses first: each with the box that was
    found, and the crop beside it."""
    doubt = [faces[content].score for content in pictures.content]
    doubtful = pictures.iloc[np.argsort(doubt, kind="stable")[:SHOWN]]
    width, height = 2 * CELL + 8, CELL + CAPTION + 6
    lines = -(-len(doubtful) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, max(1, lines) * height), "white")
    for i, (path, content) in enumerate(zip(doubtful.path, doubtful.content, strict=True)):
        face = faces[content]
        image = read_known_picture(root / path, content, pixels_needed(face, CELL))
        entry = _entry(image, face, crop)
        sheet.paste(entry, (i % COLUMNS * width, i // COLUMNS * height))
    return sheet


def _entry(image: Image.Image, face: Face, crop: Crop) -> Image.Image:
    """A picture with its face's box, the crop beside it, and how sure the detector was."""
    entry = Image.new("RGB", (2 * CELL + 4, CELL + CAPTION), "white")
    shown = ImageOps.contain(image, (CELL, CELL))
    low, high = face.box[:2] * shown.size, (face.box[:2] + face.box[2:]) * shown.size
    ImageDraw.Draw(shown).rectangle([*low, *high], outline="red", width=2)
    entry.paste(shown, ((CELL - shown.width) // 2, (CELL - shown.height) // 2))
    entry.paste(Image.fromarray(crop_face(np.array(image), face, crop, CELL)), (CELL + 4, 0))
    ImageDraw.Draw(entry).text((2, CELL), f"{face.found} {face.score:.2f}", fill="black")
    return entry
