"""Features depend on the picture alone, and every picture is embedded once ever."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps

from lookalike.core.errors import UserError
from lookalike.core.log import log_to
from lookalike.core.numeric import blocks
from lookalike.core.options import parse_settings
from lookalike.data.catalogue import read_catalogue
from lookalike.data.demo import draw_picture, make_person
from lookalike.data.images import content_hash, read_picture
from lookalike.faces.detection import find_face, load_detector
from lookalike.faces.geometry import Crop, crop_face
from lookalike.features import engine
from lookalike.features import loader as pixels
from lookalike.features.engine import plans
from lookalike.features.extractor import (
    FeatureExtractor,
    embed,
    embed_faces,
    embed_features,
    make_extractor,
    open_cache,
)
from lookalike.features.loader import PLAIN, View
from lookalike.models.embedder import Embedder, load_embedder

SMALL = ("test_efficientnet", "none")
KINDS: tuple[Literal["none", "aligned"], ...] = ("none", "aligned")


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder("efficientnet_lite0")


@pytest.fixture
def pictures(competition: Path) -> pd.DataFrame:
    return read_catalogue(competition)


@pytest.fixture
def extractor(embedder: Embedder, competition: Path, tmp_path: Path) -> FeatureExtractor:
    return FeatureExtractor(embedder, competition, tmp_path / "cache")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded, in any order."""
    names: list[str] = []
    real = pixels.load_pixels

    def load_pixels(path: Path, *rest: object) -> np.ndarray:
        names.append(path.name)
        return real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pixels, "load_pixels", load_pixels)
    return names


def relative_error(rows: np.ndarray, expected: np.ndarray) -> float:
    """The largest distance between two rows, as a share of the expected one's length.

    Features may have any length, and processors round in ways of their own: a wrong kernel shows in
    the first digit of this, a processor without AVX-512 in the sixth.
    """
    distances = np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return float(distances.max())


@pytest.mark.parametrize("compiled", ["off", "on"])
def test_an_embedding_does_not_depend_on_its_company(
    compiled: str, extractor: FeatureExtractor, pictures: pd.DataFrame, tmp_path: Path
) -> None:
    a, b, c = (replace(extractor, cache=tmp_path / name, compile=compiled) for name in "abc")
    alone = embed_features(a, pictures[:1])
    few = embed_features(b, pictures[:37])
    turned = embed_features(c, pictures[::-1])
    after = embed_features(b, pictures)
    assert np.array_equal(alone[0], few[0])
    assert np.array_equal(few, after[:37])
    assert np.array_equal(turned[::-1], after)


def test_compiled_features_are_those_of_pytorch_and_kept_apart(
    extractor: FeatureExtractor, pictures: pd.DataFrame
) -> None:
    plain, compiled = (
        embed_features(replace(extractor, compile=mode), pictures[:20]) for mode in ("off", "on")
    )
    assert not np.array_equal(plain, compiled), "each rounds in its own way: neither is the other"
    assert relative_error(compiled, plain) < 1e-4
    pixels = [extractor.root / path for path in pictures.path[:20]]
    tensors = torch.stack(
        [extractor.embedder.transform(read_picture(p.read_bytes(), 224)) for p in pixels]
    )
    with torch.inference_mode():
        assert relative_error(extractor.embedder.features(tensors).numpy(), plain) < 1e-4


def test_compiling_is_decided_by_the_whole_run() -> None:
    assert [plan.engine for plan in plans("auto", 10)] == ["torch"]
    assert [plan.engine for plan in plans("auto", 10_000)] == ["openvino", "torch"]
    assert [plan.engine for plan in plans("off", 10_000)] == ["torch"]


