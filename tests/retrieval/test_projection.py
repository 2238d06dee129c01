"""The projection across domains: what it learns serves identities that it never saw."""

import numpy as np
import pytest

from lookalike.core.numeric import unit
from lookalike.core.settings import RetrieveSettings
from lookalike.retrieval.embeddings import Embeddings
from lookalike.retrieval.index import as_mapping
from lookalike.retrieval.projection import _Pairs, principal_directions, project
from lookalike.retrieval.ranking import rank

DIM = 24


def two_domains(identities: int, each: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures of two domains: eight numbers tell the identity, sixteen larger ones do not."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(identities), each)
    known = rng.normal(size=(identities, 8))[codes]

    def side() -> np.ndarray:
        telling = known + 0.3 * rng.normal(size=known.shape)
        return unit(np.hstack([telling, rng.normal(0, 2, (len(codes), 16))]))

    return side(), side(), codes.astype(str)


def first_hits(embeddings: Embeddings, names: np.ndarray) -> float:
    best = (embeddings.queries @ embeddings.gallery.T).argmax(1)
    return float((names[best] == names).mean())


def test_unseen_identities_are_found_by_what_others_taught() -> None:
    queries, gallery, names = two_domains(20, 2, seed=1)
    first, second, known = two_domains(60, 3, seed=2)
    embeddings = Embeddings(queries, gallery, first, second, (known, known.copy()))
    projected = project(embeddings, steps=300, dim=512)
    assert first_hits(projected, names) > first_hits(embeddings, names) + 0.2
    lengths = [np.linalg.norm(rows, axis=1) for rows in projected.arrays]
    assert np.allclose(np.concatenate(lengths), 1, atol=1e-5)
    again = project(embeddings, steps=300, dim=512)
    assert all(map(np.array_equal, projected.arrays, again.arrays))


def test_too_few_identities_teach_nothing() -> None:
    queries, gallery, _ = two_domains(4, 2, seed=1)
    first, second, known = two_domains(4, 3, seed=2)
    embeddings = Embeddings(queries, gallery, first, second, (known, known.copy()))
    assert project(embeddings, steps=10, dim=8) is embeddings


@pytest.mark.parametrize("shape", [(40, 8), (8, 40)])
def test_principal_directions_are_those_of_the_singular_values(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = principal_directions(rows, 5)
    expected = np.linalg.svd(rows)[2][:5].T
    assert np.allclose(np.abs((found * expected).sum(0)), 1, atol=1e-3)


def test_a_pair_is_of_one_identity_and_of_both_domains_where_it_can_be() -> None:
    first, second = np.array(list("aaabbcd")), np.array(list("abbe"))
    pairs, rng = _Pairs(first, second), np.random.default_rng(0)
    names, sides = np.concatenate([first, second]), np.repeat([0, 1], [7, 4])
    for _ in range(50):
        one, other = pairs.draw(rng)
        assert names[one].tolist() == names[other].tolist()
        assert sorted(names[one]) == ["a", "b"]
        assert (sides[one] == 0).all() and (sides[other] == 1).all()
    alone = _Pairs(first, first)
    one, other = alone.draw(rng)
    assert sorted(first[one]) == ["a", "b"] and (one != other).all()


def test_rank_projects_only_with_identities() -> None:
    queries, gallery, _ = two_domains(10, 1, seed=1)
    first, second, known = two_domains(20, 2, seed=2)
    steps = RetrieveSettings(project_steps=20)
    names = (known.tolist(), known.tolist())
    ranking = rank(queries, gallery, steps, labeled=(first, second), identities=names)
    assert len(as_mapping(ranking)) == 10
    with pytest.raises(Exception, match="pass those of labeled"):
        rank(queries, gallery, steps, labeled=(first, second))
    with pytest.raises(Exception, match="as many as labeled has rows"):
        rank(queries, gallery, steps, labeled=first, identities=["a"])
