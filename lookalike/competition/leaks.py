"""What a package gives away without being looked at: the organizer's report.

    facts = read_facts(Path("friday/friday.zip"))
    baselines(facts, read_labels(Path("friday/organizer/solution.csv")), seed=0), near_copies(facts)

A baseline ranks the gallery by a single fact of a file, such as its size in bytes; it should score
what chance does. Pictures that are nearly the same in two parts are an answer, too.
"""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy.spatial.distance import cdist

from lookalike.core.errors import UserError
from lookalike.evaluation.metrics import TOP, measure_queries
from lookalike.evaluation.scoring import Labels, find_hits

DRAWS = 200  # random rankings that chance is judged by
NEAR = 4  # bits of 64 in which the difference hashes of nearly the same pictures differ, at most
BORDER = 0.15  # of each side of a picture, for the baseline that sees only its surroundings
THUMBNAIL = 32  # pixels


class Facts(NamedTuple):
    """What is known of a picture of the test.

    Attributes:
        facts: {name of a fact: value or values}, each of which a baseline ranks by.
        difference_hash: (64,) bool: whether a pixel of a tiny version is brighter than the next.
    """

    facts: dict[str, np.ndarray]
    difference_hash: np.ndarray


class Leak(NamedTuple):
    """What a baseline scores, and what random rankings do.

    Attributes:
        baseline: What it ranks by.
        score: Its score.
        chance: Mean score of random rankings.
        most: The highest score of a random ranking.
    """

    baseline: str
    score: float
    chance: float
    most: float


def read_facts(package: Path) -> dict[str, Facts]:
    """Return what is known of each picture of the test of a package, {name in the zip: facts}.

    Raises:
        UserError: It is no package, or damaged.
    """
    try:
        with zipfile.ZipFile(package) as archive:
            return _facts_of(archive)
    except (zipfile.BadZipFile, UnidentifiedImageError, OSError) as error:
        raise UserError(f"{package}: is no package of `competition make` ({error})") from error


def _facts_of(archive: zipfile.ZipFile) -> dict[str, Facts]:
    """Return what is known of each picture of the test in an open package."""
    facts = {}
    entries = [e for e in archive.infolist() if e.filename.startswith("test/")]
    for position, entry in enumerate(entries):
        raw = archive.read(entry)
        image = Image.open(io.BytesIO(raw), formats=["JPEG"])
        known = {
            "name": [float("".join(c for c in Path(entry.filename).stem if c.isdigit()) or 0)],
            "order in the zip": [float(position)],
            "bytes": [float(len(raw))],
            "width and height": [float(length) for length in image.size],
            "metadata": [float(len(image.getexif()))],
            "surroundings": _surroundings(image),
        }
        facts[entry.filename] = Facts(
            {name: np.asarray(values, float) for name, values in known.items()},
            _difference_hash(image),
        )
    return facts


def _surroundings(image: Image.Image) -> np.ndarray:
    """Return the pixels near the edges of a thumbnail."""
    pixels = np.asarray(image.convert("RGB").resize((THUMBNAIL, THUMBNAIL)), float)
    inner = round(BORDER * THUMBNAIL)
    outside = np.ones((THUMBNAIL, THUMBNAIL), bool)
    outside[inner:-inner, inner:-inner] = False
    return pixels[outside].ravel()


def _difference_hash(image: Image.Image) -> np.ndarray:
    """Return the difference hash, (64,) bool."""
    gray = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), int)
    return np.asarray((gray[:, 1:] > gray[:, :-1]).ravel())


def baselines(facts: dict[str, Facts], labels: Labels, seed: int) -> list[Leak]:
    """Return what rankings by single facts score, beside random ones.

    Args:
        facts: Of the test's pictures.
        labels: Their identities, by the names of the files.
        seed: Of the random rankings.
    """
    by_name = {Path(name).name: its for name, its in facts.items()}
    shown = set(labels.gallery.values())
    queries = [query for query, identity in labels.query.items() if identity in shown]
    labels = labels._replace(query={query: labels.query[query] for query in queries})
    gallery = list(labels.gallery)
    rng = np.random.default_rng(seed)
    by_chance = [
        _score(rng.random((len(queries), len(gallery))), queries, gallery, labels)
        for _ in range(DRAWS)
    ]
    leaks = []
    for name in next(iter(by_name.values())).facts:
        one, other = (
            np.array([by_name[picture].facts[name] for picture in side])
            for side in (queries, gallery)
        )
        # Equal distances are ranked at random: the order of the names is a fact of its own.
        distances = cdist(one, other)
        distances += 1e-9 * rng.random(distances.shape)
        value = _score(distances, queries, gallery, labels)
        leaks.append(Leak(name, value, float(np.mean(by_chance)), max(by_chance)))
    return leaks


def _score(distances: np.ndarray, queries: list[str], gallery: list[str], labels: Labels) -> float:
    """Return the score of a ranking by distances, the smallest first."""
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :TOP]
    ranking = {q: [gallery[i] for i in row] for q, row in zip(queries, nearest, strict=True)}
    hits = find_hits(ranking, labels, TOP)
    return float(measure_queries(hits.hits, hits.relevant)["score"].mean())


def near_copies(facts: dict[str, Facts]) -> list[tuple[str, str]]:
    """Return the pairs of pictures of the test, a query and a gallery picture, that are alike."""
    parts = [[n for n in facts if n.startswith(f"test/{p}/")] for p in ("query", "gallery")]
    pairs = []
    hashes = {name: its.difference_hash for name, its in facts.items()}
    gallery = np.array([hashes[name] for name in parts[1]])
    for name in parts[0]:
        near = np.flatnonzero((gallery != hashes[name]).sum(1) <= NEAR)
        pairs += [(name, parts[1][i]) for i in near]
    return pairs