def test_a_compiler_that_fails_is_said_and_done_without(
    extractor: FeatureExtractor,
    pictures: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_to(None)
    plain = embed_features(extractor, pictures[:3])

    def fail(*_: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(engine, "convert", fail)
    rows = embed_features(replace(extractor, compile="on"), pictures[:3])
    assert np.array_equal(rows, plain)
    assert "no openvino on cpu in float32" in (said := capsys.readouterr().err)
    assert "no such operation" in said
    assert (
        not list((extractor.cache / "engines").iterdir())
        if (extractor.cache / "engines").exists()
        else True
    )


def test_every_picture_is_embedded_once_by_its_content(
    extractor: FeatureExtractor, pictures: pd.DataFrame, seen: list[str]
) -> None:
    first = embed_features(extractor, pictures[:40])
    assert sorted(seen) == sorted(Path(path).name for path in pictures.path[:40])
    assert np.array_equal(embed_features(extractor, pictures[:40]), first)
    doubled = pd.concat([pictures[:1], pictures[:1]])
    (extractor.root / pictures.path[0]).rename(extractor.root / "elsewhere.jpg")
    doubled["path"] = "elsewhere.jpg"
    assert np.array_equal(embed_features(extractor, doubled), first[[0, 0]]), "the content decides"
    assert len(seen) == 40


def test_views_are_kept_apart_and_come_again(
    extractor: FeatureExtractor, pictures: pd.DataFrame, tmp_path: Path
) -> None:
    others = [View(0, 0, "weak"), View(1, 0, "weak"), View(0, 1, "weak"), View(0, 0, "strong")]
    views = [View(), *others]
    rows = [embed_features(extractor, pictures[:3], view) for view in views]
    assert len({row.tobytes() for row in rows}) == 5
    again = embed_features(replace(extractor, cache=tmp_path / "new"), pictures[:3], views[2])
    assert np.array_equal(again, rows[2])


def test_a_picture_that_changed_is_not_embedded_as_the_old_one(
    extractor: FeatureExtractor, pictures: pd.DataFrame
) -> None:
    path = extractor.root / pictures.path[2]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match=f"{path.name} has changed since --stage split"):
        embed_features(extractor, pictures)
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name} has gone since --stage split"):
        embed_features(extractor, pictures)


def test_what_is_embedded_when_an_error_comes_is_kept(
    extractor: FeatureExtractor, pictures: pd.DataFrame, seen: list[str]
) -> None:
    path = extractor.root / pictures.path[70]
    content = path.read_bytes()
    path.write_bytes(b"changed")
    with pytest.raises(UserError):
        embed_features(extractor, pictures)
    path.write_bytes(content)
    seen.clear()
    embed_features(extractor, pictures)
    assert len(seen) <= 80 - 32, "the batches before the error are not done again"


