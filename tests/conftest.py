"""Fixtures: tiny competitions that every test can afford, programs, a leaderboard, a browser."""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.core.log import log
from lookalike.leaderboard.server import ServeSettings, make_server, page_url

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
# A backbone of a few thousand weights, which are random: for tests of everything around it.
BACKBONE = ("--backbone", "test_efficientnet", "--weights", "none")
FAST = (*BACKBONE, "--time-limit", "0")  # and nothing else is chosen


def draw(path: Path, identity: int, picture: int, drawn: bool = False, side: int = 48) -> None:
    """Draw a picture: blobs that depend on the identity, and noise that depends on the picture."""
    blobs = np.random.default_rng(identity).integers(0, 255, (4, 4, 3))
    noise = np.random.default_rng([identity, picture]).normal(0, 25, (4, 4, 3))
    pixels = np.clip(blobs + noise, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    (image.quantize(4).convert("RGB") if drawn else image).save(path, quality=95)


def draw_classes(root: Path, identities: int = 4, pictures: int = 10) -> Path:
    """Draw a folder of class folders in which no two pictures share a name."""
    for identity in range(identities):
        for number in range(pictures):
            name = f"person_{identity:02}"
            draw(root / name / f"{name}_{number:04}.jpg", identity, number)
    return root


def draw_competition(root: Path, labels: bool = True) -> Path:
    """Draw 10 identities for training (3 photographs, 3 drawings each), 4 others for the test."""
    for identity in range(10):
        for number in range(3):
            folder = root / "training" / f"person_{identity:02}"
            draw(folder / f"photo_{number}.jpg", identity, number)
            draw(folder / f"drawing_{number}.jpg", identity, 10 + number, drawn=True)
    names: dict[str, dict[str, str]] = {"query": {}, "gallery": {}}
    for identity in range(10, 14):
        for number in range(5):
            part = "query" if number < 2 else "gallery"
            name = f"{identity * 31 % 17:02}{number}.jpg"
            draw(root / "test" / part / name, identity, number, drawn=part == "gallery")
            names[part][name] = f"person_{identity:02}"
    if labels:
        (root / "labels.json").write_text(json.dumps(names))
    return root


def draw_cfp(root: Path, people: int = 8) -> Path:
    """Draw a folder laid out as CFP: two people a split, two frontal pictures and profiles each."""
    lists: dict[str, list[str]] = {"frontal": [], "profile": []}
    for person in range(1, people + 1):
        for side, named in lists.items():
            for number in (1, 2):
                path = f"Data/Images/{person:03}/{side}/{number:02}.jpg"
                draw(root / path, person, number + 10 * (side == "profile"))
                named.append(f"{len(named) + 1} ../{path}\n")
    splits = root / "Protocol" / "Split"
    for name, side in (("F", "frontal"), ("P", "profile")):
        splits.mkdir(parents=True, exist_ok=True)
        (root / "Protocol" / f"Pair_list_{name}.txt").write_text("".join(lists[side]))
    for split in range(people // 2):
        one, two = 4 * split + 1, 4 * split + 3  # the first pictures of its people
        for kind, off in (("FF", 1), ("FP", 0)):
            folder = splits / kind / f"{split + 1:02}"
            folder.mkdir(parents=True)
            same = [(n + i, n + (i + off) % 2) for n in (one, two) for i in (0, 1)]
            diff = [(one + i, two + j) for i in (0, 1) for j in (0, 1)]
            for name, pairs in (("same", same), ("diff", diff)):
                (folder / f"{name}.txt").write_text("".join(f"{a},{b}\n" for a, b in pairs))
    return root


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    return draw_classes(tmp_path / "classes")


@pytest.fixture
def competition(tmp_path: Path) -> Path:
    return draw_competition(tmp_path / "tiny")


@pytest.fixture(autouse=True)
def _work_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run each test in its own folder, since default folders (data/, runs/, cache/) are relative.

    No test may send to a leaderboard that the environment configures.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("URL", "GROUP", "TOKEN"):
        monkeypatch.delenv(f"LEADERBOARD_{name}", raising=False)
    yield
    for handler in list(log.handlers):
        handler.close()
    log.handlers.clear()


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file grow beyond a size in bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_program(tmp_path: Path) -> Program:
    """Run a program, named by its file (`main.py`), or a command of the package (`verify`).

    It runs as a user runs it, in `tmp_path`.
    """

    def run(program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        start = [str(ROOT / program)] if program.endswith(".py") else ["-m", "lookalike", program]
        command = [sys.executable, *start, *map(str, words)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return run


Start = Callable[[ServeSettings], str]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a leaderboard and return the URL of its page."""
    servers: list[Any] = []

    def run(settings: ServeSettings) -> str:
        servers.append(make_server(settings))
        threading.Thread(target=servers[-1].run, daemon=True).start()
        return page_url(servers[-1])

    yield run
    for server in servers:
        server.task_dispatcher.shutdown()
        server.close()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def browser() -> Iterator[Any]:
    """Start the system's Chromium without a window; nothing is downloaded."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        # As root, Chromium starts only without its sandbox; the pages are our own.
        chromium = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()
