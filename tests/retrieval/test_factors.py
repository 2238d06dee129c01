"""Backbones that count differently: by their factors, and through the centering."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lookalike import pipeline
from lookalike.core import carriers
from lookalike.core.checks import check
from lookalike.core.errors import UserError
from lookalike.core.numeric import unit
from lookalike.core.runs import open_run
from lookalike.core.settings import EmbedSettings, Settings
from lookalike.data.catalogue import load_catalogue
from lookalike.features.embedding import embed
from lookalike.features.extractor import JointExtractor, untrained_extractor
from lookalike.retrieval import search
from lookalike.retrieval.candidates import Candidate
from lookalike.retrieval.embeddings import Embeddings, center
from lookalike.retrieval.judging import Recipe
from lookalike.retrieval.labeled_tasks import embedded_rows
from tests.conftest import FAST

PAIR = "test_efficientnet+0.25*test_resnet"
NO_WEIGHTS = ("--weights", "none", "--time-limit", "0")


def rows(seed: int, count: int, width: int, alike: float) -> np.ndarray:
    """Unit rows that have much in common."""
    return unit(np.random.default_rng(seed).normal(alike, 1, (count, width))).astype(np.float32)


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ("sface+0*dlib", "factors are above 0, such as sface"),
        ("sface+x*dlib", "factors are above 0"),
        ("sface+-1*dlib", "factors are above 0"),
        ("sface+inf*dlib", "factors are above 0"),
        ("0.5*sface", "a factor is for one of several"),
        ("sface+0.5*sface", "different names"),
    ],
)
def test_factors_are_checked(backbone: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check(Settings(embed=EmbedSettings(backbone)))


def test_a_factor_says_how_much_a_cosine_counts(competition: Path) -> None:
    words = ["--stage", "split", "--data", str(competition), "--run", "run", *NO_WEIGHTS]
    assert pipeline.main(words) == 0
    run = open_run(Path("run"))
    pictures = load_catalogue(run.path("test.csv"))

    def embedded(backbone: str) -> np.ndarray:
        settings = replace(run.settings.embed, backbone=backbone)
        return embed(untrained_extractor(run, settings), pictures)

    a, b = embedded("test_efficientnet"), embedded("test_resnet")
    joint = embedded(PAIR)
    assert np.allclose(joint @ joint.T, (a @ a.T + 0.25 * b @ b.T) / 1.25, atol=1e-5)
    equal = untrained_extractor(
        run, replace(run.settings.embed, backbone=PAIR.replace("0.25*", ""))
    )
    assert isinstance(equal, JointExtractor) and not equal.factors and not equal.widths


def test_centering_leaves_each_backbone_its_share() -> None:
    """Rows of the second are nearly the same: centered together, it would hardly count."""
    sides = [(rows(s, 30, 8, 0.0), rows(s + 1, 30, 6, 9.0)) for s in (1, 3)]
    shares = np.sqrt([2 / 3, 1 / 3])
    joint = [
        np.concatenate([part * s for part, s in zip(p, shares, strict=True)], 1) for p in sides
    ]
    task = Embeddings(joint[0], joint[1], joint[0][:0], joint[0][:0], widths=(8, 6))
    found = center(task)
    for side, parts in zip(found.arrays, sides, strict=False):
        expected = [unit(part - part.mean(0)) * s for part, s in zip(parts, shares, strict=True)]
        assert np.allclose(side, np.concatenate(expected, 1), atol=1e-5)
        assert np.allclose(np.linalg.norm(side, axis=1), 1, atol=1e-5)


def test_fewer_columns_keep_the_parts_apart() -> None:
    whole = np.concatenate([rows(1, 5, 40, 0.5), rows(2, 5, 3, 0.5)], axis=1)
    found = embedded_rows("abcde", whole, (40, 3))
    small = found.stack("abcde")
    assert found.widths[1] == 3 and sum(found.widths) == small.shape[1] < 10
    first = found.widths[0]
    for ours, theirs in ((small[:, :first], whole[:, :40]), (small[:, first:], whole[:, 40:])):
        assert np.allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-5)


def test_ranking_stored_and_from_a_recipe_is_the_same(competition: Path) -> None:
    words = ["--stage", "all", "--data", str(competition), *NO_WEIGHTS, "--backbone", PAIR]
    assert pipeline.main([*words, "--center", "--run", "a"]) == 0
    first = Path("a/submission.json").read_bytes()
    assert pipeline.main([*words, "--center", "--run", "b"]) == 0
    assert Path("b/submission.json").read_bytes() == first
    others = [word.replace("0.25*", "4*") for word in words]
    assert pipeline.main([*others, "--center", "--run", "a"]) == 0
    assert Path("a/submission.json").read_bytes() != first


# ---- the search ---------------------------------------------------------------------------------


def searching(competition: Path, thresholds: dict[str, float | None]) -> search.Search:
    words = ["--stage", "split", "--data", str(competition), "--run", "run", *FAST]
    assert pipeline.main(words) == 0
    made = search.Search(open_run(Path("run")), lambda run: None)
    made.strangers = {str(EmbedSettings(name)): level for name, level in thresholds.items()}
    return made


def test_the_threshold_of_strangers_follows_the_embedding(competition: Path) -> None:
    made = searching(competition, {"sface": 0.3, "sface+0.5*dlib": 0.4})
    steps = made.run.settings.retrieve
    for before, after in ((0.3, 0.4), (0.35, 0.35), (None, None)):
        recipe = Recipe(EmbedSettings("sface"), replace(steps, query_neighbors=before))
        changed = made._changed(recipe, EmbedSettings("sface+0.5*dlib"))
        assert changed.retrieve.query_neighbors == after
        assert changed.embed.backbone == "sface+0.5*dlib"


def test_a_candidate_without_weights_is_left_out(
    competition: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = searching(competition, {})
    made.best = Recipe(EmbedSettings("sface"), made.run.settings.retrieve)
    lost = replace(carriers.CARRIERS["dlib"], package="no-such-package", sha256="0")
    monkeypatch.setitem(carriers.CARRIERS, "dlib", lost)
    monkeypatch.setattr(carriers, "_download", lambda carrier, path: None)
    candidates = [
        Candidate(name, 1.0, {"backbone": name})
        for name in ("efficientnet_lite0", "sface+0.5*dlib")
    ]
    kept = [candidate.name for candidate in candidates if made._can_be_loaded(candidate)]
    assert kept == ["efficientnet_lite0"]
    assert "sface+0.5*dlib is left out: " in capsys.readouterr().err
