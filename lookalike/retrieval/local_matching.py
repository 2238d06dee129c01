"""Score pairs of pictures by the points that they have in common.

    matcher = matcher_of(run)
    matcher.scores(queries, gallery)        # catalogue rows -> (Q, G)

Each point of a query votes for the pictures of its nearest points in the gallery, the more the
nearer they are than the last of them: McCann and Lowe, Local naive Bayes nearest neighbor for image
classification (2012). Only votes of points of about the same direction and size count, and of the
pictures with most votes only those on which an affine map agrees: Philbin et al., Object retrieval
with large vocabularies and fast spatial matching (2007).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import faiss
import numpy as np
import pandas as pd
from tqdm import tqdm

from lookalike.core.numeric import blocks
from lookalike.core.runs import Run
from lookalike.features.local import LocalPoints, local_points, search_points

NEIGHBORS = 8  # nearest points of a query's point; it votes for all but the last
POWER = 4  # of a vote: few near points count more than many that are hardly nearer than chance
ANGLE, OCTAVES = 30.0, 1.0  # by which the direction and size of matching points may differ
VERIFIED = 50  # pictures of each query whose matches are verified by an affine map
TOLERANCE = 0.08  # of a match's place, as a share of the picture's longer side
LEAST = 4  # matches that can be verified: any three agree on an affine map
EXACT = 20_000  # points of a gallery up to which all are compared
PROBES = 16  # lists that are searched of a larger one
TRAINING = 5, 64  # iterations of k-means, and points of a list that it is trained on
QUERIES = 64  # pictures whose points are searched for at once
FLOOR = 0.1  # votes that every pair has: the logarithm of all is the score
KEPT = 50  # scores that are kept in memory


@dataclass(frozen=True)
class PictureMatcher:
    """Scores pairs of pictures by the points that they have in common.

    Attributes:
        root: Folder that the pictures' relative paths start from.
        cache: Folder of the cache.
        kept: Scores by the pictures that they are of.
    """

    root: Path
    cache: Path
    kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def scores(self, queries: pd.DataFrame, gallery: pd.DataFrame) -> np.ndarray:
        """Return (Q, G) scores of catalogue rows; those of the same pictures are kept.

        Raises:
            UserError: A picture is gone or has changed since the catalogue was made.
        """
        contents = "|".join([*queries.content, "", *gallery.content])
        key = hashlib.sha256(contents.encode()).hexdigest()
        if key not in self.kept:
            if len(self.kept) >= KEPT:
                self.kept.pop(next(iter(self.kept)))
            places = self.root, self.cache
            search_points(pd.concat([queries, gallery]), *places)
            parts = [queries.iloc[block] for block in blocks(len(queries), QUERIES)]
            loaded = (local_points(part, *places) for part in parts)
            self.kept[key] = match(loaded, local_points(gallery, *places), len(queries))
        scores: np.ndarray = self.kept[key]
        return scores


def matcher_of(run: Run) -> PictureMatcher:
    """Return the matcher of a run's pictures; what it finds is kept as long as the process runs."""
    return PictureMatcher(run.data, run.cache, run.session.matches)


class Matches(NamedTuple):
    """Matching points of queries and gallery pictures, in the order of the pairs.

    Attributes:
        pairs: (M,) the number of the query times G, plus that of the gallery picture; ascending.
        query: (M, 2) places in the query.
        gallery: (M, 2) places in the gallery picture.
        votes: (M,) how much each counts, from 0 to 1.
    """

    pairs: np.ndarray
    query: np.ndarray
    gallery: np.ndarray
    votes: np.ndarray


def match(queries: Iterable[LocalPoints], gallery: LocalPoints, total: int) -> np.ndarray:
    """Score every pair of a query and a gallery picture by the points they have in common.

    Args:
        queries: Points of the queries, some pictures at a time.
        gallery: Points of G pictures.
        total: Q, the number of queries.

    Returns:
        (Q, G) float32, the logarithm of the votes, the higher the more alike; most pairs have none.
    """
    votes, done = np.zeros((total, gallery.pictures), np.float32), 0
    if len(gallery.owners) >= NEIGHBORS:
        index = _index(gallery.descriptors)
        with tqdm(desc="matching points", total=total, unit=" pictures") as bar:
            for part in queries:
                if len(part.owners):
                    rows = _verify(_matches(part, gallery, index), part.pictures, gallery.pictures)
                    votes[done : done + part.pictures] = rows
                done += part.pictures
                bar.update(part.pictures)
    return np.asarray(np.log(FLOOR + votes), np.float32)


