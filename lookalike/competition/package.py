"""The participants' package: a zip of pictures that say nothing but what they show.

    write_package(Path("friday/friday.zip"), drawn, source, side=512, texts={"README.md": "..."})

Pictures are upright RGB, re-encoded as JPEG without any metadata, all of one size on their longer
side; those of the test have the same number of bytes, too. Names, order and dates in the zip tell
nothing, and the same pictures make the same bytes.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
from PIL import Image

from lookalike.core.files import whole_file
from lookalike.data.images import map_images, read_known_picture

QUALITY = 92
SHORTEST, LONGEST = 4, 65_537  # bytes of a JPEG's comment, with its marker
JFIF = 20  # bytes of the first two segments, after which a comment may stand
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
    test = drawn.name.str.startswith("test/")
    size = max((len(jpeg) for jpeg in _encoded(drawn[test], source, side, "measuring")), default=0)
    pictures = _encoded(drawn, source, side, "re-encoding")
    with whole_file(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        for name, text in texts.items():
            archive.writestr(_entry(name), text)
        for name, is_test, jpeg in zip(drawn.name, test, pictures, strict=True):
            archive.writestr(_entry(name), padded(jpeg, size + SHORTEST) if is_test else jpeg)


def _encoded(drawn: pd.DataFrame, source: Path, side: int, doing: str) -> Iterator[bytes]:
    """Yield the pictures of the package."""
    return map_images(
        lambda row: neutral_jpeg(read_known_picture(source / row[0], row[1], side), side),
        list(zip(drawn.path, drawn.content, strict=True)),
        doing,
    )


def padded(jpeg: bytes, size: int) -> bytes:
    """Return a JPEG of a given number of bytes: a comment of zeros makes up what is missing.

    Args:
        jpeg: As Pillow writes it.
        size: Bytes, at least four more than it has.
    """
    missing, comments = size - len(jpeg), b""
    while missing:
        length = min(missing, LONGEST)
        if 0 < missing - length < SHORTEST:
            length -= SHORTEST
        comments += b"\xff\xfe" + (length - 2).to_bytes(2, "big") + bytes(length - 4)
        missing -= length
    return jpeg[:JFIF] + comments + jpeg[JFIF:]


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
