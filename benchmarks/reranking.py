"""How long does k-reciprocal re-ranking take, and how much memory?

    python -m benchmarks.reranking --pictures 1500
    python -m benchmarks.reranking --pictures 10000

As many queries as gallery pictures, ten per identity, embeddings of 512 dimensions. The memory is
the peak of the whole process, PyTorch included.
"""

import argparse
import math
import resource
import time

import numpy as np

from lookalike.core.numeric import unit
from lookalike.retrieval.rerank import k_reciprocal


def make_rows(pictures: int, dim: int, seed: int) -> np.ndarray:
    """Return (pictures, dim) rows of length 1, ten per identity, with the noise of the seed."""
    centers = np.random.default_rng(0).normal(size=(math.ceil(pictures / 10), dim))
    noise = 0.8 * np.random.default_rng(seed).normal(size=(pictures, dim))
    return unit(np.repeat(centers, 10, axis=0)[:pictures] + noise)


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--dim", type=int, default=512)
    arguments = parser.parse_args()
    queries, gallery = (make_rows(arguments.pictures, arguments.dim, seed) for seed in (1, 2))
    k_reciprocal(queries[:50], gallery[:50])  # warm-up: libraries are loaded at the first use
    start = time.perf_counter()
    k_reciprocal(queries, gallery)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{arguments.pictures} × {arguments.pictures} at {arguments.dim}-d: "
        f"{seconds:.1f} s, {peak:.1f} GiB"
    )


if __name__ == "__main__":
    main()
