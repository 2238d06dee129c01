"""One function ranks arrays in a notebook and in the stages: names, ties, steps and mistakes."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lookalike import pipeline as runner
from lookalike.core.errors import UserError
from lookalike.core.numeric import unit
from lookalike.core.readers import read_json
from lookalike.core.settings import RetrieveSettings
from lookalike.retrieval import galleries
from lookalike.retrieval.embeddings import Embeddings
from lookalike.retrieval.index import as_mapping
from lookalike.retrieval.postprocess import apply, score_all
from lookalike.retrieval.ranking import rank, rank_embeddings
from tests.conftest import FAST


def make_rows(count: int = 12, each: int = 5, seed: int = 0) -> np.ndarray:
    """(count * each, 16) rows of length 1, those of an identity one after another."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(count, 16))
    return unit(np.repeat(centers, each, axis=0) + 0.6 * rng.normal(size=(count * each, 16)))


QUERIES, GALLERY, LABELED = make_rows(seed=1), make_rows(seed=2), make_rows(seed=3)


# ---- arrays -------------------------------------------------------------------------------------


def test_rows_of_any_length_are_ranked_by_cosine() -> None:
    rng = np.random.default_rng(4)
    lengths = [rng.uniform(0.1, 9, size=(len(rows), 1)) for rows in (QUERIES, GALLERY)]
    found = rank(QUERIES * lengths[0], (GALLERY * lengths[1]).astype(np.float64), k=5)
    cosines = QUERIES.astype(float) @ GALLERY.astype(float).T
    expected = np.argsort(-cosines, axis=1)[:, :5]
    assert found.gallery.tolist() == expected.astype(str).tolist()
    assert np.allclose(found.scores, np.take_along_axis(cosines, expected, 1), atol=1e-6)


def test_names_are_those_given_else_the_row_numbers() -> None:
    names = pd.Series([f"{i}.jpg" for i in range(len(GALLERY))])
    found = rank(QUERIES[:2], GALLERY, k=1, query_names=["p", "q"], gallery_names=names)
    plain = rank(QUERIES[:2], GALLERY, k=1)
    assert found.queries == ["p", "q"] and plain.queries == ["0", "1"]
    assert [f"{name}.jpg" for name in plain.gallery[:, 0]] == found.gallery[:, 0].tolist()


@pytest.mark.parametrize("hubs", ["none", "csls"])
def test_ties_are_ordered_by_gallery_name(hubs: Any) -> None:
    """By name, not by row, whether an index searches or all pairs are scored."""
    gallery = np.repeat(GALLERY[:1], 40, axis=0)
    names = [f"copy{i:02}" for i in range(40)][::-1]
    found = rank(QUERIES[:3], gallery, RetrieveSettings(hubs=hubs), gallery_names=names)
    assert all(row == sorted(names)[:10] for row in found.gallery.tolist())


def test_a_gallery_smaller_than_k_gives_all_it_has() -> None:
    for settings in (None, RetrieveSettings(rerank="reciprocal")):
        found = rank(QUERIES, GALLERY[:3], settings, k=10)
        assert found.gallery.shape == found.scores.shape == (len(QUERIES), 3)


STEPS: list[dict[str, Any]] = [
    {},
    {"center": True, "query_neighbors": 0.4},
    {"center": True, "rerank": "reciprocal", "gallery_clusters": 0.5},
    {"whiten": 8, "hubs": "softmax", "no_transductive": True},
]


@pytest.mark.parametrize("steps", STEPS)
def test_the_steps_are_those_of_the_stages(steps: dict[str, Any]) -> None:
    settings = RetrieveSettings(**steps)
    embeddings = Embeddings(QUERIES, GALLERY, LABELED, LABELED)
    names = [f"g{i:02}" for i in range(len(GALLERY))]
    queries = [f"q{i:02}" for i in range(len(QUERIES))]
    expected = rank_embeddings(embeddings, settings, names, queries)
    found = rank(
        QUERIES, GALLERY, settings, query_names=queries, gallery_names=names, labeled=LABELED
    )
    assert as_mapping(found) == as_mapping(expected)
    assert found.scores.tobytes() == expected.scores.tobytes(), "rows of length 1 stay as they are"
    scores = score_all(apply(embeddings, settings), settings)
    assert found.gallery[:, 0].tolist() == [names[i] for i in scores.argmax(1)]


