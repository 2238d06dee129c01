"""Archives that must be unpacked or refused."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lookalike.core.errors import UserError
from lookalike.data import archives

NOISE = os.urandom(100_000)
FILES = {
    "test/query/a.jpg": b"first",
    "test/query/B.jpg": os.urandom(200_000),
    "test/query/b.jpg": b"",
    "labels with ümlaut.json": b"{}",
}


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes], packed: bool = False) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two members with one name
        for name, content in members:
            method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            archive.writestr(name, content, compress_type=method)
    return file.getvalue()


def tar_of(*members: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(tmp_path: Path, content: bytes, **limits: int) -> str:
    """The message of the refusal, after a look that nothing else happened."""
    archive, target = tmp_path / "archive", tmp_path / "data"
    archive.write_bytes(content)
    target.mkdir()
    (target / "old").write_bytes(b"stays")
    with pytest.raises(UserError) as refusal:
        archives.unpack(archive, target, **limits)
    assert set(tmp_path.iterdir()) == {archive, target}
    assert tree(target) == {"old": b"stays"}
    message = str(refusal.value)
    assert str(archive) in message and "\n" not in message
    return message


# --- unpack: what is fine ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "pack",
    [
        lambda: zip_of(*FILES.items()),
        lambda: zip_of(*FILES.items(), packed=True),
        lambda: tar_of(*FILES.items()),
        lambda: gzip.compress(tar_of(*FILES.items())),
        lambda: bz2.compress(tar_of(*FILES.items())),
        lambda: lzma.compress(tar_of(*FILES.items())),
    ],
    ids=["zip", "zip deflated", "tar", "tar.gz", "tar.bz2", "tar.xz"],
)
def test_round_trip(tmp_path: Path, pack: Callable[[], bytes]) -> None:
    archive = tmp_path / "name_without_suffix"
    archive.write_bytes(pack())
    archives.unpack(archive, tmp_path / "new" / "data")
    assert tree(tmp_path / "new") == {f"data/{name}": content for name, content in FILES.items()}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["data"]


def folder_info(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


@pytest.mark.parametrize(
    "content",
    [
        tar_of((folder_info("./"), b""), (folder_info("./a"), b""), ("./a/x", b"1")),
        tar_of(("a/x", b"1"), (folder_info("a"), b""), (folder_info("a"), b"")),
        zip_of(("a/", b""), ("a/x", b"1"), ("a/", b"")),
        zip_of(("./a//x", b"1")),
        zip_of(("__MACOSX/a/._x", b"?"), ("a/.DS_Store", b"?"), ("Thumbs.db", b"?"), ("a/x", b"1")),
    ],
)
def test_harmless_oddities(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "archive").write_bytes(content)
    archives.unpack(tmp_path / "archive", tmp_path / "data")
    assert tree(tmp_path / "data") == {"a/x": b"1"}


def test_empty_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(zip_of(("a/b/", b"")))
    archives.unpack(tmp_path / "archive", tmp_path / "data")
    assert (tmp_path / "data" / "a" / "b").is_dir()


def test_modes_are_plain(tmp_path: Path) -> None:
    zip_info = zipfile.ZipInfo("d/x")
    zip_info.external_attr = (stat.S_IFREG | 0o6777) << 16
    tar_info, tar_folder = tarfile.TarInfo("d/x"), folder_info("d")
    tar_info.mode, tar_folder.mode = 0o6777, 0o7000
    umask = os.umask(0o022)
    try:
        for content in (zip_of((zip_info, b"")), tar_of((tar_folder, b""), (tar_info, b""))):
            (tmp_path / "archive").write_bytes(content)
            archives.unpack(tmp_path / "archive", tmp_path / "data")
            modes = [(tmp_path / "data" / name).stat().st_mode for name in (".", "d", "d/x")]
            assert [stat.S_IMODE(mode) for mode in modes] == [0o755, 0o755, 0o644]
    finally:
        os.umask(umask)


def test_target_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, target = tmp_path / "archive", tmp_path / "[data]*"
    left, foreign = tmp_path / ".[data]*.unpacking-killed", tmp_path / ".d.unpacking-x"
    for folder in (target, left, foreign):
        folder.mkdir()
        (folder / "old").touch()
    archive.write_bytes(zip_of(("new", b"1")))
    write = archives._Unpacking.write

    def look_and_write(*arguments: Any) -> None:
        assert not left.exists() and (target / "old").exists()
        write(*arguments)

    monkeypatch.setattr(archives._Unpacking, "write", look_and_write)
    archives.unpack(archive, target)
    assert tree(target) == {"new": b"1"}
    assert set(tmp_path.iterdir()) == {archive, target, foreign}


def test_leftover_of_a_killed_run_goes_with_a_refusal_too(tmp_path: Path) -> None:
    (tmp_path / ".data.unpacking-killed" / "a").mkdir(parents=True)
    refused(tmp_path, b"no archive")


def test_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archives._Unpacking, "write", interrupt)
    (tmp_path / "archive").write_bytes(zip_of(("x", b"1")))
    with pytest.raises(KeyboardInterrupt):
        archives.unpack(tmp_path / "archive", tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_never_half_a_folder_when_another_run_clears_it_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clear_first(self: archives._Unpacking, path: Path, size: int, stream: Any) -> None:
        if path.name == "y":
            shutil.rmtree(self.root)
        write(self, path, size, stream)

    write = archives._Unpacking.write
    monkeypatch.setattr(archives._Unpacking, "write", clear_first)
    assert "b/y" in refused(tmp_path, zip_of(("a/x", b"1"), ("b/y", b"2")))


def test_target_that_cannot_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    archive = tmp_path / "data" / "archive"
    archive.write_bytes(zip_of(("x", b"1")))
    with pytest.raises(UserError, match=r"would be replaced.*holds"):
        archives.unpack(archive, tmp_path / "data")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"would be replaced.*is a file"):
        archives.unpack(archive, tmp_path / "file")
    assert archive.is_file() and (tmp_path / "file").is_file()


# --- unpack: what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("pack", [zip_of, tar_of])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/etc/passwd", "absolute path"),
        ("../evil", "leaves the folder"),
        ("a/../../evil", "leaves the folder"),
        ("a/..", "leaves the folder"),
        ("a/..\\evil", "backslash"),
        ("C:/evil", "drive letter"),
        ("a/C:evil", "drive letter"),
        ("__MACOSX/../../evil", "leaves the folder"),
        ("d/" * 80 + "x", "folders deep"),
        ("n" * 300, "name too long"),
        (".", "without a name"),
        ("a/.", "without a name"),
    ],
)
def test_bad_names(tmp_path: Path, pack: Callable[..., bytes], name: str, words: str) -> None:
    message = refused(tmp_path, pack(("fine", b"1"), (name, b"evil")))
    assert words in message.lower() and repr(name)[:150] in message


def test_a_zip_with_backslashes_throughout_is_of_windows(tmp_path: Path) -> None:
    archive = tmp_path / "windows.zip"
    archive.write_bytes(zip_of(("test\\query\\a.jpg", b"1"), ("test\\b.jpg", b"22")))
    archives.unpack(archive, tmp_path / "out")
    assert (tmp_path / "out" / "test" / "query" / "a.jpg").read_bytes() == b"1"
    (tmp_path / "other").mkdir()
    message = refused(tmp_path / "other", zip_of(("fine", b"1"), ("..\\evil", b"evil")))
    assert "leaves the folder" in message


def zip_with_raw_name(raw: bytes, extra: bytes = b"") -> bytes:
    """A zip whose only member has this name, without the flag that says that it is UTF-8."""
    info = zipfile.ZipInfo("x" * len(raw))
    info.extra = extra
    content = zip_of((info, b"content"))
    return content.replace(b"x" * len(raw), raw)


def unicode_path(name: str, made_for: bytes) -> bytes:
    """Info-ZIP's Unicode Path field."""
    field = b"\x01" + struct.pack("<I", zlib.crc32(made_for)) + name.encode()
    return struct.pack("<HH", 0x7075, len(field)) + field


