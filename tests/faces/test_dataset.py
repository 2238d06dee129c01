"""The faces of a data set: searched once, counted by domain, drawn with the misses first."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.core.runs import Run
from lookalike.core.settings import EmbedSettings, RunSettings, Settings
from lookalike.data.catalogue import read_catalogue
from lookalike.data.splits import run_split
from lookalike.faces.dataset import CELL, contact_sheet, detect, face_table, found_rates, run_crop
from lookalike.faces.detection import MISSED, Detector
from lookalike.faces.geometry import Crop
from tests.faces.pictures import RedDetector, drawn, red_square, yunet


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A competition of drawn faces; one gallery picture shows none."""
    root = tmp_path / "faces"
    for part, domain in (("query", "photo"), ("gallery", "texture")):
        (root / "test" / part).mkdir(parents=True)
        for person in range(3):
            drawn(person, domain).save(root / "test" / part / f"{person}.png")
    Image.new("RGB", (99, 99), "white").save(root / "test" / "gallery" / "wall.png")
    return root


def test_a_picture_is_searched_once_ever(faces: Path, tmp_path: Path) -> None:
    class Counting(RedDetector):
        looks = 0

        def find(self, pixels: np.ndarray) -> np.ndarray:
            self.looks += 1
            return super().find(pixels)

    red_square().save(faces / "test" / "query" / "red.png")
    rows, detector = read_catalogue(faces), Counting()
    first = detect(rows, faces, tmp_path / "cache", detector)
    looks = detector.looks
    again = detect(rows, faces, tmp_path / "cache", detector)
    assert looks > len(rows) and detector.looks == looks
    assert first.keys() == again.keys() == set(rows.content)
    for content, face in first.items():
        assert np.array_equal(face.box, again[content].box)
        assert np.array_equal(face.points, again[content].points)
        assert face.found == again[content].found
    red = first[rows.content[rows.path == "test/query/red.png"].item()]
    assert red.found == "at once" and np.allclose(red.box * (200, 160, 200, 160), (60, 40, 60, 60))


def test_what_was_found_before_an_error_is_kept(faces: Path, tmp_path: Path) -> None:
    rows = read_catalogue(faces)
    last = faces / rows.path.iloc[-1]
    content = last.read_bytes()
    last.write_bytes(b"another")
    with pytest.raises(UserError, match="has changed since --stage split"):
        detect(rows, faces, tmp_path / "cache", RedDetector())
    last.write_bytes(content)

    class Once(RedDetector):
        pictures: list[tuple[int, ...]] = []  # noqa: RUF012

        def find(self, pixels: np.ndarray) -> np.ndarray:
            self.pictures.append(pixels.shape)
            return np.array([[1, 1, 2, 2, *[1] * 10, 0.9]], np.float32)

    detect(rows, faces, tmp_path / "cache", Once())
    assert len(Once.pictures) == 1


def test_the_table_counts_by_domain(faces: Path, tmp_path: Path) -> None:
    rows = read_catalogue(faces)
    table = face_table(rows, detect(rows, faces, tmp_path / "cache", yunet()))
    assert table.found[table.path == "test/gallery/wall.png"].tolist() == [MISSED]
    lines = [line.split() for line in found_rates(table).splitlines()]
    assert next(line for line in lines if line[0] == "gallery")[-1] == "75.00%"
    assert next(line for line in lines if line[0] == "query")[-1] == "100.00%"


def test_the_sheet_shows_misses_first(faces: Path, tmp_path: Path) -> None:
    rows = read_catalogue(faces)
    found = detect(rows, faces, tmp_path / "cache", yunet())
    sheet = np.asarray(contact_sheet(rows, found, faces, Crop("aligned")))
    first = sheet[:CELL, :CELL]  # the white wall, with the box of the guess
    assert (first == (255, 0, 0)).all(2).any()
    assert ((first > 250).all(2) | (first == (255, 0, 0)).all(2)).all()


def make_run(faces: Path, tmp_path: Path, **embed: str) -> Run:
    settings = Settings(general=RunSettings(cache=tmp_path / "cache"), embed=EmbedSettings(**embed))  # type: ignore[arg-type]
    run = Run(tmp_path / "run", faces, settings)
    run_split(run)
    return run


def test_the_stage_writes_a_row_a_picture_and_the_sheet(faces: Path, tmp_path: Path) -> None:
    (faces / "test" / "gallery" / "broken.png").write_bytes(b"no picture")
    run = make_run(faces, tmp_path, backbone="sface")
    assert run_crop(run) == "faces in 6 of 7 pictures, see crops.jpg"
    table = pd.read_csv(run.path("faces.csv"))
    assert len(table) == 7 and table.confidence.between(0, 1).all()
    assert Image.open(run.path("crops.jpg")).width > 5 * CELL
    whole = make_run(faces, tmp_path, backbone="efficientnet_lite0")
    assert run_crop(whole) == "whole pictures: faces are not needed"
    assert not run.path("faces.csv").exists() and not run.path("crops.jpg").exists()


def test_a_detector_is_what_the_cache_knows_faces_by(faces: Path, tmp_path: Path) -> None:
    rows = read_catalogue(faces)
    detectors: list[Detector] = [RedDetector(), RedDetector()]
    detectors[1].name = "another"
    for detector in detectors:
        detect(rows, faces, tmp_path / "cache", detector)
    assert len(list((tmp_path / "cache").glob("faces-*"))) == 2


def test_damaged_points_in_the_cache_are_found_again(faces: Path, tmp_path: Path) -> None:
    rows = read_catalogue(faces)
    found = detect(rows, faces, tmp_path / "cache", RedDetector())
    (stored,) = (tmp_path / "cache").glob("faces-*/*.rows.npy")
    values = np.load(stored, mmap_mode="r+")
    values[:, 5] = 0x7FC00000  # not a number
    values.flush()
    again = detect(rows, faces, tmp_path / "cache", RedDetector())
    for content, face in found.items():
        assert np.array_equal(face.points, again[content].points)
