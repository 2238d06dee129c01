"""The score of a training is that of the ranking, and the spread tells when embeddings collapse."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from lookalike.core.errors import UserError
from lookalike.core.settings import RetrieveSettings
from lookalike.data.catalogue import outside_pictures
from lookalike.data.splits import RetrievalTask
from lookalike.features.extractor import FeatureExtractor
from lookalike.models.embedder import load_embedder
from lookalike.training.trainable import divide_embedder
from lookalike.training.validation import RetrievalValidator
from tests.conftest import draw

CPU = torch.device("cpu")


@pytest.fixture
def extractor(tmp_path: Path) -> FeatureExtractor:
    """Of a small backbone, on two pictures of each of three identities."""
    for identity in range(3):
        for number in range(2):
            draw(tmp_path / f"{identity}{number}.jpg", identity, number)
    embedder = load_embedder("test_efficientnet", "none")
    return FeatureExtractor(embedder, tmp_path, tmp_path / "cache", "off", flip=True)


@pytest.fixture
def catalogue(extractor: FeatureExtractor) -> pd.DataFrame:
    rows = outside_pictures(sorted(extractor.root.glob("*.jpg")))
    return rows.assign(path=[Path(path).name for path in rows.path])


def task(paired: bool = True) -> RetrievalTask:
    """The first picture of each identity is a query, the second in the gallery."""
    query = {f"{i}0.jpg": f"id{i}" for i in (2, 0, 1)}
    return RetrievalTask(query, {f"{i}1.jpg": f"id{i if paired else i + 3}" for i in (1, 2, 0)})


def test_score_and_spread_are_those_of_the_embeddings(
    extractor: FeatureExtractor, catalogue: pd.DataFrame
) -> None:
    frozen, trainable = divide_embedder(extractor.embedder, 1)
    validator = RetrievalValidator(task(), catalogue, extractor, frozen, RetrieveSettings())
    metrics = validator.score(trainable.eval(), CPU)
    assert metrics["score"] == 1000 and 0 < metrics["spread"] < 1

    def collapsed(maps: Tensor) -> Tensor:
        return torch.ones(len(maps), 4)

    assert validator.score(collapsed, CPU)["spread"] == pytest.approx(0, abs=1e-6)


def test_a_validation_without_answers_is_an_error(
    extractor: FeatureExtractor, catalogue: pd.DataFrame
) -> None:
    with pytest.raises(UserError, match="nothing can score the training"):
        RetrievalValidator(task(False), catalogue, extractor, None, RetrieveSettings())
