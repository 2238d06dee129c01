"""Unpack an archive safely; archives are not trusted.

    unpack(archive, Path("data/competition"))

A folder is unpacked whole or not at all: into a temporary folder, which is moved at the end.
"""

import bz2
import gzip
import io
import lzma
import re
import secrets
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import IO, NoReturn, Self

from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.core.files import FULL, disk_full, files_below
from lookalike.data.downloads import BY_HAND
from lookalike.data.layout import PARTS, is_clutter

CHUNK = 1 << 16
BOMB_SIZE, BOMB_RATIO = 100_000_000, 200  # more bytes than this, and this tightly packed
MAX_DEPTH = 64  # folders in folders
MAX_TAR_HEADER = 1 << 16  # tarfile holds the extra headers of a member in memory
MAX_TAR_PADDING = 1 << 24  # zeros at the end; more is a hole where members were
MAGICS = {b"PK\3\4": zipfile, b"PK\5\6": zipfile, b"\x1f\x8b": gzip, b"BZh": bz2, b"\xfd7zXZ": lzma}
SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar", ".zip")
UTF8_FLAG, UNICODE_PATH = 0x800, 0x7075  # of a zip's members
LINK = "a link, a device or a pipe"
# What the standard library raises on damaged archives, besides OSErrors without a number.
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ValueError,
    OverflowError,
    RuntimeError,
    MemoryError,
)


def unpack(
    archive: Path, target: Path, max_bytes: int = 64 << 30, max_files: int = 5_000_000
) -> None:
    """Unpack a zip or tar (plain, gz, bz2 or xz, by its content) into a folder.

    What systems and editors leave beside pictures is left out, see `layout.is_clutter`.

    Args:
        archive: The archive; its suffix does not matter.
        target: The folder. If it exists, it is replaced as a whole at the end. On any error it
            stays as it was and nothing is left behind.
        max_bytes: The most that may be unpacked.
        max_files: The most files and folders.

    Raises:
        UserError: The archive is unsafe (a name that leaves the folder, a link, a device, two
            members with one name), encrypted, a decompression bomb, damaged or no archive, or
            exceeds a limit or the disk.
    """
    target = target.resolve()
    if target.is_file() or archive.resolve().is_relative_to(target):
        raise UserError(f"{target} would be replaced, but is a file or holds {archive}: move it")
    root = target.with_name(f".{target.name}.unpacking-{secrets.token_hex(4)}")
    with tqdm(desc=archive.name, unit="B", unit_scale=True) as bar:
        work = _Unpacking(archive, root, max_bytes, max_files, bar)
        try:
            _tidy(target)
            root.mkdir(parents=True)
            opener = _opener(archive)
            if opener is zipfile:
                _unpack_zip(work)
            else:
                _unpack_tar(work, opener)
            if target.exists():
                target.replace(f"{root}-old")
            root.replace(target)
        except (OSError, *DAMAGE) as error:
            raise UserError(_explain(error, work)) from error
        finally:
            _tidy(target)


def unpack_inner(folder: Path, max_bytes: int = 64 << 30) -> None:
    """Unpack the archives in a folder beside themselves, by the same rules, and delete them.

    `train.zip` becomes `train/`; where it holds a single folder of that name, that one. Archives in
    these are left packed, and so is what lies among the pictures of a part: there each file counts.

    Args:
        folder: Of an archive that was unpacked.
        max_bytes: The most that all of them may be.

    Raises:
        UserError: One of them is refused, see `unpack`, or there is a folder of its name.
    """
    parts = {name for names in PARTS.values() for name in names}
    for archive in files_below(folder):
        inside_part = {place.lower() for place in archive.relative_to(folder).parts[:-1]} & parts
        if inside_part or not archive.name.lower().endswith(SUFFIXES):
            continue
        name = archive.name[: -len(next(s for s in SUFFIXES if archive.name.lower().endswith(s)))]
        target = archive.with_name(name)
        if not name or target.exists():
            raise UserError(f"{archive}: {target.name!r} is there already: unpack it by hand")
        unpack(archive, target, max_bytes)
        max_bytes -= sum(file.stat().st_size for file in files_below(target))
        archive.unlink()
        inside = list(target.iterdir())
        if len(inside) == 1 and inside[0].is_dir() and inside[0].name.lower() == name.lower():
            lifted = target.with_name(f".{name}.lifted")
            inside[0].rename(lifted)
            target.rmdir()
            lifted.rename(target)


def _tidy(target: Path) -> None:
    """Remove what this process, or one that was killed, has left beside `target`."""
    for left in target.parent.glob(f".{escape(target.name)}.unpacking-*"):
        shutil.rmtree(left, ignore_errors=True)


