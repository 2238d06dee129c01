"""A text on a picture is made as small as its place asks, and stays readable."""

import pytest

from lookalike.viz.drawing import SMALLEST, fitting_font


@pytest.mark.parametrize("width", [60, 100, 200])
def test_a_text_is_no_wider_than_its_place(width: int) -> None:
    font = fitting_font("Ada Lovelace", width, 40)
    assert 0.8 * width < font.getlength("Ada Lovelace") <= 1.05 * width, "hinting rounds"


def test_a_short_text_has_the_largest_size() -> None:
    assert getattr(fitting_font("Ada", 500, 20), "size", None) == 20
    assert getattr(fitting_font("", 0, 20), "size", None) == SMALLEST


def test_a_long_text_stays_readable() -> None:
    assert getattr(fitting_font("x" * 500, 20, 30), "size", None) == SMALLEST
