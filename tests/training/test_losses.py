"""Objectives are what their names say, and each takes a real step."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lookalike.core.errors import UserError
from lookalike.core.settings import TrainSettings
from lookalike.training.losses import LOSSES, Objective, frequency_margins, parse_objective

TARGETS = torch.arange(12) % 3
COUNTS = np.array([4, 4, 4])


def separation(rows: torch.Tensor) -> float:
    """Mean cosine of positive pairs, less that of negative ones."""
    unit = normalize(rows, dim=1)
    cosines, same = unit @ unit.T, TARGETS[:, None] == TARGETS
    return float(cosines[same & ~torch.eye(12, dtype=torch.bool)].mean() - cosines[~same].mean())


def trained(settings: TrainSettings, steps: int = 30) -> tuple[float, float]:
    """The separation of free embeddings before and after some steps."""
    torch.manual_seed(0)
    rows = torch.randn(12, 8, requires_grad=True)
    objective = Objective(settings, 8, COUNTS)
    before = separation(rows.detach())
    optimizer = torch.optim.Adam([rows, *objective.parameters()], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(rows, TARGETS).backward()
        optimizer.step()
    return before, separation(rows.detach())


@pytest.mark.parametrize("name", [*LOSSES, "arcface+0.1*triplet"])
def test_every_objective_brings_an_identitys_pictures_together(name: str) -> None:
    before, after = trained(TrainSettings(objective=name))
    assert after > before + 0.1


@pytest.mark.parametrize("name", ["supcon", "arcface+0.1*triplet"])
def test_a_projector_alone_stands_between_the_embeddings_and_the_loss(name: str) -> None:
    settings = TrainSettings(objective=name, projector=5)
    before, after = trained(settings)
    assert after > before + 0.1
    objective = Objective(settings, 8, COUNTS)
    rows = torch.randn(12, 8)
    with_it = objective(rows, TARGETS)
    rows, objective.projector = objective.projector(rows), torch.nn.Identity()
    assert rows.shape == (12, 5) and torch.equal(objective(rows, TARGETS), with_it)


@pytest.mark.parametrize("miner", ["all", "semihard", "hard"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_every_miner_learns(miner: str, distance: str) -> None:
    settings = TrainSettings(objective="triplet", miner=miner, distance=distance, margin=0.65)  # type: ignore[arg-type]
    before, after = trained(settings)
    assert after > before + 0.1


@pytest.mark.parametrize("name", ["triplet", "contrastive", "supcon"])
def test_a_memory_is_learned_with_and_restored(name: str) -> None:
    settings = TrainSettings(objective=name, memory_size=32)
    before, after = trained(settings)
    assert after > before
    torch.manual_seed(0)
    rows, one, other = torch.randn(12, 8), *(Objective(settings, 8, COUNTS) for _ in range(2))
    one(rows, TARGETS)
    other.load_state_dict(one.state_dict())
    again = torch.randn(12, 8)
    assert torch.equal(one(again, TARGETS), other(again, TARGETS))


def test_a_sum_is_weighted() -> None:
    rows = torch.randn(12, 8)
    parts = {
        text: float(Objective(TrainSettings(objective=text), 8, COUNTS)(rows, TARGETS))
        for text in ("triplet", "contrastive", "triplet+0.5*contrastive")
    }
    both = parts["triplet"] + 0.5 * parts["contrastive"]
    assert parts["triplet+0.5*contrastive"] == pytest.approx(both)


def test_triplets_that_were_drawn_are_the_only_ones() -> None:
    rows = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    objective = Objective(TrainSettings(objective="triplet", margin=0.2), 2, np.array([2, 2]))
    drawn = (torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))
    loss = objective(rows, torch.tensor([0, 0, 1, 1]), drawn)
    assert float(loss) == 0  # cosine 0 to the positive, -1 to the negative
    drawn = (torch.tensor([0]), torch.tensor([2]), torch.tensor([1]))
    assert float(objective(rows, torch.tensor([0, 1, 0, 1]), drawn)) == pytest.approx(1.2)


def test_rare_classes_have_the_wider_margin() -> None:
    margins = frequency_margins(np.array([2, 50, 400]), 0.4)
    assert margins.tolist() == sorted(margins.tolist(), reverse=True)
    assert margins[0] == pytest.approx(0.4)
    assert frequency_margins(np.array([7, 7]), 0.4).tolist() == pytest.approx([0.4, 0.4])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arcfase", "did you mean 'arcface'"),
        ("arcface+", "unknown"),
        ("x*triplet", "'x' is not a number"),
        ("0*triplet", "must be above 0"),
        ("nan*triplet", "must be above 0"),
        ("triplet+0.5*triplet", "repeated"),
    ],
)
def test_an_objective_that_cannot_be_read_says_why(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_objective(text)
