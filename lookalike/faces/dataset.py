"""Detect the faces of a data set, each picture only once, and make the result easy to inspect.

    python main.py --stage crop --run runs/faces --backbone sface

`runs/<name>/faces.csv` has a row for every picture; `crops.jpg` shows the crops, those without a
face first.
"""

import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageOps
from tabulate import tabulate

from lookalike.core.cache import FeatureCache, keys_of
from lookalike.core.errors import UserError
from lookalike.core.files import whole_file, write_table
from lookalike.core.log import log
from lookalike.core.readers import read_table
from lookalike.core.runs import Run
from lookalike.data.catalogue import load_full_catalogue, readable
from lookalike.data.images import read_known_picture
from lookalike.data.pictures import add_rows, open_source
from lookalike.faces.detection import (
    CONFIDENT,
    FOUND,
    MISSED,
    RETRIES,
    Detector,
    find_face,
    load_detector,
)
from lookalike.faces.geometry import (
    BOX,
    Crop,
    Face,
    crop_face,
    crop_kind,
    pixels_needed,
    stack_boxes,
)

ROW = 16  # values of a face in the cache: box, points, score, index in FOUND


def detect(pictures: pd.DataFrame, root: Path, cache: Path, detector: Detector) -> dict[str, Face]:
    """Return the face that each picture is of; a picture is searched only once, and cached.

    Args:
        pictures: Readable catalogue rows; their `path` (below `root`) and `content` are used.
        root: Folder of the data set.
        cache: Folder of the cache.
        detector: The detector.

    Returns:
        {content hash: face}.

    Raises:
        UserError: A picture is gone or has changed since the catalogue was made.
    """
    store = FeatureCache(cache, "faces", detection_recipe(detector), ROW)
    rows = store.fetch(
        keys_of(pictures.content),
        lambda missing: _search(pictures.iloc[missing], root, store, detector),
    )
    return dict(zip(pictures.content, map(_from_row, rows), strict=True))


def detection_recipe(detector: Detector) -> dict[str, Any]:
    """Return all that decides which face is found in a picture: a part of the cache's keys."""
    return {
        "detector": detector.name,
        "look": detector.side,
        "sure": CONFIDENT,
        "surest of": RETRIES,
        "libraries": {name: version(name) for name in ("opencv-python-headless", "pillow")},
    }


def _search(pictures: pd.DataFrame, root: Path, store: FeatureCache, detector: Detector) -> None:
    """Add the faces of pictures to the cache; those before an error stay in it."""

    def search(source: Path | np.ndarray, content: str) -> np.ndarray:
        return _as_row(find_face(open_source(source, content, detector.side), detector))

    add_rows(store, pictures, root, search, "finding faces")


def _as_row(face: Face) -> np.ndarray:
    return np.array([*face.box, *face.points.flat, face.score, FOUND.index(face.found)], np.float32)


def _from_row(row: np.ndarray) -> Face:
    return Face(row[:4], row[4:14].reshape(5, 2), float(row[14]), FOUND[int(row[15])])


# ---- the stage ----------------------------------------------------------------------------------


def run_crop(run: Run) -> str:
    """Run the stage: write faces.csv and crops.jpg, where the backbone sees crops of faces.

    Returns:
        A line that says in how many pictures a face was found.

    Raises:
        UserError: The catalogue is missing, a picture has changed, or the detector cannot be used.
    """
    settings = run.settings.embed
    kind = crop_kind(settings)
    if kind == "none":
        for stale in ("faces.csv", "crops.jpg"):
            run.path(stale).unlink(missing_ok=True)
        return "whole pictures: faces are not needed"
    pictures = load_full_catalogue(run.folder)
    pictures = pictures[readable(pictures)]
    detector = load_detector(settings.detector, run.cache)
    found = detect(pictures, run.data, run.cache, detector)
    table = face_table(pictures, found)
    write_table(run.path("faces.csv"), table)
    with whole_file(run.path("crops.jpg")) as beside:
        crop = Crop(kind, settings.crop_margin)
        contact_sheet(pictures, found, run.data, crop).save(beside, "JPEG", quality=88)
    log.info("%s", found_rates(table))
    return f"faces in {(table.found != MISSED).sum()} of {len(table)} pictures, see crops.jpg"


