"""Read picture files: decode them to upright 8-bit RGB, and check them for damage.

    pixels = read_pixels(path.read_bytes(), min_side=224)     # (height, width, 3) uint8
    checked = check_picture(path)                             # content hash, problem, traits
    sizes = list(map_images(measure, paths, "measuring"))     # in threads, with a progress bar

A file that ends too early is read as far as it goes, except by `check_picture`, which reports it.
"""

import hashlib
import io
import os
import re
import struct
import threading
import warnings
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps
from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.data.layout import PICTURE_FORMATS

TRUNCATED = "truncated"  # the problem of a picture that is used as far as it goes
TRAITS = ("CMYK", "palette", "transparent", "16-bit", "huge", "rotated")
HUGE = 50_000_000  # pixels
ORIENTATION = 0x0112  # the EXIF tag
JPEG_END = b"\xff\xd9"
WORKERS = min(8, os.cpu_count() or 1)
AHEAD = 96  # results computed before they are consumed: no waiting, little memory

# A phone's 200-megapixel photograph is a picture. Pillow refuses twice this number as a bomb, and
# warns of what is over it, which the catalogue counts as huge.
Image.MAX_IMAGE_PIXELS = 110_000_000
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
Image.init()
FORMATS = [name for name in PICTURE_FORMATS if name in Image.OPEN]

# OpenCV's ways to decode a JPEG, by what its sides are divided by.
REDUCTIONS = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class _Tolerance(threading.local):
    """Pillow's LOAD_TRUNCATED_IMAGES, decided for each thread by itself.

    Pillow asks only whether it is true. A plain boolean would be shared by all threads: one that
    checks a picture would make the others refuse what they should read as far as it goes.
    """

    tolerant = True

    def __bool__(self) -> bool:
        return self.tolerant


_tolerance = _Tolerance()
ImageFile.LOAD_TRUNCATED_IMAGES = _tolerance  # type: ignore[assignment]


@contextmanager
def strict_decoding() -> Iterator[None]:
    """Make Pillow refuse damaged files in this thread, as it does by default."""
    _tolerance.tolerant = False
    try:
        yield
    finally:
        _tolerance.tolerant = True


Item = TypeVar("Item")
Result = TypeVar("Result")


