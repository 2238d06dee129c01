"""The grid detector's loss, its training on a kind of thing, and the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lookalike.core.errors import UserError
from lookalike.faces.boxes import Boxed, read_boxes
from lookalike.faces.detection import find_face
from lookalike.faces.grid import BOXES, GridDetector, save_detector
from lookalike.training.detector import EMPTY, grid_loss, train_detector
from lookalike.training.detector_tool import main

NOTHING = torch.zeros(0, 5)
# On the second of two pictures, 104 × 26 pixels about (72, 48): the second row, third column.
OBJECT = torch.tensor([[1.0, 20.0, 35.0, 124.0, 61.0]])
EXACT = torch.tensor([0.25, 0.5, 0.5, 0.25, 1.0])


def prediction() -> Tensor:
    return torch.zeros(2, 3, 4, BOXES, 5)


def test_a_perfect_prediction_costs_nothing() -> None:
    assert grid_loss(prediction(), NOTHING) == 0
    exact = prediction()
    exact[1, 1, 2, 1] = EXACT
    assert grid_loss(exact, OBJECT) == pytest.approx(0, abs=1e-6)


def test_the_box_that_overlaps_most_answers_for_an_object() -> None:
    exact = prediction()
    exact[1, 1, 2, 1] = EXACT
    exact[1, 1, 2, 0, 2:4] = 1.0  # as large as the picture, and sure of nothing
    assert grid_loss(exact, OBJECT) == pytest.approx(0, abs=1e-6)


def test_confidence_where_nothing_is_counts_half() -> None:
    wrong = prediction()
    wrong[0, 0, 0, 0, 4] = 1.0
    assert grid_loss(wrong, NOTHING) == pytest.approx(EMPTY / 2)


def test_confidence_is_to_be_the_overlap() -> None:
    half = prediction()
    # as high, half as wide about the same center: an overlap of one half
    half[1, 1, 2, 0] = torch.tensor([0.25, 0.5, 0.125**0.5, 0.25, 0.5], dtype=torch.float)
    by_size = 25 * (0.5 - 0.125**0.5) ** 2
    assert grid_loss(half, OBJECT) == pytest.approx(by_size / 2, abs=1e-4)


def test_a_box_far_off_is_drawn_to_the_object() -> None:
    predicted = prediction().requires_grad_()
    grid_loss(predicted, OBJECT).backward()
    assert predicted.grad is not None
    box = predicted.grad[1, 1, 2, 0]
    assert (box[:4] < 0).all()  # descent raises its center's and its size's numbers
    assert not predicted.grad[0].any()


def disks(folder: Path, count: int, seed: int) -> list[Boxed]:
    """Pictures of a green disk among gray rectangles, with a table of the disks' boxes."""
    rng = np.random.default_rng(seed)
    rows = ["path,left,top,width,height"]
    folder.mkdir()
    for i in range(count):
        image = Image.new("RGB", (160, 120), tuple(rng.integers(120, 200, 3).tolist()))
        draw = ImageDraw.Draw(image)
        for _ in range(3):
            left, top, width, height = rng.integers(10, 60, 4).tolist()
            draw.rectangle([left, top, left + width, top + height], fill=(90, 90, 90))
        side = int(rng.integers(40, 80))
        left, top = int(rng.integers(0, 160 - side)), int(rng.integers(0, 120 - side))
        draw.ellipse([left, top, left + side, top + side], fill=(20, 160, 40))
        image.save(folder / f"{i}.png")
        rows.append(f"{i}.png,{left},{top},{side},{side}")
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")
    return read_boxes(folder / "boxes.csv", folder)


@pytest.mark.slow
def test_the_same_seed_learns_the_same(tmp_path: Path) -> None:
    pictures = disks(tmp_path / "disks", 12, 0)
    first, again = (train_detector(pictures, 16, 0, Path("cache"))[0] for _ in range(2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.slow
def test_it_learns_a_kind_of_thing(tmp_path: Path) -> None:
    network, measures = train_detector(disks(tmp_path / "disks", 12, 0), 160, 0, Path("cache"))
    assert measures.precision > 0.8 and measures.right > 0.8
    save_detector(tmp_path / "disk.safetensors", network)
    detector = GridDetector(tmp_path / "disk.safetensors")
    near = []
    for picture in disks(tmp_path / "others", 10, 1):
        found, true = find_face(Image.open(picture.path), detector), picture.boxes[0]
        centers = found.box[:2] + found.box[2:] / 2, true[:2] + true[2:] / 2
        near.append(bool(np.abs(centers[0] - centers[1]).max() < 0.1))
    assert sum(near) >= 8


def test_too_few_pictures_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 pictures with boxes: at least 4 are needed"):
        train_detector(disks(tmp_path / "disks", 3, 0), 16, 0, tmp_path)


@pytest.mark.slow
def test_the_command_trains_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disks(tmp_path / "disks", 8, 0)
    folder, table, out = (str(tmp_path / name) for name in ("disks", "disks/boxes.csv", "disk.st"))
    assert main(["train", folder, "--boxes", table, "--out", out, "--canvases", "16"]) == 0
    printed = capsys.readouterr().out
    assert f"use it with --detector {out}" in printed and "average precision" in printed
    assert main(["score", folder, "--boxes", table, "--detector", out]) == 0
    printed = capsys.readouterr().out
    assert "on 8 pictures" in printed and "true boxes" in printed


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["train", "nowhere"], "nowhere: no such folder"),
        (["train", ".", "--boxes", "nowhere.csv"], "nowhere.csv: "),
        (["train", ".", "--canvases", "3"], "--canvases 3: must be at least 16"),
        (["score", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_a_mistake_is_a_sentence(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert error in capsys.readouterr().err
