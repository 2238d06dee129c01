"""What a package gives away without being looked at: the organizer's report.

    package, solution = Path("friday/friday.zip"), Path("friday/organizer/solution.csv")
    baselines(read_facts(package), read_labels(solution), seed=0)
    near_copies(read_thumbnails(package))

A baseline ranks the gallery by a single fact of a file, such as its size in bytes; it should score
what chance does. Pictures that are nearly the same in two parts are an answer, too.
"""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy.spatial.distance import cdist
from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.evaluation.metrics import TOP, measure_queries
from lookalike.evaluation.scoring import Labels, find_hits

DRAWS = 200  # random rankings that chance is judged by
PARTS = ("training/", "test/query/", "test/gallery/")
Facts = dict[str, np.ndarray]  # of a picture: the value or values that a baseline ranks by
# Least correlation of the thumbnails of nearly the same pictures. Aligned faces of two people reach
# 0.89, and a picture that was made smaller, brighter and compressed anew 0.95 to 1.
NEAR = 0.95
BORDER = 0.15  # of each side of a picture, for the baseline that sees only its surroundings
THUMBNAIL = 32  # pixels


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
    with _opened(package) as archive:
        return _facts_of(archive)


def read_thumbnails(package: Path) -> dict[str, np.ndarray]:
    """Return a tiny gray version of each picture of a package, by its name in the zip.

    It has mean 0 and length 1, so that brightness and contrast do not count: (THUMBNAIL²,) float32.

    Raises:
        UserError: It is no package, or damaged.
    """
    with _opened(package) as archive:
        names = [name for name in archive.namelist() if name.startswith(PARTS)]
        shown = tqdm(names, "comparing", unit=" pictures")
        return {name: _thumbnail(_image(archive.read(name))) for name in shown}


@contextmanager
def _opened(package: Path) -> Iterator[zipfile.ZipFile]:
    """Open a package; what is wrong with it is a sentence."""
    try:
        with zipfile.ZipFile(package) as archive:
            yield archive
    except (zipfile.BadZipFile, UnidentifiedImageError, OSError) as error:
        raise UserError(f"{package}: is no package of `competition make` ({error})") from error


def _image(raw: bytes) -> Image.Image:
    return Image.open(io.BytesIO(raw), formats=["JPEG"])


def _facts_of(archive: zipfile.ZipFile) -> dict[str, Facts]:
    """Return what is known of each picture of the test in an open package."""
    facts = {}
    entries = [e for e in archive.infolist() if e.filename.startswith(PARTS[1:])]
    for position, entry in enumerate(entries):
        raw = archive.read(entry)
        image = _image(raw)
        known = {
            "name": [float("".join(c for c in Path(entry.filename).stem if c.isdigit()) or 0)],
            "order in the zip": [float(position)],
            "bytes": [float(len(raw))],
            "width and height": [float(length) for length in image.size],
            "metadata": [float(len(image.getexif()))],
            "surroundings": _surroundings(image),
        }
        facts[entry.filename] = {name: np.asarray(v, float) for name, v in known.items()}
    return facts


def _surroundings(image: Image.Image) -> np.ndarray:
    """Return the pixels near the edges of a thumbnail."""
    pixels = np.asarray(image.convert("RGB").resize((THUMBNAIL, THUMBNAIL)), float)
    inner = round(BORDER * THUMBNAIL)
    outside = np.ones((THUMBNAIL, THUMBNAIL), bool)
    outside[inner:-inner, inner:-inner] = False
    return pixels[outside].ravel()


def _thumbnail(image: Image.Image) -> np.ndarray:
    image.draft("L", (2 * THUMBNAIL, 2 * THUMBNAIL))  # decodes no more than that needs
    small = image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    gray = np.asarray(small, np.float32).ravel()
    gray -= gray.mean()
    return gray / max(float(np.linalg.norm(gray)), 1e-9)


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
    for name in next(iter(by_name.values())):
        one, other = (
            np.array([by_name[picture][name] for picture in side]) for side in (queries, gallery)
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


def near_copies(thumbnails: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    """Return the pairs of pictures of different parts that are nearly the same.

    Args:
        thumbnails: Of each picture, by its name in the zip.
    """
    names = [[name for name in thumbnails if name.startswith(part)] for part in PARTS]
    pairs = []
    for ones, others in combinations([part for part in names if part], 2):
        known = np.stack([thumbnails[name] for name in others])
        for one in ones:
            near = np.flatnonzero(known @ thumbnails[one] >= NEAR)
            pairs += [(one, others[i]) for i in near]
    return pairs