def test_labeled_pictures_may_be_divided_by_domain() -> None:
    settings = RetrieveSettings(center=True, no_transductive=True)
    found = rank(QUERIES, GALLERY, settings, labeled=(LABELED[:30], LABELED[30:]))
    centered = apply(Embeddings(QUERIES, GALLERY, LABELED[:30], LABELED[30:]), settings)
    expected = (centered.queries @ centered.gallery.T).argmax(1)
    assert found.gallery[:, 0].tolist() == expected.astype(str).tolist()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"queries": QUERIES[0]}, r"queries: must be a non-empty array .* not \(16,\)"),
        ({"gallery": GALLERY[:0]}, r"gallery: must be a non-empty array .* not \(0, 16\)"),
        ({"gallery": GALLERY[:, :8]}, r"the same number of columns, not \[8, 16\]"),
        ({"labeled": LABELED[:, :8]}, r"the same number of columns, not \[8, 16\]"),
        ({"queries": np.full((1, 16), np.nan)}, "queries: holds values that are not finite"),
        ({"k": 0}, "k = 0: must be at least 1"),
        ({"query_names": ["q"]}, "query_names: 1 names for 60 rows"),
        ({"gallery_names": ["a"] * 60}, "gallery_names: 'a' is there more than once"),
        ({"settings": RetrieveSettings(whiten=8)}, "pass their embeddings as labeled"),
        (
            {"settings": RetrieveSettings(center=True, no_transductive=True)},
            "pass their embeddings as labeled",
        ),
        (
            {"settings": RetrieveSettings(hubs="csls", no_transductive=True)},
            "pass their embeddings as labeled",
        ),
        ({"settings": RetrieveSettings(rerank="krr")}, "'krr': must be one of none, reciprocal"),  # type: ignore[arg-type]
        ({"settings": RetrieveSettings(expand=2.0)}, "--expand 2"),
    ],
)
def test_mistakes_are_named(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        rank(**({"queries": QUERIES, "gallery": GALLERY} | changed))


# ---- the stages ---------------------------------------------------------------------------------


def test_a_query_that_cannot_be_read_gets_the_first_of_the_gallery(competition: Path) -> None:
    broken = next(path for path in sorted((competition / "test" / "query").iterdir()))
    broken.write_bytes(b"not a picture")
    stages = ["split", "train", "index", "retrieve"]
    assert runner.main(["--stage", *stages, "--data", str(competition), *FAST]) == 0
    run = Path("runs/tiny")
    gallery = read_json(run / "gallery.json", "")["keys"]
    assert gallery == sorted(gallery)
    assert read_json(run / "submission.json", "")[broken.name] == gallery[:10]
    scores = [score for _, score in read_json(run / "ranking.json", "")["test"][broken.name]]
    assert scores == [0.0] * 10


@pytest.mark.parametrize(
    ("settings", "labeled", "said"),
    [
        (RetrieveSettings(whiten=126), 80, "--whiten 126 changes nothing for the gallery"),
        (RetrieveSettings(center=True, no_transductive=True), 1, "--center changes nothing"),
        (RetrieveSettings(hubs="csls", no_transductive=True), 0, "--hubs csls changes nothing"),
        (RetrieveSettings(whiten=126, center=True, no_transductive=True), 127, ""),
    ],
)
def test_steps_that_have_too_little_to_learn_from_are_said(
    settings: RetrieveSettings, labeled: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    galleries._warn_of_missing_labels(settings, labeled, "gallery")
    assert (said in caplog.text) if said else not caplog.text
