"""Embeddings of another program as a backbone: the same results, every error named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lookalike.core.arrays import read_named_rows
from lookalike.core.errors import UserError
from lookalike.core.settings import EmbedSettings
from lookalike.data.catalogue import gallery_of, load_catalogue, queries_of
from lookalike.features.extractor import load_extractor
from lookalike.models.embedder import load_embedder
from lookalike.pipeline import main
from tests.conftest import FAST, Program

QUIET = ("--stage", "split", "crop", "train", "index", "retrieve")


def run(*words: str | Path) -> int:
    """Run the pipeline up to the submission, with settings that stay."""
    return main([*QUIET, *map(str, words)])


def write_npz(path: Path, paths: list[str], rows: np.ndarray) -> Path:
    """Write what another program would."""
    np.savez(path, paths=np.array(paths), embeddings=rows)
    return path


def write_parquet(path: Path, paths: list[str], rows: np.ndarray) -> Path:
    """Write a table with a column of lists."""
    pytest.importorskip("pyarrow")
    pd.DataFrame({"path": paths, "embedding": list(rows)}).to_parquet(path)
    return path


def write_columns(path: Path, paths: list[str], rows: np.ndarray) -> Path:
    """Write a table with a column for each number."""
    pytest.importorskip("pyarrow")
    table = pd.DataFrame(rows, columns=[f"x{number}" for number in range(rows.shape[1])])
    table.assign(path=paths).to_parquet(path)
    return path


def embeddings_of(competition: Path, folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the paths and the embeddings of a run's pictures."""
    tables = [pd.read_csv(folder / f"{name}.csv") for name in ("training", "test")]
    paths = [path for table in tables for path in table.path]
    extractor = load_extractor("test_efficientnet", weights="none", root=competition)
    return paths, extractor(paths)


@pytest.fixture
def made(competition: Path) -> tuple[list[str], np.ndarray]:
    """Make a run in runs/own by a backbone, and return its pictures' paths and embeddings."""
    assert run("--data", competition, "--run", "runs/own", *FAST) == 0
    return embeddings_of(competition, Path("runs/own"))


@pytest.mark.parametrize(
    ("name", "write"),
    [("x.npz", write_npz), ("x.parquet", write_parquet), ("y.parquet", write_columns)],
)
def test_a_file_ranks_as_the_backbone_that_made_it(
    name: str,
    write: Callable[[Path, list[str], np.ndarray], Path],
    competition: Path,
    made: tuple[list[str], np.ndarray],
) -> None:
    """Rows of any length, in any order, give the submission of the backbone itself."""
    paths, rows = made
    order = np.random.default_rng(0).permutation(len(paths))
    lengths = np.linspace(0.5, 2, len(rows))[:, None].astype(np.float32)
    file = write(Path(name), [paths[number] for number in order], (rows * lengths)[order])
    words = ("--data", competition, "--run", "runs/file", "--time-limit", "0")
    assert run(*words, "--backbone", f"embeddings:{file}") == 0
    for stored in ("submission.json", "validation.json"):
        assert Path("runs/file", stored).read_bytes() == Path("runs/own", stored).read_bytes()


def test_a_file_beside_a_backbone_adds_its_cosines(
    competition: Path, made: tuple[list[str], np.ndarray]
) -> None:
    """Each cosine counts by its factor."""
    paths, rows = made
    other = np.random.default_rng(1).normal(size=(len(rows), 7)).astype(np.float32)
    write_npz(Path("x.npz"), paths, other)
    words = ("--data", competition, "--run", "runs/both", "--time-limit", "0", "--weights", "none")
    assert run(*words, "--backbone", "test_efficientnet+0.5*embeddings:x.npz") == 0
    ranked = json.loads(Path("runs/both/ranking.json").read_text())["test"]
    test = load_catalogue(Path("runs/both/test.csv"))
    number = {path: row for row, path in enumerate(paths)}
    unit = other / np.linalg.norm(other, axis=1, keepdims=True)
    for query in queries_of(test).path:
        for name, score in ranked[Path(query).name]:
            found = next(path for path in gallery_of(test).path if Path(path).name == name)
            a, b = number[query], number[found]
            expected = (rows[a] @ rows[b] + 0.5 * unit[a] @ unit[b]) / 1.5
            assert score == pytest.approx(expected, abs=1e-4)


