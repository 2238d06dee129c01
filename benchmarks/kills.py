"""Does a run that is killed at random moments end with the same bytes?

    python -m benchmarks.kills --kills 10 -- --stage all --data $DATA/caricature

The options after `--` go to main.py, which runs in two temporary folders: in one to its end, in
the other it is killed (SIGKILL) at random moments and started again, --kills times.
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
    """Start main.py in a folder, as the leader of a process group."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("ab") as output:
        command = [sys.executable, str(MAIN), *words, "--run", "run"]
        return subprocess.Popen(
            command, cwd=folder, start_new_session=True, stdout=output, stderr=output
        )


def finish(words: Sequence[str], folder: Path) -> float:
    """Run main.py to its end and return the seconds that it took.

    Raises:
        RuntimeError: It failed; with the end of its output.
    """
    began = time.monotonic()
    if start(words, folder).wait():
        raise RuntimeError((folder / "output.txt").read_text()[-2000:])
    return time.monotonic() - began


def kill_and_compare(words: Sequence[str], folder: Path, kills: int, seed: int = 0) -> list[float]:
    """Kill a run at random moments, continue it, and compare its files with a whole run's.

    A run that finishes before its moment comes is compared and started from the beginning.

    Args:
        words: Options of main.py.
        folder: Where both runs work.
        kills: Number of kills.
        seed: Seed of the moments.

    Returns:
        The moments of the kills, as shares of the duration of a whole run.

    Raises:
        AssertionError: A file differs from that of the run that was never killed.
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
    """Raise AssertionError, naming the file, unless both runs wrote the same bytes."""
    for name in SAME:
        one, other = (folder / "run" / name for folder in (whole, killed))
        assert one.read_bytes() == other.read_bytes(), f"{name} differs"


def main() -> None:
    """Kill main.py as the command line says, and print the moments."""
    parser = argparse.ArgumentParser(
        description="Kill main.py at random moments and compare its results."
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("words", nargs="+", help="options of main.py, after --")
    arguments = parser.parse_args()
    words = [str(Path(word).resolve()) if Path(word).exists() else word for word in arguments.words]
    with tempfile.TemporaryDirectory() as folder:
        moments = kill_and_compare(words, Path(folder), arguments.kills, arguments.seed)
    shares = ", ".join(f"{100 * share:.0f} %" for share in moments)
    print(f"killed {len(moments)} times, at {shares} of a run: the same bytes")


if __name__ == "__main__":
    main()
