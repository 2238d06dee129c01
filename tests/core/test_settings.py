"""Settings: one parser for command line and config file, and mistakes that name the remedy."""

import json
from pathlib import Path

import pytest

from lookalike.core.errors import UserError
from lookalike.core.options import announce, parse_settings
from lookalike.core.settings import Settings, recipe


def test_command_line_wins_over_config_file_wins_over_remembered(tmp_path: Path) -> None:
    remembered, config = tmp_path / "config.json", tmp_path / "recipe.toml"
    remembered.write_text(json.dumps({"lr": 0.5, "epochs": 7, "seed": 1}))
    config.write_text("lr = 0.25\nepochs = 5\n")
    words = ["--config", str(config), "--lr", "0.125", "--stage", "split", "train"]
    settings = parse_settings(words, remembered)
    assert (settings.train.lr, settings.train.epochs, settings.general.seed) == (0.125, 5, 1)
    assert settings.general.stage == ("split", "train")


def test_a_recipe_read_back_gives_the_same_settings(tmp_path: Path) -> None:
    words = ["--embed-dim", "64", "--domain-pattern", "-(?P<domain>a b)", "--keep-archive"]
    settings = parse_settings([*words, "--data", "some where", "--weights", "w.pth"])
    (tmp_path / "config.json").write_text(json.dumps(recipe(settings)))
    again = parse_settings(["--config", str(tmp_path / "config.json")])
    assert recipe(again) == recipe(settings)


def test_none_takes_a_remembered_setting_back(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"embed_dim": 8, "labels": "l.json", "weights": "w"}')
    words = ["--embed-dim", "None", "--labels", "None", "--weights", "None"]
    settings = parse_settings(words, tmp_path / "config.json")
    assert settings.train.embed_dim is None and settings.evaluate.labels is None
    assert settings.embed.weights is None


def test_every_setting_has_a_name_of_its_own() -> None:
    groups = vars(Settings()).values()
    assert len(Settings().flat()) == sum(len(vars(group)) for group in groups)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"lrr": 1}', "unknown setting 'lrr'; did you mean 'lr'"),
        ('{"back-bone": 1}', "did you mean 'backbone'"),
        ("[1]", "must hold a table"),
        ('{"lr": false}', "lr cannot be False"),
        ('{"force": "yes"}', "force cannot be 'yes'"),
        ('{"labels": ["a"]}', "labels cannot be ['a']"),
        ('{"config": "other.json"}', "unknown setting 'config'"),
        ("{", "not valid JSON"),
    ],
)
def test_a_bad_config_file_says_what_is_wrong(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"recipe\.json") as error:
        parse_settings(["--config", str(path)])
    assert words in str(error.value)


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json: cannot be read"):
        parse_settings(["--config", str(tmp_path / "nowhere.json")])


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


@pytest.mark.parametrize(
    "words",
    [
        *("--epochs -1", "--lr 0", "--batch-size 0", "--seed -1", "--lr nan", "--stage"),
        *("--scales", "--scales 0", "--scales 1 1", "--scales nan"),
        *(
            "--unfreeze -1",
            "--warmup 2",
            "--ema 1",
            "--margin 3",
            "--clip-grad-norm 0",
            "--samples-per-class 1",
        ),
        *("--memory-size 8", "--max-minutes 0", "--layer-decay 1.1", "--weight-decay nan"),
    ],
)
def test_values_without_a_meaning_are_refused(words: str) -> None:
    with pytest.raises(UserError, match=r"must|name at least one|different numbers"):
        parse_settings(words.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--objective arcface", "nothing to train"),
        ("--objective triplet --embed-dim 8 --memory-size 64 --sampler pairs", "--sampler pk"),
    ],
)
def test_a_training_that_cannot_be_says_what_to_change(words: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_settings(words.split())


def test_blocks_to_train_are_a_number_or_all() -> None:
    assert parse_settings(["--unfreeze", "3"]).train.unfreeze == 3
    assert parse_settings(["--unfreeze", "all"]).train.unfreeze == "all"


def test_defaults_are_announced() -> None:
    said, filled = announce(parse_settings(["--lr", "0.5"])).splitlines()
    assert "lr=0.5" in said and "lr=" not in filled
    assert "backbone=efficientnet_lite0" in filled
