"""What a backbone costs, against the published figures."""

from pathlib import Path

import pytest

from lookalike.features.costs import count_flops, count_parameters, measure_costs
from lookalike.models.embedder import load_embedder


@pytest.mark.slow
def test_parameters_and_operations_are_the_published_ones() -> None:
    """MobileNetV2: 2.2 million without its classifier, 0.3 billion multiplications."""
    embedder = load_embedder("mobilenet_v2", "none")
    assert count_parameters(embedder) == 2_223_872
    assert count_flops(embedder) == pytest.approx(2 * 300e6, rel=0.02)


@pytest.mark.slow
def test_costs_are_of_the_backbone_that_is_named(tmp_path: Path) -> None:
    tiny = load_embedder("test_efficientnet", "none")
    costs = measure_costs("test_efficientnet", tmp_path)
    smaller = measure_costs("test_efficientnet", tmp_path, image_size=64)
    assert (costs.image_size, smaller.image_size) == (160, 64)
    assert costs.dim == smaller.dim == 256
    assert costs.parameters == smaller.parameters == count_parameters(tiny)
    assert 0 < (smaller.flops or 0) < (costs.flops or 0)
    assert (costs.pictures_per_second or 0) > 0
