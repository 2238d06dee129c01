"""Download an archive; servers are not trusted.

    archive = fetch("https://example.org/competition.zip", Path("data/.downloads"))

An interrupted download continues where it ended, if the server still has the same file.
"""

import hashlib
import re
import shutil
import time
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from lookalike.core.errors import UserError
from lookalike.core.files import write_json
from lookalike.core.http import Deadline, timed
from lookalike.core.readers import saved_record

TIMEOUT = (15.0, 60.0)  # seconds: to connect, and between two reads
PROGRESS = 1 << 16  # bytes that have to come within the second of these times
MAX_DOWNLOAD = 64 << 30  # bytes
TRIES, BACK_OFF = 5, 1.0  # in all; seconds before the second, doubled before each further one
CHUNK = 1 << 16
BY_HAND = "download it in a browser and use --source archive --source-path FILE"


def fetch(source: str, folder: Path) -> Path:
    """Return the path of an archive, downloading it where it is a URL.

    Args:
        source: A path, or a file://, http:// or https:// URL.
        folder: Where downloads go. An archive that was downloaded whole from the same URL before is
            not downloaded again.

    Returns:
        The path of the archive.

    Raises:
        UserError: There is no such file, the server refuses it or keeps failing, or the disk is
            full.
    """
    path = local_path(source)
    if path is None:
        return _download(source, folder)
    if not path.is_file():
        raise UserError(f"there is no file {source!r}: give a path or a file://, http(s):// URL")
    return path


def local_path(source: str) -> Path | None:
    """Return the path that a path or a file:// URL names; None for a http(s):// URL.

    >>> local_path("file:///data/faces.zip"), local_path("https://example.org/faces.zip")
    (PosixPath('/data/faces.zip'), None)
    """
    if source.lower().startswith(("http://", "https://")):
        return None
    is_url = source.lower().startswith("file://")
    return Path(url2pathname(urlsplit(source).path) if is_url else source)


def fetch_drive(drive_id: str, folder: Path) -> Path:
    """Return the path of a file from Google Drive, downloading it unless it is there.

    Args:
        drive_id: The file's id, which follows /d/ in its link.
        folder: Where downloads go.

    Returns:
        The path of the file.

    Raises:
        UserError: Google Drive refuses the file; the error says how to download it by hand.
    """
    import gdown  # slow to import, and seldom needed

    if not re.fullmatch(r"[\w-]+", drive_id, re.ASCII):
        raise UserError(f"{drive_id!r} is no Google Drive id: take what follows /d/ in the link")
    path, part = folder / f"{drive_id}.archive", folder / f"{drive_id}.archive.part"
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        gdown.download(id=drive_id, output=str(part), resume=True, timeout=TIMEOUT, retries=TRIES)
        return part.replace(path)
    except Exception as error:  # gdown lets through whatever breaks inside it
        raise UserError(
            f"Google Drive refused the file ({' '.join(str(error).split()):.200}): open "
            f"https://drive.google.com/file/d/{drive_id}/view, {BY_HAND}"
        ) from error


def _download(url: str, folder: Path) -> Path:
    """Return the path of a URL's content, downloading it with retries unless it is there."""
    path = folder / _safe_name(url)
    part, memo = (path.with_name(path.name + suffix) for suffix in (".part", ".json"))
    link = hashlib.sha256(url.encode(errors="replace")).hexdigest()  # a URL can hold secrets
    if path.is_file() and not part.exists() and _recall(memo).get("link") == link:
        return path
    for attempt in range(TRIES):
        time.sleep(BACK_OFF * 2 ** (attempt - 1) if attempt else 0)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            reason = _try(url, link, part, memo)
            if not reason:
                return part.replace(path)
        except (HTTPError, requests.ConnectionError, requests.Timeout) as error:
            reason = type(error).__name__  # its text would show the whole URL
        except (requests.RequestException, UnicodeError) as error:
            reason = type(error).__name__
            break
        except OSError as error:
            raise UserError(f"cannot write to {folder} ({error.strerror}): make room") from error
    raise UserError(f"cannot download {_shown(url)} ({reason}): try again to go on, or {BY_HAND}")


