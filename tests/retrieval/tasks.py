"""Labeled tasks of generated embeddings, for the tests of this folder."""

import numpy as np
import pandas as pd

from lookalike.core.numeric import unit
from lookalike.retrieval.labeled_tasks import LabeledTask, LabeledTasks


def clustered(
    count: int, each: int, seed: int, prefix: str = ""
) -> dict[str, tuple[str, np.ndarray]]:
    """{path: (identity, row)} of identities as far apart as 16 dimensions allow."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(count, 16))
    rows = unit(np.repeat(centers, each, axis=0) + 0.3 * rng.normal(size=(count * each, 16)))
    return {f"{prefix}{i}": (f"{prefix}{i // each}", row) for i, row in enumerate(rows)}


def tasks_of(pictures: dict[str, tuple[str, np.ndarray]], noise: float) -> LabeledTasks:
    """The task of finding an identity's even pictures by its odd ones."""
    rng = np.random.default_rng(7)
    names = {path: name for path, (name, _) in pictures.items()}
    sides = [{p: n for p, n in names.items() if int(p) % 2 == odd} for odd in (1, 0)]
    rows = {
        path: unit((row + noise * rng.normal(size=16))[None])[0]
        for path, (_, row) in pictures.items()
    }
    catalogue = pd.DataFrame({"path": list(names), "domain": ""})
    return LabeledTasks(catalogue, "photo", [LabeledTask(sides[0], sides[1], {})], rows)
