"""Load test of the leaderboard: 50 teams send 20 submissions each, at once.

    python -m benchmarks.leaderboard_load --teams 50 --submissions 20

The server runs in a process of its own, and each team in a thread. Every submission is different
and its score is known beforehand, so that a reply or a line of the ranking that belongs to another
team is noticed.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any, NamedTuple

import requests
from tabulate import tabulate

from lookalike.evaluation.scoring import Labels, find_hits, mean_measures
from lookalike.evaluation.submissions import Submission
from lookalike.leaderboard.client import Outcome, Target, post
from lookalike.leaderboard.results import Results
from lookalike.leaderboard.rules import coarse, score_step

ROOT = Path(__file__).parent.parent


class Load(NamedTuple):
    """The result of a load test.

    Attributes:
        sent: Submissions that were sent.
        lost: Those that got no score or are not in the ranking.
        mixed_up: Those that got another one's score.
        ranking_right: Whether the ranking holds every team's best score, in order.
        seconds: Wall-clock time of the sending.
    """

    sent: int
    lost: int
    mixed_up: int
    ranking_right: bool
    seconds: float


def make_labels(identities: int = 60, pictures: int = 15, queries: int = 300) -> Labels:
    """Return the labels of a test of the usual size.

    Args:
        identities: Number of identities.
        pictures: Gallery pictures of each.
        queries: Queries of all together.
    """
    gallery = {f"g{p:03}_{i:02}.jpg": f"p{p}" for p in range(identities) for i in range(pictures)}
    return Labels({f"q{i:04}.jpg": f"p{i % identities}" for i in range(queries)}, gallery)


def make_submission(labels: Labels, rng: random.Random) -> Submission:
    """Return a valid submission that finds a random share of the identities."""
    names, skill = list(labels.gallery), rng.random()
    pictures: dict[str, list[str]] = {}
    for name, identity in labels.gallery.items():
        pictures.setdefault(identity, []).append(name)
    submission: Submission = {}
    for query, identity in labels.query.items():
        ten = rng.sample(names, 10)
        if rng.random() < skill and not set(ten) & set(pictures[identity]):
            ten[rng.randrange(10)] = rng.choice(pictures[identity])
        submission[query] = ten
    return submission


@contextmanager
def serving(labels: Path, results: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Run a leaderboard in a process of its own.

    Args:
        labels: The labels of its test.
        results: The file of its results.
        words: More words of its command line.

    Yields:
        The URL of its page, and the process.
    """
    command = [sys.executable, "-m", "lookalike", "submit", "serve", "--labels", str(labels)]
    command += ["--port", "0", "--results", str(results), "--rate", "0", *words]
    with (
        results.with_suffix(".log").open("w") as output,
        subprocess.Popen(command, stderr=output, cwd=ROOT) as process,
    ):
        try:
            yield wait_for_address(process, results.with_suffix(".log")), process
        finally:
            process.kill()


def wait_for_address(process: subprocess.Popen, output: Path) -> str:
    """Wait for the URL that a starting server prints, and return it.

    Raises:
        RuntimeError: The server ended instead; its output.
    """
    while True:
        printed = output.read_text()
        if found := re.search(r"ranking: (\S+)\n", printed):
            return found[1]
        if process.poll() is not None:
            raise RuntimeError(printed)
        time.sleep(0.05)


def load(teams: int, submissions: int, folder: Path, seed: int = 0) -> Load:
    """Let all teams send at once and compare every reply and the ranking with the known scores.

    Args:
        teams: Number of teams.
        submissions: Submissions of each.
        folder: Where the labels and the results are written.
        seed: Seed of the submissions.
    """
    labels = make_labels()
    (folder / "labels.json").write_text(json.dumps(labels._asdict()))
    rng = random.Random(seed)
    names = [f"team {i:02}" for i in range(teams)]
    work = {name: [make_submission(labels, rng) for _ in range(submissions)] for name in names}
    start = Barrier(teams)

    def send_all(name: str) -> list[Outcome]:
        start.wait()
        target = Target(f"{url}retrieval/", name)
        return [post(target, submission, 120) for submission in work[name]]

    with serving(folder / "labels.json", folder / "results.sqlite") as (url, _):
        began = time.monotonic()
        with ThreadPoolExecutor(teams) as pool:
            outcomes = dict(zip(names, pool.map(send_all, names), strict=True))
        seconds = time.monotonic() - began
        ranking = requests.get(f"{url}ranking.json", timeout=60).json()
    replies = {name: [outcome.score for outcome in outcomes[name]] for name in names}
    secret, step = Results(folder / "results.sqlite", "").secret, score_step(len(labels.query))

    def given(submission: Submission) -> float:
        exact = mean_measures(find_hits(submission, labels))["score"]
        return coarse(exact, step, submission, secret)

    scores = {name: [given(submission) for submission in work[name]] for name in names}
    return compare(replies, scores, ranking, seconds)


def compare(
    replies: Mapping[str, Sequence[float | None]],
    scores: Mapping[str, Sequence[float]],
    ranking: Sequence[Mapping[str, Any]],
    seconds: float,
) -> Load:
    """Compare what came back with what should have.

    Args:
        replies: Each team's scores as the server replied them; None: it replied no score.
        scores: Each team's scores as they should be given, in the same order.
        ranking: The groups of ranking.json.
        seconds: Wall-clock time of the sending.
    """
    pairs = [pair for name in scores for pair in zip(replies[name], scores[name], strict=True)]
    counted = {group["group"]: group["submissions"] for group in ranking}
    unanswered = sum(reply is None for reply, _ in pairs)
    missing = sum(len(scores[name]) - counted.get(name, 0) for name in scores)
    ranked = {group["group"]: group["score"] for group in ranking}
    in_order = [group["score"] for group in ranking] == sorted(ranked.values(), reverse=True)
    return Load(
        sent=len(pairs),
        lost=max(unanswered, missing),
        mixed_up=sum(reply is not None and abs(reply - score) > 1e-6 for reply, score in pairs),
        ranking_right=in_order and ranked == {name: max(scores[name]) for name in scores},
        seconds=seconds,
    )


def main() -> None:
    """Run the load test of the command line and print a table."""
    parser = argparse.ArgumentParser(description="Many teams send to the leaderboard at once.")
    parser.add_argument("--teams", type=int, default=50)
    parser.add_argument("--submissions", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = load(arguments.teams, arguments.submissions, Path(folder))
    rows = [(name.replace("_", " "), str(value)) for name, value in result._asdict().items()]
    rate = f"{result.sent / result.seconds:.0f}"
    print(tabulate([*rows[:-1], ("submissions a second", rate)]))


if __name__ == "__main__":
    main()
