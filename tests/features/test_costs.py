"""What a backbone costs, against figures that its makers publish."""

from pathlib import Path

import pytest

from lookalike.features.costs import count_flops, measure_costs
from lookalike.models.embedder import load_embedder


def test_parameters_and_operations_are_the_published_ones() -> None:
    """MobileNetV2: 2.2 million without its classifier, 0.3 billion multiplications."""
    embedder = load_embedder("mobilenet_v2", "none")
    assert sum(p.numel() for p in embedder.backbone.parameters()) == 2_223_872
    assert count_flops(embedder) == pytest.approx(2 * 300e6, rel=0.02)


def test_costs_are_of_the_backbone_that_is_named(tmp_path: Path) -> None:
    costs = measure_costs("test_efficientnet", tmp_path)
    smaller = measure_costs("test_efficientnet", tmp_path, image_size=64)
    assert 0 < (smaller["flops"] or 0) < (costs["flops"] or 0)
    assert costs["parameters"] and costs["flops"] and (costs["pictures_per_second"] or 0) > 0