@pytest.mark.parametrize(
    ("raw", "extra", "name"),
    [
        ("Beyoncé.jpg".encode(), b"", "Beyoncé.jpg"),
        ("Beyonce\u0301.jpg".encode(), b"", "Beyonce\u0301.jpg"),
        ("名.jpg".encode(), b"", "名.jpg"),
        (b"Beyonc\x82.jpg", b"", "Beyoncé.jpg"),
        (b"Beyonc?.jpg", unicode_path("Beyoncé.jpg", b"Beyonc?.jpg"), "Beyoncé.jpg"),
        (b"other.jpg", unicode_path("Beyoncé.jpg", b"Beyonc?.jpg"), "other.jpg"),
        (b"cut.jpg", struct.pack("<HH", 0x7075, 3) + b"\x01ab", "cut.jpg"),
    ],
)
def test_names_of_a_zip_without_the_utf_8_flag(
    raw: bytes, extra: bytes, name: str, tmp_path: Path
) -> None:
    (tmp_path / "a.zip").write_bytes(zip_with_raw_name(raw, extra))
    archives.unpack(tmp_path / "a.zip", tmp_path / "out")
    assert tree(tmp_path / "out") == {name: b"content"}


@pytest.mark.parametrize("name", ["../out.jpg", "/out.jpg", "a/b\\out.jpg"])
def test_a_unicode_path_is_checked_as_any_name(name: str, tmp_path: Path) -> None:
    assert "nothing was unpacked" in refused(
        tmp_path, zip_with_raw_name(b"good.jpg", unicode_path(name, b"good.jpg"))
    )