def face_table(pictures: pd.DataFrame, faces: dict[str, Face]) -> pd.DataFrame:
    """Return how the face of each picture was found.

    Args:
        pictures: Catalogue rows.
        faces: {content hash: face}.

    Returns:
        One row per picture with its path, domain (its part, where that is unknown), the attempt
        that found the face, the confidence, and the box as shares of the picture's size.
    """
    chosen = [faces[content] for content in pictures.content]
    boxes = stack_boxes(chosen)
    return pd.DataFrame(
        {
            "path": pictures.path.to_numpy(),
            "domain": pictures.domain.where(pictures.domain != "", pictures.part).to_numpy(),
            "found": [face.found for face in chosen],
            "confidence": [round(face.score, 4) for face in chosen],
            **{name: boxes[:, i].round(4) for i, name in enumerate(BOX)},
        }
    )


def read_faces(path: Path) -> pd.DataFrame:
    """Read how the face of each picture was found, from faces.csv.

    Returns:
        The columns `path` and `found` of `face_table`.

    Raises:
        UserError: The file is missing or damaged.
    """
    table: pd.DataFrame = read_table(path, "--stage crop", {"path": str, "found": str})
    if table.path.duplicated().any() or not table.found.isin(FOUND).all():
        raise UserError(f"{path}: is damaged; make it anew with --stage crop")
    return table[["path", "found"]]


def found_rates(table: pd.DataFrame) -> str:
    """Return a text table: for each domain how many faces each attempt found.

    Args:
        table: What `face_table` returns.
    """
    rows = []
    for domain, group in table.groupby("domain", sort=True):
        counts = group.found.value_counts()
        rate = (group.found != MISSED).mean()
        rows.append([domain, len(group), *(counts.get(name, 0) for name in FOUND), f"{rate:.2%}"])
    return tabulate(rows, ["domain", "pictures", *FOUND, "found"], disable_numparse=True)


# ---- the contact sheet --------------------------------------------------------------------------

CELL, CAPTION = 112, 14  # pixels
COLUMNS, MAX_ENTRIES = 6, 120


def contact_sheet(
    pictures: pd.DataFrame, faces: dict[str, Face], root: Path, crop: Crop
) -> Image.Image:
    """Draw the pictures whose faces are least certain: each with its box, and the crop beside it.

    Args:
        pictures: Catalogue rows.
        faces: {content hash: face}.
        root: Folder of the data set.
        crop: What the backbone sees.

    Returns:
        At most 120 pictures, those without a face first.

    Raises:
        UserError: A picture is gone or has changed since the catalogue was made.
    """
    scores = [faces[content].score for content in pictures.content]
    doubtful = pictures.iloc[np.argsort(scores, kind="stable")[:MAX_ENTRIES]]
    width, height = 2 * CELL + 8, CELL + CAPTION + 6
    lines = math.ceil(len(doubtful) / COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, max(1, lines) * height), "white")
    for i, (path, content) in enumerate(zip(doubtful.path, doubtful.content, strict=True)):
        face = faces[content]
        image = read_known_picture(root / path, content, pixels_needed(face, CELL))
        entry = _entry(image, face, crop)
        sheet.paste(entry, (i % COLUMNS * width, i // COLUMNS * height))
    return sheet


def _entry(image: Image.Image, face: Face, crop: Crop) -> Image.Image:
    """Draw a picture with its face's box, the crop beside it, and the confidence."""
    entry = Image.new("RGB", (2 * CELL + 4, CELL + CAPTION), "white")
    small = ImageOps.contain(image, (CELL, CELL))
    low, high = face.box[:2] * small.size, (face.box[:2] + face.box[2:]) * small.size
    ImageDraw.Draw(small).rectangle([*low, *high], outline="red", width=2)
    entry.paste(small, ((CELL - small.width) // 2, (CELL - small.height) // 2))
    entry.paste(Image.fromarray(crop_face(np.array(image), face, crop, CELL)), (CELL + 4, 0))
    ImageDraw.Draw(entry).text((2, CELL), f"{face.found} {face.score:.2f}", fill="black")
    return entry
