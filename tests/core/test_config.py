"""Config files: typed values, errors that name the file and the remedy, and old names."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Interval

from lookalike.core.config import convert, from_table, load_settings, read_config
from lookalike.core.errors import UserError
from lookalike.core.settings import RENAMED, Settings


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"lrr": 1}', "unknown setting 'lrr'; did you mean 'lr'"),
        ('{"back-bone": 1}', "did you mean 'backbone'"),
        ("[1]", "must hold a table"),
        ('{"lr": false}', "lr cannot be False: it takes a number"),
        ('{"force": "yes"}', "force cannot be 'yes': it takes true or false"),
        ('{"labels": ["a"]}', "labels cannot be ['a']: it takes a path or null"),
        ('{"stage": ["spit"]}', "it takes a list, each 'all' or 'extract'"),
        ('{"config": "other.json"}', "unknown setting 'config'"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"seed": 1, "seed": 2}', "the key 'seed' appears twice"),
        ('{"stage": "train --lr 5"}', "stage cannot be 'train --lr 5'"),
        ('{"stage": ["train", "--lr"]}', "it takes a list, each 'all' or 'extract'"),
        ('{"epochs": -1}', "--epochs -1: must be at least 0"),
    ],
)
def test_a_bad_config_file_says_what_is_wrong(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        load_settings(path)
    assert words in str(error.value)
    assert "recipe.json" in str(error.value) or "must be" in str(error.value)


@pytest.mark.parametrize("text", ["a = ", "a = " + "[" * 100_000, "a = 1\na = 2", "\0"])
def test_damaged_toml_is_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"recipe\.toml: not valid TOML"):
        read_config(path)


@pytest.mark.parametrize(("name", "text"), [("a.toml", "seed = 1\n"), ("a.json", '{"seed": 1}')])
def test_a_config_file_may_begin_with_a_byte_order_mark(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert read_config(tmp_path / name) == {"seed": 1}


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json: cannot be read"):
        read_config(tmp_path / "nowhere.json")


def test_old_names_are_read_and_the_new_ones_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"side": 128, "batches": "pk", "lr": 0.5}')
    assert read_config(path) == {"image_size": 128, "sampler": "pk", "lr": 0.5}
    (line,) = caplog.messages
    assert "side -> image_size, batches -> sampler" in line and str(path) in line


def test_every_old_name_is_read(tmp_path: Path) -> None:
    defaults = Settings().flat()
    path = tmp_path / "config.toml"
    for old, new in RENAMED.items():
        if defaults[new] is not None:
            path.write_text(f"{old} = {defaults[new]!r}")
            assert read_config(path) == {new: defaults[new]}


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1, float, 1.0),
        ("a/b", Path | None, Path("a/b")),
        (None, Path | None, None),
        ([1, 2.5], tuple[float, ...], (1.0, 2.5)),
        ("all", Annotated[int, Interval(ge=0)] | Literal["all"], "all"),
        (3, Annotated[int, Interval(ge=0)] | Literal["all"], 3),
    ],
)
def test_json_values_become_the_types_of_their_fields(value: Any, kind: Any, expected: Any) -> None:
    converted = convert(value, kind)
    assert converted == expected and type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, int),
        (1, bool),
        (1.5, int),
        ("1", float),
        (1, str),
        ("a", tuple[str, ...]),
        (["a", 1], tuple[str, ...]),
        ("b", Literal["a"]),
        (None, int),
    ],
)
def test_values_of_another_type_are_refused(value: Any, kind: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        convert(value, kind)


@dataclass
class Group:
    size: int = 1


@dataclass
class Command:
    name: str
    group: Group = field(default_factory=Group)


def test_groups_take_their_values_from_the_same_flat_table() -> None:
    assert from_table(Command, {"name": "a", "size": 2, "other": 3}) == Command("a", Group(2))
