"""A competition of two hours in minutes: a class that sends, and everything that can go wrong.

    python -m benchmarks.competition_day --teams 50 --submissions 20

The server runs in a process of its own, by a clock that is faster than ours. Half of the
submissions come in the last quarter of an hour, most of them in its last minutes. Meanwhile the
server is killed and started anew, its disk is full for a while, and the clock of its machine jumps.
Whoever gets no answer sends the same file again. At the end, everything is compared with what was
sent: nothing may be lost or counted twice, and the final ranking has to be that of evaluate.py.
"""

import argparse
import contextlib
import csv
import io
import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import requests
from tabulate import tabulate

from benchmarks.leaderboard_load import ROOT, make_labels, make_submission, wait_for_address
from lookalike.competition.access import add_team
from lookalike.competition.clock import Clock, running_seconds
from lookalike.competition.judge import Judge
from lookalike.competition.serve import make_server, store_of
from lookalike.competition.settings import ServeCommand
from lookalike.core.log import log_to
from lookalike.evaluation.evaluate import main as evaluate
from lookalike.evaluation.scoring import Labels
from lookalike.evaluation.submissions import Submission
from lookalike.leaderboard.client import Target, post_once

HOURS = 2.0
BEGIN = 1_800_000_000.0  # of the competition, by its own clock
PUBLIC = 18  # identities of 60
# (minute, what happens, for how many minutes)
EVENTS = (
    (15, "kill", 0),
    (30, "full disk", 5),
    (45, "clock ahead", 5),
    (55, "kill", 0),
    (65, "clock behind", 5),
    (75, "kill with a wrong clock", 4),
    (90, "kill", 0),
    (100, "full disk", 4),
    (112, "kill", 0),
    (118, "kill", 0),
)
JUMPS = {"clock ahead": 3 * 3600.0, "clock behind": -3 * 3600.0, "kill with a wrong clock": -1800.0}


class Day(NamedTuple):
    """What came of it.

    Attributes:
        sent: Submissions that teams made.
        taken: Those that were answered with a score.
        late: Those that were refused since the competition had closed.
        tries: Posts of all together.
        kills: How often the server was killed.
        unavailable: Answers that it can keep nothing at the moment.
        lost: Taken, and not kept.
        twice: Kept, and never sent, or kept more than once.
        wrong: Public scores that were not those of evaluate.py, in steps.
        ranking_right: Whether the final ranking is that of evaluate.py.
        seconds: How long it took.
    """

    sent: int
    taken: int
    late: int
    tries: int
    kills: int
    unavailable: int
    lost: int
    twice: int
    wrong: int
    ranking_right: bool
    seconds: float


# ---- the server ---------------------------------------------------------------------------------


@dataclass
class Machine:
    """The machine that the server runs on: its clock, its disk, and the process.

    Attributes:
        folder: The competition's.
        speed: Seconds of the competition in one of ours.
        began: Our running seconds when it opened.
    """

    folder: Path
    speed: float
    began: float = field(default_factory=running_seconds)
    port: int = 0
    kills: int = 0
    process: subprocess.Popen | None = None

    @property
    def jump(self) -> Path:
        """The file that says by how many seconds the machine's clock is wrong."""
        return self.folder / "jump.txt"

    def minute(self) -> float:
        """Return the true minute of the competition."""
        return (running_seconds() - self.began) * self.speed / 60

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        command = [sys.executable, "-m", "benchmarks.competition_day", "--serve", str(self.folder)]
        command += ["--port", str(self.port), "--speed", str(self.speed)]
        command += ["--began", repr(self.began)]
        output = self.folder / f"server{self.kills}.log"
        with output.open("w") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr, cwd=ROOT)
        self.port = int(wait_for_address(self.process, output).rstrip("/").rpartition(":")[2])

    def kill(self) -> None:
        """Kill the server, in whatever it does, and start it anew."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.kills += 1
        self.start()

    def fill(self, full: bool) -> None:
        """Let no file of the server grow any more, or let them grow again."""
        assert self.process is not None
        hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (4096 if full else hard, hard))


def serve(folder: Path, port: int, speed: float, began: float) -> None:
    """Run the server by a fast clock; the machine's time of day is wrong by what jump.txt says."""

    def running() -> float:
        return BEGIN + (running_seconds() - began) * speed

    def wall() -> float:
        return running() + float((folder / "jump.txt").read_text())

    log_to(None)
    make_server(ServeCommand(folder, port=port), Clock(wall, running)).run()


