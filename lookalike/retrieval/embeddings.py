"""The embeddings of a retrieval task, and their centering.

embeddings = Embeddings(queries, gallery, labeled_queries, labeled_gallery)
embeddings = center(embeddings)
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from lookalike.core.numeric import unit


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of a retrieval task, float32 rows of length 1.

    Attributes:
        queries: (Q, D), the pictures to search for.
        gallery: (G, D), the pictures to rank.
        labeled_queries: (L1, D), labeled pictures of the queries' domain, which a step may learn
            from; may be empty.
        labeled_gallery: (L2, D), labeled pictures of the other domains. Where domains are unknown,
            both are all labeled pictures.
        identities: (L1,) and (L2,), the identities of the labeled pictures; empty where no step
            needs them.
        widths: How many columns each backbone has, where they count differently; else empty.
        local: Returns (Q, G) scores of local features, which a step may add; None where there are
            no pictures to take them from.
    """

    queries: np.ndarray
    gallery: np.ndarray
    labeled_queries: np.ndarray
    labeled_gallery: np.ndarray
    identities: tuple[np.ndarray, np.ndarray] = (np.zeros(0, str), np.zeros(0, str))
    widths: tuple[int, ...] = ()
    local: Callable[[], np.ndarray] | None = None

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The four arrays, in the order of the attributes."""
        return self.queries, self.gallery, self.labeled_queries, self.labeled_gallery

    def with_arrays(self, arrays: Iterable[np.ndarray]) -> "Embeddings":
        """Return the same task with other arrays, in the order of the attributes."""
        queries, gallery, first, second = arrays
        return replace(
            self, queries=queries, gallery=gallery, labeled_queries=first, labeled_gallery=second
        )


def split_domains(rows: np.ndarray, in_query_domain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the query domain and the others; all of them twice if there is only one.

    Args:
        rows: (N, D).
        in_query_domain: (N,) bool.
    """
    if not in_query_domain.any() or in_query_domain.all():
        return rows, rows
    return rows[in_query_domain], rows[~in_query_domain]


def center(embeddings: Embeddings, transductive: bool = True) -> Embeddings:
    """Subtract the mean of each side, and bring the rows to length 1 again.

    What all pictures of a domain have in common, such as being photographs, says nothing of the
    identity. A side of fewer than two pictures stays as it is. Where backbones count differently,
    the part of each keeps its length: else one whose pictures are all alike would lose its say.

    Args:
        embeddings: Of a retrieval task.
        transductive: Whether the means are those of the queries and of the gallery themselves;
            otherwise they are those of the labeled pictures of each domain.
    """

    def centered(rows: np.ndarray, labeled: np.ndarray) -> np.ndarray:
        reference = rows if transductive else labeled
        if len(reference) < 2:
            return rows
        moved = rows - reference.mean(0, dtype=np.float64)
        return _with_lengths(moved, rows, embeddings.widths) if embeddings.widths else unit(moved)

    queries, gallery, labeled_queries, labeled_gallery = embeddings.arrays
    alone = labeled_queries is labeled_gallery
    first = centered(labeled_queries, labeled_queries)
    return embeddings.with_arrays(
        (
            centered(queries, labeled_queries),
            centered(gallery, labeled_gallery),
            first,
            first if alone else centered(labeled_gallery, labeled_gallery),
        )
    )


def _with_lengths(rows: np.ndarray, like: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    """Scale the parts of rows to the lengths that they have in others; float32."""
    ends = np.cumsum(widths)[:-1]
    pairs = zip(np.split(rows, ends, 1), np.split(like, ends, 1), strict=True)
    parts = [unit(part) * np.linalg.norm(other, axis=1, keepdims=True) for part, other in pairs]
    return np.concatenate(parts, axis=1).astype(np.float32)