def count_distances(queries: float, gallery: float) -> float:
    """Return about how many distances `match` computes, which is what its time goes with.

    Args:
        queries: Points of all queries.
        gallery: Points of the gallery.

    >>> count_distances(1000, 20_000) / 1e6, round(count_distances(1000, 40_000) / 1e6)
    (20.0, 206)
    """
    if gallery <= EXACT:
        return queries * gallery
    lists, (iterations, sample) = 4 * gallery**0.5, TRAINING
    return iterations * sample * lists**2 + queries * (lists + PROBES * gallery / lists)


def _index(descriptors: np.ndarray) -> faiss.Index:
    """Return an index of descriptors, by squared distance."""
    count, width = descriptors.shape
    if count <= EXACT:
        index = faiss.IndexFlatL2(width)
    else:
        index = faiss.index_factory(width, f"IVF{int(4 * count**0.5)},Flat")
        index.nprobe, index.cp.niter, index.cp.max_points_per_centroid = PROBES, *TRAINING
        index.train(descriptors)
    index.add(descriptors)
    return index


def _matches(queries: LocalPoints, gallery: LocalPoints, index: faiss.Index) -> Matches:
    """Return the votes of all points of some queries that are of the same direction and size."""
    distances, nearest = index.search(queries.descriptors, NEIGHBORS)
    votes = 1 - distances / np.maximum(distances[:, -1:], 1e-9)
    votes, owners = np.maximum(votes, 0) ** POWER, gallery.owners[nearest]
    turned = queries.places[:, None, 3] - gallery.places[nearest, 3]
    grown = queries.places[:, None, 2] - gallery.places[nearest, 2]
    counts = (votes > 0) & (nearest >= 0)
    counts &= (np.abs((turned + 180) % 360 - 180) < ANGLE) & (np.abs(grown) < OCTAVES)
    for j in range(1, NEIGHBORS):  # a point votes for a picture once, by the nearest of its points
        counts[:, j] &= ~(owners[:, :j] == owners[:, j : j + 1]).any(axis=1)
    point, rank = np.nonzero(counts)
    pairs = queries.owners[point] * gallery.pictures + owners[point, rank]
    order = np.argsort(pairs, kind="stable")
    point, rank = point[order], rank[order]
    places = queries.places[point, :2], gallery.places[nearest[point, rank], :2]
    return Matches(pairs[order], *places, votes[point, rank])


def _verify(matches: Matches, queries: int, gallery: int) -> np.ndarray:
    """Return (Q, G) sums of the votes on which an affine map agrees, of the pictures with most."""
    sums = np.bincount(matches.pairs, matches.votes, queries * gallery).reshape(queries, gallery)
    best = np.argsort(-sums, axis=1, kind="stable")[:, :VERIFIED]
    pairs = np.arange(queries)[:, None] * gallery + best
    starts, ends = (np.searchsorted(matches.pairs, pairs, side) for side in ("left", "right"))
    scores = np.zeros(queries * gallery, np.float32)
    for pair, start, end in zip(pairs.flat, starts.flat, ends.flat, strict=True):
        if end - start >= LEAST:
            scores[pair] = _agreeing(Matches(*(rows[start:end] for rows in matches)))
    return scores.reshape(queries, gallery)


def _agreeing(matches: Matches) -> float:
    """Return the sum of the votes on which an affine map agrees."""
    _, inliers = cv2.estimateAffine2D(
        matches.query,
        matches.gallery,
        method=cv2.RANSAC,
        ransacReprojThreshold=TOLERANCE,
        maxIters=500,
    )
    return 0.0 if inliers is None else float(matches.votes[inliers.ravel() > 0].sum())
