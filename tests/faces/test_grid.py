"""The grid detector: its boxes, its file, and what it finds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lookalike.core.errors import UserError
from lookalike.faces.detection import find_face, load_detector
from lookalike.faces.geometry import points_in
from lookalike.faces.grid import BOXES, GridDetector, GridNetwork, pick_boxes, save_detector
from tests.faces.pictures import red_square


def saved(folder: Path) -> Path:
    path = folder / "grid.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_detector(path, GridNetwork())
    return path


def prediction(rows: int, columns: int) -> Tensor:
    return torch.zeros(rows, columns, BOXES, 5)


def test_a_box_lies_about_its_center_in_the_cell() -> None:
    predicted = prediction(2, 3)
    # 104 × 26 pixels, a quarter into the cell of the second row and third column
    predicted[1, 2, 1] = torch.tensor([0.25, 0.5, 0.5, 0.25, 0.8])
    boxes, scores = pick_boxes(predicted, 0.3)
    np.testing.assert_allclose(boxes, [[64 + 8 - 52, 32 + 16 - 13, 104, 26]])
    assert scores == pytest.approx([0.8])


def test_of_two_boxes_that_overlap_the_surest_is_kept() -> None:
    predicted = prediction(1, 2)
    predicted[0, 0, 0] = torch.tensor([1.0, 0.5, 0.5, 0.5, 0.6])  # the same place from two cells
    predicted[0, 1, 0] = torch.tensor([0.0, 0.5, 0.5, 0.5, 0.7])
    boxes, scores = pick_boxes(predicted, 0.3)
    assert len(boxes) == 1 and scores == pytest.approx([0.7])
    assert len(pick_boxes(predicted, 0.65)[0]) == 1 and len(pick_boxes(predicted, 0.9)[0]) == 0


def test_a_file_holds_the_whole_network(tmp_path: Path) -> None:
    path = saved(tmp_path)
    first, second = GridDetector(path), GridDetector(path)
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, load_file(path)[name])
    assert first.name == second.name and first.name.startswith("grid ")
    assert not first.network.training


@pytest.mark.parametrize("size", [(200, 160), (33, 31), (7, 300)])
def test_a_picture_of_any_size_is_searched(tmp_path: Path, size: tuple[int, int]) -> None:
    detector = GridDetector(saved(tmp_path))
    with torch.no_grad():  # sure of every box
        assert detector.network.boxes.bias is not None
        detector.network.boxes.bias[4::5] = 10.0
    rows = detector.find(np.array(red_square(size)))
    assert rows.dtype == np.float32 and rows.shape[1] == 15 and len(rows)
    np.testing.assert_allclose(rows[0, 4:14].reshape(5, 2), points_in(rows[0, :4]), rtol=1e-5)
    face = find_face(red_square(size), detector)
    assert face.found == "at once" and 0.6 < face.score <= 1


def test_a_file_is_loaded_by_its_path(tmp_path: Path) -> None:
    assert isinstance(load_detector(str(saved(tmp_path)), tmp_path), GridDetector)


def test_a_file_that_is_no_detector_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--detector nowhere: no such file"):
        load_detector("nowhere", tmp_path)
    (tmp_path / "text").write_text("no tensors at all")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_detector(str(tmp_path / "text"), tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(UserError, match="is no detector of `lookalike detector train`"):
        load_detector(str(tmp_path / "other"), tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "part", {"format": "lookalike grid detector 1"})
    with pytest.raises(UserError, match="tensors of the backbone are missing"):
        load_detector(str(tmp_path / "part"), tmp_path)
