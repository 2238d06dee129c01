"""The catalogue of a data set's pictures, its splits, and how a picture is read.

The catalogue is a pandas DataFrame of strings, a row a picture:

    path       relative to the data set's folder, with forward slashes: what a picture is known by
    identity   who it shows; empty in the test
    domain     photo, caricature, ...; empty where unknown; `query` or `gallery` in the test
    part       training, validation, query or gallery
    content    hash of the file's bytes
    problem    empty, or why the picture is damaged or cannot be read

A data set is only read, never written. What is wrong with it is counted and named in the log.
"""

import hashlib
import io
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps

from lookalike.core.errors import UserError
from lookalike.data.layout import PICTURE_FORMATS

TRUNCATED = "truncated"
TRAITS = ("CMYK", "palette", "transparent", "16-bit", "huge", "rotated")
ORIENTATION = 0x0112  # the EXIF tag
JPEG_END = b"\xff\xd9"
# OpenCV's ways to decode a JPEG, by what its sides are divided by.
DECODE_AT = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}

WORKERS = min(8, os.cpu_count() or 1)
# A phone's 200-megapixel photograph is a picture. Pillow refuses twice this number as a bomb, and
# warns of what is over it, which the catalogue counts as huge.
Image.MAX_IMAGE_PIXELS = 110_000_000
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


HUGE = 50_000_000  # pixels
Image.init()


FORMATS = [name for name in PICTURE_FORMATS if name in Image.OPEN]
Read = TypeVar("Read", Image.Image, np.ndarray)


def content_hash(raw: bytes) -> str:
    """What a picture's content is known by: 32 hexadecimal digits."""
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def read_picture(raw: bytes, least: int) -> Image.Image:
    """A file's picture as RGB, upright, transparent parts on white.

    least: side in pixels that is needed. A JPEG of more than twice that is decoded at a half, a
        quarter or an eighth of its size, which is many times faster.

    Raises:
        OSError, ValueError, SyntaxError: the bytes hold no picture.
    """
    image = Image.open(io.BytesIO(raw), formats=FORMATS)
    image.draft("RGB", (2 * least, 2 * least))
    return to_rgb(upright(image))


def read_pixels(raw: bytes, least: int) -> np.ndarray:
    """The same as (height, width, 3) uint8: a JPEG in less than half of the time. Raises: as there.

    The pixels are those of `read_picture` to the byte, since OpenCV decodes by the same library.
    What has to be converted or turned, or ends too early, is left to Pillow.
    """
    pixels = _decode_jpeg(raw, least)
    return np.array(read_picture(raw, least)) if pixels is None else pixels


def _decode_jpeg(raw: bytes, least: int) -> np.ndarray | None:
    """What OpenCV makes of a JPEG; None where that might not be what Pillow does."""
    image = Image.open(io.BytesIO(raw), formats=FORMATS)
    plain = image.format == "JPEG" and image.mode == "RGB" and raw.endswith(JPEG_END)
    if not plain or orientation(image) != 1:
        return None
    width = image.width
    image.draft("RGB", (2 * least, 2 * least))
    how = DECODE_AT[round(width / image.width)] | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(raw, np.uint8), how)


def read_known_picture(path: Path, content: str, least: int) -> Image.Image:
    """Reads a picture of the catalogue; see read_picture.

    Raises:
        UserError: it cannot be decoded, or the file is not the one that the catalogue knows.
    """
    return _read_known(read_picture, path, content, least)


def read_known_pixels(path: Path, content: str, least: int) -> np.ndarray:
    """The same as pixels; see read_pixels. Raises: as there."""
    return _read_known(read_pixels, path, content, least)


def _read_known(read: Callable[[bytes, int], Read], path: Path, content: str, least: int) -> Read:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} has gone since --stage split: run it again") from error
    if content_hash(raw) != content:
        raise UserError(f"{path} has changed since --stage split: run it again")
    try:
        return read(raw, least)
    except Exception as error:  # what Pillow raises for a damaged file is not documented
        raise UserError(f"{path} cannot be decoded ({error}): take it out of the data") from error


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF block says; as it is where that block is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):
        return image


def orientation(image: Image.Image) -> int:
    """How the EXIF block says that a picture lies: 1 for upright, also where it is damaged."""
    with suppress(Exception):  # a damaged block can make Pillow raise nearly anything
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as 8-bit RGB; palette and alpha are laid on white, 16 bits are scaled to 8.

    >>> to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    >>> to_rgb(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
    (255, 255, 255)
    """
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode.startswith("I"):
        gray = np.asarray(image, np.int64).clip(0, 65535) >> 8
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


@contextmanager
def truncated_pictures(allowed: bool) -> Iterator[None]:
    """Whether Pillow decodes a file that ends too early (a setting of the whole process)."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = allowed
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


class Checked(NamedTuple):
    """What a look at a file finds: its content's hash, a problem or "", and traits of note."""

    content: str
    problem: str
    traits: str = ""


def check_picture(path: Path) -> Checked:
    """Reads a file as a picture, a JPEG at an eighth of its size: that shows if all is there."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        return Checked("", f"unreadable: {error.strerror}")
    content = content_hash(raw)
    try:
        traits = " ".join(_traits(Image.open(io.BytesIO(raw), formats=FORMATS)))
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        return Checked(content, f"unreadable: {_first_line(error)}")
    try:
        read_picture(raw, 1)
    except Exception as error:
        if isinstance(error, OSError) and "truncated" in str(error):
            return Checked(content, TRUNCATED, traits)
        return Checked(content, f"unreadable: {_first_line(error)}")
    return Checked(content, "", traits)


def _traits(image: Image.Image) -> Iterator[str]:
    """What is unusual about a picture, from its header."""
    if image.mode == "CMYK":
        yield "CMYK"
    if image.mode in ("P", "PA"):
        yield "palette"
    if image.has_transparency_data:
        yield "transparent"
    if image.mode.startswith("I"):
        yield "16-bit"
    if image.width * image.height >= HUGE:
        yield "huge"
    if orientation(image) != 1:
        yield "rotated"


def _first_line(error: Exception) -> str:
    """An error's message without the buffer's address, which is another in every run."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"cannot identify image file .*", "not a picture", text)
