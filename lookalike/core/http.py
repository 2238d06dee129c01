"""HTTP with one deadline for a whole exchange, whatever the other side sends, or does not.

    with timed(60) as (session, deadline):
        reply = session.get(url, stream=True)

requests limits the time between two bytes: headers that come one byte a second, or an endless row
of `100 Continue`, would keep it waiting for ever.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError


class Deadline:
    """Cuts the connections of an exchange when its time is over.

    Attributes:
        expired: Whether it has done so.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.expired = seconds, False
        self._sockets: list[socket.socket] = []
        self._timer = self._started()

    def extend(self) -> None:
        """Let the time begin anew, for an exchange that has made progress."""
        self._timer.cancel()
        self._timer = self._started()

    def watch(self, connection: socket.socket) -> None:
        """Add a connection that is cut at the deadline."""
        self._sockets.append(connection)
        if self.expired:
            self._cut()

    def cancel(self) -> None:
        """Let the connections be."""
        self._timer.cancel()

    def _started(self) -> threading.Timer:
        timer = threading.Timer(self.seconds, self._expire)
        timer.daemon = True
        timer.start()
        return timer

    def _expire(self) -> None:
        self.expired = True
        self._cut()

    def _cut(self) -> None:
        for connection in self._sockets:
            with suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    """An adapter of requests whose connections a deadline watches."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        super().__init__()

    def init_poolmanager(self, *values: Any, **named: Any) -> None:
        """Make connections that report their sockets."""
        super().init_poolmanager(*values, **named)
        self.poolmanager.pool_classes_by_scheme = _watched_pools(self.deadline)

    def proxy_manager_for(self, *values: Any, **named: Any) -> Any:
        """Make connections to a proxy that report their sockets."""
        manager = super().proxy_manager_for(*values, **named)
        manager.pool_classes_by_scheme = _watched_pools(self.deadline)
        return manager


def _watched_pools(deadline: Deadline) -> dict[str, Any]:
    """Return urllib3's pools of connections, whose sockets a deadline watches."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            connection = super()._new_conn()
            deadline.watch(connection)
            return connection

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            connection = super()._new_conn()
            deadline.watch(connection)
            return connection

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


@contextmanager
def timed(seconds: float) -> Iterator[tuple[requests.Session, Deadline]]:
    """Yield a session whose exchange ends within a time, from the connection to the last byte.

    Args:
        seconds: The time; `Deadline.extend` lets it begin anew.

    Raises:
        requests.Timeout: The time was over.
    """
    deadline = Deadline(seconds)
    adapter = _Adapter(deadline)
    try:
        with requests.Session() as session:
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            yield session, deadline
            if deadline.expired:  # the end of a body may only be the cut
                raise requests.Timeout(f"not done within {seconds:g} s")
    except (requests.RequestException, HTTPError, OSError) as error:
        if deadline.expired and not isinstance(error, requests.Timeout):
            raise requests.Timeout(f"not done within {seconds:g} s") from error
        raise
    finally:
        deadline.cancel()
