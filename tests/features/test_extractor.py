"""Features depend on the picture alone, and every picture is embedded once ever."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps

from lookalike.core.errors import UserError
from lookalike.core.numeric import blocks
from lookalike.core.options import parse_settings
from lookalike.data.demo import draw_picture, make_person
from lookalike.data.images import content_hash
from lookalike.faces.detection import find_face, load_detector
from lookalike.faces.geometry import Crop, crop_face
from lookalike.features import source
from lookalike.features.embedding import embed, embed_faces, embed_features, large_array
from lookalike.features.extractor import FeatureExtractor, load_extractor, make_extractor
from lookalike.features.loader import PLAIN, View
from lookalike.features.source import open_cache
from lookalike.models.embedder import load_embedder
from tests.conftest import files_up_to
from tests.models.test_onnx_models import write_onnx

TINY = ("test_efficientnet", "none")
KINDS: tuple[Literal["none", "aligned"], ...] = ("none", "aligned")


@pytest.mark.parametrize("compiled", ["off", "on"])
@pytest.mark.parametrize(
    "backbone",
    [TINY, pytest.param(("efficientnet_lite0", None), marks=pytest.mark.slow)],
)
def test_an_embedding_does_not_depend_on_its_company(
    backbone: tuple[str, str | None],
    compiled: str,
    extractor: FeatureExtractor,
    pictures: pd.DataFrame,
    tmp_path: Path,
    engines: Path,
) -> None:
    for name in "abc":
        shutil.copytree(engines, tmp_path / name / "engines")
    extractor = replace(extractor, embedder=load_embedder(*backbone), compile=compiled)
    a, b, c = (replace(extractor, cache=tmp_path / name) for name in "abc")
    alone = embed_features(a, pictures[:1])
    few = embed_features(b, pictures[:37])
    turned = embed_features(c, pictures[::-1])
    after = embed_features(b, pictures)
    assert np.array_equal(alone[0], few[0])
    assert np.array_equal(few, after[:37])
    assert np.array_equal(turned[::-1], after)


def test_every_picture_is_embedded_once_by_its_content(
    extractor: FeatureExtractor, pictures: pd.DataFrame, decoded: list[str]
) -> None:
    first = embed_features(extractor, pictures[:40])
    assert sorted(decoded) == sorted(Path(path).name for path in pictures.path[:40])
    assert np.array_equal(embed_features(extractor, pictures[:40]), first)
    doubled = pd.concat([pictures[:1], pictures[:1]])
    (extractor.root / pictures.path[0]).rename(extractor.root / "elsewhere.jpg")
    doubled["path"] = "elsewhere.jpg"
    assert np.array_equal(embed_features(extractor, doubled), first[[0, 0]]), "the content decides"
    assert len(decoded) == 40


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
    extractor: FeatureExtractor, pictures: pd.DataFrame, decoded: list[str]
) -> None:
    path = extractor.root / pictures.path[70]
    content = path.read_bytes()
    path.write_bytes(b"changed")
    with pytest.raises(UserError):
        embed_features(extractor, pictures)
    path.write_bytes(content)
    decoded.clear()
    embed_features(extractor, pictures)
    assert len(decoded) <= 80 - 32, "the batches before the error are not done again"


def test_many_pictures_go_through_in_blocks_and_lie_on_the_disk(
    extractor: FeatureExtractor, pictures: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embed(extractor, pictures[:30])
    monkeypatch.setattr("lookalike.features.embedding.blocks", partial(blocks, size=7))
    monkeypatch.setattr("lookalike.features.embedding.IN_MEMORY", 0)
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
    extractor: FeatureExtractor, pictures: pd.DataFrame, decoded: list[str]
) -> None:
    all_views = replace(extractor, scales=(1.0, 1.5), flip=True)
    known = ["plain", "mirrored", "plain, scale 1.5", "mirrored, scale 1.5"]
    assert [str(view) for view in all_views.views] == known
    embed(all_views, pictures[:3])
    assert len(decoded) == 4 * 3
    embed(replace(extractor, flip=True), pictures[:3])
    assert len(decoded) == 4 * 3


def test_a_scale_below_one_needs_something_around(competition: Path, tmp_path: Path) -> None:
    settings = parse_settings(["--scales", "1", "0.9"]).embed
    with pytest.raises(UserError, match=r"--scales 0\.9: a whole picture has nothing around it"):
        make_extractor(settings, load_embedder(*TINY), competition, tmp_path, 0)


@pytest.mark.parametrize("kind", ["face", "aligned"])
@pytest.mark.parametrize("backbone", [TINY, pytest.param(("sface", None), marks=pytest.mark.slow)])
def test_a_backbone_sees_the_crop_of_the_face(
    backbone: tuple[str, str | None], kind: Literal["face", "aligned"], tmp_path: Path
) -> None:
    paths = [f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        rng = np.random.default_rng(number)
        draw_picture(make_person(8, number), "photo", rng).save(tmp_path / path)
    embedder = load_embedder(*backbone, crop=Crop(kind))
    rows = FeatureExtractor(embedder, tmp_path, tmp_path / "cache")(paths)
    detector = load_detector("yunet", tmp_path)
    for path, row in zip(paths, rows, strict=True):
        image = Image.open(tmp_path / path).convert("RGB")
        face = find_face(image, detector)
        crop = crop_face(np.array(image), face, Crop(kind), embedder.image_size)
        with torch.inference_mode():
            expected = embedder(embedder.transform(Image.fromarray(crop))[None])[0].numpy()
        assert np.abs(row - expected).max() < 1e-4
    whole = FeatureExtractor(load_embedder(*backbone), tmp_path, tmp_path / "cache")
    assert np.abs(whole(paths) - rows).max() > 0.01


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
    whole, faces = (replace(extractor, embedder=load_embedder(*TINY, crop=Crop(k))) for k in KINDS)
    before = [open_cache(one, one.plans[0], PLAIN).folder for one in (whole, faces)]
    monkeypatch.setattr("lookalike.faces.dataset.CONFIDENT", 0.7)
    after = [open_cache(one, one.plans[0], PLAIN).folder for one in (whole, faces)]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False]


# ---- by name, on pictures of any kind -----------------------------------------------------------


def test_an_extractor_takes_files_images_and_arrays(
    competition: Path, pictures: pd.DataFrame, tmp_path: Path
) -> None:
    extractor = load_extractor(TINY[0], weights="none", root=competition, cache=tmp_path / "cache")
    rows = pictures[:4]
    expected = embed(extractor, rows)
    assert np.array_equal(extractor(rows), expected)
    assert np.array_equal(extractor(rows[["path"]]), expected)
    files = [competition / path for path in rows.path]
    images = [Image.open(path) for path in files]
    mixed = [rows.path[0], files[1], images[2], np.array(images[3])]
    assert np.array_equal(extractor(iter(mixed)), expected), "small pictures are decoded in full"
    assert extractor([]).shape == (0, expected.shape[1])
    assert expected.dtype == np.float32
    assert np.allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)


def test_a_picture_in_memory_is_embedded_once(
    extractor: FeatureExtractor, decoded: list[str]
) -> None:
    noise = np.random.default_rng(0).integers(256, size=(3, 40, 30, 3)).astype(np.uint8)
    first = extractor(noise)
    assert np.array_equal(extractor([*noise, Image.fromarray(noise[0])]), first[[0, 1, 2, 0]])
    assert decoded == ["array"] * 3


def test_faces_are_found_in_pictures_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [draw_picture(make_person(8, n), "photo", np.random.default_rng(n)) for n in range(2)]
    extractor = load_extractor(TINY[0], weights="none", crop="aligned", cache=tmp_path / "cache")
    for number, image in enumerate(drawn):
        image.save(tmp_path / f"{number}.png")
    files = extractor([tmp_path / "0.png", tmp_path / "1.png"])
    assert np.abs(extractor(drawn) - files).max() < 1e-4
    monkeypatch.setattr("lookalike.faces.dataset.find_face", None)  # a second search would fail
    extractor(drawn), replace(extractor, scales=(1.1,))(drawn)


def test_what_is_no_picture_is_an_error_that_names_it(
    extractor: FeatureExtractor, pictures: pd.DataFrame
) -> None:
    (extractor.root / "broken.jpg").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"broken\.jpg cannot be decoded"):
        extractor([pictures.path[0], "broken.jpg"])
    with pytest.raises(UserError, match=r"nowhere\.jpg: cannot be read \(No such file"):
        extractor(["nowhere.jpg"])
    with pytest.raises(TypeError, match="list of paths, PIL images and"):
        extractor([1.5])  # type: ignore[list-item]


def test_an_extractor_by_name_is_that_of_the_settings(tmp_path: Path) -> None:
    extractor = load_extractor(
        TINY[0], weights="none", crop="face", flip=False, scales=[0.9, 1], image_size=64, total=9
    )
    assert extractor.embedder.image_size == 64 and extractor.crop.kind == "face"
    assert (extractor.flip, extractor.scales, extractor.total) == (False, (0.9, 1), 9)
    assert load_extractor(TINY[0], weights="none", crop="face").flip, "`auto` does for faces"
    assert load_extractor(TINY[0], weights="none", flip=True).flip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "head"}, "crop='head': must be one of auto, none, face, aligned"),
        ({"pooling": "median"}, "pooling='median': must be one of auto, avg"),
        ({"image_size": 4}, "--image-size 4: must be at least 8"),
        ({"scales": (0.5,)}, r"--scales 0\.5: a whole picture has nothing around it"),
        ({"weights": "nowhere.pt"}, r"nowhere\.pt: no such file"),
    ],
)
def test_a_wrong_option_is_an_error_that_says_what_is_right(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_extractor(TINY[0], **{"weights": "none", **options})


def test_a_large_array_that_does_not_fit_on_the_disk_is_a_sentence(tmp_path: Path) -> None:
    """A sparse file would end the process where it is written to."""
    with files_up_to(10_000_000), pytest.raises(UserError, match=r"the disk is full \(it needs 20"):
        large_array(tmp_path, 5_000, 1_000)
    assert not list(tmp_path.iterdir())


# ---- what an embedding depends on ---------------------------------------------------------------


def key_of(extractor: FeatureExtractor, view: View = PLAIN, **plan: Any) -> str:
    """The name of the folder that the features are cached in."""
    return open_cache(extractor, replace(extractor.plans[0], **plan), view).folder.name


def test_whatever_can_change_an_embedding_changes_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = load_embedder(*TINY)
    plain = FeatureExtractor(embedder, tmp_path, tmp_path / "cache", compile="off")
    keys = [key_of(plain), key_of(plain, View(mirrored=True)), key_of(plain, View(scale=1.1))]
    plans: list[dict[str, Any]] = [
        {"engine": "other"},
        {"version": "9"},
        {"device": "cuda"},
        {"precision": "float16"},
        {"batch": 7},
    ]
    keys += [key_of(plain, **change) for change in plans]
    for library in source.LIBRARIES:
        with monkeypatch.context() as patch:
            patch.setattr(source, "version", lambda n, name=library: "0" if n == name else "1")
            keys.append(key_of(plain))
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
        keys.append(key_of(plain))
    changes: list[dict[str, Any]] = [
        {"image_size": 48},
        {"interpolation": "bilinear"},
        {"mean": (0.1,) * 3},
        {"std": (0.1,) * 3},
        {"standardized": True},
    ]
    for change in changes:
        other = load_embedder(*TINY)
        other.preprocessing = replace(other.preprocessing, **change)
        keys.append(key_of(replace(plain, embedder=other)))
    keys.append(key_of(replace(plain, embedder=load_embedder(*TINY, pooling="max"))))
    renamed = load_embedder(*TINY)
    renamed.name = "another"
    keys.append(key_of(replace(plain, embedder=renamed)))
    trained = load_embedder(*TINY)
    next(trained.backbone.parameters()).data += 1
    trained.identify()
    keys.append(key_of(replace(plain, embedder=trained)))
    assert len(set(keys)) == len(keys)


def test_an_onnx_files_channels_are_in_its_key(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "means.onnx")
    seen = set()
    for channels in ("rgb", "bgr"):
        path.with_suffix(".json").write_text(json.dumps({"channels": channels}))
        embedder = load_embedder(f"onnx:{path}")
        seen.add(key_of(FeatureExtractor(embedder, tmp_path, tmp_path / "cache", compile="off")))
    assert len(seen) == 2


def test_an_onnx_file_embeds_pictures(extractor: FeatureExtractor, pictures: pd.DataFrame) -> None:
    embedder = load_embedder(f"onnx:{write_onnx(extractor.cache.parent / 'means.onnx')}")
    rows = embed(replace(extractor, embedder=embedder), pictures[:5])
    assert rows.shape == (5, 3) and np.allclose(np.linalg.norm(rows, axis=1), 1)