def test_a_tar_of_1979_is_read(tmp_path: Path) -> None:
    content = bytearray(tar_of(("folder/é.jpg", b"content")))
    content[257:265] = bytes(8)  # no magic bytes, no version
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / "old.tar").write_bytes(content)
    archives.unpack(tmp_path / "old.tar", tmp_path / "out")
    assert tree(tmp_path / "out") == {"folder/é.jpg": b"content"}


def test_nul_in_a_name(tmp_path: Path) -> None:
    content = zip_of(("aXb.jpg", b"")).replace(b"aXb.jpg", b"a\0b.jpg")
    assert r"'a\x00b.jpg' has a NUL" in refused(tmp_path, content)


def test_second_opinion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_fault", lambda *_: "")
    assert "outside the destination" in refused(tmp_path, tar_of(("../evil", b"1")))


def test_zip_member_without_a_name(tmp_path: Path) -> None:
    lengths = b"\1\0\0\0"  # of the name and of the extra field
    content = zip_of(("x", b"1")).replace(lengths + b"x", b"\0\0\1\0x", 1)
    start = content.index(b"PK\1\2") + 28
    content = content[:start] + b"\0\0\1\0" + content[start + 4 :]
    assert "member '' is a file without a name" in refused(tmp_path, content)


def test_zip_member_stored_before_the_beginning(tmp_path: Path) -> None:
    content = zip_of(("x", NOISE), ("y", NOISE))[1000:]
    assert "'x' is stored outside" in refused(tmp_path, b"PK\3\4" + content)


def test_nul_in_a_pax_name(tmp_path: Path) -> None:
    info = tarfile.TarInfo("fine")
    info.pax_headers = {"path": "a\0b"}
    assert "NUL" in refused(tmp_path, tar_of((info, b"")))


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    assert "\x1b" not in refused(tmp_path, zip_of(("../\x1b[2J", b"")))


