"""A small competition without pictures, and servers for it whose clock the tests set."""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from benchmarks.competition_day import write_solution
from lookalike.competition.access import PASSWORD, add_team
from lookalike.competition.clock import Clock
from lookalike.competition.serve import make_server, store_of
from lookalike.competition.settings import ServeCommand
from lookalike.evaluation.scoring import Labels
from lookalike.evaluation.submissions import Submission
from lookalike.leaderboard.listening import page_url

IDENTITIES = [f"person{i:02}" for i in range(20)]
LABELS = Labels(
    {f"q{i:03}.jpg": IDENTITIES[i % 20] for i in range(100)},
    {f"g{i:03}.jpg": IDENTITIES[i % 20] for i in range(120)},
)
GALLERY = list(LABELS.gallery)
PUBLIC = {query for query, who in LABELS.query.items() if who < "person06"}
SECRET = "correct horse battery"
NOW = 1_790_000_000.0

Serve = Callable[..., "Served"]


def lists(right: int, query: str, shift: int = 0) -> list[str]:
    """Ten names, of which the first is right where the query's number is below `right`."""
    number = int(query[1:4])
    first = number % 20 if number < right else (number + 1 + shift) % 20
    others = [name for name in GALLERY if LABELS.gallery[name] != LABELS.query[query]]
    return [GALLERY[first], *[name for name in others if name != GALLERY[first]][shift : shift + 9]]


def submission(right: int, shift: int = 0) -> Submission:
    """A submission whose first `right` queries are answered rightly."""
    return {query: lists(right, query, shift) for query in LABELS.query}


class Served:
    """A running server, and what tests do with it."""

    def __init__(self, server: Any, wall: list[float]) -> None:
        self.server, self.wall, self.url = server, wall, page_url(server)
        self.token = ""  # of a team, where a test has one

    def send(self, token: str | None, lists: Any, **headers: str) -> requests.Response:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        body = {"images": lists}
        return requests.post(f"{self.url}retrieval/", json=body, headers=headers, timeout=30)

    def ranking(self) -> list[tuple[str, float, int]]:
        places = requests.get(f"{self.url}ranking.json", timeout=30).json()
        return [(place["team"], place["score"], place["submissions"]) for place in places]

    def post(self, session: requests.Session, page: str, **more: Any) -> requests.Response:
        """Fill in the first form of a page as a browser does, and send it."""
        form = form_secret(session.get(f"{self.url}{page}", timeout=30).text)
        files = more.pop("files", None)
        where = more.pop("to", page)
        return session.post(
            f"{self.url}{where}", data={"form": form, **more}, files=files, timeout=30
        )

    def organizer(self) -> requests.Session:
        session = requests.Session()
        assert self.post(session, "organizer/sign-in", password=SECRET).ok
        return session

    def act(self, action: str, value: Any = "") -> requests.Response:
        return self.post(self.organizer(), "organizer", action=action, value=str(value))


def form_secret(page: str) -> str:
    found = re.search(r'name="form" value="([^"]*)"', page)
    return found[1] if found else ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a competition: 100 queries, of which 30 are public."""
    public = {LABELS.query[query] for query in PUBLIC}
    write_solution(tmp_path / "friday", LABELS, public)
    return tmp_path / "friday"


@pytest.fixture
def serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start servers of the competition; `wall` is a list whose last entry is the time of day."""
    monkeypatch.setenv(PASSWORD, SECRET)
    running: list[Served] = []

    def stop(served: Served) -> None:
        served.server.task_dispatcher.shutdown()
        served.server.close()

    def start(**settings: Any) -> Served:
        for served in running:  # a restart
            stop(served)
        running.clear()
        wall = settings.pop("wall", [NOW])
        command = ServeCommand(folder, port=0, **settings)
        running.append(Served(make_server(command, Clock(lambda: wall[-1])), wall))
        threading.Thread(target=running[0].server.run, daemon=True).start()
        return running[0]

    yield start
    for served in running:
        stop(served)


@pytest.fixture
def token(folder: Path) -> Callable[[str], str]:
    """Add a team and return its token."""
    return lambda name: add_team(store_of(folder), name, NOW)[1]
