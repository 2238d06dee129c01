"""Read picture files: decode them to upright 8-bit RGB, and check them for damage.

    pixels = read_pixels(path.read_bytes(), min_side=224)     # (height, width, 3) uint8
    checked = check_picture(path)                             # content hash, problem, traits
    sizes = list(map_images(measure, paths, "measuring"))     # in threads, with a progress bar

A damaged file is read as far as that goes; `check_picture` says what is wrong with it. Decoding
takes at most 1.5 GB, whatever the picture and the number of threads: the pixels that all threads
have in flight are limited together, and a very large picture is converted strip by strip.
"""

import hashlib
import io
import os
import re
import threading
import warnings
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageFile, PngImagePlugin
from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.core.readers import read_bytes
from lookalike.data.layout import PICTURE_FORMATS

TRUNCATED = "truncated"  # the problem of a picture that is used as far as it goes
DAMAGED = "damaged: "  # how the problem of another picture begins that is used
UNREADABLE = "unreadable: "  # how the problem of a picture begins that cannot be used
TRAITS = ("CMYK", "palette", "transparent", "without alpha", "16-bit", "float", "huge", "rotated")
HUGE = 50_000_000  # pixels
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # orientations that change width and height
JPEG_END = b"\xff\xd9"
WORKERS = min(8, os.cpu_count() or 1)
AHEAD = 96  # results computed before they are consumed: no waiting, little memory

# A phone's 200-megapixel photograph is a picture. Pillow refuses twice this number as a bomb, and
# warns of what is over it, which the catalogue counts as huge.
Image.MAX_IMAGE_PIXELS = 110_000_000
# Decoders that hold a picture several times take up to 16 bytes for a pixel.
LEAN_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "TIFF", "PPM")
MOST_PIXELS = 90_000_000  # of a picture in another format
STRIP = 4_000_000  # pixels that are converted at once
# Renderers write their whole recipe into a PNG; Pillow would refuse the picture for it.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 64 << 20
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
Image.init()
FORMATS = [name for name in PICTURE_FORMATS if name in Image.OPEN]

HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")

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


class _PixelBudget:
    """A limit on the pixels that all threads decode at the same time."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self._free = threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for so many pixels; a picture above the limit goes alone."""
        with self._free:
            self._free.wait_for(lambda: not self._taken or self._taken + pixels <= self._most)
            self._taken += pixels
        try:
            yield
        finally:
            with self._free:
                self._taken -= pixels
                self._free.notify_all()


_in_flight = _PixelBudget(110_000_000)

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
    try:
        return _read_picture(raw, min_side)
    except MemoryError:
        raise
    except Exception:
        if not _tolerance:
            raise
        # Only a tolerant Pillow stumbles over what comes behind the pixels of a PNG.
        with strict_decoding():
            return _read_picture(raw, min_side)


def _read_picture(raw: bytes, min_side: int) -> Image.Image:
    """Decode a picture file as `read_picture` does, in Pillow's present tolerance."""
    image = _open(raw)
    whole = image.width * image.height
    image.draft("RGB", (2 * min_side, 2 * min_side))
    # A progressive JPEG is held as a whole, at whatever size it is decoded.
    pixels = whole if image.info.get("progressive") else image.width * image.height
    with _in_flight.take(pixels):
        return upright_rgb(image, least=2 * min_side)


def _open(raw: bytes) -> Image.Image:
    """Open a picture file, which reads only its header."""
    image = Image.open(io.BytesIO(raw), formats=FORMATS)
    if image.format not in LEAN_FORMATS and image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} × {image.height} pixels are too many for {image.format}")
    return image


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
    image = _open(raw)
    plain = image.format == "JPEG" and image.mode == "RGB" and raw.endswith(JPEG_END)
    if not plain or orientation(image) != 1:
        return None
    width = image.width
    image.draft("RGB", (2 * min_side, 2 * min_side))
    flags = REDUCTIONS[round(width / image.width)] | cv2.IMREAD_IGNORE_ORIENTATION
    with _in_flight.take(image.width * image.height):
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
        raw = read_bytes(path)
    except OSError as error:
        raise UserError(f"{path} has gone since --stage split: run it again") from error
    if content_hash(raw) != content:
        raise UserError(f"{path} has changed since --stage split: run it again")
    try:
        return read(raw, min_side)
    except MemoryError as error:
        raise MemoryError(f"not enough memory to decode {path}") from error
    except Exception as error:  # what Pillow raises for a damaged file is not documented
        raise UserError(f"{path} cannot be decoded ({error}): take it out of the data") from error


def upright_rgb(image: Image.Image, least: int | None = None) -> Image.Image:
    """Return a picture in RGB, turned as its EXIF block says; for the arguments see `to_rgb`."""
    image.load()
    turn = TURNS.get(orientation(image))
    image = to_rgb(image, least)
    return image if turn is None else image.transpose(turn)


def upright_size(raw: bytes) -> tuple[int, int]:
    """Return the width and height of a picture file as it is shown, by its header alone."""
    image = _open(raw)
    width, height = image.size
    return (height, width) if orientation(image) in SIDEWAYS else (width, height)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a picture, 1 to 8; 1 for upright, and for what is neither.

    Only this tag is read: what else stands in the block may be damaged.
    """
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises nearly anything for a damaged block or XMP
        value = _stored_orientation(image)
    return value if isinstance(value, int) and value in TURNS else 1


def _stored_orientation(image: Image.Image) -> Any:
    """Return the orientation of the EXIF block alone, where Pillow fails on what stands beside."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return exif.get(ORIENTATION, 1)
    except Exception:
        return 1


