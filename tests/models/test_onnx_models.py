"""Any ONNX file is a backbone, as the JSON beside it says; what cannot be used says why."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from lookalike.core.errors import UserError
from lookalike.core.settings import EmbedSettings
from lookalike.faces.geometry import TEMPLATE
from lookalike.models.embedder import embedder_of, load_embedder


def write_onnx(
    path: Path,
    batch: int | str = "N",
    channels: int = 3,
    kind: int = TensorProto.FLOAT,
    flat: bool = True,
) -> Path:
    """The mean of each channel as the embedding."""
    shape = [batch, channels] if flat else [batch, channels, 1, 1]
    shapes = [("pictures", [batch, channels, 8, 8]), ("rows", shape)]
    pictures, rows = (helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes)
    nodes = [
        helper.make_node("GlobalAveragePool", ["pictures"], ["pooled"]),
        helper.make_node("Flatten" if flat else "Identity", ["pooled"], ["rows"]),
    ]
    graph = helper.make_graph(nodes, "means", [pictures], [rows])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


ORANGE = Image.new("RGB", (8, 8), (255, 128, 0))


@pytest.mark.parametrize("batch", ["N", 1])
def test_an_onnx_file_embeds_with_arcfaces_numbers(tmp_path: Path, batch: int | str) -> None:
    embedder = load_embedder(f"onnx:{write_onnx(tmp_path / 'means.onnx', batch)}")
    assert (embedder.image_size, embedder.dim) == (8, 3)
    features = embedder.features(torch.stack([embedder.transform(ORANGE)] * 3)).numpy()
    expected = (np.array([255, 128, 0]) - 127.5) / 127.5
    assert np.allclose(features, [expected] * 3, atol=1e-5)


def test_the_file_beside_it_says_what_it_was_trained_on(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "means.onnx")
    template = (TEMPLATE / 112 * 8 + 1).tolist()
    about = {"mean": 0, "std": 255, "channels": "bgr", "template": template}
    (tmp_path / "means.json").write_text(json.dumps(about))
    embedder = embedder_of(EmbedSettings(f"onnx:{path}"), tmp_path)
    features = embedder.features(embedder.transform(ORANGE)[None]).numpy()
    assert np.allclose(features, [[0, 128 / 255, 1]], atol=1e-5)
    assert embedder.preprocessing.crop.kind == "aligned"
    assert np.allclose(embedder.preprocessing.crop.template, TEMPLATE / 112 + 1 / 8)


def test_another_file_is_another_embedder(tmp_path: Path) -> None:
    one = load_embedder(f"onnx:{write_onnx(tmp_path / 'a.onnx')}").weights_id
    two = load_embedder(f"onnx:{write_onnx(tmp_path / 'b.onnx', 1)}").weights_id
    again = load_embedder(f"onnx:{write_onnx(tmp_path / 'c.onnx')}").weights_id
    assert one == again != two


def test_a_size_that_the_file_does_not_take_is_an_error(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "means.onnx")
    with pytest.raises(UserError, match="takes only its own 8"):
        embedder_of(EmbedSettings(f"onnx:{path}", image_size=16), tmp_path)


@pytest.mark.parametrize(
    "about",
    [[], {"sides": 8}, {"template": [[1, 2]]}, {"std": 0}, {"mean": "high"}, {"template": "none"}],
)
def test_a_file_beside_it_that_makes_no_sense_is_named(tmp_path: Path, about: object) -> None:
    path = write_onnx(tmp_path / "means.onnx")
    (tmp_path / "means.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"means\.json: must be a table of channels, mean"):
        load_embedder(f"onnx:{path}")


def test_what_is_no_embedder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.onnx: no such file"):
        load_embedder(f"onnx:{tmp_path / 'nothing.onnx'}")
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"broken\.onnx: ONNX Runtime cannot use it"):
        load_embedder(f"onnx:{tmp_path / 'broken.onnx'}")
    gray = write_onnx(tmp_path / "grey.onnx", channels=1)
    with pytest.raises(UserError, match=r"takes pictures \['N', 1, 8, 8\], not pictures"):
        load_embedder(f"onnx:{gray}")


@pytest.mark.parametrize("batch", ["N", 2, 4])
@pytest.mark.parametrize("flat", [True, False])
def test_files_of_every_batch_and_output_embed(
    batch: int | str, flat: bool, tmp_path: Path
) -> None:
    path = write_onnx(tmp_path / "means.onnx", batch, flat=flat)
    embedder = load_embedder(f"onnx:{path}")
    features = embedder.features(torch.stack([embedder.transform(ORANGE)] * 5)).numpy()
    expected = (np.array([255, 128, 0]) - 127.5) / 127.5
    assert features.shape == (5, 3) and np.allclose(features, expected, atol=1e-5)


def test_a_file_in_half_precision_embeds(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "means.onnx", kind=TensorProto.FLOAT16)
    embedder = load_embedder(f"onnx:{path}")
    features = embedder.features(embedder.transform(ORANGE)[None]).numpy()
    assert features.dtype == np.float32
    assert np.allclose(features, (np.array([[255, 128, 0]]) - 127.5) / 127.5, atol=2e-3)


@pytest.mark.parametrize("written", ["BGR", "Bgr", "bgr"])
def test_the_order_of_channels_is_read_in_any_case(written: str, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "means.onnx")
    path.with_suffix(".json").write_text(json.dumps({"channels": written}))
    assert load_embedder(f"onnx:{path}").backbone.bgr is True


@pytest.mark.parametrize("about", ['{"channels": "gbr"}', '{"channel": "bgr"}', '{"channels": 3}'])
def test_a_misspelled_order_of_channels_is_an_error(about: str, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "means.onnx")
    path.with_suffix(".json").write_text(about)
    with pytest.raises(UserError, match="channels rgb or bgr"):
        load_embedder(f"onnx:{path}")


def test_a_run_that_fails_names_the_file_and_the_size(tmp_path: Path) -> None:
    backbone = load_embedder(f"onnx:{write_onnx(tmp_path / 'means.onnx')}").backbone
    with pytest.raises(UserError, match=r"means\.onnx: cannot be run on \(1, 3, 9, 9\)"):
        backbone(torch.zeros(1, 3, 9, 9))
