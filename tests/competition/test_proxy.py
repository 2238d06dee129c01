"""A competition behind nginx, by the configuration of the examples, and in its container."""

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
import requests

from tests.competition.conftest import Serve, Served, submission

EXAMPLES = Path(__file__).parents[2] / "examples" / "competition"
NGINX, OPENSSL = shutil.which("nginx") or shutil.which("/usr/sbin/nginx"), shutil.which("openssl")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture
def behind(serve: Serve, tmp_path: Path) -> Iterator[tuple[Served, str]]:
    """A server, and the URL of nginx in front of it."""
    if NGINX is None or OPENSSL is None:
        pytest.skip("nginx or openssl is not installed (apt-get install nginx-light openssl)")
    served, port = serve(proxy="127.0.0.1"), free_port()
    certificate, key = tmp_path / "friday.crt", tmp_path / "friday.key"
    command = [OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    text = (EXAMPLES / "nginx.conf").read_text()
    for old, new in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/etc/ssl/friday.crt", str(certificate)),
        ("/etc/ssl/friday.key", str(key)),
        ("http://127.0.0.1:8000", served.url.rstrip("/")),
        ("http {", "http { access_log off; "),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "nginx.conf").write_text(f"daemon off; pid {tmp_path}/nginx.pid;\n{text}")
    started = [NGINX, "-p", str(tmp_path), "-e", str(tmp_path / "error.log")]
    with subprocess.Popen([*started, "-c", str(tmp_path / "nginx.conf")]) as process:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield served, f"https://localhost:{port}/"
        process.terminate()


def test_behind_nginx_everybody_has_an_address_and_cookies_are_safe(
    behind: tuple[Served, str],
    token: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served, url = behind
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "friday.crt"))
    ours = token("us")
    forged = {"Authorization": f"Bearer {ours}", "X-Forwarded-For": "6.6.6.6"}
    body = {"images": submission(70)}
    reply = requests.post(f"{url}retrieval/", json=body, headers=forged, timeout=30)
    assert reply.ok and reply.json()["rank"] == 1
    wrong = {"Authorization": "Bearer guess", "X-Forwarded-For": "6.6.6.6"}
    assert (
        requests.post(f"{url}retrieval/", json=body, headers=wrong, timeout=30).status_code == 401
    )
    audit = served.organizer().get(f"{served.url}organizer/audit.csv", timeout=30).text
    assert "127.0.0.1,somebody,a wrong token" in audit, "what the sender wrote is not believed"
    through = Served(served.server, served.wall)
    through.url = url
    session = requests.Session()
    page = through.post(session, "sign-in", token=ours)
    assert page.url == f"{url}team" and "<h1>us</h1>" in page.text
    assert next(iter(session.cookies)).secure
    large = requests.post(f"{url}retrieval/", data=b"x" * 12_000_000, headers=forged, timeout=30)
    assert large.status_code == 413


def test_the_container_has_all_that_the_server_loads() -> None:
    """The server runs without torch and all else that the Containerfile does not install."""
    (line,) = re.findall(r"^RUN pip install (.*)$", (EXAMPLES / "Containerfile").read_text(), re.M)
    installed, wanted = set[str](), [name for name in line.split() if not name.startswith("-")]
    while wanted:
        name = re.split(r"[^\w.-]", wanted.pop())[0].lower().replace("_", "-")
        if name not in installed:
            installed.add(name)
            needs = [r for r in distribution(name).requires or [] if "extra ==" not in r]
            wanted += [r for r in needs if _is_for_us(r)]
    script = (
        "import sys; from lookalike.competition import serve, tools, web, pages, organizer;"
        "from pathlib import Path; from lookalike.competition.settings import ServeCommand;"
        "import lookalike.data.tables; serve.make_server;"
        "import flask, waitress.server; print(*{m.partition('.')[0] for m in sys.modules})"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    owners = packages_distributions()
    loaded = {name.lower().replace("_", "-") for m in printed.split() for name in owners.get(m, [])}
    optional = {"lookalike", "setuptools", "pyarrow", "pillow-heif", "cloudpickle", "wcwidth"}
    assert "flask" in loaded and not loaded - installed - optional


def _is_for_us(requirement: str) -> bool:
    """Return whether a requirement's marker holds here."""
    from packaging.requirements import Requirement

    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate()