def trouble(machine: Machine, over: threading.Event) -> None:
    """Let everything go wrong, minute by minute."""
    for minute, event, lasting in EVENTS:
        if _wait(machine, minute, over):
            return
        machine.jump.write_text(str(JUMPS.get(event, 0.0)))
        if event.startswith("kill"):
            machine.kill()
        if event == "full disk":
            machine.fill(True)
        if lasting and not _wait(machine, minute + lasting, over):
            machine.jump.write_text("0.0")
            if event == "full disk":
                machine.fill(False)
            if event == "kill with a wrong clock":  # it is noticed, and set right
                machine.kill()


def _wait(machine: Machine, minute: float, over: threading.Event) -> bool:
    """Wait for a minute of the competition; return whether it is over before."""
    return over.wait(max(0.0, (minute - machine.minute()) * 60 / machine.speed))


# ---- the teams ----------------------------------------------------------------------------------


@dataclass
class Team:
    """A team, what it makes, and what it was answered.

    Attributes:
        name: Its name.
        token: Its token.
        work: (minute, submission) in the order of sending.
        scores: The score of each that was taken.
        late: Those that were refused at the end.
        answers: How often each kind of answer came.
    """

    name: str
    token: str
    work: list[tuple[float, Submission]]
    scores: dict[int, float] = field(default_factory=dict)
    late: list[int] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    def send_all(self, machine: Machine, over: threading.Event) -> None:
        """Send everything in time, and again whatever was not answered."""
        for number, (minute, submission) in enumerate(self.work):
            if _wait(machine, minute, over):
                return
            self._send(number, submission, machine)
            if number % 7 == 3:  # a nervous hand
                self._send(number, submission, machine)

    def _send(self, number: int, submission: Submission, machine: Machine) -> None:
        for _ in range(600):
            target = Target(f"http://127.0.0.1:{machine.port}/retrieval/", "", token=self.token)
            outcome, _ = post_once(target, submission, timeout=20)
            self.answers[outcome.answer.partition(":")[0] or outcome.status] += 1
            if outcome.score is not None:
                self.scores[number] = outcome.score
                return
            if "closed at" in outcome.answer:
                self.late.append(number)
                return
            time.sleep(1)
        raise RuntimeError(f"{self.name}: no answer to submission {number}")


