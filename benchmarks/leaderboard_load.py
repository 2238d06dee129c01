"""Does the leaderboard keep up with a whole class? 50 teams send 20 submissions each, at once.

    python -m benchmarks.leaderboard_load --teams 50 --submissions 20

A server in a process of its own, one thread a team. Every submission is different and its score
known beforehand, so that a reply or a line of the ranking that belongs to another shows.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import NamedTuple

import requests
from tabulate import tabulate

from lookalike.evaluation.scoring import Labels, find_hits, mean_measures
from lookalike.evaluation.submissions import Submission
from lookalike.leaderboard.client import Outcome, Target, post

ROOT = Path(__file__).parent.parent


class Load(NamedTuple):
    """What came of it. lost: submissions that have no score or are not in the ranking."""

    sent: int
    lost: int
    mixed_up: int
    ranking_right: bool
    seconds: float


def make_labels(people: int = 60, pictures: int = 15, queries: int = 300) -> Labels:
    """Labels of a test of the usual size."""
    gallery = {f"g{p:03}_{i:02}.jpg": f"p{p}" for p in range(people) for i in range(pictures)}
    return Labels({f"q{i:04}.jpg": f"p{i % people}" for i in range(queries)}, gallery)


def make_submission(labels: Labels, chance: random.Random) -> Submission:
    """A valid submission that finds a random share of the people."""
    names, skill = list(labels.gallery), chance.random()
    of: dict[str, list[str]] = {}
    for name, identity in labels.gallery.items():
        of.setdefault(identity, []).append(name)
    ranked: Submission = {}
    for query, identity in labels.query.items():
        ten = chance.sample(names, 10)
        if chance.random() < skill and not set(ten) & set(of[identity]):
            ten[chance.randrange(10)] = chance.choice(of[identity])
        ranked[query] = ten
    return ranked


@contextmanager
def serving(labels: Path, results: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """A leaderboard in a process of its own: (URL of its page, the process)."""
    command = [sys.executable, "-m", "lookalike", "submit", "serve", "--labels", str(labels)]
    command += ["--port", "0"]
    command += ["--results", str(results), "--rate", "0", *words]
    with (
        results.with_suffix(".log").open("w") as output,
        subprocess.Popen(command, stderr=output, cwd=ROOT) as process,
    ):
        try:
            yield wait_for_address(process, results.with_suffix(".log")), process
        finally:
            process.kill()


def wait_for_address(process: subprocess.Popen, output: Path) -> str:
    """The URL that a starting server prints.

    Raises:
        RuntimeError: it ended instead; what it said.
    """
    while True:
        said = output.read_text()
        if found := re.search(r"ranking: (\S+)\n", said):
            return found[1]
        if process.poll() is not None:
            raise RuntimeError(said)
        time.sleep(0.05)


def load(teams: int, submissions: int, folder: Path, seed: int = 0) -> Load:
    """Sends `submissions` of each of `teams` at once and compares all that comes back."""
    labels = make_labels()
    (folder / "labels.json").write_text(json.dumps(labels._asdict()))
    chance = random.Random(seed)
    names = [f"team {i:02}" for i in range(teams)]
    work = {name: [make_submission(labels, chance) for _ in range(submissions)] for name in names}
    scores = {n: [mean_measures(find_hits(ranked, labels))["score"] for ranked in work[n]] for n in names}
    together = Barrier(teams)

    def send_all(name: str) -> list[Outcome]:
        together.wait()
        return [post(Target(f"{url}retrieval/", name), ranked, 120) for ranked in work[name]]

    with serving(folder / "labels.json", folder / "results.sqlite") as (url, _):
        began = time.monotonic()
        with ThreadPoolExecutor(teams) as pool:
            outcomes = dict(zip(names, pool.map(send_all, names), strict=True))
        seconds = time.monotonic() - began
        ranking = requests.get(f"{url}ranking.json", timeout=60).json()
    replies = [(o.score, s) for n in names for o, s in zip(outcomes[n], scores[n], strict=True)]
    kept = {place["group"]: place["submissions"] for place in ranking}
    unanswered = sum(score is None for score, _ in replies)
    missing = sum(submissions - kept.get(name, 0) for name in names)
    shown = {place["group"]: place["score"] for place in ranking}
    falling = [place["score"] for place in ranking] == sorted(shown.values(), reverse=True)
    return Load(
        sent=teams * submissions,
        lost=max(unanswered, missing),
        mixed_up=sum(score is not None and abs(score - own) > 1e-6 for score, own in replies),
        ranking_right=falling and shown == {name: max(scores[name]) for name in names},
        seconds=seconds,
    )


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description="Many teams send to the leaderboard at once.")
    parser.add_argument("--teams", type=int, default=50)
    parser.add_argument("--submissions", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = load(arguments.teams, arguments.submissions, Path(folder))
    rows = [(name.replace("_", " "), str(value)) for name, value in done._asdict().items()]
    print(tabulate([*rows[:-1], ("submissions a second", f"{done.sent / done.seconds:.0f}")]))


if __name__ == "__main__":
    main()
