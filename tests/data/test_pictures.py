"""Pictures of any kind are known by their content, and what is no picture is refused."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.data.images import ORIENTATION, content_hash
from lookalike.data.pictures import open_source, picture_rows, sources

PIXELS = np.random.default_rng(0).integers(256, size=(4, 6, 3)).astype(np.uint8)


def hashes(*pictures: object, root: Path = Path()) -> list[str]:
    return list(picture_rows(pictures, root).content)  # type: ignore[arg-type]


def test_a_file_is_known_by_its_bytes_and_an_image_by_its_pixels(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "one.png")
    file, absolute, image, array = hashes(
        "one.png", tmp_path / "one.png", Image.open(tmp_path / "one.png"), PIXELS, root=tmp_path
    )
    assert file == absolute == content_hash((tmp_path / "one.png").read_bytes())
    assert image == array != file


def test_the_shape_of_an_array_counts_and_its_layout_does_not() -> None:
    turned = PIXELS.reshape(6, 4, 3)
    fortran = np.asfortranarray(PIXELS)
    one, other, same = hashes(PIXELS, turned, fortran)
    assert one == same != other
    # The bytes alone would be a file that anybody can write.
    assert one not in (
        content_hash(PIXELS.tobytes()),
        content_hash(b"(4, 6, 3)" + PIXELS.tobytes()),
    )


def test_an_image_is_taken_upright_and_as_rgb() -> None:
    image = Image.fromarray(PIXELS)
    image.getexif()[ORIENTATION] = 3  # upside down
    gray = Image.fromarray(PIXELS[..., 0])
    rows = picture_rows([image, gray], Path())
    turned, flat = map(np.asarray, sources(rows, Path()))
    assert np.array_equal(turned, PIXELS[::-1, ::-1])
    assert np.array_equal(flat, np.repeat(PIXELS[..., :1], 3, axis=2))


def test_rows_of_a_catalogue_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    known = pd.DataFrame({"path": ["a"], "content": ["from the catalogue"]})
    assert picture_rows(known, tmp_path) is known
    computed = picture_rows(known[["path"]], tmp_path)
    assert computed.content.tolist() == [content_hash(b"a")]
    assert sources(computed, tmp_path) == [tmp_path / "a"]


def test_a_source_opens_as_a_picture(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "one.png")
    rows = picture_rows(["one.png", PIXELS], tmp_path)
    for source, content in zip(sources(rows, tmp_path), rows.content, strict=True):
        assert np.array_equal(np.array(open_source(source, content, 4)), PIXELS)


@pytest.mark.parametrize(
    "pictures",
    [
        "one.png",
        Path("one.png"),
        Image.fromarray(PIXELS),
        PIXELS,
        7,
        [7],
        [PIXELS.astype(np.float32)],
        [PIXELS[..., 0]],
        [PIXELS[:0]],
        pd.DataFrame({"file": ["one.png"]}),
    ],
)
def test_what_is_no_list_of_pictures_is_a_type_error(pictures: object) -> None:
    with pytest.raises(TypeError, match="pictures must be a DataFrame with a column `path`, or"):
        picture_rows(pictures, Path())  # type: ignore[arg-type]


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as closed:
        pass
    with pytest.raises(UserError, match=r"one\.png: cannot be decoded"):
        picture_rows([closed], tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("nowhere.png", "pipe.png"):
        with pytest.raises(UserError, match=rf"{name}: cannot be read"):
            picture_rows([name], tmp_path)