def make_team(store_name: str, token: str, labels: Labels, number: int, seed: int) -> Team:
    """Return a team that sends half of its work in the last quarter of an hour."""
    rng = random.Random(f"{seed} {store_name}")
    early = sorted(rng.uniform(0, 105) for _ in range(number - number // 2))
    burst = sorted(120 - 15 * rng.random() ** 3 for _ in range(number // 2))
    work = [(minute, make_submission(labels, rng)) for minute in (*early, *burst)]
    return Team(store_name, token, work)


# ---- the comparison -----------------------------------------------------------------------------


def make_folder(folder: Path) -> Labels:
    """Write the solution of a competition, and return its labels."""
    labels = make_labels()
    write_solution(folder, labels, set(sorted(set(labels.query.values()))[:PUBLIC]))
    return labels


def write_solution(folder: Path, labels: Labels, public: Collection[str]) -> None:
    """Write the solution of a competition; the queries of some identities are public."""
    solution = folder / "organizer" / "solution.csv"
    solution.parent.mkdir(parents=True)
    with solution.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "identity", "split", "Usage"])
        for name, who in labels.query.items():
            writer.writerow([name, who, "query", "Public" if who in public else "Private"])
        writer.writerows([name, who, "gallery", ""] for name, who in labels.gallery.items())


def scores_by_evaluate(folder: Path, submission: Submission) -> tuple[float, float]:
    """Return the public and the private score that evaluate.py prints."""
    path, printed = folder / "submission.json", io.StringIO()
    path.write_text(json.dumps(submission))
    labels = folder / "organizer" / "solution.csv"
    with contextlib.redirect_stdout(printed):
        evaluate([str(path), "--labels", str(labels), "--json"])
    usage = json.loads(printed.getvalue())["usage"]
    return usage["Public"]["score"], usage["Private"]["score"]


def _content(submission: Submission) -> str:
    return json.dumps(submission, sort_keys=True)


def compare(machine: Machine, teams: Sequence[Team], seconds: float) -> Day:
    """Compare what is kept and ranked with what was sent and what evaluate.py says of it."""
    store, step = store_of(machine.folder), Judge.of_folder(machine.folder, "score", None).step
    numbers = {team.name: team.id for team in store.teams()}
    lost = twice = wrong = 0
    final: list[tuple[float, int, str]] = []
    for team in teams:
        own = store.submissions(numbers[team.name])
        kept = [(_content(store.lists(one.id)), one) for one in own]
        rows = {content: one for content, one in kept if one.time < BEGIN + HOURS * 3600}
        taken = {i: _content(team.work[i][1]) for i in team.scores}
        lost += len(set(taken.values()) - set(rows))
        twice += len(kept) - len(rows) + len(set(rows) - set(taken.values()))
        exact = {i: scores_by_evaluate(machine.folder, team.work[i][1]) for i in taken}
        wrong += sum(abs(exact[i][0] - score) >= step for i, score in team.scores.items())
        best = max(sorted(exact), key=lambda i: exact[i][0])
        final.append((-exact[best][1], rows[taken[best]].id, team.name))
    shown = requests.get(f"http://127.0.0.1:{machine.port}/ranking.json", timeout=60).json()
    expected = [(name, -score) for score, _, name in sorted(final)]
    right = [name for name, _ in expected] == [place["team"] for place in shown] and all(
        abs(score - place["score"]) < 1e-9
        for (_, score), place in zip(expected, shown, strict=True)
    )
    answers = sum((team.answers for team in teams), Counter())
    return Day(
        sent=sum(len(team.work) for team in teams),
        taken=sum(len(team.scores) for team in teams),
        late=sum(len(set(team.late) - set(team.scores)) for team in teams),
        tries=sum(answers.values()),
        kills=machine.kills,
        unavailable=answers["503"],
        lost=lost,
        twice=twice,
        wrong=wrong,
        ranking_right=right,
        seconds=seconds,
    )


def hold(teams: int, submissions: int, minutes: float, folder: Path, seed: int = 0) -> Day:
    """Hold a competition of two hours.

    Args:
        teams: How many teams there are.
        submissions: How many submissions each makes.
        minutes: Of ours that it takes.
        folder: Empty folder for it.
        seed: Of what the teams send, and when.
    """
    labels = make_folder(folder)
    store = store_of(folder)
    store.set_state("opens", str(BEGIN))
    store.set_state("closes", str(BEGIN + HOURS * 3600))
    names = [f"team {i:02}" for i in range(teams)]
    tokens = {name: add_team(store, name, BEGIN)[1] for name in names}
    sending = [make_team(name, tokens[name], labels, submissions, seed) for name in names]
    with running(Machine(folder, HOURS * 60 / minutes)) as machine:
        over, began = threading.Event(), time.monotonic()
        chaos = threading.Thread(target=trouble, args=(machine, over))
        chaos.start()
        with ThreadPoolExecutor(teams) as pool:
            for done in [pool.submit(team.send_all, machine, over) for team in sending]:
                done.result()
        chaos.join()
        _wait(machine, HOURS * 60 + 1, over)
        return compare(machine, sending, time.monotonic() - began)


@contextlib.contextmanager
def running(machine: Machine) -> Iterator[Machine]:
    """Run the server of a machine."""
    machine.jump.write_text("0.0")
    machine.start()
    machine.began = running_seconds()
    machine.kill()  # by the clock that begins now
    machine.kills = 0
    try:
        yield machine
    finally:
        assert machine.process is not None
        machine.process.kill()
        machine.process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Hold a competition and print what came of it; return 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teams", type=int, default=50)
    parser.add_argument("--submissions", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=4.0, help="of ours, for two hours")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--speed", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve, options.port, options.speed, options.began)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        day = hold(options.teams, options.submissions, options.minutes, Path(folder))
    print(tabulate(day._asdict().items(), tablefmt="plain"))
    return 1 if day.lost or day.twice or day.wrong or not day.ranking_right else 0


if __name__ == "__main__":
    sys.exit(main())
