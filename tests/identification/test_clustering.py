"""Pictures of one identity come into one cluster, in the form that is asked for."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from lookalike import cli, pipeline
from lookalike.core.numeric import unit
from lookalike.identification.clustering import best_height, cut, tree
from tests.conftest import FAST, draw

CLUSTER = ("identify", "cluster", "--run", "run")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of a test in one folder, with other identities than the training."""
    root = tmp_path / "whales"
    rows = ["image,identity,split"]
    for identity in range(12):
        part = "test" if identity >= 8 else f"training/w{identity}"
        for picture in range(5):
            name = f"{identity:02d}{picture}.jpg"
            draw(root / part / name, identity, picture)
            rows += [f"{name},w{identity},test"] if part == "test" else []
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    words = ["--stage", "all", "--data", str(root), "--run", "run", *FAST]
    assert pipeline.main([*words, "--split", "disjoint"]) == 0
    return tmp_path


def test_a_sample_is_filled_and_scored(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(path.stem for path in (run / "whales" / "test").iterdir())
    Path("sample.csv").write_text("id,cluster\n" + "".join(f"{name},0\n" for name in names))
    words = ["--sample-submission", "sample.csv", "--labels", "labels.csv"]
    assert cli.main([*CLUSTER, *words]) == 0
    shown = capsys.readouterr()
    assert "height" in shown.err and "20 pictures in" in shown.err
    table = pd.read_csv("run/clusters.csv", dtype=str)
    assert table.columns.tolist() == ["id", "cluster"] and table.id.tolist() == names
    expected = adjusted_rand_score([name[:2] for name in names], table.cluster)
    assert f"{expected:.4f}" in shown.out and expected > 0.5


@pytest.mark.parametrize(("height", "clusters"), [("0", 20), ("2", 1)])
def test_the_height_decides_how_many_there_are(run: Path, height: str, clusters: int) -> None:
    assert cli.main([*CLUSTER, "--height", height]) == 0
    assert pd.read_csv("run/clusters.csv").cluster.nunique() == clusters


def test_a_sample_of_something_else_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("id,cluster\nlost,0\n", "id,a,b\n080,0,0\n"):
        Path("sample.csv").write_text(text)
        assert cli.main([*CLUSTER, "--sample-submission", "sample.csv"]) == 1
        assert "one column has to name the test's pictures" in capsys.readouterr().err


def test_a_picture_that_cannot_be_read_is_alone(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "whales" / "test" / "080.jpg").write_bytes(b"no picture")
    words = ["--stage", "all", "--data", str(run / "whales"), "--run", "run"]
    assert pipeline.main(words) == 0 and cli.main(list(CLUSTER)) == 0
    table = pd.read_csv("run/clusters.csv").set_index("image").cluster
    assert (table == table["080.jpg"]).sum() == 1
    assert "cannot be read: each is a cluster of its own: test/080.jpg" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(4))
def test_the_best_height_is_the_best_of_all_that_differ(seed: int) -> None:
    rng = np.random.default_rng(seed)
    identities = np.repeat(np.arange(6), 4)
    rows = unit(np.eye(6, 8)[identities] + rng.normal(0, 0.35, (24, 8)))
    merges = tree(rows)
    height, index = best_height(rows, identities.astype(str).tolist())
    tried = [adjusted_rand_score(identities, cut(merges, h)) for h in merges[:, 2]]
    assert index == pytest.approx(max(tried))
    assert adjusted_rand_score(identities, cut(merges, height)) == pytest.approx(index)
