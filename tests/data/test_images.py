"""Pictures of every kind are read alike, damaged ones are told apart, loops keep their order."""

import io
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.data.images import (
    AHEAD,
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
from tests.conftest import draw


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
