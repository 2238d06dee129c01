"""Downloads from servers that behave well or badly."""

import gzip
import inspect
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gdown
import pytest

from lookalike.core.errors import UserError
from lookalike.data import downloads

CONTENT = os.urandom(1_000_000)


class Server(ThreadingHTTPServer):
    """Serves `content` for any path and notes the requests; the rest is how it misbehaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.headers = {"ETag": '"1"'}
        self.says_length = self.knows_range = self.knows_if_range = True
        self.shift = 0  # how far a range is from the one that was asked for
        self.cuts: list[int] = []  # bytes after which the next answers break off
        self.codes: list[int] = []  # of the next answers
        self.ranges: list[str | None] = []  # the Range of each request
        self.encodings: set[str | None] = set()
        self.awake = threading.Event()
        self.awake.set()

    def handle_error(self, *_: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # as when the client hangs up
            raise

    def url(self, path: str = "/archive.zip") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers["Range"]
        server.ranges.append(wanted)
        server.encodings.add(self.headers["Accept-Encoding"])
        server.awake.wait(10)
        if server.codes:
            return self.send_error(server.codes.pop(0))
        known = not server.knows_if_range or self.headers["If-Range"] in server.headers.values()
        start = int(wanted[len("bytes=") : -1]) if wanted and server.knows_range and known else 0
        size = len(server.content)
        end = size - (server.shift if start else 0)
        start -= server.shift if start else 0
        code = 416 if start >= size else 206 if start else 200
        self.send_response(code)
        for header, value in server.headers.items():
            self.send_header(header, value)
        if code == 416:
            self.send_header("Content-Range", f"bytes */{size}")
            return self.end_headers()
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if server.says_length:
            self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.write(server.content[start:end][: server.cuts.pop(0) if server.cuts else size])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloads, "BACK_OFF", 0)
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.awake.set()
        running.shutdown()


def broken_off(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a run leaves whose only try got 400,000 bytes: the path of the part."""
    server.cuts = [400_000]
    with monkeypatch.context() as patch, pytest.raises(UserError, match="try again to go on"):
        patch.setattr(downloads, "TRIES", 1)
        downloads.fetch(server.url(), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "archive.zip.json",
        "archive.zip.part",
    ]
    server.ranges.clear()
    return folder / "archive.zip.part"


def test_download(server: Server, tmp_path: Path) -> None:
    path = downloads.fetch(server.url(), tmp_path / "new")
    assert path == tmp_path / "new" / "archive.zip" and path.read_bytes() == CONTENT
    assert downloads.fetch(server.url(), tmp_path / "new") == path
    assert server.ranges == [None]  # the second time, nothing
    assert not list(tmp_path.rglob("*.part"))


def test_another_url_of_the_same_name(server: Server, tmp_path: Path) -> None:
    downloads.fetch(server.url("/archive.zip?version=1"), tmp_path)
    server.content, server.headers = b"other", {"ETag": '"2"'}
    path = downloads.fetch(server.url("/archive.zip?version=2"), tmp_path)
    assert path.read_bytes() == b"other"


def test_resume_within_a_run(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 200_000]
    assert downloads.fetch(server.url(), tmp_path).read_bytes() == CONTENT
    first, second, third = server.ranges
    starts = [
        int((wanted or "").removeprefix("bytes=").removesuffix("-")) for wanted in (second, third)
    ]
    assert first is None and 0 < starts[0] <= 300_000 and starts[0] < starts[1] <= 500_000


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"1"'},
        {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
        {"ETag": 'W/"1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
    ],
)
def test_resume_in_another_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    server.headers = headers
    part = broken_off(server, tmp_path, monkeypatch)
    size = part.stat().st_size
    assert 0 < size <= 400_000
    signed_anew = server.url("/archive.zip?signature=2")
    assert downloads.fetch(signed_anew, tmp_path).read_bytes() == CONTENT
    downloads.fetch(signed_anew, tmp_path)
    assert server.ranges == [f"bytes={size}-"]


