"""The command line: the layers under it, what it refuses, old names and flags."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lookalike.core.errors import UserError
from lookalike.core.options import announce, first_look, parse, parse_settings
from lookalike.core.settings import RENAMED, EmbedSettings, Settings


def test_the_command_line_wins_over_the_config_file_over_what_is_inherited(tmp_path: Path) -> None:
    config = tmp_path / "recipe.toml"
    config.write_text("lr = 0.25\nepochs = 5\n")
    words = ["--config", str(config), "--lr", "0.125", "--stage", "split", "train"]
    inherited = {"lr": 0.5, "epochs": 7, "seed": 1}
    settings = parse_settings(words, lambda named: inherited)
    assert (settings.train.lr, settings.train.epochs, settings.general.seed) == (0.125, 5, 1)
    assert settings.general.stage == ("split", "train")


def test_what_is_inherited_depends_on_config_file_and_command_line(tmp_path: Path) -> None:
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps({"run": "runs/a", "data": "data/a", "lr": 0.5}))
    seen: list[dict[str, Any]] = []
    words = ["--config", str(config), "--run", "runs/b", "--ensemble", "x", "y", "--epochs", "9"]
    parse_settings(words, lambda named: seen.append(named) or {})  # type: ignore[func-returns-value]
    expected = {"run": "runs/b", "data": "data/a", "lr": 0.5, "ensemble": ["x", "y"]}
    assert seen == [expected]


def test_the_first_look_leaves_mistakes_to_the_parser() -> None:
    assert first_look(["--run", "--lr", "1"]) == {}
    assert first_look(["--source_path=a", "--data", "None"]) == {"source_path": "a"}


def test_none_takes_an_inherited_setting_back() -> None:
    table = {"embed_dim": 8, "labels": "l.json", "weights": "w"}
    words = ["--embed-dim", "None", "--labels", "None", "--weights", "None"]
    settings = parse_settings(words, lambda named: table)
    assert settings.train.embed_dim is None and settings.evaluate.labels is None
    assert settings.embed.weights is None


def test_inherited_flags_can_be_repeated_and_switched_off() -> None:
    for words, expected in (([], True), (["--center"], True), (["--no-center"], False)):
        settings = parse_settings(words, lambda named: {"center": True})
        assert settings.retrieve.center is expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--backbon", "resnet50"], "--backbone"),
        (["--stage", "retrive"], "retrieve"),
        (["--lr", "fast"], "--lr"),
        (["--source", "ftp"], "competition"),
    ],
)
def test_an_unknown_option_or_value_exits_2_and_names_the_known(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_settings(words)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_help_needs_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_settings(["--config", "nowhere.json", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in Settings().flat():
        assert f"--{name.replace('_', '-')} " in text or f"--{name.replace('_', '-')}," in text
    assert "Interval" not in text


def test_old_options_are_read_and_the_new_ones_said(caplog: pytest.LogCaptureFixture) -> None:
    words = "--side 160 --train_side=128 --unfreeze all --batches pk --per-person 2 --clip 1"
    settings = parse_settings(words.split())
    assert settings.embed.image_size == 160 and settings.train.train_image_size == 128
    assert settings.train.samples_per_class == 2 and settings.train.clip_grad_norm == 1
    assert "warning: --side is now called --image-size" in caplog.messages
    assert len(caplog.messages) == 5, "each is said once"


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_every_old_option_sets_its_new_one(old: str, new: str) -> None:
    value = {"sampler": "pk"}.get(new, "1" if "neighbors" in new else "64")
    words = [f"--{old.replace('_', '-')}={value}", "--unfreeze=all"]
    assert str(parse_settings(words).flat()[new]) in (value, f"{value}.0")


def test_other_commands_read_old_options_too() -> None:
    assert parse(["--side", "64"], "example", EmbedSettings).image_size == 64


@dataclass
class Command:
    quick: bool = False


def test_a_command_without_loaded_settings_has_flags_without_opposites() -> None:
    assert parse(["--quick"], "example", Command).quick
    with pytest.raises(SystemExit):
        parse(["--no-quick"], "example", Command)


def test_a_config_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text('{"lr": 0}')
    with pytest.raises(UserError, match="--lr 0"):
        parse_settings(["--config", str(path)])
    path.write_text('{"lr": "0.1"}')
    with pytest.raises(UserError, match=r"recipe\.json: lr cannot be '0\.1'"):
        parse_settings(["--config", str(path)])


def test_settings_and_defaults_are_announced_without_secrets() -> None:
    said, defaults = announce(
        parse_settings(["--lr", "0.5", "--url", "https://me:secret@example.org/x?token=1"])
    )
    assert "lr=0.5" in said and ", lr=" not in defaults
    assert "backbone=efficientnet_lite0" in defaults
    assert "https://example.org/x" in said and "secret" not in said and "token" not in said
