"""Do forecasts hold the scores of tests? Simulated tests of runs, and their real ones.

    python -m benchmarks.forecasts runs/caricature runs/grocery

Of a run's labeled identities some are set aside as a test: with queries and gallery, and as many
others in the gallery only, in every second test. The rest forecasts its score by the run's steps.
The table shows how many forecasts hold it, and below it stands the run's own forecast of its test.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from lookalike.core.runs import open_run
from lookalike.features.extractor import trained_extractor
from lookalike.retrieval.forecast import Part, forecast_test
from lookalike.retrieval.labeled_tasks import LabeledTask, LabeledTasks, load_tasks, score_task

SHARES = (0.1, 0.3, 0.5)  # identities set aside, as shares of the labeled ones
FEWEST = 4


def set_aside(
    task: LabeledTask, count: int, distractors: bool, rng: np.random.Generator
) -> tuple[LabeledTask, LabeledTask]:
    """Divide a task into a test and what is left to forecast its score from."""
    order = rng.permutation(sorted(set(task.query.values()))).tolist()
    searched = set(order[:count])
    shown = set(order[: 2 * count]) if distractors else searched
    rest = {p: n for p, n in task.seen.items() if n not in shown}
    test = LabeledTask(
        {p: n for p, n in task.query.items() if n in searched},
        {p: n for p, n in task.gallery.items() if n in shown},
        rest,
    )
    left = LabeledTask(
        {p: n for p, n in task.query.items() if n not in shown},
        {p: n for p, n in task.gallery.items() if n not in shown},
        rest,
    )
    return test, left


def simulated(tasks: LabeledTasks, tests: int, seed: int, folder: Path) -> Iterator[list[str]]:
    """Yield a row of the table for each size of simulated tests."""
    settings = open_run(folder).settings.retrieve
    (task,) = tasks.tasks
    labeled = len(set(task.query.values()))
    for share in SHARES:
        count = max(FEWEST, round(share * labeled))
        rng = np.random.default_rng([seed, count])
        inside, errors, widths = [], [], []
        for number in tqdm(range(tests), f"{folder.name}, {count}", unit=" tests"):
            distractors = number % 2 == 1 and labeled - 2 * count >= FEWEST
            test, left = set_aside(task, count, distractors, rng)
            truth = score_task(tasks.embeddings(test), test, settings).mean("score")
            others = replace(tasks, tasks=[left], _transformed={})
            queries = tasks.stack(test.query)
            part = Part(others, settings, queries)
            made = forecast_test([part], len(test.gallery), seed=number)
            low, high = made["ci95"]["score"]
            inside.append(low - 1e-6 <= truth <= high + 1e-6)
            errors.append(made["score"] - truth)
            widths.append(high - low)
        yield [
            str(folder),
            f"{count} of {labeled}",
            f"{sum(inside)} of {len(inside)}",
            f"{np.mean(errors):+.0f}",
            f"{np.std(errors):.0f}",
            f"{np.mean(widths):.0f}",
        ]


def real(folder: Path) -> list[str]:
    """Return the run's own forecast beside its test score."""
    made = json.loads((folder / "forecast.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    low, high = made["ci95"]["score"]
    truth = metrics["test"]["score"]
    held = "inside" if low <= truth <= high else "outside"
    return [str(folder), f"{made['score']:.0f} ({low:.0f} to {high:.0f})", f"{truth:.1f}", held]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="with the stage forecast done")
    parser.add_argument("--tests", type=int, default=20, help="simulated tests of each size")
    parser.add_argument("--seed", type=int, default=0)
    command = parser.parse_args()
    rows: list[list[str]] = []
    for folder in command.runs:
        run = open_run(folder)
        tasks = load_tasks(run, parts=1)
        tasks.embed(trained_extractor(run))
        rows += simulated(tasks, command.tests, command.seed, folder)
    heads = ["run", "identities", "inside", "mean error", "deviation", "width"]
    print(tabulate(rows, heads, disable_numparse=True))
    print()
    heads = ["run", "forecast", "test", ""]
    print(tabulate([real(folder) for folder in command.runs], heads, disable_numparse=True))


if __name__ == "__main__":
    main()
