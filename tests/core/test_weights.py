"""Weights: read without running code, refused where they do not fit, and the model hub."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import requests
import torch
from huggingface_hub import constants
from onnx import helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from lookalike.core import weights
from lookalike.core.errors import UserError
from lookalike.core.weights import fingerprint, load_into, load_state


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('code of the file was run')",))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"weight": Evil()}, path)
    with pytest.raises(UserError, match="cannot be read"):
        load_state(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="cannot be read"):
        load_state(path)


def test_state_dicts_are_read_in_every_wrapping(tmp_path: Path) -> None:
    state = nn.Linear(2, 3).state_dict()
    save_file(state, tmp_path / "plain.safetensors")
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "wrapped.pth"
    )
    for name in ("plain.safetensors", "wrapped.pth"):
        found = load_state(tmp_path / name)
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    with pytest.raises(UserError, match=r"1 tensors of the backbone are missing: \['bias'\]"):
        load_into(model, {"weight": torch.zeros(3, 2)}, "w.pth")
    with pytest.raises(UserError, match=r"w.pth: .*weight has \[9, 9\]"):
        load_into(model, {"weight": torch.zeros(9, 9), "bias": torch.zeros(3)}, "w.pth")
    nan = {"weight": torch.full((3, 2), torch.nan), "bias": torch.zeros(3)}
    with pytest.raises(UserError, match="weight holds values that are not finite"):
        load_into(model, nan, "w.pth")
    with pytest.raises(UserError, match="no such file"):
        load_state(tmp_path / "nowhere.pth")
    for content in ([1, 2], {0: torch.zeros(1)}):
        torch.save(content, tmp_path / "list.pth")
        with pytest.raises(UserError, match="holds no state dict"):
            load_state(tmp_path / "list.pth")


def test_fingerprints_tell_weights_apart() -> None:
    model = nn.Linear(2, 3)
    before = fingerprint(model)
    assert before == fingerprint(model)
    with torch.no_grad():
        model.bias[0] += 1
    assert fingerprint(model) != before


def test_an_unreachable_hub_is_noticed_by_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    weights.look_for_hub()
    assert constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(requests, "head", lambda *_, **__: None)
    weights.look_for_hub()
    assert not constants.HF_HUB_OFFLINE


def test_integers_in_blocks_are_unpacked(tmp_path: Path) -> None:
    """Five columns in blocks of two: the last block is short."""
    integers = np.arange(-5, 5, dtype=np.int8).reshape(2, 5)
    scale = np.array([[1, 2, 3], [0.5, 0.25, 4]], np.float32)
    zero = np.array([[0, 1, -1], [2, 0, 0]], np.int8)
    stored: dict[str, np.ndarray] = {
        "w_quantized": integers,
        "w_scales": scale,
        "w_zero_point": zero,
        "w_shape": np.array([5, 2, 1], np.int64),
        "bias": np.ones(3, np.float32),
    }
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph([], "packed", [], [], tensors)
    onnx.save(helper.make_model(graph), tmp_path / "packed.onnx")
    state = load_state(tmp_path / "packed.onnx")
    expected = [
        [(int(q) - int(zero[i, j // 2])) * float(scale[i, j // 2]) for j, q in enumerate(row)]
        for i, row in enumerate(integers)
    ]
    assert state.keys() == {"w", "bias"}
    assert state["w"].shape == (5, 2, 1)
    assert state["w"].flatten().tolist() == [x for row in expected for x in row]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "backbone.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_what_training_programs_add_is_stripped_and_said(
    prefix: str, wrapper: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {f"{prefix}weight": torch.ones(2), "weight": torch.zeros(2), "head.bias": torch.ones(1)}
    torch.save({wrapper: state, "epoch": 3}, tmp_path / "w.pth")
    caplog.set_level("INFO", "toolkit")
    read = load_state(tmp_path / "w.pth")
    assert read.keys() == {"weight", "head.bias"}
    assert read["weight"].tolist() == [1, 1], "the one with a prefix is the backbone's"
    assert "1 of 3 names without" in caplog.text


ODD_TENSORS = {
    "float8": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
    "sparse": torch.tensor([1.0, 2.0]).to_sparse(),
    "quantized": torch.quantize_per_tensor(torch.tensor([1.0, 2.0]), 0.5, 0, torch.qint8),
    "half": torch.tensor([1.0, 2.0]).half(),
    "bfloat16": torch.tensor([1.0, 2.0]).bfloat16(),
}


@pytest.mark.parametrize("tensor", ODD_TENSORS.values(), ids=ODD_TENSORS)
def test_odd_tensors_are_read_without_a_loss(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"weight": tensor}, tmp_path / "w.pth")
    module = torch.nn.Linear(2, 1, bias=False)
    state = {name: value[None] for name, value in load_state(tmp_path / "w.pth").items()}
    load_into(module, state, "w.pth")
    assert module.weight.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(2, device="meta"), "a meta tensor"),
        (torch.zeros(2, dtype=torch.complex64), "complex numbers"),
    ],
)
def test_tensors_that_are_no_weights_are_named(
    tensor: torch.Tensor, said: str, tmp_path: Path
) -> None:
    torch.save({"weight": tensor}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"w\.pth: weight .*{said}"):
        load_state(tmp_path / "w.pth")


def test_too_little_memory_says_nothing_about_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "w.pth")

    def fail(*values: Any, **named: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(MemoryError):
        load_state(tmp_path / "w.pth")
