"""A row of the table of `benchmarks/run.py`: two programs on the same inputs, in turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tabulate import tabulate


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of all rows.

    Attributes:
        source: LFW62's class folders.
        out: Folder for downloads, data and results.
        repeats: Number of measurements of each program.
        pictures: Maximum number of LFW62's pictures; None for all of them.
        gallery: Number of pictures of the generated gallery.
        many: Number of pictures of the larger of the two memory measurements.
    """

    source: Path
    out: Path
    repeats: int
    pictures: int | None
    gallery: int
    many: int


@dataclass(frozen=True)
class Row:
    """The figures of two programs that do the same.

    Attributes:
        what: What both do.
        ours: Name of our program.
        other: Name and version of the other one.
        unit: `s` and `MB`, of which fewer are better, or `pictures/s`, of which more are.
        wanted: How many times better ours should be.
        our_figures: Our measurements, in the order in which they were taken.
        other_figures: The other program's.
        remark: Conditions of the measurement, and why ours falls short where it does.
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
        """How many times better our median is than the other one."""
        ours, other = median(self.our_figures), median(self.other_figures)
        return ours / other if self.unit.endswith("/s") else other / ours


def seconds(work: Callable[[], object]) -> Callable[[], float]:
    """Return a function that does the work and returns the seconds that it takes."""

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
        for own, program in zip(figures, programs, strict=True):
            figure = program()
            if repeat >= 0:
                own.append(figure)
    return figures


def table(rows: Sequence[Row]) -> str:
    """Format rows as Markdown: medians with their ranges, and whether the wanted ratio is met."""
    cells = [
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
    return tabulate(cells, heads, "github", disable_numparse=True)


def _spread(figures: Sequence[float], unit: str) -> str:
    """Format the median and the range of figures."""
    middle, least, most = (f"{f(figures):.3g}" for f in (median, min, max))
    return f"{middle} {unit} ({least} to {most}, n = {len(figures)})"
