"""The programs of the top level, and the help pages of all programs and commands."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.cli import COMMANDS
from lookalike.core.files import write_json
from lookalike.core.readers import read_json
from tests.conftest import FAST, ROOT, Program, draw_competition

PROGRAMS = sorted(path.name for path in ROOT.glob("*.py"))
# What takes seconds to import, and no help page needs.
SLOW = ("torch", "timm", "sklearn", "faiss", "openvino", "scipy", "matplotlib")
RUN_HELP = f"""
import runpy, sys
start, sys.argv = sys.argv[1], sys.argv[1:]
try:
    if start.endswith(".py"):
        runpy.run_path(start, run_name="__main__")
    else:
        sys.argv[0] = "lookalike"
        runpy.run_module("lookalike", run_name="__main__", alter_sys=True)
except SystemExit as stop:
    print("code", stop.code)
print("imported", [name for name in {SLOW!r} if name in sys.modules])
"""
SUBCOMMANDS = {
    "submit": ("send", "history", "serve"),
    "identify": ("who", "like"),
    "verify": ("score", "train", "pair", "table"),
    "cache": ("list", "prune"),
}
HELP_PAGES = [
    *([str(ROOT / name)] for name in PROGRAMS),
    *(["-m", name] for name in COMMANDS),
    *(["-m", name, sub] for name, subs in SUBCOMMANDS.items() for sub in subs),
]


@pytest.mark.parametrize("words", HELP_PAGES, ids=lambda words: Path("-".join(words)).name)
def test_every_help_page_works_and_imports_nothing_slow(words: list[str]) -> None:
    command = [sys.executable, "-c", RUN_HELP, *words, "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "usage: " in result.stdout and "--help" in result.stdout
    assert result.stdout.splitlines()[-2:] == ["code 0", "imported []"], result.stdout[-300:]


def test_the_pipeline_is_imported_without_torch() -> None:
    code = "import lookalike.pipeline, sys; print('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_there_are_seven_programs() -> None:
    expected = "data.py data_extraction.py evaluate.py main.py model.py retrieve.py train_ft.py"
    assert expected.split() == PROGRAMS


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_short_and_says_what_it_does(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    page = ast.get_docstring(ast.parse(text)) or ""
    assert len(re.findall(rf"^    python {name} ", page, re.MULTILINE)) == 2, "two commands"
    folders = re.findall(r"lookalike/(\w+)", page)
    assert folders and all(
        (ROOT / "lookalike" / folder).exists() for folder in folders if folder != "pipeline"
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_import_only_what_is_needed_to_start(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports] == [
        "import sys",
        "from lookalike.cli import call",
    ]


# ---- data.py ------------------------------------------------------------------------------------


def test_data_counts_by_part_and_domain_and_names_what_is_wrong(
    competition: Path, run_program: Program
) -> None:
    folders = sorted((competition / "training").iterdir())
    (folders[0] / "photo_0.jpg").write_bytes(b"broken")
    for path in sorted(folders[1].iterdir())[1:]:
        path.unlink()
    (competition / "training" / "nobody").mkdir()
    result = run_program("data.py", competition, "--domain-pattern", "(?P<domain>photo|drawing)_")
    assert result.returncode == 0, result.stderr
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in result.stdout.splitlines()[2:]}
    assert rows == {
        ("gallery", "gallery"): ["12", "12", "unknown"],
        ("query", "query"): ["8", "8", "unknown"],
        ("training", "drawing"): ["28", "28", "10"],
        ("training", "photo"): ["27", "26", "9"],
    }
    for words in ("hold no files: nobody", "photo_0.jpg", "a single training picture: person_01"):
        assert words in result.stderr


def test_data_refuses_repeated_names_and_what_is_no_data_set(
    competition: Path, run_program: Program
) -> None:
    name = next((competition / "test" / "query").iterdir()).name
    (competition / "test" / "query" / "sub").mkdir()
    (competition / "test" / "query" / "sub" / name).write_bytes(
        (competition / "test" / "query" / name).read_bytes()
    )
    result = run_program("data.py", competition)
    assert result.returncode == 1 and f"share their name: test/query/{name}" in result.stderr
    result = run_program("data.py", competition / "training")
    assert result.returncode == 1 and "test/query" in result.stderr
    assert "Traceback" not in result.stderr


def test_data_takes_the_domains_that_the_data_set_declares(
    competition: Path, run_program: Program
) -> None:
    origin = {"source": "archive", "domain_pattern": "(?P<domain>photo|drawing)_"}
    write_json(competition / "layout.json", origin)
    result = run_program("data.py", competition)
    assert re.search(r"training +photo +30 +30 +10", result.stdout)


# ---- model.py -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_model_says_what_a_backbone_costs(run_program: Program) -> None:
    result = run_program("model.py", "test_efficientnet", "--image-size", "64")
    assert result.returncode == 0, result.stderr
    table = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert list(table) == ["input", "dimension", "parameters", "FLOPs", "speed here"]
    assert table["input"].strip() == "64 × 64 pixels" and int(table["dimension"]) > 0
    assert float(table["parameters"].split()[0]) > 0 and "pictures a second" in table["speed here"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["resnet5"], "Did you mean resnet50", marks=pytest.mark.slow),
        (["sface", "--image-size", "2"], "--image-size 2: must be at least 8"),
    ],
)
def test_models_mistakes_end_with_a_sentence(
    words: list[str], said: str, run_program: Program
) -> None:
    result = run_program("model.py", *words)
    assert result.returncode == 1 and said in result.stderr and "Traceback" not in result.stderr


# ---- train_ft.py, retrieve.py -------------------------------------------------------------------


@pytest.mark.slow
def test_training_and_retrieval_are_stages_of_one_run(tmp_path: Path, run_program: Program) -> None:
    draw_competition(tmp_path / "data" / "tiny")
    words = ["--objective", "supcon", "--embed-dim", "8", "--epochs", "1", "--sampler", "pk"]
    trained = run_program("train_ft.py", *FAST, *words)
    assert trained.returncode == 0, trained.stderr
    run = tmp_path / "runs" / "tiny"
    assert (run / "model.safetensors").is_file() and not (run / "submission.json").exists()
    ranked = run_program("retrieve.py", "--run", run, "--center")
    assert ranked.returncode == 0, ranked.stderr
    assert "center=True" in ranked.stderr and "objective=supcon" in ranked.stderr
    assert len(read_json(run / "submission.json", "")) == 8
    assert set(read_json(run / "timing.json", "")) == {
        "split",
        "crop",
        "train",
        "index",
        "retrieve",
    }
    assert read_json(run / "config.json", "")["center"] is True
    again = run_program("retrieve.py", "--run", run, "--no-center", "--no-transductive")
    assert again.returncode == 0 and "no_transductive=True" in again.stderr
    assert read_json(run / "config.json", "")["center"] is False
