"""The documents, the settings and the stages say the same."""

import re
from dataclasses import fields

from lookalike.core.settings import STAGES, Settings
from lookalike.pipeline import STAGE_LIST
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_stages_are_those_that_the_settings_know() -> None:
    assert tuple(stage.name for stage in STAGE_LIST) == STAGES
    known = Settings().flat()
    for stage in STAGE_LIST:
        assert set(stage.settings) <= set(known), stage.name


def test_every_setting_of_training_can_redo_it() -> None:
    train = next(stage for stage in STAGE_LIST if stage.name == "train")
    # Where the curves are logged to changes nothing that is learnt.
    assert {field.name for field in fields(Settings().train)} - {"log_to"} <= set(train.settings)


def test_the_readme_shows_every_dependency_and_option() -> None:
    packages = re.findall(
        r"^([a-z][\w-]+)>=", (ROOT / "requirements.txt").read_text(), re.MULTILINE
    )
    assert not [name for name in packages if f"`{name}`" not in README]
    options = ["--" + name.replace("_", "-") for name in Settings().flat()]
    assert not [option for option in options if f"`{option}`" not in README]


def test_ci_runs_the_readmes_own_test_command() -> None:
    command = re.search(r"```\n(python3 -m venv .* pytest)\n```", README)
    assert command, "the README has the test command as one line"
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
