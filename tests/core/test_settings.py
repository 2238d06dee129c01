"""Settings: names, recipes, and the steps that training is validated by."""

import json
from pathlib import Path

from lookalike.core.config import load_settings
from lookalike.core.options import parse_settings
from lookalike.core.settings import (
    NOT_REMEMBERED,
    RENAMED,
    RetrieveSettings,
    Settings,
    recipe,
    validation_steps,
)


def test_every_setting_has_a_name_of_its_own() -> None:
    groups = vars(Settings()).values()
    assert len(Settings().flat()) == sum(len(vars(group)) for group in groups)


def test_old_names_lead_to_settings_and_are_not_used_again() -> None:
    names = Settings().flat().keys()
    assert set(RENAMED.values()) <= names and not RENAMED.keys() & names


def test_a_recipe_read_back_gives_the_same_settings(tmp_path: Path) -> None:
    words = ["--embed-dim", "64", "--domain-pattern", "-(?P<domain>a b)", "--keep-archive"]
    settings = parse_settings([*words, "--data", "some where", "--weights", "w.pth"])
    (tmp_path / "config.json").write_text(json.dumps(recipe(settings)))
    assert load_settings(tmp_path / "config.json") == settings


def test_a_recipe_holds_no_secret_and_no_command() -> None:
    words = ["--url", "https://me:secret@example.org", "--group", "us", "--stage", "split"]
    assert not recipe(parse_settings(words)).keys() & set(NOT_REMEMBERED)


def test_training_is_validated_by_the_steps_that_need_no_fitted_embedding() -> None:
    settings = RetrieveSettings(center=True, whiten=8, index="hnsw", format="csv", local_weight=0.5)
    assert validation_steps(settings) == RetrieveSettings(center=True)
