"""Pictures of every kind are read alike, damaged ones are told apart, loops keep their order."""

import io
import os
import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from lookalike.core.errors import UserError
from lookalike.data import images
from lookalike.data.images import (
    AHEAD,
    DAMAGED,
    ORIENTATION,
    TRUNCATED,
    check_picture,
    content_hash,
    map_images,
    read_known_picture,
    read_known_pixels,
    read_picture,
    read_pixels,
    strict_decoding,
)
from tests.conftest import ROOT, draw


def jpeg(path: Path, side: int = 64) -> bytes:
    draw(path, 1, 1, side=side)
    return path.read_bytes()


def halved(path: Path) -> Path:
    """Write a JPEG that ends in the middle."""
    content = jpeg(path, side=256)
    path.write_bytes(content[: len(content) // 2])
    return path


# ---- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "I", "YCbCr"])
def test_every_mode_is_read_as_rgb(mode: str) -> None:
    image = Image.new("L", (8, 6), 255)
    image = Image.fromarray(np.full((6, 8), 65535, np.uint16)) if mode == "I;16" else image
    image = Image.fromarray(np.full((6, 8), 65535, np.int32)) if mode == "I" else image
    image = image if mode in ("I;16", "I") else image.convert(mode)
    raw = io.BytesIO()
    image.save(raw, "TIFF" if mode in ("CMYK", "YCbCr", "I") else "PNG")
    picture = read_picture(raw.getvalue(), 224)
    assert (picture.mode, picture.size) == ("RGB", (8, 6))
    assert np.asarray(picture).min() > 250, "white stays white"


def test_transparent_parts_are_white() -> None:
    raw = io.BytesIO()
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    palette.save(raw, "PNG", transparency=0)
    assert read_picture(raw.getvalue(), 224).getpixel((0, 0)) == (255, 255, 255)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def test_a_rotated_photograph_stands_upright(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=turned(6))
    assert read_picture((tmp_path / "turned.jpg").read_bytes(), 224).size == (20, 40)


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_a_damaged_exif_block_turns_nothing(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (40, 20)).save(path, exif=b"Exif\0\0garbage")
    assert check_picture(path).problem == ""
    assert read_picture(path.read_bytes(), 224).size == (40, 20)


def test_no_other_program_is_started_for_a_picture(tmp_path: Path) -> None:
    """Pillow hands EPS to Ghostscript, which would run what stands in it."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    assert check_picture(tmp_path / "a.jpg").problem == "unreadable: not a picture"


def test_a_huge_jpeg_is_decoded_no_larger_than_needed(tmp_path: Path) -> None:
    image = Image.effect_noise((4000, 3000), 60).convert("RGB")
    image.save(tmp_path / "huge.jpg")
    picture = read_picture((tmp_path / "huge.jpg").read_bytes(), 224)
    assert picture.size == (1000, 750), "the smallest eighth that is not below twice the need"


JPEGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "progressive": {"progressive": True},
    "no subsampling": {"subsampling": 0},
    "turned": {"exif": turned(6)},
    "damaged EXIF": {"exif": b"Exif\0\0garbage"},
}


@pytest.mark.parametrize("least", [1, 60, 120, 240, 1000])
@pytest.mark.parametrize("kind", [*JPEGS, "grey", "cmyk", "png", "truncated", "spoilt"])
def test_pixels_are_those_of_pillow_however_a_file_is_decoded(kind: str, least: int) -> None:
    image = Image.effect_noise((1000, 803), 90).convert("RGB")
    mode = {"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB")
    stream = io.BytesIO()
    image.convert(mode).save(stream, "PNG" if kind == "png" else "JPEG", **JPEGS.get(kind, {}))
    raw = bytearray(stream.getvalue())
    if kind == "truncated":
        del raw[len(raw) // 2 :]
    if kind == "spoilt":
        raw[5000:5040] = bytes(40)
    expected = np.asarray(read_picture(bytes(raw), least))
    assert np.array_equal(read_pixels(bytes(raw), least), expected)


@pytest.mark.parametrize("read", [read_known_picture, read_known_pixels])
def test_a_picture_of_the_catalogue_is_read_only_if_it_is_still_the_same(
    read: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    content = content_hash(jpeg(path))
    assert np.asarray(read(path, content, 64)).shape == (64, 64, 3)
    with pytest.raises(UserError, match=r"a\.jpg has changed since --stage split"):
        read(path, content_hash(b""), 64)
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.jpg cannot be decoded"):
        read(path, content_hash(b"no picture"), 64)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.jpg has gone since --stage split"):
        read(path, content, 64)


# ---- checking -----------------------------------------------------------------------------------


def test_damaged_files_are_told_apart(tmp_path: Path) -> None:
    whole = jpeg(tmp_path / "whole.jpg", side=256)
    files = {
        "truncated.jpg": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "text.jpg": b"not a picture at all",
        "head.jpg": whole[:20],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert check_picture(tmp_path / "whole.jpg").problem == ""
    assert check_picture(tmp_path / "truncated.jpg").problem == TRUNCATED
    for name in ("empty.jpg", "text.jpg", "head.jpg", "missing.jpg"):
        problem = check_picture(tmp_path / name).problem
        assert problem.startswith("unreadable: ")
        assert not re.search("0x[0-9a-f]+", problem), "an address would change in every run"


def test_a_truncated_picture_is_read_as_far_as_it_goes_and_refused_where_it_is_checked(
    tmp_path: Path,
) -> None:
    path = halved(tmp_path / "half.jpg")
    assert check_picture(path).problem == TRUNCATED
    assert read_pixels(path.read_bytes(), 256).shape == (256, 256, 3)
    with strict_decoding(), pytest.raises(OSError, match="truncated"):
        read_picture(path.read_bytes(), 256)
    assert read_picture(path.read_bytes(), 256).size == (256, 256)


def test_a_check_in_one_thread_does_not_change_what_another_reads(tmp_path: Path) -> None:
    raw = halved(tmp_path / "half.jpg").read_bytes()
    checking, done = threading.Event(), threading.Event()

    def check() -> str:
        with strict_decoding():
            checking.set()
            assert done.wait(60)
            with pytest.raises(OSError, match="truncated") as refused:
                read_picture(raw, 256)
            return str(refused.value)

    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(check)
        try:
            assert checking.wait(60)
            assert read_picture(raw, 256).size == (256, 256)
        finally:
            done.set()
        assert "truncated" in refused.result()


# ---- many of them -------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_start(number: int) -> int:
        time.sleep(0.05 * (number == 0))
        return number

    assert list(map_images(slow_start, range(200), workers=4)) == list(range(200))
    assert list(map_images(slow_start, [], "nothing")) == []


def test_only_so_many_items_are_worked_on_ahead() -> None:
    started: list[int] = []
    results = map_images(started.append, range(10 * AHEAD), ahead=5)
    for consumed in range(1, 20):
        next(results)
        assert len(started) <= consumed + 5
    results.close()
    assert len(started) <= 25, "what was not started is cancelled"


def test_an_error_comes_in_the_place_of_its_result() -> None:
    def fail_at_three(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    results = map_images(fail_at_three, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_only_a_named_loop_has_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    list(map_images(abs, [1, 2]))
    assert capsys.readouterr().err == ""
    list(map_images(abs, [1, 2], "measuring"))
    said = capsys.readouterr().err
    assert "measuring" in said and "2/2" in said and "pictures/s" in said


# ---- what stands beside the pixels --------------------------------------------------------------

ODD_TAGS = {
    "XResolution -1/0": (282, 10, struct.pack("<ii", -1, 0)),
    "XResolution 0/0": (282, 5, struct.pack("<II", 0, 0)),
    "XResolution NaN": (282, 11, struct.pack("<f", float("nan"))),
    "XResolution text": (282, 2, b"seven\0"),
    "ResolutionUnit text": (296, 2, b"inch\0"),
    "ImageWidth text": (256, 2, b"wide\0"),
    "XMP text": (700, 2, b"<x:xmpmeta/>\0"),
    "a fraction for a text": (271, 5, struct.pack("<II", 1, 3)),
    "a tag of no type": (305, 99, b"\0\0\0\0"),
}


def exif_block(*entries: tuple[int, int, bytes], orientation: int = 6) -> bytes:
    """An EXIF block, written byte by byte: entries of (tag, type, value), and an orientation."""
    sizes = {2: 1, 3: 2, 5: 8, 10: 8, 11: 4}
    rows, values = b"", b""
    table = sorted([*entries, (0x0112, 3, struct.pack("<H", orientation))])
    start = 8 + 2 + 12 * len(table) + 4
    for tag, kind, value in table:
        count = len(value) // sizes.get(kind, 1)
        if len(value) > 4:
            place, values = struct.pack("<I", start + len(values)), values + value
        else:
            place = value.ljust(4, b"\0")
        rows += struct.pack("<HHI", tag, kind, count) + place
    head = b"II*\0" + struct.pack("<IH", 8, len(table))
    return b"Exif\0\0" + head + rows + b"\0\0\0\0" + values


def halves() -> Image.Image:
    """A picture that is red above and blue below."""
    image = Image.new("RGB", (40, 60), "red")
    image.paste("blue", (0, 30, 40, 60))
    return image


def in_format(kind: str, exif: bytes) -> bytes:
    stream = io.BytesIO()
    halves().save(stream, kind, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("tag", ODD_TAGS.values(), ids=ODD_TAGS)
def test_a_picture_is_turned_whatever_stands_beside_its_orientation(
    tag: tuple[int, int, bytes], kind: str, tmp_path: Path
) -> None:
    raw = in_format(kind, exif_block(tag))
    for pixels in (np.array(read_picture(raw, 60)), read_pixels(raw, 60)):
        assert pixels.shape == (40, 60, 3), "it stands upright"
        left, right = pixels[20, 5].astype(int), pixels[20, 55].astype(int)
        assert left[2] > 200 > left[0] and right[0] > 200 > right[2], "what was below is left"
    (tmp_path / "picture").write_bytes(raw)
    checked = check_picture(tmp_path / "picture")
    assert (checked.problem, checked.traits) == ("", "rotated")


@pytest.mark.parametrize("value", [0, 1, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(value: int, tmp_path: Path) -> None:
    raw = in_format("JPEG", exif_block(orientation=value))
    assert read_picture(raw, 60).size == (40, 60)
    (tmp_path / "picture.jpg").write_bytes(raw)
    assert check_picture(tmp_path / "picture.jpg") == (content_hash(raw), "", "")


@pytest.mark.parametrize("value", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(value: int) -> None:
    raw = in_format("PNG", exif_block(orientation=value))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(raw)))
    assert np.array_equal(read_pixels(raw, 60), np.asarray(expected))


def png(*chunks: tuple[bytes, bytes], wrong_checksum: bool = False) -> bytes:
    """A PNG with chunks before its pixels."""
    stream = io.BytesIO()
    halves().save(stream, "PNG")
    whole = stream.getvalue()
    beside = b""
    for name, data in chunks:
        checksum = zlib.crc32(name + data) ^ wrong_checksum
        beside += struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)
    return whole[:33] + beside + whole[33:]  # behind the header


SIDE_CHUNKS = {
    "a text of 2 MB": png((b"tEXt", b"parameters\0" + b"x" * 2_000_000)),
    "a packed text of 2 MB": png((b"zTXt", b"a\0\0" + zlib.compress(b"x" * 2_000_000))),
    "a profile of 2 MB": png((b"iCCP", b"a\0\0" + zlib.compress(b"x" * 2_000_000))),
    "a wrong checksum in a text": png((b"tEXt", b"a\0b"), wrong_checksum=True),
    "a wrong checksum in a profile": png(
        (b"iCCP", b"a\0\0" + zlib.compress(b"x")), wrong_checksum=True
    ),
    **{
        f"a short {name.decode()}": png((name, b""))
        for name in (b"gAMA", b"pHYs", b"cHRM", b"sRGB")
    },
    "a short acTL": png((b"acTL", b"\0")),
    "a chunk of no name behind the pixels": png()[:-8] + b" IEN" + png()[-4:],
}


@pytest.mark.parametrize("raw", SIDE_CHUNKS.values(), ids=SIDE_CHUNKS)
def test_a_png_is_read_whatever_its_side_chunks_hold(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(raw)
    problem = check_picture(tmp_path / "picture.png").problem
    assert not problem or problem.startswith(DAMAGED)
    assert np.array_equal(read_pixels(raw, 60), np.asarray(halves()))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damage_in_the_middle_is_named_and_the_picture_used(kind: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, kind)
    raw = bytearray(stream.getvalue())
    middle = len(raw) // 2
    raw[middle : middle + 400] = b"\x55" * 400
    (tmp_path / "picture").write_bytes(raw)
    checked = check_picture(tmp_path / "picture")
    assert checked.problem.startswith(DAMAGED), checked.problem
    assert read_pixels(bytes(raw), 200).shape == (200, 200, 3)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floating_point_pictures_are_not_black(top: float, tmp_path: Path) -> None:
    gray = np.linspace(0, top, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(gray).save(tmp_path / "float.tif")
    pixels = read_pixels((tmp_path / "float.tif").read_bytes(), 16)
    assert np.abs(pixels[..., 0].ravel() - np.arange(256.0)).max() <= 1
    assert check_picture(tmp_path / "float.tif").traits == "float"


def test_a_bmp_whose_alpha_is_empty_is_not_white(tmp_path: Path) -> None:
    path = tmp_path / "four.bmp"
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 40, 60, 1, 32, 3, 9600, 0, 0, 0, 0) + masks
    header += b"Win " + bytes(48)
    blue_green_red = np.asarray(halves())[::-1, :, ::-1]
    pixels = np.concatenate([blue_green_red, np.zeros((60, 40, 1), np.uint8)], axis=2)
    size = 14 + len(header) + pixels.size
    file_header = b"BM" + struct.pack("<IHHI", size, 0, 0, 14 + len(header))
    path.write_bytes(file_header + header + pixels.tobytes())
    assert Image.open(path).mode == "RGBA", "or the test shows nothing"
    assert np.array_equal(read_pixels(path.read_bytes(), 60), np.asarray(halves()))
    assert "without alpha" in check_picture(path).traits


@pytest.mark.parametrize("where", ["Image.open", "simplejpeg.decode_jpeg"])
def test_too_little_memory_is_an_error_not_a_problem_of_the_picture(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "picture.jpg").write_bytes(in_format("JPEG", b""))

    def fail(*values: Any, **named: Any) -> None:
        raise MemoryError

    module, name = where.split(".")
    monkeypatch.setattr(getattr(images, module), name, fail)
    with pytest.raises(MemoryError):
        check_picture(tmp_path / "picture.jpg")


def test_threads_share_one_limit_on_pixels_in_flight() -> None:
    budget = images._PixelBudget(100)
    seen: list[int] = []
    most: list[int] = []

    def work(pixels: int) -> None:
        with budget.take(pixels):
            seen.append(pixels)
            most.append(sum(seen))
            time.sleep(0.002)
            seen.remove(pixels)

    list(map_images(work, [60, 30, 500, 60, 40, 10] * 5, workers=6))
    assert max(most) == 500, "one above the limit goes alone"
    assert max(total for total in most if total != 500) <= 100


def test_a_huge_picture_becomes_smaller_strip_by_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (900, 700, 4), np.uint8)
    gray = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)
    for image in (gray, *(Image.fromarray(pixels).convert(m) for m in ("RGB", "RGBA", "L", "P"))):
        whole = images.to_rgb(image)
        monkeypatch.setattr(images, "STRIP", 10_000)
        assert images.to_rgb(image).tobytes() == whole.tobytes(), "strips change nothing"
        monkeypatch.setattr(images, "HUGE", 1000)
        assert images.to_rgb(image, least=200).tobytes() == whole.reduce(3).tobytes()
        monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much")
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16", "L"])
def test_the_largest_pictures_take_less_than_1500_mb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    Image.new(mode, (14_800, 14_800)).save(path, compress_level=1)
    program = (
        "import re, sys; from pathlib import Path\n"
        "from lookalike.data.images import check_picture, read_pixels\n"
        "path = Path(sys.argv[1]); print(check_picture(path).problem)\n"
        "print(read_pixels(path.read_bytes(), 224).shape)\n"
        # Not ru_maxrss, which a process inherits from the one that has started it.
        "status = Path('/proc/self/status').read_text()\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1]) // 1000)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, str(path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    problem, shape, peak = result.stdout.splitlines()
    assert problem == "" and shape.endswith(", 3)")
    assert int(peak) < 1500


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100


def test_a_heic_names_the_package_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "FORMATS", [name for name in images.FORMATS if name != "HEIF"])
    (tmp_path / "a.heic").write_bytes(HEIC)
    problem = images.check_picture(tmp_path / "a.heic").problem
    assert problem == "unreadable: a HEIC picture: pip install pillow-heif"


def test_a_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif", reason="pip install pillow-heif reads HEIC")
    falling = np.linspace(240, 0, 120).astype(np.uint8)
    picture = np.tile(falling[:, None, None], (1, 80, 3))
    Image.fromarray(picture).save(tmp_path / "a.heic", quality=95)
    assert images.check_picture(tmp_path / "a.heic").problem == ""
    pixels = images.read_pixels((tmp_path / "a.heic").read_bytes(), 32)
    assert pixels.shape == picture.shape and np.abs(pixels.astype(int) - picture).mean() < 4