def test_a_changed_file_is_read_anew(
    competition: Path, made: tuple[list[str], np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command after the file has changed ranks by what it holds now."""
    paths, rows = made
    words = ("--data", competition, "--run", "runs/file", "--time-limit", "0")
    write_npz(Path("x.npz"), paths, rows)
    assert run(*words, "--backbone", "embeddings:x.npz") == 0
    before = Path("runs/file/submission.json").read_bytes()
    noise = np.random.default_rng(2).normal(size=rows.shape)
    write_npz(Path("x.npz"), paths, noise)
    assert run(*words, "--backbone", "embeddings:x.npz") == 0
    assert Path("runs/file/submission.json").read_bytes() != before
    assert "unchanged" not in capsys.readouterr().err.split("index")[-1]


def test_the_best_steps_are_chosen_for_a_file(
    competition: Path, made: tuple[list[str], np.ndarray]
) -> None:
    """The time-limited choice judges steps, anew where the file has changed, and nothing else."""
    write_npz(Path("x.npz"), *made)
    words = ["--stage", "all", "--data", str(competition), "--run", "runs/chosen"]
    words += ["--backbone", "embeddings:x.npz", "--time-limit", "0.2"]
    assert main(words) == 0
    chosen = json.loads(Path("runs/chosen/recipe.json").read_text())
    assert chosen["backbone"] == f"embeddings:{Path.cwd()}/x.npz"
    assert (chosen["resolutions"], chosen["scales"], chosen["flip"]) == ([1.0], [1.0], "auto")
    before = json.loads(Path("runs/chosen/search.json").read_text())["scores"]
    write_npz(Path("x.npz"), made[0], np.random.default_rng(3).normal(size=made[1].shape))
    assert main(words) == 0
    assert json.loads(Path("runs/chosen/search.json").read_text())["scores"] != before


def test_a_run_goes_on_from_another_folder(
    competition: Path, made: tuple[list[str], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is found where it was."""
    write_npz(Path("x.npz"), *made)
    words = ("--data", competition, "--run", "runs/file", "--time-limit", "0")
    assert run(*words, "--backbone", "embeddings:x.npz") == 0
    folder = Path("runs/file").resolve()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["--stage", "retrieve", "--run", str(folder), "--center"]) == 0


def test_what_a_network_sees_does_not_concern_a_file(
    competition: Path, made: tuple[list[str], np.ndarray]
) -> None:
    """Beside a backbone, options of pictures are the backbone's."""
    write_npz(Path("x.npz"), *made)
    words = ("--data", competition, "--run", "runs/both", "--time-limit", "0", "--weights", "none")
    options = ("--image-size", "64", "--pooling", "gem", "--flip", "on", "--scales", "1", "1.2")
    assert run(*words, *options, "--backbone", "test_efficientnet+embeddings:x.npz") == 0
    assert EmbedSettings("sface+embeddings:x.npz", scales=(0.85, 1.0)).members[1].scales == (1.0,)


def test_pictures_that_a_file_lacks_are_named(
    competition: Path, made: tuple[list[str], np.ndarray], run_program: Program
) -> None:
    """One sentence with how many, which, and what its names look like."""
    paths, rows = made
    write_npz(Path("x.npz"), [f"elsewhere/{path}" for path in paths], rows)
    words = ("--data", competition, "--time-limit", "0", "--backbone", "embeddings:x.npz")
    ran = run_program("main.py", "--stage", "all", *words)
    assert ran.returncode == 1
    assert "has no embedding of" in ran.stderr
    assert "embedding:" not in ran.stderr  # nothing has been embedded
    assert "paths below the data set's folder" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--unfreeze", "1"),
        ("--objective", "triplet", "--unfreeze", "all"),
        ("--objective", "ntxent", "--unfreeze", "all", "--train-views", "2"),
    ],
)
def test_a_file_is_not_fine_tuned(
    words: tuple[str, ...],
    competition: Path,
    made: tuple[list[str], np.ndarray],
    run_program: Program,
) -> None:
    """There is no network to train."""
    write_npz(Path("x.npz"), *made)
    named = ("--data", competition, "--run", "runs/file", "--backbone", "embeddings:x.npz")
    ran = run_program("main.py", "--stage", "all", *named, *words)
    assert ran.returncode == 1
    assert "embeddings:x.npz" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_settings_of_a_network_are_refused(run_program: Program) -> None:
    """They would change nothing."""
    write_npz(Path("x.npz"), ["a.jpg"], np.eye(1))
    for words in (
        ("--resolutions", "1", "1.4"),
        ("--weights", "none"),
        ("--image-size", "64"),
        ("--train-views", "2"),
    ):
        ran = run_program("main.py", "--backbone", "embeddings:x.npz", *words)
        assert ran.returncode == 1
        assert words[0] in ran.stderr
    with pytest.raises(UserError, match="pooling"):
        load_embedder("embeddings:x.npz", pooling="gem")


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "holds nothing"),
    "no names": ({"x": np.eye(2)}, "one array of strings"),
    "two arrays": ({"p": ["a"], "x": np.eye(1), "y": np.eye(1)}, "one array of strings"),
    "too few names": ({"p": ["a"], "x": np.eye(2)}, "1 names for numbers of shape"),
    "no columns": ({"p": ["a"], "x": np.zeros((1, 0))}, "1 names for numbers of shape"),
    "a name twice": ({"p": ["a", "a"], "x": np.eye(2)}, "names 'a' more than once"),
    "not finite": ({"p": ["a", "b"], "x": np.diag([1, np.nan])}, "'b' are not finite"),
    "too large": ({"p": ["a"], "x": np.array([[1e300]])}, "'a' are not finite"),
    "no text": ({"p": [b"a", b"b"], "x": np.array([["a"], ["b"]])}, "one array of strings"),
    "objects": ({"p": np.array(["a", None]), "x": np.eye(2)}, "cannot be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_a_file_may_not_hold_is_named(case: str) -> None:
    """Each error says what is there."""
    arrays, message = BROKEN[case]
    np.savez("x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_named_rows(Path("x.npz"))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("path", ["a.jpg", None]),
        ("embedding", [[1.0, 2.0], [1.0]]),
        ("embedding", [["a"], ["b"]]),
        ("embedding", [1, 2]),
    ],
)
def test_what_a_table_may_not_hold_is_named(column: str, values: list[Any]) -> None:
    """No column of whole numbers, such as a label, is taken for an embedding."""
    pytest.importorskip("pyarrow")
    table = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "embedding": [[1.0], [2.0]]})
    table.assign(**{column: values}).to_parquet("x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet"):
        read_named_rows(Path("x.parquet"))


def test_a_path_written_in_two_ways_is_refused() -> None:
    """The same picture twice."""
    np.savez("x.npz", p=["t/a.jpg", "./t/a.jpg"], x=np.eye(2))
    with pytest.raises(UserError, match="names a picture twice"):
        load_embedder("embeddings:x.npz")


def test_a_missing_or_damaged_file_is_named() -> None:
    """Whatever a file holds, the error is one sentence."""
    with pytest.raises(UserError, match="no such file"):
        read_named_rows(Path("x.npz"))
    np.savez("x.npz", p=["a"], x=np.eye(1, 200))
    whole = Path("x.npz").read_bytes()
    for end in range(0, len(whole), 97):
        Path("x.npz").write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"x\.npz"):
            read_named_rows(Path("x.npz"))


def test_an_archive_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is checked before anything is unpacked."""
    np.savez_compressed("x.npz", p=["a"], x=np.zeros((1, 10_000)))
    monkeypatch.setattr("lookalike.core.arrays.MOST_BYTES", 1000)
    with pytest.raises(UserError, match="more than 1,000"):
        read_named_rows(Path("x.npz"))
