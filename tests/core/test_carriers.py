"""Files that packages carry: the right ones, downloaded once, never installed."""

import dataclasses
import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lookalike.core.carriers import CARRIERS, Carrier, carried_file
from lookalike.core.errors import UserError

CONTENT = b"some weights"
MEMBER = "the_package/models/w.pth"


def carrier(content: bytes = CONTENT) -> Carrier:
    return Carrier(
        "no-such-package-is-installed", "1.0", MEMBER, hashlib.sha256(content).hexdigest()
    )


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A stand-in for pip that downloads a wheel with the file in it; the list of its calls."""
    calls: list[list[str]] = []

    def run(words: list[str], **_: Any) -> None:
        calls.append([*words, Path(words[words.index("--requirement") + 1]).read_text()])
        folder = Path(words[words.index("--dest") + 1])
        if "--only-binary=:all:" not in words:
            with tarfile.open(folder / "the_package-1.0.tar.gz", "w:gz") as source:
                about = tarfile.TarInfo(f"the_package-1.0/{MEMBER}")
                about.size = len(CONTENT)
                source.addfile(about, io.BytesIO(CONTENT))
            return
        with zipfile.ZipFile(folder / "the_package-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(MEMBER, CONTENT)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "dlib"]
)
def test_the_installed_packages_carry_the_right_files(name: str, tmp_path: Path) -> None:
    path = carried_file(CARRIERS[name], tmp_path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == CARRIERS[name].sha256
    assert not list(tmp_path.iterdir()), "no download for an installed package"


def test_a_package_that_is_not_installed_is_downloaded_once(
    pip: list[list[str]], tmp_path: Path
) -> None:
    for _ in range(2):
        assert carried_file(carrier(), tmp_path).read_bytes() == CONTENT
    assert len(pip) == 1
    assert "--no-deps" in pip[0] and "download" in pip[0] and "install" not in pip[0]


def test_only_the_source_archive_that_is_known_is_set_up(
    pip: list[list[str]], tmp_path: Path
) -> None:
    """pip runs the setup of a source archive to learn its name."""
    known = dataclasses.replace(carrier(), source="0" * 64)
    assert carried_file(known, tmp_path).read_bytes() == CONTENT
    assert pip[0][-1] == f"no-such-package-is-installed==1.0 --hash=sha256:{'0' * 64}\n"


def test_a_file_with_another_hash_is_refused(pip: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has SHA-256"):
        carried_file(carrier(b"other weights"), tmp_path)


def test_pip_that_fails_is_an_error_with_its_last_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(words: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(
            1, words, stderr="noise\nERROR: No matching distribution"
        )

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match="cannot be downloaded: ERROR: No matching distribution"):
        carried_file(carrier(), tmp_path)
