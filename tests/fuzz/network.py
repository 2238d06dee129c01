"""The kinds of inputs that come by network: posts to the server, and replies to the sender."""

import json
import socket
import threading
from random import Random

from lookalike.evaluation.scoring import read_labels
from lookalike.leaderboard.client import Target, post_once
from lookalike.leaderboard.server import ServeSettings, make_server, page_url
from tests.fuzz.kinds import LABELS, RANKED, Kind, SilentChange
from tests.fuzz.mutations import mutate, mutated_json

PATIENCE = 5.0  # seconds for an answer of a server on this machine
BODY = json.dumps({"groupname": "us", "images": RANKED}).encode()


def request(body: bytes, path: str = "/retrieval/") -> bytes:
    """Return the bytes of a post."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


class Posts(Kind):
    """Requests to the leaderboard's server."""

    name, share = "posts to the server", 0.06

    def make(self) -> None:
        """Start a server without a limit on the rate."""
        labels = self.folder / "labels.json"
        labels.write_text(json.dumps(LABELS))
        read_labels(labels)
        settings = ServeSettings(labels, port=0, results=self.folder / "results.sqlite", rate=0)
        server = make_server(settings)
        threading.Thread(target=server.run, daemon=True).start()
        self.address = ("127.0.0.1", int(page_url(server).rsplit(":", 1)[1].strip("/")))

    def answer(self, sent: bytes) -> bytes:
        """Send bytes and return all that comes back."""
        with socket.create_connection(self.address, timeout=PATIENCE) as connection:
            try:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: connection.recv(65536), b""))
            except ConnectionError:
                return b""

    def one(self, random: Random) -> str:
        """Mutate a request or its body; the server answers, and goes on scoring what is valid."""
        if random.random() < 0.5:
            sent = request(mutated_json(BODY, random))
        else:
            sent = mutate(request(BODY), random)
        status = self.answer(sent).split(b" ")[1:2]
        if status and status[0].startswith(b"5"):
            raise SilentChange(f"answered with {status[0].decode()}")
        if random.random() < 0.02 and b'"accuracy"' not in self.answer(request(BODY)):
            raise SilentChange("a valid post is not scored any more")
        return "read" if status == [b"200"] else "refused"


class Replies(Kind):
    """Replies of a server to a submission that was sent."""

    name, share = "replies to the sender", 0.02
    SCORE = b'{"accuracy":512.5}'
    REPLIES = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n" + SCORE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n" + SCORE + b"\r\n0\r\n\r\n",
        b'HTTP/1.1 422 No\r\nContent-Length: 15\r\n\r\n{"error":"bad"}',
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1]/x\r\nContent-Length: 0\r\n\r\n",
    )

    def make(self) -> None:
        """Start a server that answers with what it is told."""
        self.reply = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        """Answer every connection, however little of the request has come."""
        while True:
            connection, _ = self.listener.accept()
            with connection:
                try:
                    connection.recv(65536)
                    connection.sendall(self.reply)
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(1)
                    while connection.recv(65536):
                        pass
                except OSError:
                    pass

    def one(self, random: Random) -> str:
        """Mutate a reply; the outcome is one line, and a score lies where scores lie."""
        self.reply = mutate(random.choice(self.REPLIES), random)
        url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"
        outcome, _ = post_once(Target(url, "us"), RANKED, timeout=2.0)
        if "\n" in outcome.answer or not outcome.answer.isprintable():
            raise SilentChange(f"an answer that is no line: {outcome.answer!r}")
        return "read" if outcome.status == "scored" else "refused"
