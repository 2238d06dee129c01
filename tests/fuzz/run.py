"""Run a kind of inputs, each with a seed of its own and a limit on its time."""

import io
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from random import Random
from types import FrameType

from tqdm import tqdm

from tests.fuzz import kinds, network
from tests.fuzz.kinds import Kind, SilentChange

KINDS: tuple[type[Kind], ...] = (
    kinds.Submissions,
    kinds.Labels,
    kinds.Configs,
    kinds.Options,
    kinds.Pictures,
    kinds.Archives,
    kinds.Weights,
    kinds.Cache,
    kinds.RunFolders,
    network.Posts,
    network.Replies,
)
LIMIT = 60  # seconds for one input


class Hang(BaseException):
    """An input took longer than the limit."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise Hang after the limit."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(
    kind: type[Kind], folder: Path, count: int, seed: int, progress: bool = False
) -> tuple[dict[str, int], list[str]]:
    """Feed mutated inputs of one kind to the toolkit.

    Args:
        kind: The kind.
        folder: An empty folder to work in.
        count: How many inputs.
        seed: The input number i is made with the seed `seed:i`.
        progress: Whether to show a bar.

    Returns:
        How many came to which end, and a text for each that failed.
    """
    ends = dict.fromkeys(("read", "refused", "traceback", "silent change", "hang"), 0)
    failures = []
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        folder.mkdir(parents=True, exist_ok=True)
        subject = kind(folder)
        numbers = tqdm(range(count), kind.name, disable=not progress, file=sys.__stderr__)
        for number in numbers:
            end, why = _one(subject, Random(f"{kind.name}:{seed}:{number}"))
            if why:
                failures.append(f"{kind.name}, seed {seed}:{number}: {why}")
            ends[end] += 1
    return ends, failures


def _one(subject: Kind, random: Random) -> tuple[str, str]:
    """Return how one input ended, and the traceback of one that failed."""
    try:
        with time_limit():
            return subject.one(random), ""
    except SilentChange:
        return "silent change", traceback.format_exc()
    except Hang:
        return "hang", traceback.format_exc()
    except Exception:
        return "traceback", traceback.format_exc()
