"""How the leaderboard listens: one address, fewer connections than files, an answer to all bytes.

server = listen(app, "127.0.0.1", 8000, largest=10_000_000, headers=[("Referrer-Policy", ...)])
page_url(server)
server.run()
"""

import ipaddress
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from lookalike.core.errors import UserError

if TYPE_CHECKING:  # waitress is loaded when a server starts, not for --help
    from _typeshed.wsgi import WSGIApplication
    from waitress.channel import HTTPChannel
    from waitress.server import BaseWSGIServer

CONNECTIONS = 2000  # at once
RESERVED_FILES = 100  # for the results, the log and the libraries
FILES_OF_CONNECTION = 2  # its socket, and the temporary file of a large upload
IDLE = 30  # seconds after which a silent connection is closed
SLOWEST = 120  # seconds that a request may take to arrive, however steadily it trickles
LARGEST_HEADER = 1 << 14  # bytes
ARRIVED = "lookalike.arrived"  # in the environment of a request: when its last byte came


def listen(
    app: "WSGIApplication",
    host: str,
    port: int,
    largest: int,
    headers: Sequence[tuple[str, str]],
    proxy: str | None = None,
) -> "BaseWSGIServer":
    """Return a server that listens already; its `run()` answers until it is stopped.

    Args:
        app: What answers.
        host: A name or an address to listen at, with or without brackets.
        port: The port; 0 takes a free one.
        largest: Bytes of the largest body that the application accepts.
        headers: Headers of the replies to what is no request for the application.
        proxy: Address of a proxy in front, which is believed when it says who sends. The same
            headers of anybody else are dropped.

    Raises:
        UserError: The address is none, or is taken.
    """
    from waitress.server import create_server

    believed = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}
    behind: Any = {"trusted_proxy": proxy, "trusted_proxy_headers": believed} if proxy else {}

    try:
        server = create_server(
            app,
            sockets=[_bound_socket(host, port)],
            threads=8,
            connection_limit=connection_limit(),
            channel_timeout=IDLE,
            cleanup_interval=IDLE // 3,
            log_socket_errors=False,
            asyncore_use_poll=True,
            # A little more than the limit: senders of slightly too much get to see the reason.
            max_request_body_size=largest + (1 << 16),
            max_request_header_size=LARGEST_HEADER,
            **behind,
        )
    except (OSError, OverflowError, ValueError) as error:
        raise UserError(
            f"cannot listen at {host}:{port} ({error}): choose another --port, or another --host"
        ) from error
    one = cast("BaseWSGIServer", server)  # of one socket
    one.channel_class = _channel_class(headers)
    return one


def _bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket at the first address of a host.

    Raises:
        OSError: The host has no address, or it is taken.
        ValueError: The host is no name.
    """
    name = host.removeprefix("[").removesuffix("]")
    if not name or "*" in name:  # which some systems look up
        raise ValueError("no name and no address")
    kind, *_, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address[:2], family=kind)


def _channel_class(headers: Sequence[tuple[str, str]]) -> "type[HTTPChannel]":
    """Return a class of connections that answers all that is no request, with these headers.

    It knows when a request came, however long that waits for its turn, and ends slow ones.
    """
    from waitress.channel import HTTPChannel
    from waitress.parser import HTTPRequestParser, ParsingError
    from waitress.task import ErrorTask, WSGITask

    class Parser(HTTPRequestParser):
        def __init__(self, adj: Any) -> None:
            super().__init__(adj)
            self.began = self.arrived = time.monotonic()

        def received(self, data: bytes) -> int:
            self.arrived = time.monotonic()
            return super().received(data)

        def parse_header(self, header_plus: bytes) -> None:
            try:
                super().parse_header(header_plus)
            except ValueError as error:  # of an odd address, or of a length with 5,000 digits
                raise ParsingError("Invalid header") from error

    class Refusal(ErrorTask):
        def execute(self) -> None:
            self.response_headers = [*self.response_headers, *headers]
            super().execute()

    class Task(WSGITask):
        def get_environment(self) -> dict[str, Any]:
            return super().get_environment() | {ARRIVED: cast("Parser", self.request).arrived}

    class Channel(HTTPChannel):
        parser_class = Parser
        task_class = Task
        error_task_class = Refusal

        def handle_read(self) -> None:
            super().handle_read()
            request = cast("Parser | None", self.request)
            if request is not None and time.monotonic() - request.began > SLOWEST:
                self.handle_close()

    return Channel


def connection_limit() -> int:
    """Return how many connections may be open at once: all of them may open all their files."""
    try:
        import resource
    except ImportError:  # not on Windows
        return CONNECTIONS
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_OF_CONNECTION * CONNECTIONS + RESERVED_FILES
    if files < wanted and (most == resource.RLIM_INFINITY or most > files):
        files = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return max(8, min(CONNECTIONS, (files - RESERVED_FILES) // FILES_OF_CONNECTION))


def page_url(server: Any) -> str:
    """Return the URL of a listening server's page."""
    host = str(server.effective_host)
    return f"http://{f'[{host}]' if ':' in host else host}:{server.effective_port}/"


def is_local(address: str) -> bool:
    """Return whether an address is one of this machine's own, such as that of a proxy on it.

    >>> is_local("127.0.0.1"), is_local("10.0.0.1")
    (True, False)
    """
    known = ipaddress.ip_address(address)
    return (getattr(known, "ipv4_mapped", None) or known).is_loopback
