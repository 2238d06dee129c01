"""A detector of one's own in the whole program: its crops, its changes, what the search tries."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from lookalike import load_extractor, pipeline
from lookalike.core.errors import UserError
from lookalike.core.readers import read_json
from lookalike.core.runs import open_run
from lookalike.faces.geometry import crop_kind
from lookalike.faces.grid import GridNetwork, save_detector
from lookalike.retrieval.prior import WHOLE_PICTURES, look_at, sees_faces
from tests.conftest import BACKBONE, FAST


def write_detector(seed: int) -> None:
    """Write one that knows nothing, and is sure of boxes that depend on the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = GridNetwork()
        assert network.boxes.bias is not None
        torch.nn.init.normal_(network.boxes.weight)
        network.boxes.bias.data[4::5] = 3.0
    save_detector(Path("own.safetensors"), network)


def run_all(*words: str | Path) -> int:
    return pipeline.main(["--stage", "all", *map(str, words)])


@pytest.mark.slow
def test_its_crops_are_made_anew_when_its_file_changes(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_detector(0)
    words = ("--data", competition, "--detector", "own.safetensors")
    assert run_all(*words, *FAST) == 0
    run = Path("runs/tiny")
    first = pd.read_csv(run / "faces.csv")
    assert (first.found == "at once").mean() > 0.5 and (run / "crops.jpg").exists()
    config = read_json(run / "config.json", "")
    assert config["detector"] == str(Path("own.safetensors").absolute())
    before = (run / "submission.json").read_bytes()
    write_detector(1)
    assert run_all(*words, *FAST) == 0
    assert not first.equals(pd.read_csv(run / "faces.csv"))
    assert (run / "submission.json").read_bytes() != before
    write_detector(0)
    assert run_all(*words, *FAST) == 0
    assert (run / "submission.json").read_bytes() == before
    prior = look_at(open_run(run), frozenset({"detector"}))
    assert prior.sentence.startswith("crops by ") and len(prior.ladder) == len(WHOLE_PICTURES)
    assert {crop_kind(settings) for settings in prior.ladder} == {"face"}
    assert not any(sees_faces(settings) for settings in prior.ladder)
    capsys.readouterr()
    assert run_all(*words, *BACKBONE, "--run", "found") == 0
    assert "crops by " in capsys.readouterr().err
    assert read_json(Path("found/recipe.json"), "")["detector"] == config["detector"]


def test_faces_cannot_be_aligned_by_boxes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finds boxes and no points"):
        load_extractor("sface", crop="aligned", detector="own.safetensors", cache=tmp_path)
