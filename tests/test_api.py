"""The public API: what `import lookalike` offers, and the way of the README's example."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lookalike as la
from lookalike.data.splits import RetrievalTask
from tests.conftest import ROOT


def test_the_table_of_names_and_the_imports_for_type_checkers_agree() -> None:
    tree = ast.parse((ROOT / "lookalike" / "__init__.py").read_text(encoding="utf-8"))
    checked = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert checked == la._PUBLIC


@pytest.mark.parametrize("name", sorted(la._PUBLIC))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(la, name)
    assert value.__doc__ and value.__module__.startswith("lookalike."), name
    assert name in dir(la)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = la.nothing


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, lookalike, lookalike.pipeline; "
        "print([m for m in ('torch', 'timm', 'faiss', 'sklearn', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_from_a_data_set_to_a_score(competition: Path, tmp_path: Path) -> None:
    data = la.read_dataset(competition, r"(?P<domain>photo|drawing)_")
    assert len(data.query) == 8 and len(data.gallery) == 12 and data.unreadable.empty
    extractor = la.load_extractor(
        "test_efficientnet", weights="none", root=data.root, cache=tmp_path / "cache"
    )
    queries, gallery = extractor(data.query), extractor(data.gallery)
    assert queries.dtype == np.float32 and np.allclose(np.linalg.norm(queries, axis=1), 1)
    ranking = la.rank(
        queries,
        gallery,
        la.RetrieveSettings(center=True),
        query_names=data.query.name,
        gallery_names=data.gallery.name,
    )
    path = la.write_submission(ranking, tmp_path / "submission.json")
    from_file = la.score(path, competition / "labels.json")
    assert 0 <= from_file["score"] <= 1000 and from_file["queries"] == 8
    assert from_file == la.score(ranking, competition / "labels.json")


def test_a_split_is_scored_as_a_task_of_its_own(competition: Path, tmp_path: Path) -> None:
    data = la.read_dataset(competition, r"(?P<domain>photo|drawing)_")
    task = data.split(seed=0).validation
    rows = data.training.set_index("path", drop=False)
    extractor = la.load_extractor(
        "test_efficientnet", weights="none", root=data.root, cache=tmp_path / "cache"
    )
    queries, gallery = (extractor(rows.loc[list(part)]) for part in task)
    ranking = la.rank(
        queries, gallery, query_names=list(task.query), gallery_names=list(task.gallery)
    )
    assert la.score(ranking, task)["queries"] == len(task.query)
    assert isinstance(task, RetrievalTask)


@pytest.mark.slow
def test_the_pipeline_runs_from_python(competition: Path, tmp_path: Path) -> None:
    run = la.run_pipeline(
        data=competition,
        run=tmp_path / "run",
        cache=tmp_path / "cache",
        backbone="test_efficientnet",
        weights="none",
    )
    assert (run.folder / "submission.json").is_file() and (run.folder / "report.html").is_file()
    with pytest.raises(la.UserError, match="did you mean 'backbone'"):
        la.run_pipeline(data=competition, bakbone="sface")
