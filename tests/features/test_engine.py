"""Every engine computes what PyTorch computes, and is chosen for the whole run."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lookalike.core.errors import UserError
from lookalike.core.log import log_to
from lookalike.data.images import read_picture
from lookalike.features import engine
from lookalike.features.embedding import embed_features
from lookalike.features.engine import Plan, blank_batch, build_engine, plans
from lookalike.features.extractor import FeatureExtractor
from lookalike.models.embedder import Embedder, load_embedder
from tests.features.conftest import relative_error

BACKBONES = [
    ("test_efficientnet", "none"),
    pytest.param(("efficientnet_lite0", None), marks=pytest.mark.slow),
]


def share(engines: Path, cache: Path) -> None:
    """Have a new cache use the engines that are compiled already."""
    cache.mkdir(exist_ok=True)
    shutil.copytree(engines, cache / "engines")


def both_ways(extractor: FeatureExtractor, pictures: pd.DataFrame) -> Iterator[np.ndarray]:
    """Features by PyTorch, then compiled."""
    for mode in ("off", "on"):
        yield embed_features(replace(extractor, compile=mode), pictures)


def test_compiling_is_decided_by_the_number_of_pictures() -> None:
    assert [plan.engine for plan in plans("auto", 10)] == ["torch"]
    assert [plan.engine for plan in plans("auto", 10_000)] == ["openvino", "torch"]
    assert [plan.engine for plan in plans("off", 10_000)] == ["torch"]
    assert [plan.engine for plan in plans("on", 1)] == ["openvino", "torch"]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_compiled_features_are_those_of_pytorch_and_kept_apart(
    backbone: tuple[str, str | None],
    extractor: FeatureExtractor,
    pictures: pd.DataFrame,
    engines: Path,
) -> None:
    share(engines, extractor.cache)
    extractor = replace(extractor, embedder=load_embedder(*backbone))
    plain, compiled = both_ways(extractor, pictures[:20])
    assert not np.array_equal(plain, compiled), "each rounds in its own way: neither is the other"
    assert relative_error(compiled, plain) < 1e-4
    raw = [(extractor.root / path).read_bytes() for path in pictures.path[:20]]
    inputs = torch.stack([extractor.embedder.transform(read_picture(r, 224)) for r in raw])
    with torch.inference_mode():
        assert relative_error(extractor.embedder.features(inputs).numpy(), plain) < 1e-4


@pytest.mark.slow
def test_a_pooling_is_compiled_too_and_kept_apart(
    extractor: FeatureExtractor, pictures: pd.DataFrame
) -> None:
    gem = load_embedder("test_efficientnet", "none", pooling="gem")
    eager, compiled = both_ways(replace(extractor, embedder=gem), pictures[:4])
    assert not np.array_equal(eager, compiled) and relative_error(compiled, eager) < 1e-4
    assert relative_error(embed_features(extractor, pictures[:4]), eager) > 1e-2


@pytest.mark.slow
def test_standardization_is_compiled_too(
    extractor: FeatureExtractor, pictures: pd.DataFrame
) -> None:
    embedder = load_embedder("efficientnet_lite0", normalization="whitening")
    plain, compiled = both_ways(replace(extractor, embedder=embedder), pictures[:8])
    assert not np.array_equal(plain, compiled) and relative_error(compiled, plain) < 1e-4


def test_a_compiled_model_is_saved_and_used_again(
    embedder: Embedder, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plans("on", 0)[0]
    batch = blank_batch(embedder, plan)
    monkeypatch.setattr(engine, "to_openvino", None)  # a second compilation would fail
    first, second = (
        list(build_engine(plan, embedder, engines.parent).features([batch])) for _ in range(2)
    )
    assert np.array_equal(first, second)
    assert [path.name for path in engines.glob("*/*.xml")] == ["model.xml"]


@pytest.mark.parametrize(
    "name",
    [
        "model.bin",
        pytest.param("model.xml", marks=pytest.mark.slow),
        pytest.param("sha256.json", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_compiled_model_is_compiled_again(
    name: str, embedder: Embedder, engines: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    share(engines, tmp_path)
    plan = plans("on", 0)[0]
    batch = [blank_batch(embedder, plan)]
    expected = list(build_engine(plan, embedder, tmp_path).features(batch))
    (file,) = (tmp_path / "engines").glob(f"*/{name}")
    if name == "sha256.json":
        file.unlink()  # as an earlier version left it
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x40
        file.write_bytes(content)
    again = list(build_engine(plan, embedder, tmp_path).features(batch))
    assert "compiled again" in caplog.text
    assert np.array_equal(again[0], expected[0])
    assert file.is_file()


def test_a_compiled_model_is_of_one_architecture_and_one_set_of_libraries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = Plan("openvino", "2025.4/x", "cpu", "float32", 8)
    one = load_embedder("test_efficientnet", "none")
    names = {engine._key(one, plan)}
    one.name = "test_efficientnet_gn"
    names.add(engine._key(one, plan))
    one.weights_id = "abc"
    names.add(engine._key(one, plan))
    for library in ("torch", "timm", "torchvision"):
        with monkeypatch.context() as patch:
            patch.setattr(engine, "version", lambda n, name=library: "0" if n == name else "1")
            names.add(engine._key(one, plan))
    assert len(names) == 6


def test_batches_come_back_in_order(embedder: Embedder, engines: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(64, 160, 160, 3)).astype(np.uint8)
    for plan in plans("on", 0):
        backbone = build_engine(plan, embedder, engines.parent)
        batches = np.split(pixels, 64 // plan.batch)
        whole = np.concatenate(list(backbone.features(batches)))
        turned = np.concatenate(list(backbone.features(batches[::-1])))
        parts = np.split(turned, 64 // plan.batch)
        assert np.array_equal(np.concatenate(parts[::-1]), whole)


def test_a_compiler_that_fails_is_reported_and_done_without(
    extractor: FeatureExtractor,
    pictures: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_to(None)
    plain = embed_features(extractor, pictures[:3])

    def fail(*_: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(engine, "to_openvino", fail)
    rows = embed_features(replace(extractor, compile="on"), pictures[:3])
    assert np.array_equal(rows, plain)
    printed = capsys.readouterr().err
    assert "no openvino on cpu in float32" in printed and "no such operation" in printed
    assert not list(extractor.cache.glob("engines/*"))


def test_a_backbone_that_runs_by_no_plan_is_a_sentence(
    extractor: FeatureExtractor, pictures: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU whose memory suffices for no batch."""

    def fail(plan: Plan, *_: object) -> None:
        raise torch.OutOfMemoryError(f"a batch of {plan.batch}")

    sizes = [Plan("torch", "2", "cuda", "float16", size) for size in engine.GPU_BATCHES]
    monkeypatch.setattr("lookalike.features.extractor.plans", lambda *_: sizes)
    monkeypatch.setattr("lookalike.features.extractor.build_engine", fail)
    with pytest.raises(UserError, match=r"does not run on the GPU, in batches of 32 .*smaller"):
        embed_features(extractor, pictures[:3])