@pytest.mark.parametrize("file_type", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_zip_links_and_devices(tmp_path: Path, file_type: int) -> None:
    info = zipfile.ZipInfo("odd")
    info.external_attr = (file_type | 0o777) << 16
    message = refused(tmp_path, zip_of((info, b"/etc/passwd")))
    assert "'odd' is a link, a device or a pipe" in message


@pytest.mark.parametrize(
    "tar_type",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        b"Z",
    ],
)
def test_tar_links_and_devices(tmp_path: Path, tar_type: bytes) -> None:
    info = tarfile.TarInfo("odd")
    info.type, info.linkname = tar_type, "fine"
    message = refused(tmp_path, tar_of(("fine", b"1"), (info, b"")))
    assert "'odd' is a link, a device or a pipe" in message


def test_encrypted_zip(tmp_path: Path) -> None:
    content = bytearray(zip_of(("secret", b"1")))
    content[content.index(b"PK\1\2") + 8] |= 1
    assert "'secret' is encrypted" in refused(tmp_path, bytes(content))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_of_an_unusual_method(tmp_path: Path, method: int) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("x", b"1")
    assert "'x' is compressed in another way" in refused(tmp_path, file.getvalue())


@pytest.mark.parametrize("pack", [zip_of, tar_of])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a/x", "a/x"], "'a/x' is there twice"),
        (["a/x", "./a//x"], "'a/x' is there twice"),
        (["a", "a/x"], "'a/x' is a file in one place and a folder in another"),
        (["a/x", "a"], "'a' is a file in one place and a folder in another"),
        (["Pictures", "pictures/x"], "a file in one place and a folder"),
        (["pictures/x/y", "pictures/X"], "a file in one place and a folder"),
    ],
)
def test_clashes(tmp_path: Path, pack: Callable[..., bytes], names: list[str], words: str) -> None:
    assert words in refused(tmp_path, pack(*((name, b"1") for name in names)))


@pytest.mark.parametrize("pack", [zip_of, tar_of])
@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_bytes": 1199}, "'a/y' asks for 1,200 where 1,199 bytes are allowed"),
        ({"max_files": 2}, "'a/y' asks for 3 where 2 files and folders are allowed"),
    ],
)
def test_limits(
    tmp_path: Path, pack: Callable[..., bytes], limits: dict[str, int], words: str
) -> None:
    assert words in refused(tmp_path, pack(("a/x", b"1" * 600), ("a/y", b"2" * 600)), **limits)


def test_disk_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    content = zip_of(("x", b"1" * 600), ("y", b"2" * 600))
    assert "'y' asks for 1,200 where 1,000 bytes are free on the disk" in refused(tmp_path, content)


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_disk_full_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[..., bytes]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives._Unpacking, "make_folder", full)
    message = refused(tmp_path, pack(("x", b"1")))
    assert "cannot unpack" in message and "'x'" in message and "the disk is full" in message


@pytest.mark.parametrize(
    "content",
    [
        zip_of(("zeros", bytes(1_000_000)), packed=True),
        zip_of(("zeros", bytes(1_000_000)), ("x", NOISE), packed=True),
        zip_of(*((f"{i}", bytes(9_000)) for i in range(100)), packed=True),
        gzip.compress(tar_of(("zeros", bytes(1_000_000))), mtime=0),
    ],
    ids=["whole", "one member", "many members", "tar.gz"],
)
def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(archives, "BOMB_SIZE", 10_000)
    monkeypatch.setattr(archives, "BOMB_RATIO", 20)
    assert "a decompression bomb" in refused(tmp_path, content)


def test_sparse_tar_bomb(tmp_path: Path) -> None:
    info = tarfile.TarInfo("sparse")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 50)}
    assert "bytes are allowed" in refused(tmp_path, tar_of((info, b"1")))


