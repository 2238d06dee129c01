"""The search tries local features where there are labels and no faces, and keeps what helps."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike import pipeline
from lookalike.core.config import read_config
from lookalike.core.runs import open_run
from lookalike.core.settings import EmbedSettings
from lookalike.retrieval import candidate_embedder
from lookalike.retrieval.candidates import LOCAL_WEIGHTS, find_candidates, local_features
from lookalike.retrieval.judging import Recipe
from lookalike.retrieval.prior import FACES, Prior
from lookalike.retrieval.search import Search
from tests.features.test_local import texture

BACKBONE = ("--backbone", "test_efficientnet", "--weights", "none", "--compile", "off")


def seen_from(pixels: np.ndarray, number: int) -> np.ndarray:
    """Return a picture as one of many photographs shows it: turned, cut out, in another light."""
    rng = np.random.default_rng(number)
    image = Image.fromarray(pixels).rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC)
    left, top = rng.integers(0, 12, 2)
    image = image.crop((left, top, left + 84, top + 84)).resize((96, 96), Image.Resampling.BICUBIC)
    tint = rng.uniform(0.4, 1.0, 3)
    return (np.array(image) * tint).astype(np.uint8)


@pytest.fixture
def coats(tmp_path: Path) -> Path:
    """A competition of textures in all colors, which random features know nothing of."""
    for identity in range(16):
        part = "training" if identity < 12 else "test"
        for number in range(4):
            side = f"p{identity}" if part == "training" else ("query", "gallery")[number % 2]
            path = tmp_path / "coats" / part / side / f"i{identity:02}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = seen_from(texture(identity), 10 * identity + number)
            Image.fromarray(pixels).save(path)
    return tmp_path / "coats"


@pytest.mark.slow
def test_local_features_are_chosen_where_they_help(
    coats: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(coats.parent)
    words = ["--stage", "all", "--data", str(coats), *BACKBONE, "--domain-pattern", "(?P<domain>)"]
    assert pipeline.main([*words, "--run", "a", "--time-limit", "2"]) == 0
    assert "local features 0." in capsys.readouterr().err
    chosen = read_config(Path("a/recipe.json"))
    assert chosen["local_weight"] in LOCAL_WEIGHTS
    words = ["--stage", "all", "--config", "a/recipe.json", "--run", "b"]
    assert pipeline.main(words) == 0
    assert Path("a/submission.json").read_bytes() == Path("b/submission.json").read_bytes()


def prior_of(settings: EmbedSettings) -> Prior:
    return Prior((settings,), (0.0,), 0.0, "")


def test_they_are_candidates_of_labeled_pictures_without_faces() -> None:
    whole, faces = (EmbedSettings(**change) for change in ({}, FACES[0][1]))
    none: frozenset[str] = frozenset()
    known, unknown = local_features(labeled=True), local_features(labeled=False)
    assert known in find_candidates(prior_of(whole), none, labeled=True)
    assert unknown in find_candidates(prior_of(whole), none, labeled=False)
    assert known not in find_candidates(prior_of(faces), none, labeled=True)
    named = frozenset({"local_weight"})
    assert known not in find_candidates(prior_of(whole), named, labeled=True)
    assert known.names == [f"local features {weight}" for weight in (0.1, 0.25, 0.5, 1.0)]
    assert unknown.names == ["local features 0.1"], "nothing to choose by"


def test_more_pictures_than_the_memory_holds_leave_them_out(
    coats: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(coats.parent)
    assert pipeline.main(["--stage", "split", "--data", str(coats), "--run", "a", *BACKBONE]) == 0
    search = Search(open_run(Path("a")), lambda run: None)
    search.embedder = candidate_embedder.CandidateEmbedder(search.run, ["a picture"])
    first = search.embedder.seconds_to_match()
    assert search.embedder.seconds_to_match() == first > 0, "it is measured once"
    search.best = Recipe(search.run.settings.embed, search.run.settings.retrieve)
    candidate = local_features(labeled=True)
    assert search._can_be_loaded(candidate)
    options = search._options(search.best, candidate)
    assert [option.retrieve.local_weight for option in options] == list(LOCAL_WEIGHTS)
    monkeypatch.setattr(candidate_embedder, "LOCAL_MOST", 7)
    assert not search._can_be_loaded(candidate)
    assert "local features is left out: 8 pictures" in capsys.readouterr().err
