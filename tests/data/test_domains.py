"""Domains are found by any pattern in a short time, and what is wrong with one is a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from lookalike.core.errors import UserError
from lookalike.core.log import log_to
from lookalike.data.catalogue import read_catalogue
from lookalike.data.domains import domain_pattern, find_domains
from tests.data.test_catalogue import PHOTO_OR_DRAWING


def test_the_domain_is_that_of_the_group() -> None:
    paths = ["training/a/photo_1.jpg", "training/a/drawing_1.jpg", "training/a/other.jpg"]
    assert find_domains(paths, PHOTO_OR_DRAWING) == ["photo", "drawing", ""]
    assert find_domains(paths[:1], "(?P<domain>x)?photo") == [""]


def test_a_data_set_without_labeled_pictures_has_no_domains(
    competition: Path, tmp_path: Path
) -> None:
    (competition / "training").rename(tmp_path / "elsewhere")
    (competition / "training").mkdir()
    assert set(read_catalogue(competition, PHOTO_OR_DRAWING).domain) == {"query", "gallery"}


@pytest.mark.parametrize("pattern", [r"(?P<domain>(a+)+)\$", r"(?P<domain>(a|aa)+)!"])
def test_a_pattern_takes_no_longer_for_being_hostile(pattern: str) -> None:
    assert find_domains([f"training/{'a' * 200}/{'a' * 200}.jpg"], pattern) == [""]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", r"is no regular expression of RE2, .*: missing \)"),
        ("(?<=a)(?P<domain>b)", "no look-around"),
        ("(?P<domain>a{1000}){1000}", "is no regular expression of RE2"),
        ("(?P<domain>\udcff)", "is no regular expression of RE2"),
        ("photo", r"has no group \(\?P<domain>"),
        ("7", r"has no group \(\?P<domain>"),
        (7, "--domain-pattern 7 is no regular expression, which is a text"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_a_sentence(pattern: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        find_domains(["training/a/1.jpg"], pattern)


def test_letters_that_the_pattern_does_not_know_are_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_to(None)
    paths = ["training/a/pastel_1.jpg", "training/a/d\u00e9co_1.jpg"]
    assert find_domains(paths, r"(?P<domain>\w+)_1") == ["pastel", "co"]
    said = capsys.readouterr().err
    assert "1 paths have letters" in said and "d\u00e9co" in said and r"write \pL" in said
    assert find_domains(paths, r"(?P<domain>\pL+)_1") == ["pastel", "d\u00e9co"]
    assert not capsys.readouterr().err


def test_the_pattern_is_the_option_else_that_of_the_layout(tmp_path: Path) -> None:
    assert domain_pattern(None, tmp_path) is None
    layout = {"source": "demo", "seed": 0, "domain_pattern": "of the layout"}
    (tmp_path / "layout.json").write_text(json.dumps(layout))
    assert domain_pattern(None, tmp_path) == "of the layout"
    assert domain_pattern("mine", tmp_path) == "mine"


@pytest.mark.parametrize(
    "content", ["", "[]", '{"source": "demo", "domain_pattern": 7}', "[" * 9999]
)
def test_a_damaged_layout_is_reported(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    (tmp_path / "layout.json").write_text(content)
    assert domain_pattern(None, tmp_path) is None
    said = capsys.readouterr().err
    assert "warning: domains are unknown: " in said and "layout.json" in said
