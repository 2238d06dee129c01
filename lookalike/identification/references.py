"""Who is known, and who is it? People by their labelled pictures, and what tells strangers apart.

    known = make_references(rows, identities, how, seed)        # what stands for each person
    guesses = name_rows(asked, known, how)                      # the likeliest people of each row
    threshold = calibration(run, job, how, 0.01)["threshold"]   # below it a face is nobody's

People are known by their labelled pictures: the run's, or those of a folder of class folders. What
stands for a person is one of four things: the `medoid` (the picture nearest to all others of the
person), the `centroid` (their mean), `kmeans` (a few means), or all pictures (`knn`: the nearest
ones vote). Who is no more like anybody than strangers are is nobody: see `calibrate`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from lookalike.core.errors import UserError
from lookalike.core.files import file_hash, kept_record, write_json
from lookalike.core.log import log, report_each
from lookalike.core.numeric import unit
from lookalike.core.runs import Run
from lookalike.data.catalogue import load_catalogue, outside_pictures, readable
from lookalike.data.layout import class_folders
from lookalike.data.splits import Split, unseen_split
from lookalike.evaluation.metrics import threshold_at
from lookalike.faces.dataset import way_to_find
from lookalike.faces.geometry import Crop
from lookalike.features.extractor import FeatureExtractor, embed
from lookalike.retrieval.index import build_index, search

Method = Literal["medoid", "centroid", "kmeans", "knn"]
METHODS: tuple[Method, ...] = get_args(Method)
CALIBRATION = "identify.json"


@dataclass
class Naming:
    """How people are known, and by whose pictures."""

    run: Path
    """Run folder: its embedder, and its labelled pictures as the people who are known."""
    folder: Path | None = None
    """Know other people instead: a folder with a folder of pictures for each of them."""
    method: Method = "centroid"
    """What stands for a person: the picture nearest to the person's others, the mean, several means
    (--representatives), or all pictures, of which the nearest vote (--neighbors)."""
    representatives: int = 3
    """Means of a person, for `kmeans`; never more than the person has pictures."""
    neighbors: int = 5
    """Pictures that vote, each with its similarity, for `knn`."""


class References(NamedTuple):
    """(R, D) float32 unit rows that stand for people, and whom each of them stands for."""

    rows: np.ndarray
    identities: list[str]


class Guess(NamedTuple):
    """A person, and the cosine from -1 to 1 to the nearest that stands for the person."""

    identity: str
    similarity: float

    def __str__(self) -> str:
        return f"{self.identity} {self.similarity:.2f}"

    def as_json(self) -> dict[str, Any]:
        """Four digits are more than an embedding is good for."""
        return {"identity": self.identity, "similarity": round(self.similarity, 4)}


def make_references(
    rows: np.ndarray, identities: Sequence[str], how: Naming, seed: int
) -> References:
    """What stands for each person by `how.method`.

    rows, identities: (N, D) float32 unit embeddings of pictures, and whom each one shows.
    """
    stand_ins: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "medoid": medoid,
        "centroid": centroid,
        "kmeans": lambda own: cluster_means(own, how.representatives, seed),
        "knn": lambda own: own,
    }
    parts, names = [], []
    for name, own in by_person(rows, identities):
        parts.append(stand_ins[how.method](own))
        names += [name] * len(parts[-1])
    return References(np.concatenate(parts), names)


def by_person(rows: np.ndarray, identities: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """(identity, the person's rows), by name."""
    names, counts = np.unique(np.array(identities, dtype=str), return_counts=True)
    order = np.argsort(np.array(identities, dtype=str), kind="stable")
    yield from zip(names.tolist(), np.split(rows[order], counts.cumsum()[:-1]), strict=True)


def medoid(own: np.ndarray) -> np.ndarray:
    """(1, D): the one of (N, D) unit rows with the least summed cosine distance to all of them.

    >>> medoid(np.array([[1, 0], [0.8, 0.6], [0, 1]]))
    array([[0.8, 0.6]])
    """
    return own[[int((own @ own.sum(axis=0)).argmax())]]


def centroid(own: np.ndarray) -> np.ndarray:
    """(1, D): the mean of (N, D) unit rows, of length 1.

    >>> centroid(np.eye(2)).round(3)
    array([[0.707, 0.707]], dtype=float32)
    """
    return unit(own.mean(axis=0, keepdims=True))


def cluster_means(own: np.ndarray, representatives: int, seed: int) -> np.ndarray:
    """(K, D): the means of K clusters of (N, D) unit rows, of length 1 (scikit-learn's KMeans).

    K is `representatives`, or the number of different rows where that is less.
    """
    from sklearn.cluster import KMeans

    clusters = min(representatives, len(np.unique(own, axis=0)))
    return unit(KMeans(clusters, n_init=4, random_state=seed).fit(own).cluster_centers_)


def name_rows(rows: np.ndarray, known: References, how: Naming) -> list[list[Guess]]:
    """Whom each of (N, D) float32 unit rows shows: the likeliest people, best first.

    Each list has at least one guess, and a second where more than one person is near.
    """
    # So many that a second person is among them.
    width = {"knn": how.neighbors, "kmeans": how.representatives + 1}.get(how.method, 2)
    order = [str(i) for i in range(len(rows))]
    near = search(build_index(known.rows), known.identities, rows, order, width)
    return [
        rank_people(names.tolist(), scores.tolist(), how.method == "knn")
        for names, scores in zip(near.gallery, near.scores, strict=True)
    ]


def rank_people(names: Sequence[str], scores: Sequence[float], vote: bool = False) -> list[Guess]:
    """Neighbors, nearest first -> their people: by the nearest, or by votes.

    A vote weighs as much as its similarity; one below 0 counts nothing.

    >>> [guess.identity for guess in rank_people(["ada", "bob", "bob"], [0.9, 0.8, 0.7], vote=True)]
    ['bob', 'ada']
    """
    nearest: dict[str, float] = {}
    votes: Counter[str] = Counter()
    for name, score in zip(names, scores, strict=True):
        nearest.setdefault(name, score)
        votes[name] += max(0.0, score) if vote else 0.0  # type: ignore[assignment]
    return [Guess(name, nearest[name]) for name in sorted(nearest, key=lambda n: -votes[n])]


def labelled_pictures(run: Run) -> pd.DataFrame:
    """Catalogue rows of all labelled pictures of a run, validation and held-out ones too."""
    rows = load_catalogue(run.path("training.csv"))
    return rows[readable(rows)].reset_index(drop=True)


def known_pictures(run: Run, folder: Path | None) -> pd.DataFrame:
    """Catalogue rows of everybody who is known.

    Raises:
        UserError: the run has no training pictures, or the folder no class folders.
    """
    if folder is None:
        rows = labelled_pictures(run)
        if rows.empty:
            raise UserError(f"{run.folder} has no training pictures: name people with --folder")
        return rows
    classes = class_folders(folder)
    files = {folder / name / path: name for name, paths in classes.items() for path in paths}
    rows = outside_pictures(list(files))
    rows["identity"] = list(files.values())
    good = readable(rows)
    report_each("pictures of --folder cannot be read and are left out", rows.path[~good])
    if not good.any():
        raise UserError(f"--folder {folder}: none of its pictures can be read")
    return rows[good].reset_index(drop=True)


def look_at_faces(run: Run, extractor: FeatureExtractor) -> FeatureExtractor:
    """The job, seeing faces; one that saw whole pictures is given the face with a margin."""
    if extractor.crop.kind != "none":
        return extractor
    settings = run.settings.embed
    log.warning(
        "warning: the embedder of %s (%s) was made for whole pictures, not for faces: it is given "
        "the face with a margin, and names are less sure than those of a face backbone",
        *(run.folder, settings.backbone),
    )
    embedder = copy(extractor.embedder)  # the stages share the job: theirs must stay as it is
    preprocessing = embedder.preprocessing
    embedder.preprocessing = replace(preprocessing, crop=Crop("face", settings.crop_margin))
    return replace(extractor, embedder=embedder, flip=settings.flip != "off")


def choose_strangers(split: Split, seed: int) -> set[str]:
    """The people whom calibration treats as unknown: those of the validation whom training never
    saw; where it saw all of them, a fifth of the people, drawn by the seed."""
    trained = sorted(set(split.train.values()))
    validated = {name for part in split.validation for name in part.values()}
    if validated - set(trained) or len(trained) < 2:
        return validated - set(trained)
    drawn = np.random.default_rng([seed, 5]).permutation(trained)
    return set(drawn[: max(1, round(0.2 * len(trained)))].tolist())


def calibrate(
    embeddings: Mapping[str, np.ndarray],
    split: Split,
    how: Naming,
    far: float,
    seed: int,
) -> dict[str, Any]:
    """The similarity below which a face is nobody's, and what it does to known people.

    Known are the split's `train` pictures; held-out pictures of the same people are the genuine
    ones, and all pictures of strangers (see `choose_strangers`) the impostors.

    embeddings: {path: unit row} of the split's pictures. far: share of strangers' pictures that may
        be given a name.

    Returns {"threshold", "false_accept", "false_reject", "misnamed", counts}, shares from 0 to 1;
    {"threshold": None} where there are no strangers or nobody known.
    """
    strangers = choose_strangers(split, seed)
    known = {p: name for p, name in split.train.items() if name not in strangers}
    genuine = {p: name for p, name in split.holdout.items() if name not in strangers}
    impostors = [path for path, name in split.labeled.items() if name in strangers]
    if not (known and genuine and impostors):
        return {"threshold": None}

    def best(paths: Iterable[str]) -> list[Guess]:
        named = name_rows(np.stack([embeddings[path] for path in paths]), references, how)
        return [guesses[0] for guesses in named]

    rows = np.stack([embeddings[path] for path in known])
    references = make_references(rows, list(known.values()), how, seed)
    return rates(best(genuine), list(genuine.values()), best(impostors), far) | {
        "known": f"{len(genuine)} pictures of {len(set(known.values()))} people",
        "strangers": f"{len(impostors)} pictures of {len(strangers)} people",
    }


def rates(
    genuine: Sequence[Guess], names: Sequence[str], impostors: Sequence[Guess], false_accept: float
) -> dict[str, Any]:
    """The threshold that accepts this share of impostors, and the shares that it really gives.

    genuine: guesses for known people, whose names are `names`. false_reject: share of them called
    unknown; misnamed: share given another's name; false_accept: share of impostors given a name.
    """
    scores = np.array([guess.similarity for guess in impostors])
    threshold = threshold_at(scores, false_accept)
    named = np.array([guess.similarity >= threshold for guess in genuine])
    right = np.array([guess.identity == name for guess, name in zip(genuine, names, strict=True)])
    return {
        "threshold": threshold,
        "false_accept": float((scores >= threshold).mean()),
        "false_reject": float((~named).mean()),
        "misnamed": float((named & ~right).mean()),
    }


def calibration(
    run: Run, extractor: FeatureExtractor, how: Naming, false_accept: float
) -> dict[str, Any]:
    """What `calibrate` finds for this run, kept in its identify.json until its inputs change.

    Logs what the threshold does, or that there is none.
    """
    split, pictures = unseen_split(run), labelled_pictures(run)
    made_from = calibration_origin(run, extractor, how, false_accept)
    path = run.path(CALIBRATION)
    kept = kept_record(path)
    if kept.get("made_from") != made_from:
        rows = dict(zip(pictures.path, embed(extractor, pictures), strict=True))
        found = calibrate(rows, split, how, false_accept, run.seed)
        kept = {"method": how.method, **found, "made_from": made_from}
        write_json(path, kept)
    if kept["threshold"] is None:
        log.warning("warning: nobody unseen to calibrate on in %s: everybody is named", run.folder)
        return kept
    log.info(
        "threshold %.3f (%s): %.1f %% of strangers' pictures are given a name (%s); of known "
        "people's, %.1f %% are called unknown and %.1f %% another's name (%s)",
        *(kept["threshold"], how.method, 100 * kept["false_accept"], kept["strangers"]),
        *(100 * kept["false_reject"], 100 * kept["misnamed"], kept["known"]),
    )
    return kept


def calibration_origin(
    run: Run, extractor: FeatureExtractor, how: Naming, false_accept: float
) -> dict[str, Any]:
    """The state of everything that a calibration depends on."""
    files = ("model.safetensors", "training.csv", "split.json")
    return {
        **{name: file_hash(run.path(name)) for name in files},
        "preprocessing": extractor.embedder.preprocessing.key,
        "faces": f"{way_to_find(extractor.finder)}, flip {extractor.flip}",
        "method": f"{how.method} {how.representatives} {how.neighbors}",
        "false_accept": false_accept,
        "seed": run.seed,
    }
