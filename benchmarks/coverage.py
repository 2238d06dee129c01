"""How often do the intervals of a score hold the truth? Not 95 % of the time, for many a method.

    python -m benchmarks.coverage                       # made-up populations
    python -m benchmarks.coverage --run runs/faces      # and the labeled identities of a run

Test sets of 10, 20 and 60 identities are drawn from a population whose mean score is known, and
each gets its interval: ours, and that of a bootstrap over identities with percentile ends, which
this toolkit had before. The table shows the lowest coverage of several populations of a mean:
identities that are all right or all wrong, alike, or in between.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from lookalike.core.runs import open_run
from lookalike.evaluation.intervals import clustered_interval
from lookalike.features.extractor import trained_extractor
from lookalike.retrieval.labeled_tasks import load_tasks

SIZES = (10, 20, 60)
MEANS = (300, 900, 980, 1000)
IDENTITIES = 100  # of a population
RESAMPLES = 1000  # of the bootstrap

Population = list[np.ndarray]  # the scores of each identity's queries, from 0 to 1


def populations(mean: float, rng: np.random.Generator) -> Iterator[Population]:
    """Yield populations of a mean, from 0 to 1, with queries of an identity more and less alike."""
    sizes = rng.integers(1, 12, IDENTITIES)
    wrong = np.arange(IDENTITIES) < round(IDENTITIES * (1 - mean))
    yield [np.full(size, 1.0 - none) for size, none in zip(sizes, wrong, strict=True)]
    yield [(rng.random(size) < mean) * 1.0 for size in sizes]
    for spread in (2, 10):
        ability = (
            rng.beta(mean * spread, (1 - mean) * spread, IDENTITIES)
            if mean < 1
            else [1.0] * IDENTITIES
        )
        yield [(rng.random(size) < p) * 1.0 for size, p in zip(sizes, ability, strict=True)]


def bootstrap_interval(values: np.ndarray, identities: Sequence[str]) -> np.ndarray:
    """Return percentile ends of a bootstrap over identities (Field and Welsh, 2007)."""
    _, cluster = np.unique(np.asarray(identities), return_inverse=True)
    counts = np.bincount(cluster).astype(float)
    sums = np.bincount(cluster, values[:, 0])
    equal = np.full(len(counts), 1 / len(counts))
    drawn = np.random.default_rng(0).multinomial(len(counts), equal, RESAMPLES)
    return np.percentile((drawn @ sums) / (drawn @ counts), [2.5, 97.5])[:, None]


METHODS = {"bootstrap": bootstrap_interval, "ours": clustered_interval}


def coverage(
    population: Population, size: int, draws: int, rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """Return for each method how often the truth is inside, and the mean width of intervals."""
    truth = np.concatenate(population).mean()
    inside: dict[str, list[bool]] = {name: [] for name in METHODS}
    widths: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(draws):
        drawn = [population[i] for i in rng.integers(len(population), size=size)]
        values = np.concatenate(drawn)[:, None]
        identities = np.repeat(np.arange(size), [len(scores) for scores in drawn]).astype(str)
        for name, method in METHODS.items():
            low, high = method(values, identities.tolist())[:, 0]
            inside[name].append(low - 1e-12 <= truth <= high + 1e-12)
            widths[name].append(high - low)
    return {name: (float(np.mean(inside[name])), float(np.mean(widths[name]))) for name in METHODS}


def of_run(folder: Path) -> Population:
    """Return the scores of a run's labeled identities, by the run's own steps."""
    run = open_run(folder)
    tasks = load_tasks(run, parts=1)
    tasks.embed(trained_extractor(run))
    scores = tasks.score(run.settings.retrieve)
    values, identities = scores.values["score"] / 1000, np.array(scores.identities)
    return [values[identities == name] for name in np.unique(identities)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run whose labeled identities are a population")
    parser.add_argument("--draws", type=int, default=1000, help="test sets of each size")
    parser.add_argument("--seed", type=int, default=0)
    command = parser.parse_args()
    rng = np.random.default_rng(command.seed)
    named = {str(mean): list(populations(mean / 1000, rng)) for mean in MEANS}
    if command.run is not None:
        population = of_run(command.run)
        named[f"{command.run}, {1000 * np.concatenate(population).mean():.0f}"] = [population]
    rows = []
    for name, group in named.items():
        for size in SIZES:
            results = [coverage(population, size, command.draws, rng) for population in group]
            row: list[str | int] = [name, size]
            for method in METHODS:
                row.append(f"{min(result[method][0] for result in results):.3f}")
                row.append(f"{1000 * np.mean([result[method][1] for result in results]):.0f}")
            rows.append(row)
    heads = ["mean score", "identities"]
    heads += [f"{method}: {what}" for method in METHODS for what in ("coverage", "width")]
    print(tabulate(rows, heads, disable_numparse=True))


if __name__ == "__main__":
    main()
