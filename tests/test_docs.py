"""Documents: their commands are accepted, their Python runs, their links resolve."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro
from annotated_types import Ge, Interval

from lookalike.cli import COMMANDS
from lookalike.core.checks import check
from lookalike.core.options import parse_settings
from lookalike.core.settings import REMOVED, STAGES, Settings
from lookalike.data.demo import draw_competition
from lookalike.pipeline import STAGE_LIST
from lookalike.retrieval.ensemble import OWN, SHARED
from tests.conftest import ROOT, Program

PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG"))]
PAGES += sorted((ROOT / "docs").glob("*.md"))
HOOKS = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
# Options of other people's programs, and of every program.
OTHERS = {"--help", "--no-deps", "--nproc-per-node", "--strict"}


def title(page: Path) -> str:
    """A page's path in the project, as the name of a test."""
    return page.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=title)


def blocks(page: Path, language: str) -> list[str]:
    """The contents of a page's fenced blocks in a language."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for name, text in found if name == language]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


# ---- commands -----------------------------------------------------------------------------------

# Bash itself expands variables, arrays and quotes. With an empty PATH, every command that is not
# built in ends in this function, which prints its words.
PRINT_WORDS = "command_not_found_handle() { printf '%s\\x1f' \"$@\"; printf '\\n'; }\n"


def commands(page: Path) -> list[list[str]]:
    """The words of each command in a page's bash blocks, with the data sets in /datasets."""
    bash = shutil.which("bash")
    assert bash, "bash reads the documents' commands"
    script = PRINT_WORDS + "\n".join(blocks(page, "bash")).replace(".venv/bin/", "")
    result = subprocess.run(
        [bash, "-euc", script],
        env={"PATH": "/nowhere", "DATA": "/datasets"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split("\x1f")[:-1] for line in result.stdout.splitlines()]


def program_of(words: list[str]) -> tuple[str, list[str]] | None:
    """The program of this project that a command starts, and its arguments; None for others."""
    match words:
        case ["python", "-m", module, *rest] if module.startswith(("lookalike", "benchmarks.")):
            return module, rest
        case ["python", file, *rest] if file.endswith(".py"):
            return file, rest
        case ["torchrun", _, _, "--", file, *rest]:
            return file, rest
        case ["lookalike", *rest]:
            return "lookalike", rest
    return None


def programs(page: Path) -> list[tuple[str, list[str]]]:
    """Every command of a page that starts a program of this project."""
    return [found for words in commands(page) if (found := program_of(words))]


class Accepted(BaseException):
    """A parser has accepted its words; what the program would do with them is not done."""

    def __init__(self, result: Any) -> None:
        self.result = result


def stop_behind(read: Callable[..., Any]) -> Callable[..., None]:
    """A parser that raises what it has read."""

    def read_and_stop(*words: Any, **options: Any) -> None:
        raise Accepted(read(*words, **options))

    return read_and_stop


def parsers(program: str) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """What reads a program's command line: its place, its name and the function itself."""
    if is_benchmark(program):
        read_known = ArgumentParser.parse_known_args

        def read_all(parser: ArgumentParser, *words: Any) -> Any:
            settings, others = read_known(parser, *words)
            return parser.error(f"unknown: {others}") if others else settings

        yield ArgumentParser, "parse_known_args", read_known
        yield ArgumentParser, "parse_args", read_all
    else:
        yield tyro, "cli", tyro.cli


def parse(program: str, words: list[str]) -> Any:
    """Start a program as a user does, and stop it where its own parser has accepted the words."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Accepted) as caught:
        patch.setattr(sys, "argv", [program, *words])
        for place, name, read in parsers(program):
            patch.setattr(place, name, stop_behind(read))
        if program.endswith(".py"):
            runpy.run_path(str(ROOT / program), run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    return caught.value.result


def check_commands(page: Path, kind: Callable[[str], bool]) -> None:
    """Parse the commands of a page whose program is of a kind."""
    for program, words in programs(page):
        if kind(program) and "--help" not in words:
            settings = parse(program, words)
            # What a program does not know, or stands behind --, goes to main.py.
            others = settings[1] if isinstance(settings, tuple) else []
            others += words[words.index("--") + 1 :] if "--" in words else []
            check(settings if isinstance(settings, Settings) else parse_settings(others))


def is_benchmark(program: str) -> bool:
    """Whether a program measures something; these import slow libraries at once."""
    return program.startswith("benchmarks")


@each_page
def test_programs_accept_the_commands_of_a_page(page: Path, tmp_path: Path) -> None:
    for run in ("a", "b", "b0", "first", "best", "mine"):  # read before the command line is
        (tmp_path / "runs" / run).mkdir(parents=True)
        for name in (*OWN, *SHARED, "recipe.json"):
            (tmp_path / "runs" / run / name).write_text("{}")
    for name in ("arcface.onnx", "mine.npz"):  # of a --backbone
        (tmp_path / name).touch()
    check_commands(page, lambda program: not is_benchmark(program))


@pytest.mark.slow
@each_page
def test_benchmarks_accept_the_commands_of_a_page(page: Path) -> None:
    check_commands(page, is_benchmark)


@each_page
def test_commands_stand_in_bash_blocks(page: Path) -> None:
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        assert language, f"a block without a language: {text[:40]}"
        if language != "bash":
            assert not re.search(r"^(python|lookalike) ", text, re.MULTILINE), text


@pytest.mark.slow
def test_the_commands_of_the_quickstart_run(run_program: Program) -> None:
    done = 0
    for program, words in programs(ROOT / "docs" / "quickstart.md"):
        start = words.pop(0) if program == "lookalike" else program
        # The search is tested elsewhere: here it gets half a minute of its ten.
        hurry = ["--time-limit", "0.5"] if words[:2] == ["--stage", "all"] else []
        result = run_program(start, *hurry, *words)
        assert result.returncode == 0, result.stderr
        done += 1
    assert done > 4


# ---- options ------------------------------------------------------------------------------------

SUBCOMMANDS = {
    "identify": ("who", "like", "test", "cluster"),
    "verify": ("score", "train", "pair", "table", "fill"),
    "submit": ("send", "history", "serve"),
    "cache": ("list", "prune"),
    "detector": ("train", "score"),
    "competition": ("make", "leaks", "serve", "teams", "results"),
    "demo": (),
}


@pytest.fixture(scope="module")
def help_pages() -> Iterator[str]:
    """The help of all commands of the package."""
    script = "from lookalike.cli import main; import sys; main(sys.argv[1:])"
    pages = []
    for name in COMMANDS:
        for words in [[name, sub] for sub in SUBCOMMANDS.get(name, ("",))]:
            command = [sys.executable, "-c", script, *filter(None, words), "--help"]
            environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
            pages.append(subprocess.run(command, env=environment, capture_output=True, text=True))
    yield "\n".join(page.stdout for page in pages)


@pytest.mark.slow
def test_every_option_of_the_documents_exists(help_pages: str) -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")]
    known = {option for text in [help_pages, *sources] for option in OPTION.findall(text)} | OTHERS
    known |= {option for name in Settings().flat() for option in HOOKS["options"](name)}
    removed = {option for name in REMOVED for option in HOOKS["options"](name)}
    for page in PAGES:
        gone = removed if page.name == "CHANGELOG.md" else set()
        assert set(OPTION.findall(prose(page))) <= known | gone, title(page)


def test_every_setting_has_a_row_on_the_settings_page() -> None:
    tables = HOOKS["settings_tables"]()
    for name in Settings().flat():
        row = re.search(rf"^\| `--{name.replace('_', '-')}`.*\| (.+) \|$", tables, re.MULTILINE)
        assert row, name


def test_old_options_of_the_changelog_are_aliases() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(--[\w-]+)` \| `(--[\w-]+)` \|$", text, re.MULTILINE)
    assert len(table) == 9
    rows = HOOKS["settings_tables"]()
    for old, new in table:
        assert re.search(rf"^\| `{new}`, `{old}` \|", rows, re.MULTILINE), old


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (Annotated[int | None, Ge(8)], "int ≥ 8"),
        (tuple[Annotated[float, Interval(gt=0, le=1)], ...], "float > 0, ≤ 1, one or more"),
        (int | Literal["all"], "int or `all`"),
        (Path, "path"),
        (bool, "flag"),
    ],
)
def test_the_settings_page_describes_types(hint: Any, text: str) -> None:
    assert HOOKS["values"](hint) == text


# ---- code, links, and what must not be missing --------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=title)
def test_the_python_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    draw_competition(tmp_path / "data" / "demo", seed=0, train_identities=5, test_identities=2)
    for text in blocks(page, "python"):
        result = subprocess.run(
            [sys.executable, "-c", text],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, f"{text}\n{result.stderr}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site name them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", head).strip().lower().replace(" ", "-") for head in heads}


@each_page
def test_links_of_a_page_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not link.startswith(("http:", "https:")):
            file, _, anchor = link.partition("#")
            target = (page.parent / file) if file else page
            assert target.is_file(), link
            assert not anchor or anchor in anchors(target), link


@each_page
def test_a_page_of_the_documentation_starts_with_what_it_is_for(page: Path) -> None:
    if page.parent.name == "docs":
        assert re.match(r"# .+\n\n(The parts|This page) [^\n]", page.read_text(encoding="utf-8"))


def test_the_readme_is_short_and_names_every_page_and_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    quickstart = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"`{command}`" in text + quickstart
    for page in PAGES:
        if page.parent.name == "docs" and page.name != "README.md":
            assert f"({page.name})" in index
            assert f"(docs/{page.name}" in text


def test_every_dependency_has_its_line() -> None:
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    packages = re.findall(r"^([a-z][\w-]+)>=", requirements, re.MULTILINE)
    text = (ROOT / "docs" / "data-and-licences.md").read_text(encoding="utf-8")
    assert packages
    assert not [name for name in packages if f"`{name}`" not in text.partition("## Depend")[2]]


def test_ci_runs_the_readmes_own_test_command() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if re.match(r"python3 -m venv .* pytest$", line)]) == 1
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


# ---- settings and stages ------------------------------------------------------------------------


def test_the_stages_are_those_that_the_settings_know() -> None:
    assert tuple(stage.name for stage in STAGE_LIST) == STAGES
    known = Settings().flat()
    for stage in STAGE_LIST:
        assert set(stage.settings) <= set(known), stage.name


def test_every_setting_of_training_can_redo_it() -> None:
    train = next(stage for stage in STAGE_LIST if stage.name == "train")
    # Where the curves are logged to changes nothing that is learned.
    assert {field.name for field in fields(Settings().train)} - {"log_to"} <= set(train.settings)


def test_the_pipeline_page_has_every_stage() -> None:
    text = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")
    for stage in STAGE_LIST:
        row = re.search(rf"^\| `{stage.name}` \|.*$", text, re.MULTILINE)
        assert row, stage.name
