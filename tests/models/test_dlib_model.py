"""dlib's face network gives what dlib gives.

`dlib.txt` holds what dlib 20.0.1 makes of three pictures of 5 × 5 squares, a row of 128 numbers
each (`face_recognition_model_v1.compute_face_descriptor`).
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from lookalike.core.carriers import CARRIERS, carried_file
from lookalike.core.errors import UserError
from lookalike.core.settings import EmbedSettings
from lookalike.models.dlib_model import TEMPLATE, DlibFace, dlib_state
from lookalike.models.embedder import embedder_of, load_embedder
from tests.conftest import ROOT, SHARED


@pytest.fixture(scope="module")
def weights() -> Path:
    return carried_file(CARRIERS["dlib"], Path("cache"))


def squares(seed: int) -> np.ndarray:
    colors = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return colors.repeat(30, 0).repeat(30, 1)


def features_of(pictures: np.ndarray) -> np.ndarray:
    embedder = load_embedder("dlib")
    inputs = embedder.preprocessing.normalize(torch.from_numpy(pictures))
    with torch.inference_mode():
        return np.asarray(embedder.features(inputs).numpy())


def test_the_features_are_those_of_dlib() -> None:
    expected = np.loadtxt(ROOT / "tests" / "models" / "dlib.txt")
    found = features_of(np.stack([squares(seed) for seed in range(3)]))
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not on this machine")
def test_fifty_faces_are_those_of_dlib_where_it_is_installed(weights: Path) -> None:
    dlib = pytest.importorskip("dlib")
    from PIL import Image

    files = sorted((SHARED / "lfw62").rglob("*.jpg"))[::60][:50]
    pictures = [np.array(Image.open(file).convert("RGB").resize((150, 150))) for file in files]
    reference = dlib.face_recognition_model_v1(str(weights))
    expected = np.array([reference.compute_face_descriptor(picture) for picture in pictures])
    assert len(files) == 50 and np.abs(features_of(np.stack(pictures)) - expected).max() < 1e-4


def test_it_sees_aligned_faces_with_its_own_template() -> None:
    embedder = embedder_of(EmbedSettings("dlib"), Path("cache"))
    assert embedder.preprocessing.crop.kind == "aligned" and embedder.image_size == 150
    assert embedder.preprocessing.crop.template == TEMPLATE
    x, y = np.array(TEMPLATE).T
    assert x[0] < x[2] < x[1] and y[0] < y[2] < y[3], "eyes, nose and mouth from above"


@pytest.mark.parametrize("kept", [0, 1000, 20_000_000])
def test_another_file_is_refused(kept: int, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "faces.dat"
    path.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(UserError, match="not the file of dlib's face network"):
        dlib_state(path)


def test_it_learns_as_any_network(weights: Path) -> None:
    network = DlibFace()
    network.load_state_dict(dlib_state(weights))
    network(torch.rand(2, 3, 150, 150)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
