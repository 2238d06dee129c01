"""Released weights come from a local server here: no test needs the network."""

import hashlib
import shutil
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from lookalike.core.errors import UserError
from lookalike.data import downloads
from lookalike.models import releases
from lookalike.models.embedder import load_embedder
from lookalike.models.face_models import InceptionResnetV1
from lookalike.models.releases import RELEASES, Release, released_file
from tests.models.test_onnx_models import write_onnx


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and writes no log."""

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address that it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def publish(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str, file: str, content: bytes
) -> None:
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(releases.RELEASES, name, Release(url, file, digest))


def test_arcface_is_a_file_in_a_zip(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    write_onnx(tmp_path / "own.onnx", 1)
    content = (tmp_path / "own.onnx").read_bytes()
    with zipfile.ZipFile(folder / "models.zip", "w") as archive:
        archive.writestr("models/other.onnx", b"of no use")
        archive.writestr("models/own.onnx", content)
    publish(monkeypatch, "arcface", f"{address}/models.zip", "own.onnx", content)

    cache = tmp_path / "cache"
    embedder = load_embedder("arcface", cache=cache)
    plain = load_embedder(f"onnx:{tmp_path / 'own.onnx'}")
    pictures = torch.rand(1, 3, embedder.image_size, embedder.image_size)
    assert embedder.name == "arcface" and torch.equal(embedder(pictures), plain(pictures))
    kept = sorted(path.name for path in (cache / "weights").iterdir())
    assert "own.onnx" in kept and "models.zip" not in kept, "only the weights stay"
    shutil.rmtree(folder)
    assert load_embedder("arcface", cache=cache).weights_id == embedder.weights_id


def test_facenet_is_a_state_dict(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    torch.manual_seed(1)
    state = InceptionResnetV1().state_dict()
    torch.save(state | {"logits.weight": torch.zeros(2, 2)}, folder / "faces.pt")
    content = (folder / "faces.pt").read_bytes()
    publish(monkeypatch, "facenet", f"{address}/faces.pt", "faces.pt", content)
    embedder = load_embedder("facenet", cache=tmp_path / "cache")
    assert (embedder.image_size, embedder.dim) == (160, 512)
    found = embedder.backbone.state_dict()
    assert all(np.array_equal(found[name], value) for name, value in state.items())


def test_another_file_is_refused(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    (folder / "faces.pt").write_bytes(b"something else")
    publish(monkeypatch, "facenet", f"{address}/faces.pt", "faces.pt", b"the weights")
    with pytest.raises(UserError, match=r"faces\.pt has SHA-256 \w+, not"):
        load_embedder("facenet", cache=tmp_path)


@pytest.mark.parametrize("members", [{}, {"a/own.onnx": b"1", "b/own.onnx": b"2"}])
def test_a_zip_without_the_file_is_refused_and_deleted(
    members: dict[str, bytes],
    served: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, address = served
    with zipfile.ZipFile(folder / "models.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    publish(monkeypatch, "arcface", f"{address}/models.zip", "own.onnx", b"1")
    with pytest.raises(UserError, match=r"models\.zip: lacks own\.onnx"):
        released_file("arcface", tmp_path)
    assert not (tmp_path / "weights" / "models.zip").exists()


def test_a_server_out_of_reach_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "BACK_OFF", 0.0)
    publish(monkeypatch, "facenet", "http://127.0.0.1:1/faces.pt", "faces.pt", b"")
    with pytest.raises(UserError, match=r"--backbone facenet: cannot download .*faces\.pt"):
        released_file("facenet", tmp_path)


def test_arcface_has_no_random_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--weights none"):
        load_embedder("arcface", "none", tmp_path)


def test_releases_are_served_encrypted() -> None:
    for release in RELEASES.values():
        assert release.url.startswith("https://") and len(release.sha256) == 64