def test_no_resume_without_a_mark(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.headers = {"ETag": 'W/"1"'}
    broken_off(server, tmp_path, monkeypatch)
    assert downloads.fetch(server.url(), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_no_resume_with_a_lost_memo(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(server, tmp_path, monkeypatch)
    (tmp_path / "archive.zip.json").write_text('{"mark": ')
    assert downloads.fetch(server.url(), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_server_that_ignores_range(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(server, tmp_path, monkeypatch)
    server.knows_range = False
    assert downloads.fetch(server.url(), tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == 1


@pytest.mark.parametrize("knows_if_range", [True, False])
@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (CONTENT[::-1], {"ETag": '"2"'}),
        (CONTENT + b"more", {"ETag": '"1"'}),  # the same mark, another length
    ],
)
def test_file_that_changed_meanwhile(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    knows_if_range: bool,
    content: bytes,
    headers: dict[str, str],
) -> None:
    broken_off(server, tmp_path, monkeypatch)
    server.content, server.headers, server.knows_if_range = content, headers, knows_if_range
    assert downloads.fetch(server.url(), tmp_path).read_bytes() == content
    assert server.ranges[0] is not None


def test_server_that_sends_another_range(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(server, tmp_path, monkeypatch)
    server.shift = 100
    assert downloads.fetch(server.url(), tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == 2 and server.ranges[1] is None


def test_rest_that_ends_too_early_without_a_length(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(server, tmp_path, monkeypatch)
    server.says_length, server.cuts = False, [1000]
    assert downloads.fetch(server.url(), tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == 2 and None not in server.ranges


def test_old_file_is_not_taken_for_the_new_one_that_broke_off(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = b"old"
    downloads.fetch(server.url("/archive.zip?version=1"), tmp_path)
    server.content, server.cuts = CONTENT, [400_000]
    with monkeypatch.context() as patch, pytest.raises(UserError):
        patch.setattr(downloads, "TRIES", 1)
        downloads.fetch(server.url(), tmp_path)
    assert downloads.fetch(server.url(), tmp_path).read_bytes() == CONTENT


def test_part_that_is_too_long(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(server, tmp_path, monkeypatch).write_bytes(CONTENT + b"junk")
    assert downloads.fetch(server.url(), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]  # the first was answered 416


def test_server_that_does_not_say_the_length(server: Server, tmp_path: Path) -> None:
    server.says_length = False
    assert downloads.fetch(server.url(), tmp_path).read_bytes() == CONTENT
    downloads.fetch(server.url(), tmp_path)
    assert server.ranges == [None]


def test_content_encoding_is_left_alone(server: Server, tmp_path: Path) -> None:
    server.content, server.headers = gzip.compress(b"x", mtime=0), {"Content-Encoding": "gzip"}
    assert downloads.fetch(server.url("/a.tar.gz"), tmp_path).read_bytes() == server.content
    assert server.encodings == {"identity"}


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_refusals_are_not_retried(server: Server, tmp_path: Path, code: int) -> None:
    server.codes = [code]
    with pytest.raises(UserError, match=f"archive.zip answered {code}.*--source-path") as refusal:
        downloads.fetch(server.url("/archive.zip?signature=s3cret"), tmp_path)
    assert server.ranges == [None] and "s3cret" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [429, 500, 503])
def test_failures_that_pass_are_retried(server: Server, tmp_path: Path, code: int) -> None:
    server.codes = [code, code]
    assert downloads.fetch(server.url(), tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == 3


def test_failures_that_stay(server: Server, tmp_path: Path) -> None:
    server.codes = [500] * 10
    with pytest.raises(UserError, match=r"cannot download .*the server answered 500"):
        downloads.fetch(server.url(), tmp_path)
    assert len(server.ranges) == downloads.TRIES


def test_waits_grow(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(downloads, "BACK_OFF", 1)
    monkeypatch.setattr(downloads.time, "sleep", waits.append)
    server.codes = [500] * 3
    downloads.fetch(server.url(), tmp_path)
    assert waits == [0, 1, 2, 4]


def test_server_that_hangs(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT", (5, 0.1))
    monkeypatch.setattr(downloads, "TRIES", 2)
    server.awake.clear()
    with pytest.raises(UserError, match=r"cannot download .*Timeout"):
        downloads.fetch(server.url(), tmp_path)
    assert len(server.ranges) == 2


def test_a_download_that_does_not_end_is_refused_and_deleted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content, server.says_length = bytes(300_000), False
    monkeypatch.setattr(downloads, "MAX_DOWNLOAD", 200_000)
    with pytest.raises(UserError, match="does not end, and there is room for 200,000 bytes"):
        downloads.fetch(server.url(), tmp_path)
    server.says_length = True
    with pytest.raises(UserError, match="has 300,000 bytes, and there is room for"):
        downloads.fetch(server.url(), tmp_path)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("memo", [b"[]", b'{"mark": 1, "length": "x"}', b"[" * 100_000, b"\xff"])
def test_a_damaged_note_of_a_download_counts_as_none(
    memo: bytes, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "archive.zip.part").write_bytes(CONTENT[:100])
    (tmp_path / "archive.zip.json").write_bytes(memo)
    assert downloads.fetch(server.url(), tmp_path).read_bytes() == CONTENT


def test_nobody_listens(server: Server, tmp_path: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"cannot download .*ConnectionError"):
        downloads.fetch(server.url(), tmp_path)


@pytest.mark.parametrize("url", ["http://", "http://[::1", "https://exa mple:x/", "http://..x/"])
def test_bad_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    waits: list[float] = []
    monkeypatch.setattr(downloads.time, "sleep", waits.append)
    with pytest.raises(UserError, match="cannot download"):
        downloads.fetch(url, tmp_path)
    assert waits == [0]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b.zip?token=/../x", "b.zip"),
        ("/a/..%2F..%2Fevil.zip", "evil.zip"),
        ("/%2e%2e", "download"),
        ("/", "download"),
        ("/a%00b%5C%20c.zip", "a_b_c.zip"),
        ("/.hidden", "hidden"),
        ("/-rf", "rf"),
        ("/" + "x" * 300 + ".tar.gz", "x" * 93 + ".tar.gz"),
        ("/%E5%9B%BE.zip", "_.zip"),
    ],
)
def test_names_of_downloads_are_safe(server: Server, tmp_path: Path, path: str, name: str) -> None:
    assert downloads.fetch(server.url(path), tmp_path / "in") == tmp_path / "in" / name
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_secrets_of_the_url_are_not_kept(server: Server, tmp_path: Path) -> None:
    url = server.url("/a.zip?signature=s3cret").replace("//", "//user:s3cret@")
    downloads.fetch(url, tmp_path)
    assert "s3cret" not in (tmp_path / "a.zip.json").read_text()
    assert "s3cret" not in downloads._shown(url)


def test_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        downloads.fetch(server.url(), tmp_path / "file")


def test_local_files_stay_where_they_are(tmp_path: Path) -> None:
    archive = tmp_path / "an archive%.zip"
    archive.touch()
    assert downloads.fetch(str(archive), tmp_path / "unused") == archive
    assert downloads.fetch(archive.as_uri(), tmp_path / "unused") == archive
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("source", ["nothing.zip", "file:///no/such.zip", "ftp://host/x.zip", "."])
def test_no_such_file(tmp_path: Path, source: str) -> None:
    with pytest.raises(UserError) as refusal:
        downloads.fetch(source, tmp_path)
    assert f"there is no file {source!r}" in str(refusal.value)


def test_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*, id: str, output: str, resume: bool, **_: object) -> str:
        calls.append((id, resume))
        assert Path(output).suffix == ".part"
        Path(output).write_bytes(b"from Drive")
        return output

    calls: list[tuple[str, bool]] = []
    monkeypatch.setattr(gdown, "download", download)
    path = downloads.fetch_drive("1a-_B", tmp_path / "new")
    assert path.read_bytes() == b"from Drive" and list((tmp_path / "new").iterdir()) == [path]
    assert downloads.fetch_drive("1a-_B", tmp_path / "new") == path
    assert calls == [("1a-_B", True)]


@pytest.mark.parametrize(
    "error",
    [
        gdown.FileURLRetrievalError("Too many accesses.\n\n\tTry later."),
        gdown.DownloadError("cut short"),
        OSError("no route"),
        KeyError("Content-Type"),
        None,  # older ones just return
    ],
)
def test_drive_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    def download(**_: object) -> None:
        if error:
            raise error

    monkeypatch.setattr(gdown, "download", download)
    with pytest.raises(UserError) as refusal:
        downloads.fetch_drive("1a-_B", tmp_path)
    message = str(refusal.value)
    assert "https://drive.google.com/file/d/1a-_B/view" in message and "browser" in message
    assert "--source archive --source-path FILE" in message and "\n" not in message


def test_drive_is_called_as_gdown_wants_it() -> None:
    wanted = inspect.signature(gdown.download).parameters
    assert {"id", "output", "resume", "timeout", "retries"} <= set(wanted)


@pytest.mark.parametrize("drive_id", ["", "../x", "https://drive.google.com/file/d/1a/view"])
def test_bad_drive_ids(tmp_path: Path, drive_id: str) -> None:
    with pytest.raises(UserError, match="no Google Drive id"):
        downloads.fetch_drive(drive_id, tmp_path)