def map_images(
    function: Callable[[Item], Result],
    items: Collection[Item],
    description: str = "",
    workers: int = WORKERS,
    ahead: int = AHEAD,
) -> Generator[Result, None, None]:
    """Apply a function to many pictures in threads, with a progress bar, and yield the results.

    Threads suffice: Pillow and OpenCV release the interpreter while they decode, and threads share
    memory where processes would copy it.

    Args:
        function: Called once for each item.
        items: What it is called with, for instance paths.
        description: The label of the progress bar; without one, no bar is shown.
        workers: Number of threads.
        ahead: Items that are worked on before their results are consumed, at most.

    Yields:
        The results, in the order of the items.

    Raises:
        Exception: What the function raised, in the place of its result. What has not been started
            is cancelled then, and when the iterator is closed.

    >>> list(map_images(len, ["a", "bc", "def"]))
    [1, 2, 3]
    """
    pool = ThreadPoolExecutor(workers)
    bar = tqdm(desc=description, total=len(items), unit=" pictures", disable=not description)
    waiting: deque[Future[Result]] = deque()
    rest = iter(items)
    try:
        waiting.extend(pool.submit(function, item) for item in islice(rest, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
            bar.update()
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()


def content_hash(raw: bytes) -> str:
    """Return the hash that identifies a picture's content: 32 hexadecimal digits (BLAKE2b).

    >>> content_hash(b"")
    'cae66941d9efbd404e4d88758ea67670'
    """
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def read_picture(raw: bytes, min_side: int) -> Image.Image:
    """Decode a picture file to upright RGB, transparent parts on white.

    Args:
        raw: The file's content.
        min_side: The side in pixels that is needed. A JPEG of more than twice that is decoded at
            a half, a quarter or an eighth of its size, which is many times faster.

    Returns:
        The picture in mode RGB.

    Raises:
        OSError, ValueError, SyntaxError: The bytes hold no picture.
    """
    image = Image.open(io.BytesIO(raw), formats=FORMATS)
    image.draft("RGB", (2 * min_side, 2 * min_side))
    return to_rgb(upright(image))


def read_pixels(raw: bytes, min_side: int) -> np.ndarray:
    """Decode a picture file to an array, a JPEG in less than half of the time of `read_picture`.

    The pixels are those of `read_picture` to the byte, since OpenCV decodes by the same library.
    What has to be converted or turned, or ends too early, is left to Pillow.

    Args:
        raw: The file's content.
        min_side: The side in pixels that is needed; a larger JPEG may be decoded at a fraction of
            its size.

    Returns:
        (height, width, 3) uint8.

    Raises:
        OSError, ValueError, SyntaxError: The bytes hold no picture.
    """
    pixels = _decode_jpeg(raw, min_side)
    return np.array(read_picture(raw, min_side)) if pixels is None else pixels


def _decode_jpeg(raw: bytes, min_side: int) -> np.ndarray | None:
    """Decode a JPEG by OpenCV; return None where the result might differ from Pillow's."""
    image = Image.open(io.BytesIO(raw), formats=FORMATS)
    plain = image.format == "JPEG" and image.mode == "RGB" and raw.endswith(JPEG_END)
    if not plain or orientation(image) != 1:
        return None
    width = image.width
    image.draft("RGB", (2 * min_side, 2 * min_side))
    flags = REDUCTIONS[round(width / image.width)] | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(raw, np.uint8), flags)


def read_known_picture(path: Path, content: str, min_side: int) -> Image.Image:
    """Decode a picture of the catalogue to upright RGB, if its file is still the same.

    Args:
        path: The file.
        content: The content hash that the catalogue has for it.
        min_side: The side in pixels that is needed, see `read_picture`.

    Returns:
        The picture in mode RGB.

    Raises:
        UserError: The file is gone, has changed or cannot be decoded.
    """
    return _read_known(read_picture, path, content, min_side)


def read_known_pixels(path: Path, content: str, min_side: int) -> np.ndarray:
    """Decode a picture of the catalogue to an array, if its file is still the same.

    Args:
        path: The file.
        content: The content hash that the catalogue has for it.
        min_side: The side in pixels that is needed, see `read_pixels`.

    Returns:
        (height, width, 3) uint8.

    Raises:
        UserError: The file is gone, has changed or cannot be decoded.
    """
    return _read_known(read_pixels, path, content, min_side)


Decoded = TypeVar("Decoded", Image.Image, np.ndarray)


def _read_known(
    read: Callable[[bytes, int], Decoded], path: Path, content: str, min_side: int
) -> Decoded:
    """Read a file, compare its hash and decode it."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} has gone since --stage split: run it again") from error
    if content_hash(raw) != content:
        raise UserError(f"{path} has changed since --stage split: run it again")
    try:
        return read(raw, min_side)
    except Exception as error:  # what Pillow raises for a damaged file is not documented
        raise UserError(f"{path} cannot be decoded ({error}): take it out of the data") from error


def upright(image: Image.Image) -> Image.Image:
    """Return a picture turned as its EXIF block says; as it is where that block is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):
        return image


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a picture: 1 for upright, and where the block is damaged."""
    with suppress(Exception):  # a damaged block can make Pillow raise nearly anything
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to 8-bit RGB: transparent parts on white, 16 bits scaled to 8.

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


class Checked(NamedTuple):
    """What a check of a picture file found.

    Attributes:
        content: Content hash of the file, see `content_hash`; empty where it cannot be opened.
        problem: Empty, `truncated`, or "unreadable: " and why.
        traits: Those of TRAITS that it has, separated by spaces.
    """

    content: str
    problem: str
    traits: str = ""


def check_picture(path: Path) -> Checked:
    """Check whether a file is a whole picture, by decoding it (a JPEG at an eighth of its size).

    Args:
        path: The file; it may be missing or hold anything.

    Returns:
        The content hash, the problem if there is one, and the traits of note.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        return Checked("", f"unreadable: {error.strerror}")
    with strict_decoding():
        return _check_content(raw)


def _check_content(raw: bytes) -> Checked:
    """Check the content of a file, where decoding is strict."""
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
    """Yield those of TRAITS that a picture has, by its header."""
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
    """Return an error's message without the buffer's address, which is another in every run."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"cannot identify image file .*", "not a picture", text)