def _explain(error: BaseException, work: "_Unpacking") -> str:
    """Say what failed, at which member, and what to do."""
    where = f" at member {work.member!r:.200}" if work.member else ""
    if isinstance(error, OSError) and error.errno in FULL:
        full = disk_full(work.root.parent / work.member, work.declared - work.written)
        return f"cannot unpack {work.archive}{where}: {full}"
    if isinstance(error, OSError) and error.errno:
        place = f"{work.archive}{where} to {work.root.parent}"
        return f"cannot unpack {place} ({error.strerror}): check that both can be used"
    what = f"{work.archive} is damaged or cut short{where} ({error!s:.200})"
    return f"{what}: delete it and download it again"


def _opener(archive: Path) -> ModuleType:
    """Return the module that opens an archive, by its first bytes; UserError if there is none."""
    with archive.open("rb") as file:
        head = file.read(512)
    for magic, module in MAGICS.items():
        if head.startswith(magic):
            return module
    if head[257:262] == b"ustar" or _is_old_tar(head):
        return io
    what = f"begins with {head[:16]!r}: delete it and get the right file"
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head)", head, re.IGNORECASE):
        what = (
            f"is a web page (Google Drive gives one when a quota is exceeded): delete it, {BY_HAND}"
        )
    raise UserError(f"{archive} is no zip or tar archive, it {what}")


def _is_old_tar(head: bytes) -> bool:
    """Return whether a file begins with the header of a tar of 1979, which has no magic bytes."""
    try:
        return bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape").name)
    except tarfile.TarError:
        return False


@dataclass
class _Unpacking:
    """Admits the members of an archive one by one and writes them below `root`.

    Attributes:
        archive: The archive.
        root: The folder to unpack into.
        max_bytes: The most that may be unpacked.
        max_files: The most files and folders.
        bar: The progress bar, in bytes.
        member: Name of the current member.
        declared: Bytes of the members that were admitted.
        written: Bytes that were unpacked.
        is_folder: {path without upper case: whether it is a folder} of what was admitted.
        made: The folders that were made.
    """

    archive: Path
    root: Path
    max_bytes: int
    max_files: int
    bar: tqdm
    member: str = ""
    declared: int = 0
    written: int = 0
    is_folder: dict[str, bool] = field(default_factory=dict)
    made: set[Path] = field(default_factory=set)

    def admit(self, name: str, kind: str, size: int, packed: int) -> Path | None:
        """Check a member before anything of it is written, and make it where it is a folder.

        Args:
            name: Its name in the archive.
            kind: `file`, `folder`, or what it is that is refused.
            size: The bytes that it declares.
            packed: The bytes that it takes in the archive.

        Returns:
            Where a file goes, or None for clutter and for a folder.

        Raises:
            UserError: The member is refused.
        """
        self.member = name
        if fault := _fault(name, kind, size):
            self.refuse(fault)
        parts = PurePosixPath(name).parts
        if is_clutter(PurePosixPath(name)):
            return None
        for depth in range(1, len(parts) + 1):
            name, is_folder = "/".join(parts[:depth]).casefold(), depth < len(parts)
            is_folder = is_folder or kind == "folder"
            if self.is_folder.setdefault(name, is_folder) != is_folder:
                self.refuse("is a file in one place and a folder in another")
        self.check_limits(0 if kind == "folder" else size, packed)
        path = self.root.joinpath(*parts)
        if kind == "folder":
            self.make_folder(path)
            return None
        return path

    def check_limits(self, size: int, packed: int) -> None:
        """Count a member, and refuse it where a limit is exceeded or its packing is unbelievable.

        Raises:
            UserError: The member is refused.
        """
        self.declared += size
        free, packed_all = shutil.disk_usage(self.root).free, self.archive.stat().st_size
        bomb = "bytes are believable for its packed size (a decompression bomb)"
        for count, limit, what in (
            (len(self.is_folder), self.max_files, "files and folders are allowed"),
            (self.declared, self.max_bytes, "bytes are allowed"),
            (self.declared - self.written, free, "bytes are free on the disk"),
            (size, max(BOMB_SIZE, BOMB_RATIO * packed), bomb),
            (self.declared, max(BOMB_SIZE, BOMB_RATIO * packed_all), bomb),
        ):
            if count > limit:
                self.refuse(f"asks for {count:,} where {limit:,} {what}")

    def write(self, path: Path, size: int, stream: IO[bytes]) -> None:
        """Write an admitted file, not a byte more than the size that was checked.

        Raises:
            UserError: The file exists, or has another size.
        """
        self.member = path.relative_to(self.root).as_posix()
        self.make_folder(path.parent)
        left = size
        try:
            with path.open("xb") as file:
                while (chunk := stream.read(CHUNK)) and (left := left - len(chunk)) >= 0:
                    self.bar.update(file.write(chunk))
        except FileExistsError:
            self.refuse("is there twice, or this disk takes its name for that of another member")
        if left:
            self.refuse("is longer or shorter than it declares")
        self.written += size

    def make_folder(self, path: Path) -> None:
        """Make a folder with those above it."""
        # One by one, not parents=True: if another run cleared `root` away, this has to fail.
        if path != self.root and path not in self.made:
            self.make_folder(path.parent)
            path.mkdir(exist_ok=True)
            self.made.add(path)

    def refuse(self, fault: str) -> NoReturn:
        """Raise UserError, which names the current member."""
        raise UserError(
            f"{self.archive}: member {self.member!r:.200} {fault}; nothing was unpacked: get the "
            "archive from its official source, or unpack it by hand and name the folder with --data"
        )


