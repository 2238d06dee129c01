"""Architectures from scratch have the published size, and train for real."""

import pytest
import torch
from torch import nn

from lookalike.core.errors import UserError
from lookalike.models.backbones import build_backbone
from lookalike.models.embedder import load_embedder
from lookalike.models.small_models import NN1, NN2

# One of each family that is trained from scratch: deeper ones of timm's are the same code.
FROM_SCRATCH = [
    "small_cnn",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "nn1",
            "nn2",
            "inception_resnet_v1",
            "inception_v3",
            "resnet18",
            "resnext50_32x4d",
            "vgg16",
        )
    ),
]


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_an_architecture_trains_for_real(name: str) -> None:
    backbone, preprocessing = build_backbone(name, from_hub=False)
    pictures = torch.randn(2, 3, preprocessing.image_size, preprocessing.image_size)
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01)
    for _ in range(2):  # timm's residual branches begin at zero: at first nothing flows through
        optimizer.zero_grad()
        rows = backbone.train()(pictures).flatten(1)
        nn.functional.mse_loss(rows, torch.randn_like(rows)).backward()
        optimizer.step()
    parameters = dict(backbone.named_parameters())
    assert all(torch.isfinite(tensor).all() for tensor in parameters.values())
    unmoved = [
        key for key, tensor in parameters.items() if tensor.grad is None or not tensor.grad.any()
    ]
    # A bias before batch normalization has no gradient; everything else must have one.
    assert not [key for key in unmoved if not key.endswith("bias")]


@pytest.mark.parametrize(("network", "millions"), [(NN1, 140), (NN2, 7.5)])
def test_facenets_networks_have_the_papers_size(network: type[nn.Module], millions: float) -> None:
    count = sum(parameter.numel() for parameter in network().parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


def test_they_have_no_pretrained_weights() -> None:
    with pytest.raises(UserError, match="--weights none --unfreeze all"):
        load_embedder("nn2")
