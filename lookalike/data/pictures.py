"""Pictures of any kind as rows of a table: files, PIL images and arrays, outside of a run.

    rows = picture_rows(["ada.jpg", Image.open("bob.png"), pixels], root=Path("data"))
    sources(rows, root=Path("data"))     # [Path("data/ada.jpg"), (H, W, 3) uint8, (H, W, 3) uint8]

A file is identified by the hash of its bytes, as in a catalogue; a picture in memory by the hash of
its pixels, which is never that of a file.
"""

import hashlib
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from lookalike.core.cache import FeatureCache, keys_of
from lookalike.core.errors import UserError
from lookalike.core.readers import read_bytes
from lookalike.data.images import content_hash, map_images, read_known_picture, upright_rgb

Picture = str | PathLike[str] | Image.Image | np.ndarray
ACCEPTED = (
    "pictures must be a DataFrame with a column `path`, or a list of paths, PIL images and "
    "(H, W, 3) uint8 arrays"
)


def picture_rows(pictures: pd.DataFrame | Iterable[Picture], root: Path) -> pd.DataFrame:
    """Return one row per picture, with what identifies it.

    Args:
        pictures: A DataFrame with `path`, and `content` where the hashes are known, for instance
            rows of a catalogue; or any number of paths, PIL images and (H, W, 3) uint8 RGB arrays.
        root: Folder that relative paths start from.

    Returns:
        The DataFrame with `content`; or a new one with `path` (empty for a picture in memory),
        `content` (its hash) and `pixels` (None for a file).

    Raises:
        UserError: A file, or a PIL image, cannot be read.
        TypeError: A picture is of another type.

    >>> picture_rows([np.zeros((2, 3, 3), np.uint8)], Path()).content.tolist()
    ['f966de69262b263fa584e1e7e345774d']
    """
    if isinstance(pictures, pd.DataFrame):
        if "path" not in pictures:
            raise TypeError(f"{ACCEPTED}, not a DataFrame with {', '.join(map(str, pictures))}")
        return (
            pictures if "content" in pictures else pictures.assign(content=_hashes(pictures, root))
        )
    if isinstance(pictures, str | PathLike) or not isinstance(pictures, Iterable):
        raise TypeError(
            f"{ACCEPTED}, not {type(pictures).__name__}; a single picture goes in a list"
        )
    loaded = [_load(picture) for picture in pictures]
    rows = pd.DataFrame(
        {
            "path": ["" if isinstance(one, np.ndarray) else str(one) for one in loaded],
            "pixels": pd.Series(
                [one if isinstance(one, np.ndarray) else None for one in loaded], dtype=object
            ),
        }
    )
    return rows.assign(content=_hashes(rows, root))


def sources(rows: pd.DataFrame, root: Path) -> list[Path | np.ndarray]:
    """Return where the pixels of each row come from: its file, or the array that holds them.

    Args:
        rows: Rows of a catalogue, or of `picture_rows`.
        root: Folder that relative paths start from.
    """
    files = [root / path for path in rows.path]
    if "pixels" not in rows:
        return list(files)
    arrays = rows.pixels
    return [a if isinstance(a, np.ndarray) else f for f, a in zip(files, arrays, strict=True)]


def open_source(source: Path | np.ndarray, content: str, min_side: int) -> Image.Image:
    """Return the picture of one of the `sources` in mode RGB.

    Args:
        source: A file or an array of pixels.
        content: The content hash of the file.
        min_side: The side in pixels that is needed; a larger JPEG may be decoded at a fraction of
            its size.

    Raises:
        UserError: The file is gone, has changed since it was hashed, or cannot be decoded.
    """
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    return read_known_picture(source, content, min_side)


def add_rows(
    store: FeatureCache,
    pictures: pd.DataFrame,
    root: Path,
    row_of: Callable[[Path | np.ndarray, str], np.ndarray],
    description: str,
) -> None:
    """Compute a row of each picture in threads and add it to a cache; an error loses none before.

    Args:
        store: The cache.
        pictures: Rows with `path` and `content`.
        root: Folder that relative paths start from.
        row_of: Returns the row of a source and its content hash.
        description: The label of the progress bar.

    Raises:
        UserError: What `row_of` raises for a picture that is gone or has changed.
    """
    files = list(zip(sources(pictures, root), pictures.content, strict=True))
    try:
        rows = map_images(lambda file: row_of(*file), files, description)
        for content, row in zip(pictures.content, rows, strict=True):
            store.add(keys_of([content]), row[None])
    finally:
        store.flush()


def _hashes(rows: pd.DataFrame, root: Path) -> list[str]:
    """Return the content hash of each row, computed in threads."""
    return list(map_images(_hash, sources(rows, root)))


def _hash(source: Path | np.ndarray) -> str:
    """Return the hash that identifies the content of a file or of an array of pixels."""
    if isinstance(source, np.ndarray):
        # `person` makes it another hash function than that of files.
        digest = hashlib.blake2b(repr(source.shape).encode(), digest_size=16, person=b"pixels")
        digest.update(source.data)
        return digest.hexdigest()
    try:
        return content_hash(read_bytes(source))
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from error


def _load(picture: Picture) -> Path | np.ndarray:
    """Return a path as a Path, and a picture in memory as (H, W, 3) uint8 RGB pixels."""
    if isinstance(picture, str | PathLike):
        return Path(picture)
    if isinstance(picture, Image.Image):
        try:
            return np.array(upright_rgb(picture))
        except Exception as error:  # Pillow opens a file lazily, and may raise nearly anything
            name = getattr(picture, "filename", "") or repr(picture)
            raise UserError(f"{name}: cannot be decoded ({error})") from error
    if not isinstance(picture, np.ndarray):
        raise TypeError(f"{ACCEPTED}, not {type(picture).__name__}")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise TypeError(f"{ACCEPTED}, not an array {picture.shape} of {picture.dtype}")
    return np.ascontiguousarray(picture)
