"""Augmented views are other pictures, the same ones again, and as wild as they are said to be."""

from typing import get_args

import numpy as np
import pytest

from lookalike.core.settings import Augmentation
from lookalike.features.augmentation import augment, jitter, random_crop, strong

KINDS = get_args(Augmentation)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(60, 40, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_is_another_picture_and_the_same_again(
    pixels: np.ndarray, kind: Augmentation
) -> None:
    before = pixels.copy()
    one, again, other = (augment(pixels, np.random.default_rng(n), kind) for n in (1, 1, 2))
    assert one.tobytes() == again.tobytes() != other.tobytes()
    assert one.dtype == np.uint8 and np.array_equal(pixels, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 50, 3), (3, 2, 3)])
def test_the_smallest_pictures_have_views(shape: tuple[int, ...], kind: Augmentation) -> None:
    pixels = np.full(shape, 200, np.uint8)
    for seed in range(20):
        view = augment(pixels, np.random.default_rng(seed), kind)
        assert view.ndim == 3 and min(view.shape) > 0


def test_a_part_keeps_a_share_of_the_area_and_its_place(pixels: np.ndarray) -> None:
    numbered = np.arange(60 * 40).reshape(60, 40, 1)
    shares = []
    for seed in range(200):
        part = random_crop(numbered, np.random.default_rng(seed))
        top, left = divmod(int(part[0, 0, 0]), 40)
        rows, columns = part.shape[:2]
        assert np.array_equal(part, numbered[top : top + rows, left : left + columns])
        shares.append(part.size / numbered.size)
    assert 0.25 < min(shares) < 0.4 and 0.9 < max(shares) <= 1


def test_strong_views_turn_hues_and_some_are_grey() -> None:
    red = np.full((32, 32, 3), (200, 40, 40), np.uint8)
    views = [strong(red, np.random.default_rng(seed)) for seed in range(200)]
    gray = [view for view in views if np.ptp(view.astype(int), axis=2).max() <= 1]
    assert 20 < len(gray) < 80, "a fifth"
    colors = np.array([view.mean((0, 1)) for view in views])
    assert (colors[:, 1] > colors[:, 2] + 5).any() and (colors[:, 2] > colors[:, 1] + 5).any()


def test_jitter_stays_within_a_picture(pixels: np.ndarray) -> None:
    for seed in range(20):
        view = jitter(pixels.astype(np.float32) / 255, np.random.default_rng(seed))
        assert view.dtype == np.float32 and view.min() >= 0 and view.max() <= 1
