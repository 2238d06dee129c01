"""A row of the table of `benchmarks/run.py`: two programs on the same inputs, in turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tabulate import tabulate


@dataclass(frozen=True)
class Given:
    """What every row is told.

    source: LFW62's class folders. out: where downloads, data and results are kept. repeats: pairs
    of measurements. pictures: of LFW62, at most. gallery: size of the big gallery. many: pictures
    of the larger of the two memory measurements.
    """

    source: Path
    out: Path
    repeats: int
    pictures: int | None
    gallery: int
    many: int


@dataclass(frozen=True)
class Row:
    """Two programs' figures, in the order in which they were taken.

    what: what both did. unit: `s` and `MB` are the better the fewer, `pictures/s` the more. wanted:
    how many times better ours has to be. remark: what else there is to know, and why it falls short
    where it does.
    """

    what: str
    ours: str
    other: str
    unit: str
    wanted: float
    our_figures: list[float]
    other_figures: list[float]
    remark: str = ""

    @property
    def ratio(self) -> float:
        """How many times better our median is."""
        ours, other = median(self.our_figures), median(self.other_figures)
        return ours / other if self.unit.endswith("/s") else other / ours


def seconds(work: Callable[[], object]) -> Callable[[], float]:
    """The work, as what returns the seconds that it takes."""

    def timed() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return timed


def in_turns(
    programs: Sequence[Callable[[], float]], repeats: int, warm: int = 1
) -> list[list[float]]:
    """Return the figures of each program, run in turns, so that a busy moment slows all alike.

    The first `warm` rounds do not count.
    """
    figures: list[list[float]] = [[] for _ in programs]
    for repeat in range(-warm, repeats):
        for kept, program in zip(figures, programs, strict=True):
            figure = program()
            if repeat >= 0:
                kept.append(figure)
    return figures


def table(rows: Sequence[Row]) -> str:
    """All rows in Markdown: medians, least and most of each, and whether the ratio was reached."""
    shown = [
        (
            row.what,
            row.ours,
            _spread(row.our_figures, row.unit),
            row.other,
            _spread(row.other_figures, row.unit),
            f"{row.ratio:.2f}",
            f"{row.wanted:g}",
            "yes" if row.ratio >= row.wanted else "no",
            row.remark,
        )
        for row in rows
    ]
    heads = ["row", "ours", "median", "other", "median", "ratio", "wanted", "reached", "remark"]
    return tabulate(shown, heads, "github", disable_numparse=True)


def _spread(figures: Sequence[float], unit: str) -> str:
    middle, least, most = (f"{f(figures):.3g}" for f in (median, min, max))
    return f"{middle} {unit} ({least} to {most}, n = {len(figures)})"
