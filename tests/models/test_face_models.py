"""The architectures are those that the public weights were trained with, tensor by tensor.

`inception_resnet_v1.txt` lists facenet-pytorch 2.6.0's state dict: a line with the name and the
shape of each tensor, but for the batch normalization after each convolution, whose five tensors
follow from the convolution's width.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.sface import aligned_faces, by_onnx_runtime
from lookalike.core.errors import UserError
from lookalike.core.settings import EmbedSettings
from lookalike.core.weights import load_into
from lookalike.models.embedder import embedder_of, load_embedder
from lookalike.models.face_models import InceptionResnetV1, SFace, sface_state
from tests.conftest import ROOT, SHARED

TABLE = ROOT / "tests" / "models" / "inception_resnet_v1.txt"


@pytest.fixture
def facenet() -> InceptionResnetV1:
    """A network with random weights and batch statistics, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = InceptionResnetV1().eval()
        for part in network.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.1)
                nn.init.normal_(part.running_mean, 0, 0.1)  # type: ignore[arg-type]
                nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return network


def faces(count: int) -> Tensor:
    return torch.rand(count, 3, 160, 160, generator=torch.Generator().manual_seed(1)) * 2 - 1


def public_shapes() -> dict[str, list[int]]:
    """{name: shape} of the public weights, without their classifier."""
    shapes: dict[str, list[int]] = {}
    for line in TABLE.read_text().splitlines():
        name, *numbers = line.split()
        shapes[name] = [int(number) for number in numbers]
        if name.endswith(".conv.weight"):
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[name.replace("conv.weight", f"bn.{part}")] = shapes[name][:1]
            shapes[name.replace("conv.weight", "bn.num_batches_tracked")] = []
    return shapes


def test_names_shapes_and_order_are_those_of_the_public_weights(facenet: nn.Module) -> None:
    own = {name: list(tensor.shape) for name, tensor in facenet.state_dict().items()}
    assert list(own.items()) == list(public_shapes().items())


@pytest.mark.slow
def test_features_are_those_of_facenet_pytorch(facenet: nn.Module) -> None:
    theirs = pytest.importorskip("facenet_pytorch", reason="pip install --no-deps facenet-pytorch")
    other = theirs.InceptionResnetV1().eval()
    other.load_state_dict(facenet.state_dict())
    with torch.inference_mode():
        own = facenet(faces(2))
        assert own.shape == (2, 512)
        torch.testing.assert_close(nn.functional.normalize(own), other(faces(2)), rtol=0, atol=1e-5)
        other.classify = True  # then its features are not brought to length 1
        other.logits = nn.Identity()
        torch.testing.assert_close(own, other(faces(2)), rtol=1e-5, atol=1e-5)


def test_public_weights_load_without_their_classifier(facenet: nn.Module) -> None:
    classifier = {"logits.weight": torch.zeros(8631, 512), "logits.bias": torch.zeros(8631)}
    fresh = InceptionResnetV1()
    load_into(fresh, facenet.state_dict() | classifier, "vggface2.pt")
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, facenet.state_dict()[name]), name


def test_weights_that_lack_a_tensor_are_refused_by_name(facenet: nn.Module) -> None:
    state = dict(facenet.state_dict())
    del state["repeat_2.7.branch1.1.conv.weight"]
    with pytest.raises(UserError, match=r"vggface2\.pt: 1 tensors .*repeat_2\.7\.branch1\.1\.conv"):
        load_into(InceptionResnetV1(), state, "vggface2.pt")


@pytest.mark.slow
def test_dropout_works_in_training_only(facenet: nn.Module) -> None:
    with torch.inference_mode():
        assert torch.equal(facenet(faces(2)), facenet(faces(2)))
        facenet.get_submodule("dropout").train()
        assert not torch.equal(facenet(faces(2)), facenet(faces(2)))


@pytest.mark.slow
def test_a_gradient_reaches_every_parameter(facenet: nn.Module) -> None:
    features = facenet.train()(faces(4))
    (features * torch.arange(512)).sum().backward()
    for name, parameter in facenet.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


# ---- SFace --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not (SHARED / "lfw62").is_dir(), reason="the shared LFW62 is not here")
def test_sface_is_onnx_runtimes_on_real_faces() -> None:
    embedder = embedder_of(EmbedSettings("sface"), Path("cache"))
    pixels = aligned_faces(SHARED / "lfw62", 50, embedder, Path("cache"))
    pictures = embedder.preprocessing.normalize(torch.from_numpy(pixels))
    with torch.inference_mode():
        ours = embedder.features(pictures).numpy()
    assert np.abs(ours - by_onnx_runtime(Path("cache"))(pixels)).max() < 1e-4


def test_sface_loads_its_own_state_too(tmp_path: Path) -> None:
    embedder = load_embedder("sface")
    state = embedder.backbone.state_dict()
    assert sface_state(state).keys() == state.keys()
    torch.save(state, tmp_path / "tuned.pt")
    assert load_embedder("sface", str(tmp_path / "tuned.pt")).weights_id == embedder.weights_id


def test_sface_can_be_fine_tuned() -> None:
    network = SFace().train()
    network(torch.randn(2, 3, 112, 112)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_public_facenet_weights_are_named_with_their_file(
    facenet: InceptionResnetV1, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="--backbone facenet downloads"):
        load_embedder("inception_resnet_v1")
    torch.save(facenet.state_dict() | {"logits.weight": torch.zeros(2, 2)}, tmp_path / "own.pt")
    embedder = load_embedder("inception_resnet_v1", str(tmp_path / "own.pt"))
    assert (embedder.image_size, embedder.dim) == (160, 512)


def test_a_file_without_counters_of_batches_loads(facenet: InceptionResnetV1) -> None:
    state = {k: v for k, v in facenet.state_dict().items() if "num_batches_tracked" not in k}
    fresh = InceptionResnetV1().eval()
    load_into(fresh, state, "FaceNet")
    assert torch.equal(fresh(faces(1)), facenet(faces(1)))