def test_many_pictures_go_through_in_blocks_and_lie_on_the_disk(
    extractor: FeatureExtractor, pictures: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embed(extractor, pictures[:30])
    monkeypatch.setattr("lookalike.features.extractor.blocks", partial(blocks, size=7))
    monkeypatch.setattr("lookalike.features.extractor.IN_MEMORY", 0)
    rows = embed(replace(extractor, cache=extractor.cache / "other"), pictures[:30])
    assert np.array_equal(rows, whole)
    assert isinstance(rows.base, np.memmap)


# ---- faces and mirror images --------------------------------------------------------------------


def test_the_mirror_image_counts_as_much_as_the_picture(
    extractor: FeatureExtractor, pictures: pd.DataFrame, tmp_path: Path
) -> None:
    """The mirrored files as pictures of their own give the other half of the sum."""
    rows = pictures[:6]
    for path in rows.path:
        copy = tmp_path / "mirrored" / Path(path).with_suffix(".png")
        copy.parent.mkdir(parents=True, exist_ok=True)
        ImageOps.mirror(Image.open(extractor.root / path)).save(copy)
    names = [str(Path(path).with_suffix(".png")) for path in rows.path]
    contents = [content_hash((tmp_path / "mirrored" / name).read_bytes()) for name in names]
    mirrored = replace(extractor, root=tmp_path / "mirrored")
    others = embed(mirrored, rows.assign(path=names, content=contents))
    both = embed(extractor, rows) + others
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    assert np.allclose(embed(replace(extractor, flip=True), rows), both, atol=1e-3)
    assert not np.allclose(embed(extractor, rows), both, atol=1e-3)


def test_a_scale_above_one_counts_the_middle_of_a_picture(
    extractor: FeatureExtractor, pictures: pd.DataFrame, tmp_path: Path
) -> None:
    """The middles as files of their own give the other half of the sum."""
    rows = pictures[:4]
    names = [f"{i}.png" for i in range(len(rows))]
    for path, name in zip(rows.path, names, strict=True):
        Image.open(extractor.root / path).crop((12, 12, 36, 36)).save(tmp_path / name)
    contents = [content_hash((tmp_path / name).read_bytes()) for name in names]
    middles = embed(replace(extractor, root=tmp_path), rows.assign(path=names, content=contents))
    both = embed(extractor, rows) + middles
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    assert np.allclose(embed(replace(extractor, scales=(1.0, 2.0)), rows), both, atol=1e-3)


def test_every_view_is_a_scale_and_a_side_and_kept_apart(
    extractor: FeatureExtractor, pictures: pd.DataFrame, seen: list[str]
) -> None:
    all_views = replace(extractor, scales=(1.0, 1.5), flip=True)
    known = ["plain", "mirrored", "plain, scale 1.5", "mirrored, scale 1.5"]
    assert [str(view) for view in all_views.views] == known
    embed(all_views, pictures[:3])
    assert len(seen) == 4 * 3
    embed(replace(extractor, flip=True), pictures[:3])
    assert len(seen) == 4 * 3


def test_a_scale_below_one_needs_something_around(competition: Path, tmp_path: Path) -> None:
    settings = parse_settings(["--scales", "1", "0.9"]).embed
    with pytest.raises(UserError, match=r"--scales 0\.9: a whole picture has nothing around it"):
        make_extractor(settings, load_embedder(*SMALL), competition, tmp_path, 0)


def test_a_pooling_is_compiled_too_and_kept_apart(
    extractor: FeatureExtractor, pictures: pd.DataFrame
) -> None:
    plain, gem = (
        replace(extractor, embedder=load_embedder(*SMALL, pooling=pooling))
        for pooling in ("auto", "gem")
    )
    eager, compiled = (
        embed_features(replace(gem, compile=mode), pictures[:4]) for mode in ("off", "on")
    )
    assert not np.array_equal(eager, compiled) and np.allclose(eager, compiled, rtol=1e-3)
    assert not np.allclose(embed_features(plain, pictures[:4]), eager, rtol=1e-2)


@pytest.mark.parametrize("kind", ["face", "aligned"])
def test_a_face_backbone_sees_the_crop(kind: Literal["face", "aligned"], tmp_path: Path) -> None:
    for person in range(3):
        path = tmp_path / "faces" / "test" / ("query" if person else "gallery") / f"{person}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_picture(make_person(8, person), "photo", np.random.default_rng(person)).save(path)
    rows = read_catalogue(tmp_path / "faces")
    embedder = load_embedder("sface", crop=Crop(kind))
    made = embed(FeatureExtractor(embedder, tmp_path / "faces", tmp_path / "cache"), rows)
    detector = load_detector("yunet", tmp_path)
    for path, row in zip(rows.path, made, strict=True):
        image = Image.open(tmp_path / "faces" / path).convert("RGB")
        crop = crop_face(np.array(image), find_face(image, detector), Crop(kind), 112)
        with torch.inference_mode():
            expected = embedder(embedder.transform(Image.fromarray(crop))[None])[0].numpy()
        assert np.abs(row - expected).max() < 1e-4
    whole = FeatureExtractor(load_embedder("sface"), tmp_path / "faces", tmp_path / "cache")
    assert np.abs(embed(whole, rows) - made).max() > 0.01


def test_the_engine_whitens_as_pytorch_does(
    extractor: FeatureExtractor, pictures: pd.DataFrame
) -> None:
    embedder = load_embedder("efficientnet_lite0", normalization="whitening")
    plain, compiled = (
        embed_features(replace(extractor, embedder=embedder, compile=mode), pictures[:8])
        for mode in ("off", "on")
    )
    assert not np.array_equal(plain, compiled) and relative_error(compiled, plain) < 1e-4


@pytest.mark.parametrize("flip", [False, True])
def test_faces_of_a_loose_picture_are_embedded_as_those_of_the_catalogue(
    flip: bool, competition: Path, pictures: pd.DataFrame, tmp_path: Path
) -> None:
    embedder = load_embedder("test_efficientnet", "none", crop=Crop("face"))
    extractor = FeatureExtractor(embedder, competition, tmp_path / "cache", flip=flip)
    rows, faces = embed(extractor, pictures[:3]), extractor.faces(pictures[:3])
    for row, path, content in zip(rows, pictures.path, pictures.content, strict=False):
        image = Image.open(competition / path)
        twice = embed_faces(extractor, image, [faces[content]] * 2)
        assert np.abs(twice - row).max() < 1e-4
        assert np.array_equal(twice[0], twice[1])
    assert embed_faces(extractor, image, []).shape == (0, embedder.dim)


def test_another_way_to_find_faces_has_embeddings_of_its_own(
    extractor: FeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, faces = (replace(extractor, embedder=load_embedder(*SMALL, crop=Crop(k))) for k in KINDS)
    before = [open_cache(one, one.plans[0], PLAIN).folder for one in (whole, faces)]
    monkeypatch.setattr("lookalike.faces.dataset.CONFIDENT", 0.7)
    after = [open_cache(one, one.plans[0], PLAIN).folder for one in (whole, faces)]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False]