def _try(url: str, link: str, part: Path, memo: Path) -> str:
    """Download to `part`, from where it ended if the server's file is that of the memo.

    Returns:
        An empty string, or a failure that a retry may pass.
    """
    headers, rest = {"Accept-Encoding": "identity"}, ""  # offsets count the bytes on the wire
    noted, offset = _recall(memo), part.stat().st_size if part.exists() else 0
    if offset and noted.get("mark") and (length := noted.get("length")):
        headers |= {"Range": f"bytes={offset}-", "If-Range": noted["mark"]}
        rest = f"bytes {offset}-{length - 1}/{length}"
    with (
        timed(TIMEOUT[1]) as (session, deadline),
        session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response,
    ):
        code, found, mark = response.status_code, response.headers, _mark(response)
        if code in (408, 429) or code >= 500:
            return f"the server answered {code}"
        if code not in (200, 206, 416):
            raise UserError(f"{_shown(url)} answered {code}: check the link, or {BY_HAND}")
        if code == 200:
            length = found.get("Content-Length", "")
            noted = {"mark": mark, "length": int(length) if length.isdecimal() else None}
            part.write_bytes(b"")  # first: the memo must not speak of older bytes
        elif (found.get("Content-Range"), mark) != (rest, noted.get("mark")):
            part.unlink(missing_ok=True)
            return "the file changed on the server"
        write_json(memo, noted | {"link": link})
        return _receive(response, part, noted["length"], deadline)


def _mark(response: requests.Response) -> str:
    """Return what tells one version of a file from another; a weak ETag does not, to the byte."""
    etag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified", "") if etag.startswith("W/") else etag


def _receive(
    response: requests.Response, part: Path, length: int | None, deadline: Deadline
) -> str:
    """Append a response to a file; return an empty string, or what is wrong with its length.

    Raises:
        UserError: It is larger than the disk or the limit; what came of it is deleted.
    """
    room = min(MAX_DOWNLOAD, part.stat().st_size + shutil.disk_usage(part.parent).free)
    if (length or 0) > room:
        _refuse_size(part, f"has {length:,} bytes", room)
    with part.open("ab") as file:
        bar = tqdm(desc=part.stem, initial=file.tell(), total=length, unit="B", unit_scale=True)
        # Raw: a server that calls a .tar.gz "encoded" would get it decoded, and its length wrong.
        with bar:
            reached = file.tell()
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                bar.update(file.write(chunk))
                if file.tell() > room:
                    _refuse_size(part, "does not end", room)
                if file.tell() >= reached + PROGRESS:
                    reached = file.tell()
                    deadline.extend()
        return "" if length in (None, file.tell()) else f"{file.tell()} bytes instead of {length}"


def _refuse_size(part: Path, what: str, room: int) -> NoReturn:
    """Delete a download and raise UserError."""
    part.unlink(missing_ok=True)
    raise UserError(f"{part.stem}: the download {what}, and there is room for {room:,} bytes")


def _recall(memo: Path) -> dict[str, Any]:
    """Read what was noted about a download; nothing where the note is damaged."""
    noted = saved_record(memo)
    good = isinstance(noted.get("mark"), str) and isinstance(noted.get("length"), int | None)
    return noted if good else {}


def _shown(url: str) -> str:
    """Return a URL without what may be secret: a password, a signature."""
    return re.sub(r"//[^/]*@", "//", re.sub(r"(?s)[?#].*", "", url))


def _safe_name(url: str) -> str:
    """Return a file name for a URL's content."""
    last = unquote(_shown(url)).rsplit("/", maxsplit=1)[-1]
    return re.sub(r"[^\w.-]+", "_", last, flags=re.ASCII)[-100:].lstrip(".-") or "download"
