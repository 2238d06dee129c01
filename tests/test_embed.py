"""Features depend on the picture alone, and every picture is embedded once ever."""

import os
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import embed
from cache import KEY, FeatureCache
from config import UserError
from data import read_catalogue
from embed import View, embed_features
from model import Embedder, load_embedder


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder("efficientnet_lite0")


@pytest.fixture
def pictures(competition: Path) -> pd.DataFrame:
    return read_catalogue(competition)


@pytest.fixture
def count_forward(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that go through the backbone."""
    sizes: list[int] = []
    real = embed.forward

    def forward(embedder: Embedder, batch, device):  # type: ignore[no-untyped-def]
        sizes.append(len(batch))
        return real(embedder, batch, device)

    monkeypatch.setattr(embed, "forward", forward)
    return sizes


def test_an_embedding_does_not_depend_on_its_company(
    embedder: Embedder, pictures: pd.DataFrame, competition: Path, tmp_path: Path
) -> None:
    alone = embed_features(embedder, pictures[:1], competition, tmp_path / "a")
    few = embed_features(embedder, pictures[:37], competition, tmp_path / "b")
    turned = embed_features(embedder, pictures[::-1], competition, tmp_path / "c")
    after = embed_features(embedder, pictures, competition, tmp_path / "b")
    assert np.array_equal(alone[0], few[0])
    assert np.array_equal(few, after[:37])
    assert np.array_equal(turned[::-1], after)


def test_every_picture_is_embedded_once_by_its_content(
    embedder: Embedder,
    pictures: pd.DataFrame,
    competition: Path,
    tmp_path: Path,
    count_forward: list[int],
) -> None:
    first = embed_features(embedder, pictures[:40], competition, tmp_path)
    assert count_forward == [32, 32], "one fixed shape"
    assert np.array_equal(embed_features(embedder, pictures[:40], competition, tmp_path), first)
    doubled = pd.concat([pictures[:1], pictures[:1]])
    (competition / pictures.path[0]).rename(competition / "elsewhere.jpg")
    doubled["path"] = "elsewhere.jpg"
    rows = embed_features(embedder, doubled, competition, tmp_path)
    assert np.array_equal(rows, first[[0, 0]]), "another name, the same content"
    assert count_forward == [32, 32]


def test_views_are_kept_apart_and_come_again(
    embedder: Embedder, pictures: pd.DataFrame, competition: Path, tmp_path: Path
) -> None:
    views = [View(), View(0, 0, True), View(1, 0, True), View(0, 1, True)]
    rows = [embed_features(embedder, pictures[:3], competition, tmp_path, v) for v in views]
    assert len({row.tobytes() for row in rows}) == 4
    again = embed_features(embedder, pictures[:3], competition, tmp_path / "new", views[2])
    assert np.array_equal(again, rows[2])


def test_a_picture_that_changed_is_not_embedded_as_the_old_one(
    embedder: Embedder, pictures: pd.DataFrame, competition: Path, tmp_path: Path
) -> None:
    path = competition / pictures.path[2]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match=f"{path.name} has changed since --stage split"):
        embed_features(embedder, pictures, competition, tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name} has gone since --stage split"):
        embed_features(embedder, pictures, competition, tmp_path)


def test_what_is_embedded_when_an_error_comes_is_kept(
    embedder: Embedder,
    pictures: pd.DataFrame,
    competition: Path,
    tmp_path: Path,
    count_forward: list[int],
) -> None:
    path = competition / pictures.path[70]
    content = path.read_bytes()
    path.write_bytes(b"changed")
    with pytest.raises(UserError):
        embed_features(embedder, pictures, competition, tmp_path)
    path.write_bytes(content)
    embed_features(embedder, pictures, competition, tmp_path)
    assert len(count_forward) == 3, "two batches before the error, one after"


# ---- the cache ----------------------------------------------------------------------------------


def open_cache(root: Path, dim: int = 4, **about: str) -> FeatureCache:
    return FeatureCache(root, "some/model", {"weights": "w"} | about, dim)


def key(i: int) -> bytes:
    return int(i).to_bytes(16, "big")


def rows_of_keys(keys: range, dim: int = 4) -> np.ndarray:
    return np.array([[i + j / 10 for j in range(dim)] for i in keys], np.float32)


def test_rows_come_back_in_the_order_of_the_keys(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.add([key(i) for i in range(3000)], rows_of_keys(range(3000)))
    cache.flush()
    order = np.random.default_rng(0).permutation(3000)
    again = open_cache(tmp_path)
    assert np.array_equal(again.rows([key(i) for i in order]), rows_of_keys(range(3000))[order])
    assert again.missing([key(9), key(5000), key(4000), key(5000)]) == [1, 2]
    assert open_cache(tmp_path, weights="other").missing([key(9)]) == [0]


def test_half_written_and_broken_shards_are_left_out(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.add([key(1)], rows_of_keys(range(1, 2)))
    cache.flush()
    np.save(cache.folder / "killed.rows.npy", rows_of_keys(range(2, 3)))  # its keys never came
    np.save(cache.folder / "orphan.keys.npy", np.array([key(3)], KEY))
    np.save(cache.folder / "short.keys.npy", np.array([key(4), key(5)], KEY))
    np.save(cache.folder / "short.rows.npy", rows_of_keys(range(1)))
    (cache.folder / "noise.keys.npy").write_bytes(b"noise")
    (cache.folder / "noise.rows.npy").write_bytes(b"noise")
    assert open_cache(tmp_path).missing([key(i) for i in range(1, 6)]) == [1, 2, 3, 4]


def _fill(root: Path, start: int) -> None:
    cache = open_cache(root)
    for i in range(start, start + 300):
        cache.add([key(i)], rows_of_keys(range(i, i + 1)))
        if i % 7 == 0:
            cache.flush()
    cache.flush()
    os._exit(0)


def test_runs_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    context = get_context("spawn")
    writers = [context.Process(target=_fill, args=(tmp_path, start)) for start in (0, 150, 450)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    keys = [key(i) for i in range(750)]
    cache = open_cache(tmp_path)
    assert cache.missing(keys) == []
    assert np.array_equal(cache.rows(keys), rows_of_keys(range(750)))
