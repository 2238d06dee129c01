"""Pasted pictures: where a thing is said to be, it is."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.data.images import content_hash
from lookalike.faces.boxes import Boxed
from lookalike.faces.grid import SIDE
from lookalike.training.pasting import MOST, paste
from tests.faces.pictures import red_square


@pytest.fixture
def pictures(tmp_path: Path) -> list[Boxed]:
    """A red square on white, whose box is known, and a white picture."""
    red_square().save(tmp_path / "square.png")
    Image.new("RGB", (90, 200), "white").save(tmp_path / "empty.png")
    contents = [content_hash((tmp_path / n).read_bytes()) for n in ("square.png", "empty.png")]
    return [
        Boxed(tmp_path / "square.png", contents[0], np.array([[0.3, 0.25, 0.3, 0.375]])),
        Boxed(tmp_path / "empty.png", contents[1], np.zeros((0, 4))),
    ]


def redness(pixels: np.ndarray) -> np.ndarray:
    """Which pixels are those of the square, however bright: red, and neither green nor blue."""
    red, green, blue = pixels.astype(int).transpose(2, 0, 1)
    return (red > green + 40) & (abs(green - blue) < 30)


@pytest.mark.parametrize("whole", [0.0, 1.0])
def test_every_box_holds_its_square_and_nothing_covers_it(
    pictures: list[Boxed], whole: float
) -> None:
    counts = []
    for seed in range(30):
        pixels, boxes = paste(pictures, np.random.default_rng(seed), whole)
        assert pixels.shape == (SIDE, SIDE, 3) and pixels.dtype == np.uint8
        assert 1 <= len(boxes) <= MOST
        assert (boxes[:, :2] >= -1).all() and (boxes[:, :2] + boxes[:, 2:] <= SIDE + 1).all()
        for box in boxes:
            low, high = np.ceil(box[:2] + 1).astype(int), (box[:2] + box[2:] - 1).astype(int)
            inner = redness(pixels)[low[1] : high[1], low[0] : high[0]]
            assert inner.mean() > 0.9, (seed, box)
        counts.append(len(boxes))
    assert set(counts) == {1} if whole else len(set(counts)) > 3


def test_the_same_seed_pastes_the_same(pictures: list[Boxed]) -> None:
    one, other = (paste(pictures, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def test_a_square_that_fills_its_picture_leaves_no_piece_without_one(tmp_path: Path) -> None:
    Image.new("RGB", (50, 50), "red").save(tmp_path / "full.png")
    content = content_hash((tmp_path / "full.png").read_bytes())
    full = [Boxed(tmp_path / "full.png", content, np.array([[0.0, 0.0, 1.0, 1.0]]))]
    for seed in range(5):
        _, boxes = paste(full, np.random.default_rng(seed))
        assert len(boxes)
