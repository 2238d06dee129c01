"""The notebooks run from their first cell to the last."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from safetensors.torch import save_file

from lookalike.models.embedder import load_embedder
from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def test_there_are_three_notebooks() -> None:
    assert len(NOTEBOOKS) == 3


@pytest.fixture
def kaggle_input(competition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is attached to a notebook on Kaggle: a wheel, weights and the competition."""
    folder = tmp_path / "input"
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "lookalike", source / "lookalike")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", str(source)]
    wheels = folder / "lookalike-wheels"
    subprocess.run([*command, "--wheel-dir", str(wheels)], check=True)
    (folder / "weights").mkdir()
    backbone = load_embedder("test_efficientnet", "none").backbone
    save_file(backbone.state_dict(), folder / "weights" / "backbone.safetensors")
    shutil.copytree(competition, folder / "competition")
    monkeypatch.setenv("KAGGLE_INPUT", str(folder))


@pytest.mark.slow
@pytest.mark.usefixtures("kaggle_input")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "installed"))  # not into this environment
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    assert list(tmp_path.glob("submission.*")) or "your-embeddings" in path.stem
