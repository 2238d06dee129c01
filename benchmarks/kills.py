"""Does a run that is killed at random moments end with the same bytes?

    python -m benchmarks.kills --kills 10 -- --stage all --data ../shared/data/caricature

Everything behind `--` goes to main.py, in two temporary folders: one runs through, the other is
killed (SIGKILL) at random moments and started again until it has been killed often enough.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

MAIN = Path(__file__).parent.parent / "main.py"
SAME = ("submission.json", "validation.json", "model.safetensors")


def start(words: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Starts main.py in a folder, as the head of a group of processes."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("ab") as output:
        command = [sys.executable, str(MAIN), *words, "--run", "run"]
        return subprocess.Popen(
            command, cwd=folder, start_new_session=True, stdout=output, stderr=output
        )


def finish(words: Sequence[str], folder: Path) -> float:
    """Runs main.py to its end; the seconds that it took.

    Raises:
        RuntimeError: it failed; the end of what it said.
    """
    began = time.monotonic()
    if start(words, folder).wait():
        raise RuntimeError((folder / "output.txt").read_text()[-2000:])
    return time.monotonic() - began


def kill_and_compare(words: Sequence[str], folder: Path, kills: int, seed: int = 0) -> list[float]:
    """Kills runs until `kills` of them died at work; the moments, in shares of a whole run.

    Where a run is finished before its moment comes, it is compared and begun anew.

    Raises:
        AssertionError: a file differs from that of the run that was never killed.
    """
    whole, killed = folder / "whole", folder / "killed"
    seconds = finish(words, whole)
    chance = random.Random(seed)
    moments: list[float] = []
    while len(moments) < kills:
        process = start(words, killed)
        share = chance.random()
        try:
            process.wait(share * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            moments.append(share)
        else:
            compare(whole, killed)
            shutil.rmtree(killed)
    finish(words, killed)
    compare(whole, killed)
    return moments


def compare(whole: Path, killed: Path) -> None:
    """Raises AssertionError, naming the file, unless both runs made the same bytes."""
    for name in SAME:
        one, other = (folder / "run" / name for folder in (whole, killed))
        assert one.read_bytes() == other.read_bytes(), f"{name} differs"


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description="Kills main.py and compares what it makes.")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("words", nargs="+", help="options of main.py, behind --")
    arguments = parser.parse_args()
    words = [str(Path(word).resolve()) if Path(word).exists() else word for word in arguments.words]
    with tempfile.TemporaryDirectory() as folder:
        moments = kill_and_compare(words, Path(folder), arguments.kills, arguments.seed)
    shares = ", ".join(f"{100 * share:.0f} %" for share in moments)
    print(f"killed {len(moments)} times, at {shares} of a run: the same bytes")


if __name__ == "__main__":
    main()
