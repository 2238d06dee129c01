"""Weights that their authors released as files, by one word: `--backbone arcface`.

A file is downloaded when its backbone is first used, and kept below the cache. Its SHA-256 is
checked before it is read, every time.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

from lookalike.core.carriers import check_hash
from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.log import log
from lookalike.data.downloads import fetch

MOST_BYTES = 1 << 30  # of a file in an archive


@dataclass(frozen=True)
class Release:
    """A file with weights that its authors released.

    Attributes:
        url: Of the file, or of a zip that holds it.
        file: Its name.
        sha256: Of the file, in hexadecimal.
    """

    url: str
    file: str
    sha256: str


RELEASES = {
    "facenet": Release(
        "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"
        "20180402-114759-vggface2.pt",
        "20180402-114759-vggface2.pt",
        "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
    ),
    "arcface": Release(
        "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip",
        "w600k_r50.onnx",
        "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
    ),
}


def released_file(name: str, cache: Path) -> Path:
    """Return the path of a release's file, which is downloaded unless it is there.

    Args:
        name: One of RELEASES.
        cache: Folder of the embedding cache; the file goes to `weights/` in it.

    Raises:
        UserError: It cannot be downloaded, or its SHA-256 is another.
    """
    release, path = RELEASES[name], released_path(name, cache)
    if not path.is_file():
        log.info("downloading the weights of %s", name)
        try:
            got = fetch(release.url, path.parent)
        except UserError as error:
            raise UserError(f"--backbone {name}: {error}") from error
        if got != path:
            _take_out(got, release.file, path)
    check_hash(path, release.sha256)
    return path


def released_path(name: str, cache: Path) -> Path:
    """Return where the file of a release is, or would be."""
    return cache / "weights" / RELEASES[name].file


def _take_out(archive: Path, file: str, path: Path) -> None:
    """Extract one file from a downloaded zip, which is then deleted.

    Raises:
        UserError: It is no zip, or lacks the file.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            (member,) = [m for m in opened.infolist() if Path(m.filename).name == file]
            if member.file_size > MOST_BYTES:
                raise ValueError(f"{file} has {member.file_size:,} bytes")
            with whole_file(path) as beside:
                beside.write_bytes(opened.read(member))
    except (zipfile.BadZipFile, ValueError) as error:
        raise UserError(f"{archive}: lacks {file} ({error}); delete it to try again") from error
    finally:
        archive.unlink(missing_ok=True)
