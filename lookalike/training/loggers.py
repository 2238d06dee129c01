"""Experiment trackers behind one function, each only where its package is installed.

with track("wandb", "retrieval", "runs/x", {"lr": 0.001}, Path("runs/x")) as log_metrics:
    log_metrics({"loss": 0.5}, 1)
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from lookalike.core.errors import UserError

LogMetrics = Callable[[Mapping[str, float], int], None]
MODULES = {"tensorboard": "torch.utils.tensorboard"}


@contextmanager
def track(
    tool: str, project: str, name: str, about: Mapping[str, Any], folder: Path
) -> Iterator[LogMetrics]:
    """Open a run of a tracker; yield a function that logs numbers by name at a step.

    Args:
        tool: none, tensorboard, wandb or mlflow.
        project: Name of the project there.
        name: Name of the run there.
        about: The run's settings.
        folder: Where TensorBoard writes (`folder`/tensorboard).

    Raises:
        UserError: The tracker's package is not installed.
    """
    if tool == "none":
        yield lambda numbers, step: None
        return
    module = load_tracker(tool)
    if tool == "tensorboard":
        with module.SummaryWriter(folder / "tensorboard") as writer:
            yield lambda numbers, step: _write(writer, numbers, step)
    elif tool == "wandb":
        tracked = module.init(project=project, name=name, config=dict(about))
        yield lambda numbers, step: tracked.log(dict(numbers), step=step)
        tracked.finish(exit_code=int(bool(about.get("failed"))))
    else:
        module.set_experiment(project)
        with module.start_run(run_name=name):
            module.log_params(dict(about))
            yield lambda numbers, step: module.log_metrics(dict(numbers), step=step)


def _write(writer: Any, numbers: Mapping[str, float], step: int) -> None:
    """Write numbers to TensorBoard."""
    for name, value in numbers.items():
        writer.add_scalar(name, value, step)


def load_tracker(tool: str) -> Any:
    """Return the package of a tracker.

    Raises:
        UserError: It is not installed.
    """
    try:
        return import_module(MODULES.get(tool, tool))
    except ImportError as error:
        raise UserError(f"--log-to {tool} needs its package: pip install {tool}") from error


def numbers_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a result, under names that every tracker accepts.

    >>> numbers_of({"recall@1": 0.5, "part": "test"})
    {'recall_at_1': 0.5}
    """
    numbers = {k: v for k, v in result.items() if isinstance(v, int | float)}
    return {name.replace("@", "_at_"): float(value) for name, value in numbers.items()}
