"""A tiny backbone with its extractor, for the tests of everything that embeds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lookalike.data.catalogue import read_catalogue
from lookalike.features import loader
from lookalike.features.engine import build_engine, plans
from lookalike.features.extractor import FeatureExtractor
from lookalike.models.embedder import Embedder, load_embedder


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder("test_efficientnet", "none")


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `engines` of a cache in which the tiny backbone is compiled."""
    cache = tmp_path_factory.mktemp("compiled")
    build_engine(plans("on", 0)[0], load_embedder("test_efficientnet", "none"), cache)
    return cache / "engines"


@pytest.fixture
def pictures(competition: Path) -> pd.DataFrame:
    return read_catalogue(competition)


@pytest.fixture
def extractor(embedder: Embedder, competition: Path, tmp_path: Path) -> FeatureExtractor:
    return FeatureExtractor(embedder, competition, tmp_path / "cache")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded, in any order."""
    names: list[str] = []
    real = loader.load_pixels

    def load_pixels(source: Path | np.ndarray, *rest: object) -> np.ndarray:
        names.append(source.name if isinstance(source, Path) else "array")
        return real(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loader, "load_pixels", load_pixels)
    return names


def relative_error(rows: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest distance between two rows, as a share of the expected one's length.

    Features may have any length, and processors round in ways of their own: a wrong kernel shows in
    the first digit of this, a processor without AVX-512 in the sixth.
    """
    distances = np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return float(distances.max())
