"""The participants' package: a zip of pictures that say nothing but what they show.

    write_package(Path("friday/friday.zip"), drawn, source, side=512, texts={"README.md": "..."})

Pictures are upright RGB, re-encoded as JPEG without any metadata, all of one size on their longer
side. Names, order and dates in the zip tell nothing, and the same pictures make the same bytes.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from PIL import Image

from lookalike.core.files import whole_file
from lookalike.data.images import map_images, read_known_picture

QUALITY = 92
DATE = (1980, 1, 1, 0, 0, 0)  # of everything in the zip


def write_package(
    path: Path, drawn: pd.DataFrame, source: Path, side: int, texts: Mapping[str, str]
) -> None:
    """Write the zip.

    Args:
        path: Of the zip.
        drawn: Rows with `path` (below `source`), `content` and `name` (in the zip).
        source: Folder of the pictures.
        side: Longer side of all pictures in pixels.
        texts: Further files, {name: text}.

    Raises:
        UserError: A picture is gone or has changed.
    """
    rows = list(zip(drawn.path, drawn.content, strict=True))
    pictures = map_images(
        lambda row: neutral_jpeg(read_known_picture(source / row[0], row[1], side), side),
        rows,
        "re-encoding",
    )
    with whole_file(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        for name, text in texts.items():
            archive.writestr(_entry(name), text)
        for name, jpeg in zip(drawn.name, pictures, strict=True):
            archive.writestr(_entry(name), jpeg)


def neutral_jpeg(image: Image.Image, side: int) -> bytes:
    """Return a picture as a JPEG without metadata, its longer side `side` pixels."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    pixels = image.resize((width, height), Image.Resampling.LANCZOS)
    plain = Image.frombytes("RGB", pixels.size, pixels.tobytes())  # nothing but pixels
    buffer = io.BytesIO()
    plain.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    """Return what the zip says of a file: its name, and the same date of all."""
    entry = zipfile.ZipInfo(name, DATE)
    entry.external_attr = 0o644 << 16
    return entry