def _fault(name: str, kind: str, size: int) -> str:
    """Say what is wrong with a member by its header; return an empty string for nothing."""
    parts = name.split("/")
    is_windows = "\\" in name or any(re.match("[A-Za-z]:", part) for part in parts)
    faults = {
        "has a NUL in its name": "\0" in name,
        "has an absolute path": name.startswith("/"),
        "has a backslash or a drive letter in its name": is_windows,
        "leaves the folder with '..'": ".." in parts,
        f"is more than {MAX_DEPTH} folders deep": len(parts) > MAX_DEPTH,
        f"is {kind}": kind not in ("file", "folder"),
        "is a file without a name": kind == "file" and parts[-1] in ("", "."),
        "has a negative size": size < 0,
    }
    return next((fault for fault, found in faults.items() if found), "")


def _unpack_zip(work: _Unpacking) -> None:
    with zipfile.ZipFile(work.archive) as zipped:
        infos, paths = zipped.infolist(), []
        names = [_zip_name(info) for info in infos]
        if not any("/" in name for name in names):  # some programs of Windows write backslashes
            names = [name.replace("\\", "/") for name in names]
        for info, name in zip(infos, names, strict=True):  # all, before anything is written
            kind = _zip_kind(info, name)
            paths.append(work.admit(name, kind, info.file_size, info.compress_size))
        work.bar.reset(work.declared)
        for info, path in zip(infos, paths, strict=True):
            if path:
                with zipped.open(info) as stream:
                    work.write(path, info.file_size, stream)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name, with what comes after a NUL.

    Without the UTF-8 flag zipfile takes a name for the code page of MS-DOS. Many programs write
    UTF-8 without it (macOS, `zip -r`), or put the name into a field of its own.
    """
    if info.flag_bits & UTF8_FLAG:
        return info.orig_filename
    raw = info.orig_filename.encode("cp437")
    for candidate in (_unicode_path(info.extra, raw), raw):
        with suppress(UnicodeDecodeError):
            if candidate is not None:
                return candidate.decode("utf-8")
    return info.orig_filename


def _unicode_path(extra: bytes, raw: bytes) -> bytes | None:
    """Return the Unicode Path field of Info-ZIP, if it was made for this name."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and len(field) > 5 and field[0] == 1:
            made_for = struct.unpack("<I", field[1:5])[0]
            return field[5:] if made_for == zlib.crc32(raw) else None
    return None


def _zip_kind(info: zipfile.ZipInfo, name: str) -> str:
    if info.flag_bits & 1:
        return "encrypted"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return LINK
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # zipfile would unpack a block of bz2 or lzma into memory, however large it gets.
        return "compressed in another way than zips usually are"
    if info.header_offset < 0:
        return "stored outside of the archive"
    return "folder" if name.endswith("/") else "file"


def _unpack_tar(work: _Unpacking, opener: ModuleType) -> None:
    with (
        opener.open(work.archive, "rb") as stream,
        # "r|" never goes back, so that damaged offsets cannot send it in circles.
        tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK, tarinfo=_StrictHeader) as tar,
    ):
        for info in iter(tar.next, None):
            kind = "folder" if info.isdir() else "file" if info.isfile() else LINK
            path = work.admit(info.name, kind, info.size, info.size)
            tarfile.data_filter(info, str(work.root))  # a second opinion
            if path and (content := tar.extractfile(info)):
                work.write(path, info.size, content)
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
        work.member = ""
        padding = 0
        while rest := tar.fileobj.read(CHUNK):  # to the end, where the checksum is compared
            padding += len(rest)
            if rest.strip(b"\0") or padding > MAX_TAR_PADDING:
                raise tarfile.ReadError("there is more after its end")


class _StrictHeader(tarfile.TarInfo):
    """A tar header that raises where it is damaged; tarfile would take it for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header.

        Raises:
            tarfile.ReadError: It is damaged, or announces too long an extra header.
        """
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # zeros: the end
            raise tarfile.ReadError(str(error)) from error
        if header.type in b"xgXLK" and not 0 <= header.size <= MAX_TAR_HEADER:
            raise tarfile.ReadError("header too large")
        return header