def test_zip_member_that_is_shorter_than_it_declares(tmp_path: Path) -> None:
    content = bytearray(zip_of(("liar", b"1" * 600), packed=True))
    start = content.index(b"PK\1\2") + 24
    content[start : start + 4] = (601).to_bytes(4, "little")
    assert "'liar' is longer or shorter" in refused(tmp_path, bytes(content))


def test_member_that_goes_on_after_its_declared_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    content = zip_of(("liar", b"1"))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: Endless())
    assert "'liar' is longer or shorter" in refused(tmp_path, content)


def test_negative_size(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.pax_headers = {"size": "-512"}
    assert "negative size" in refused(tmp_path, tar_of((info, b"")))


def test_extra_header_that_fills_the_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.pax_headers = {"comment": "c" * archives.MAX_TAR_HEADER}
    assert "header too large" in refused(tmp_path, tar_of((info, b"")))


TWO_IN_A_TAR = tar_of(("x", NOISE), ("y", NOISE))
SECOND = 512 + 512 * -(-len(NOISE) // 512)  # where the header of y is


def flip(content: bytes, at: int) -> bytes:
    at %= len(content)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "content",
    [
        zip_of(("x", NOISE))[:50_000],
        zip_of(("x", NOISE))[:-1],
        flip(zip_of(("x", NOISE)), 50_000),
        flip(zip_of(("x", NOISE), packed=True), 50_000),
        zip_of(("x", b"1")).replace(b"PK\1\2", b"PK\1\3"),
        TWO_IN_A_TAR[:50_000],
        TWO_IN_A_TAR[:SECOND],
        TWO_IN_A_TAR[: SECOND + 100],
        flip(TWO_IN_A_TAR, SECOND),
        TWO_IN_A_TAR[:SECOND] + bytes(1024) + TWO_IN_A_TAR[SECOND:],
        TWO_IN_A_TAR + bytes(archives.MAX_TAR_PADDING + 1),
        *(
            damage(compress(TWO_IN_A_TAR))
            for compress in (gzip.compress, bz2.compress, lzma.compress)
            for damage in (
                lambda packed: packed[: len(packed) // 2],
                lambda packed: packed[:-1],
                lambda packed: flip(packed, len(packed) // 2),
            )
        ),
        flip(gzip.compress(TWO_IN_A_TAR, mtime=0), -7),  # its checksum
        gzip.compress(b"a text", mtime=0),
        gzip.compress(b"", mtime=0),
        b"PK\3\4",
        b"\x1f\x8b",
    ],
)
def test_damaged(tmp_path: Path, content: bytes) -> None:
    message = refused(tmp_path, content)
    assert "is damaged or cut short" in message and "download it again" in message


def test_damage_names_the_member(tmp_path: Path) -> None:
    assert "at member 'y'" in refused(tmp_path, TWO_IN_A_TAR[: SECOND + 2000])
    shutil.rmtree(tmp_path / "data")
    assert "at member 'x'" in refused(tmp_path, flip(zip_of(("x", NOISE)), 50_000))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n<!DOCTYPE html><title>Google Drive - Quota exceeded</title>", "a web page"),
        (b"\xef\xbb\xbf<HTML><body>", "a web page"),
        (b"just a text", "begins with b'just a text'"),
        (b"Rar!\x1a\x07\x01\x00", "begins with b'Rar!"),
        (b"", "begins with b''"),
    ],
)
def test_no_archive(tmp_path: Path, content: bytes, words: str) -> None:
    message = refused(tmp_path, content)
    assert "no zip or tar archive" in message and words in message


def test_web_page_says_what_to_do(tmp_path: Path) -> None:
    message = refused(tmp_path, b"<html>")
    assert "quota" in message and "--source archive --source-path FILE" in message


def test_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot unpack .*nothing.zip.*No such file"):
        archives.unpack(tmp_path / "nothing.zip", tmp_path / "data")
    assert not list(tmp_path.iterdir())
