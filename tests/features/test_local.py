from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.data.pictures import picture_rows
from lookalike.features import local
from lookalike.features.local import (
    find_points,
    local_points,
    search_points,
    unsearched,
)


def texture(seed: int, size: int = 96) -> np.ndarray:
    """Return a picture of soft spots, (size, size, 3) uint8."""
    spots = np.random.default_rng(seed).integers(0, 256, (size // 8, size // 8, 3), np.uint8)
    return np.array(Image.fromarray(spots).resize((size, size), Image.Resampling.BICUBIC))


def test_points_have_a_place_a_size_and_a_direction() -> None:
    descriptors, places = find_points(texture(0))
    assert descriptors.shape == (len(places), 128) and descriptors.dtype == np.uint8
    assert 10 < len(places) <= local.MOST
    assert places[:, :2].min() >= 0 and places[:, :2].max() <= 1
    assert (np.diff(places[:, 2]) <= 0).all(), "the largest come first"
    assert places[:, 3].min() >= 0 and places[:, 3].max() <= 360


def test_a_large_picture_is_searched_at_the_size_of_a_small_one() -> None:
    small = np.array(Image.fromarray(texture(0)).resize((384, 384), Image.Resampling.BICUBIC))
    large = np.array(Image.fromarray(texture(0)).resize((1536, 1536), Image.Resampling.BICUBIC))
    (_, one), (_, other) = find_points(small), find_points(large)
    assert abs(len(one) - len(other)) < 0.2 * len(one)
    assert np.allclose(np.median(one[:, :3], axis=0), np.median(other[:, :3], axis=0), atol=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (1, 500), (5, 2000)])
def test_a_picture_too_small_for_points_has_none(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    descriptors, places = find_points(pixels)
    assert descriptors.shape == (0, 128) and places.shape == (0, 4)


def test_of_many_points_the_largest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptors, places = find_points(texture(1))
    monkeypatch.setattr(local, "MOST", 5)
    few, where = find_points(texture(1))
    assert np.array_equal(few, descriptors[:5]) and np.array_equal(where, places[:5])


def test_points_are_cached_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = np.full((40, 30, 3), 128, np.uint8)
    rows = picture_rows([texture(0), flat, texture(2)], tmp_path)
    assert len(unsearched(rows, tmp_path)) == 3
    points = local_points(rows, tmp_path, tmp_path)
    assert len(unsearched(rows, tmp_path)) == 0
    assert set(points.owners) == {0, 2}, "a picture of one color has no points"
    assert np.allclose(np.linalg.norm(points.descriptors, axis=1), 1, atol=1e-6)
    descriptors, places = find_points(texture(2))
    last = points.descriptors[points.owners == 2]
    assert np.array_equal(points.places[points.owners == 2], places) and points.pictures == 3
    assert np.allclose(last**2 * descriptors.sum(1, keepdims=True), descriptors, atol=1)

    monkeypatch.setattr(local, "find_points", lambda pixels: pytest.fail("searched again"))
    again = local_points(rows.iloc[[2, 0]], tmp_path, tmp_path)
    assert np.array_equal(again.descriptors[again.owners == 0], last)
    search_points(rows, tmp_path, tmp_path)


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    Image.fromarray(texture(0)).save(tmp_path / "a.png")
    rows = picture_rows(["a.png"], tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"a\.png"):
        local_points(rows, tmp_path, tmp_path / "cache")