def to_rgb(image: Image.Image, least: int | None = None) -> Image.Image:
    """Convert a picture of any mode to 8-bit RGB: transparent parts on white, 16 bits scaled to 8.

    Values of a floating-point picture are from 0 to 1, or from 0 to 255 where any is above 1.

    Args:
        image: The picture.
        least: The shorter side in pixels that is needed at least: a huge picture may be made
            smaller by a whole factor. None: it stays as large as it is.

    >>> to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    >>> to_rgb(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
    (255, 255, 255)
    """
    image.load()
    width, height = image.size
    factor = 1
    if least is not None and width * height >= HUGE:
        factor = max(1, min(width // least, height // least, STRIP // width))
    if factor == 1 and image.mode == "RGB":
        return image
    convert = _conversion(image)
    rows = max(1, STRIP // width // factor) * factor
    if rows >= height:
        return convert(image).reduce(factor)
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        small.paste(convert(strip).reduce(factor), (0, top // factor))
    return small


def _conversion(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return the function that converts a picture, or a strip of it, to RGB."""
    if image.mode.startswith("I"):
        return _from_16_bits
    if image.mode == "F":
        return partial(_from_floats, scale=255 if np.nanmax(np.asarray(image)) <= 1 else 1)
    if _is_without_alpha(image):
        return lambda strip: Image.merge("RGB", strip.split()[:3])
    if image.has_transparency_data:
        return _on_white
    return lambda strip: strip.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Convert gray of 16 bits, or what fits into them, to RGB."""
    gray = np.clip(np.asarray(image), 0, 65535) >> 8
    return Image.fromarray(gray.astype(np.uint8)).convert("RGB")


def _from_floats(image: Image.Image, scale: int) -> Image.Image:
    """Convert floating-point gray to RGB, in Pillow's own way where it is not scaled."""
    if scale > 1:
        gray = np.nan_to_num(np.asarray(image) * scale).clip(0, 255)
        image = Image.fromarray(gray.round().astype(np.uint8))
    return image.convert("RGB")


def _is_without_alpha(image: Image.Image) -> bool:
    """Return whether a BMP's fourth channel is empty: many programs do not fill it in."""
    return image.format == "BMP" and image.mode == "RGBA" and not image.getchannel("A").getbbox()


def _on_white(image: Image.Image) -> Image.Image:
    """Convert a picture with transparent parts to RGB, on white."""
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


class Checked(NamedTuple):
    """What a check of a picture file found.

    Attributes:
        content: Content hash of the file, see `content_hash`; empty where it cannot be opened.
        problem: Empty; `truncated`, or "damaged: " and why, of a picture that is used as far as it
            goes; or "unreadable: " and why.
        traits: Those of TRAITS that it has, separated by commas.
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

    Raises:
        MemoryError: There is too little memory to decode it, which says nothing about the picture.
    """
    try:
        raw = read_bytes(path)
    except OSError as error:
        return Checked("", UNREADABLE + (error.strerror or str(error)))
    content = content_hash(raw)
    try:
        with strict_decoding():
            return Checked(content, "", _decode_strictly(raw))
    except MemoryError:
        raise
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        wrong = _first_line(error)
    try:
        image = _open(raw)
        traits = ",".join(_traits(image))
        read_picture(raw, 1)
    except MemoryError:
        raise
    except Exception as error:
        return Checked(content, UNREADABLE + (_missing_decoder(raw) or _first_line(error)))
    is_cut = re.search("file is truncated|premature end of jpeg file", wrong.lower())
    return Checked(content, TRUNCATED if is_cut else DAMAGED + wrong, traits)


def _decode_strictly(raw: bytes) -> str:
    """Decode a file where everything that is wrong raises an error; return the traits."""
    image = _open(raw)
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        # Pillow and OpenCV do not pass on what libjpeg says of damaged data.
        with _in_flight.take(image.width * image.height // 64):
            simplejpeg.decode_jpeg(raw, min_height=1, min_width=1, min_factor=1, strict=True)
    else:
        read_picture(raw, 1)
    return ",".join(_traits(image))


def _traits(image: Image.Image) -> Iterator[str]:
    """Yield those of TRAITS that a picture has, by its header."""
    if image.mode == "CMYK":
        yield "CMYK"
    if image.mode in ("P", "PA"):
        yield "palette"
    if image.has_transparency_data:
        yield "transparent"
    if _is_without_alpha(image):
        yield "without alpha"
    if image.mode.startswith("I"):
        yield "16-bit"
    if image.mode == "F":
        yield "float"
    if image.width * image.height >= HUGE:
        yield "huge"
    if orientation(image) != 1:
        yield "rotated"


def _missing_decoder(raw: bytes) -> str:
    """Say what reads a file that Pillow alone does not; empty where nothing is known to."""
    is_heif = raw[4:8] == b"ftyp" and raw[8:12] in HEIF_BRANDS
    return "a HEIC picture: pip install pillow-heif" if is_heif and "HEIF" not in FORMATS else ""


def _first_line(error: Exception) -> str:
    """Return an error's message without the buffer's address, which is another in every run."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"cannot identify image file .*", "not a picture", text)
