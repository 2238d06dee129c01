"""Who is in this picture, and whom is it most like? By the people that a run was trained on.

    python identify.py who party.jpg --run runs/faces           # red boxes, names, and JSON
    python identify.py who party.jpg --run runs/faces --folder friends --method knn
    python identify.py like me.jpg --run runs/faces             # the nearest celebrity, and JSON

People are known by their labelled pictures: the run's, or those of a folder of class folders. What
stands for a person is one of four things: the `medoid` (the picture nearest to all others of the
person), the `centroid` (their mean), `kmeans` (a few means), or all pictures (`knn`: the nearest
ones vote). Who is no more like anybody than strangers are is "unknown": see `calibrate`.
"""

import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import tyro
from PIL import Image, ImageDraw, ImageFont, ImageOps
from tabulate import tabulate
from tqdm import tqdm

from config import UserError, check_least, parse, parse_settings
from data import (
    FORMATS,
    WORKERS,
    check_picture,
    load_catalogue,
    load_split,
    read_known_picture,
    read_picture,
    readable,
    truncated_pictures,
)
from data_extraction import class_folders, named_as_picture
from embed import Embedding, embed, embed_faces
from faces import LEAST, LOOKS, MISSED, OVERLAP, Crop, Face, find_all, load_detector
from retrieve import build_index, load_job, search
from runs import (
    Run,
    exit_code,
    file_hash,
    files_below,
    log,
    log_to,
    report_each,
    whole_file,
    write_json,
)

Method = Literal["medoid", "centroid", "kmeans", "knn"]
METHODS: tuple[Method, ...] = get_args(Method)
UNKNOWN = "unknown"
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
    (--representatives), or all pictures, of which the nearest vote (--neighbours)."""
    representatives: int = 3
    """Means of a person, for `kmeans`; never more than the person has pictures."""
    neighbours: int = 5
    """Pictures that vote, each with its similarity, for `knn`."""


# ---- what stands for a person -------------------------------------------------------------------


class References(NamedTuple):
    """(R, D) float32 unit rows that stand for people, and whom each of them stands for."""

    rows: np.ndarray
    identities: list[str]


class Guess(NamedTuple):
    """A person, and the cosine from -1 to 1 to the nearest that stands for the person."""

    identity: str
    similarity: float

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
    array([[0.707, 0.707]])
    """
    return unit(own.mean(axis=0, keepdims=True))


def cluster_means(own: np.ndarray, representatives: int, seed: int) -> np.ndarray:
    """(K, D): the means of K clusters of (N, D) unit rows, of length 1 (scikit-learn's KMeans).

    K is `representatives`, or the number of different rows where that is less.
    """
    from sklearn.cluster import KMeans

    clusters = min(representatives, len(np.unique(own, axis=0)))
    return unit(KMeans(clusters, n_init=4, random_state=seed).fit(own).cluster_centers_)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows brought to length 1; a row of zeros stays one."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def name_rows(rows: np.ndarray, known: References, how: Naming) -> list[list[Guess]]:
    """Whom each of (N, D) float32 unit rows shows: the likeliest people, best first.

    Each list has at least one guess, and a second where more than one person is near.
    """
    # So many that a second person is among them.
    width = {"knn": how.neighbours, "kmeans": how.representatives + 1}.get(how.method, 2)
    order = [str(i) for i in range(len(rows))]
    near = search(build_index(known.rows), known.identities, rows, order, width)
    return [
        rank_people(names.tolist(), scores.tolist(), how.method == "knn")
        for names, scores in zip(near.gallery, near.scores, strict=True)
    ]


def rank_people(names: Sequence[str], scores: Sequence[float], vote: bool = False) -> list[Guess]:
    """Neighbours, nearest first -> their people: by the nearest, or by votes.

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


# ---- the people that a run, or a folder, knows --------------------------------------------------


def open_run(folder: Path) -> Run:
    """A finished run, with its own settings.

    Raises:
        UserError: there is no run, or it does not say where its data are.
    """
    remembered = folder / "config.json"
    if not remembered.is_file():
        raise UserError(f"--run {folder}: no run there; make one with main.py --run {folder}")
    settings = parse_settings([], remembered)
    if settings.general.data is None:
        raise UserError(f"{remembered}: names no data; make the run anew with main.py")
    return Run(folder, settings.general.data, settings)


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


def outside_pictures(paths: Sequence[Path]) -> pd.DataFrame:
    """Rows like a catalogue's of pictures that belong to no data set: absolute `path`, `content`
    and `problem`."""
    with ThreadPoolExecutor(WORKERS) as pool, truncated_pictures(False):
        checks = tqdm(pool.map(check_picture, paths), "checking", len(paths), unit=" pictures")
        found = [
            (str(path.resolve()), *check[:2]) for path, check in zip(paths, checks, strict=True)
        ]
    return pd.DataFrame(found, columns=["path", "content", "problem"], dtype=str)


def look_at_faces(run: Run, job: Embedding) -> Embedding:
    """The job, seeing faces; one that saw whole pictures is given the face with a margin."""
    if job.crop.kind != "none":
        return job
    asked = run.settings.embed
    log.warning(
        "warning: the embedder of %s (%s) was made for whole pictures, not for faces: it is given "
        "the face with a margin, and names are less sure than those of a face backbone",
        *(run.folder, asked.backbone),
    )
    wants = job.embedder.preprocessing
    job.embedder.preprocessing = replace(wants, crop=Crop("face", asked.crop_margin))
    return replace(job, flip=asked.flip != "off")


# ---- who is a stranger --------------------------------------------------------------------------


def threshold_at(strangers: np.ndarray, false_accept: float) -> float:
    """The least similarity that at most this share of strangers reaches.

    >>> threshold_at(np.array([0.1, 0.2, 0.3, 0.4]), 0.25)  # 0.4 is named, 0.3 just not
    0.30000000000000004
    """
    ordered = np.sort(strangers.astype(float))[::-1]
    allowed = int(false_accept * len(ordered) + 1e-9)  # 0.29 * 100 is 28.999…
    return float(np.nextafter(ordered[allowed], np.inf))


def choose_strangers(split: Mapping[str, Any], seed: int) -> set[str]:
    """The people whom calibration treats as unknown: those of the validation whom training never
    saw; where it saw all of them, a fifth of the people, drawn by the seed."""
    trained = sorted(set(split["train"].values()))
    validated = {name for part in split["validation"].values() for name in part.values()}
    if validated - set(trained) or len(trained) < 2:
        return validated - set(trained)
    drawn = np.random.default_rng([seed, 5]).permutation(trained)
    return set(drawn[: max(1, round(0.2 * len(trained)))].tolist())


def calibrate(
    embeddings: Mapping[str, np.ndarray],
    split: Mapping[str, Any],
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
    everything = {**split["train"], **split["holdout"]}
    everything |= {**split["validation"]["query"], **split["validation"]["gallery"]}
    known = {p: name for p, name in split["train"].items() if name not in strangers}
    genuine = {p: name for p, name in split["holdout"].items() if name not in strangers}
    impostors = [path for path, name in everything.items() if name in strangers]
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


def calibration(run: Run, job: Embedding, how: Naming, false_accept: float) -> dict[str, Any]:
    """What `calibrate` finds for this run, kept in its identify.json until its inputs change.

    Logs what the threshold does, or that there is none.
    """
    split, pictures = load_split(run), labelled_pictures(run)
    made_from = calibration_origin(run, job, how, false_accept)
    path = run.path(CALIBRATION)
    kept = kept_record(path)
    if kept.get("made_from") != made_from:
        rows = dict(zip(pictures.path, embed(job, pictures), strict=True))
        found = calibrate(rows, split, how, false_accept, run.seed)
        kept = {"method": how.method, **found, "made_from": made_from}
        write_json(path, kept)
    if kept["threshold"] is None:
        log.warning("warning: no strangers to calibrate on in %s: everybody is named", run.folder)
        return kept
    log.info(
        "threshold %.3f (%s): %.1f %% of strangers' pictures are given a name (%s); of known "
        "people's, %.1f %% are called unknown and %.1f %% another's name (%s)",
        *(kept["threshold"], how.method, 100 * kept["false_accept"], kept["strangers"]),
        *(100 * kept["false_reject"], 100 * kept["misnamed"], kept["known"]),
    )
    return kept


def calibration_origin(
    run: Run, job: Embedding, how: Naming, false_accept: float
) -> dict[str, Any]:
    """The state of everything that a calibration depends on."""
    files = ("model.safetensors", "training.csv", "split.json")
    return {
        **{name: file_hash(run.path(name)) for name in files},
        "preprocessing": str(job.embedder.preprocessing),
        "faces": f"{job.detector}, flip {job.flip}",
        "method": f"{how.method} {how.representatives} {how.neighbours}",
        "false_accept": false_accept,
        "seed": run.seed,
    }


def kept_record(path: Path) -> dict[str, Any]:
    """What an earlier command wrote; empty where there is nothing, or nothing of use."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


# ---- pictures in, pictures out ------------------------------------------------------------------


class Photo(NamedTuple):
    """An upright RGB picture, and its full size (width, height): a huge JPEG is decoded smaller."""

    image: Image.Image
    size: tuple[int, int]


def read_photo(path: Path) -> Photo:
    """Any picture that `data.read_picture` reads, as large as faces are looked for in.

    Raises: see read_picture.
    """
    raw = path.read_bytes()
    image = read_picture(raw, LOOKS[-1])
    stored = Image.open(io.BytesIO(raw), formats=FORMATS).size  # perhaps not upright
    width, height = sorted(stored, reverse=image.width > image.height)
    return Photo(image, (width, height))


def find_photos(paths: Iterable[Path]) -> list[Path]:
    """The pictures among files and folders, in order, each one once.

    Raises:
        UserError: one of the paths is not there, or no picture is.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such picture or folder")
        inside = files_below(path) if path.is_dir() else [path]
        found += [file for file in inside if not path.is_dir() or named_as_picture(file)]
    if not found:
        raise UserError("no pictures there: name at least one, or a folder that holds some")
    return list(dict.fromkeys(found))


def place_for(photo: Path, folder: Path) -> Path:
    """Where the marked picture of a photo goes, its JSON beside it: under the photo's name, with a
    number where that is taken by another photo, or by a file that is not ours."""
    for number in count(1):
        name = photo.stem if number == 1 else f"{photo.stem}-{number}"
        place, record = folder / f"{name}.jpg", folder / f"{name}.json"
        ours = kept_record(record).get("photo") == str(photo)
        if ours or not (place.exists() or record.exists()):
            return place
    raise AssertionError("numbers do not end")


def write_results(folder: Path, record: dict[str, Any], picture: Image.Image) -> dict[str, Any]:
    """Writes a photo's picture and JSON, and returns the record with the place of the picture.

    The JSON comes first: it says that the place is this photo's.
    """
    place = place_for(Path(record["photo"]), folder)
    record = record | {"marked": str(place)}
    write_json(place.with_suffix(".json"), record)
    with whole_file(place) as beside:
        picture.save(beside, "JPEG", quality=92)
    return record


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
RED = "#d40000"
LEAST_SHOWN = 320  # pixels of the longer side of a marked picture: names must be readable


def mark(image: Image.Image, faces: Sequence[Face], labels: Sequence[str]) -> Image.Image:
    """A copy of an RGB picture with a red box and a name for each face; a tiny one is enlarged."""
    scale = max(1.0, LEAST_SHOWN / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    marked = image.resize(size)
    pen = ImageDraw.Draw(marked)
    corners = [np.concatenate([f.box[:2], f.box[:2] + f.box[2:]]) * (size * 2) for f in faces]
    for box in corners:
        pen.rectangle(box.tolist(), outline=RED, width=max(2, round(min(size) / 250)))
    taken = list(corners)
    for box, label in zip(corners, labels, strict=True):
        taken.append(write_label(pen, box, label, size, taken))
    return marked


def write_label(
    pen: ImageDraw.ImageDraw,
    box: np.ndarray,
    label: str,
    size: tuple[int, int],
    taken: Sequence[np.ndarray],
) -> np.ndarray:
    """Writes a name in white on red by a face's box, and returns the place that it takes.

    box, taken: left, top, right, bottom; of the face, and of what the name should not hide.
    size: of the picture. All in pixels.
    """
    width = max(1.5 * (box[2] - box[0]), min(size) / 8)
    font = fitting_font(label, min(width, size[0]), max(14, min(size) / 35))
    left, top, right, bottom = pen.textbbox((0, 0), label, font=font)
    edge = (bottom - top) / 4
    extent = np.array([right - left, bottom - top]) + 2 * edge
    x, y, *_ = place = label_place(box, extent, size, taken)
    pen.rectangle(place.tolist(), fill=RED)
    pen.text((x + edge - left, y + edge - top), label, fill="white", font=font)
    return place


def label_place(
    box: np.ndarray, extent: np.ndarray, size: tuple[int, int], taken: Sequence[np.ndarray]
) -> np.ndarray:
    """Where a label of this width and height hides least: above the face, below it, or a line
    further off; inside of the picture.

    >>> label_place(np.array([10, 0, 20, 10]), np.array([30, 5]), (35, 50), [])  # no room above
    array([ 5, 10, 35, 15])
    """
    high = extent[1]
    tops = (box[1] - high, box[3], box[1] - 2 * high, box[3] + high)
    room = np.maximum(0, size - extent)
    inside = [np.array([box[0], top]).clip(0, room) for top in tops if 0 <= top <= room[1]]
    places = [np.concatenate([corner, corner + extent]) for corner in inside or [room * (0, 1)]]
    return min(places, key=lambda place: sum(shared_area(place, other) for other in taken))


def shared_area(one: np.ndarray, two: np.ndarray) -> float:
    """Of two boxes (left, top, right, bottom)."""
    sides = np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2])
    return float(np.prod(sides.clip(0)))


def fitting_font(text: str, width: float, largest: float) -> Font:
    """Pillow's own font at a size at which the text is no wider than `width`, but readable."""
    font = ImageFont.load_default(largest)
    size = max(9.0, largest * min(1.0, width / max(1.0, font.getlength(text))))
    return ImageFont.load_default(size)


# ---- who is it ----------------------------------------------------------------------------------


def readable_photos(paths: Iterable[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Rows (see `outside_pictures`) of the pictures among files and folders, with `photo`, the path
    as it was given; and the names of those that cannot be read, with the reason.

    Raises: see find_photos.
    """
    photos = find_photos(paths)
    rows = outside_pictures(photos).assign(photo=list(map(str, photos)))
    good = readable(rows)
    broken = rows.photo[~good] + " (" + rows.problem[~good] + ")"
    report_each("pictures cannot be read and are left out", broken)
    return rows[good], broken.tolist()


def refuse_broken(broken: Sequence[str]) -> None:
    """Raises UserError at the end of a command that had to leave pictures out."""
    if broken:
        raise UserError(f"{len(broken)} pictures could not be read, first {broken[0]}")


# ---- who is it ----------------------------------------------------------------------------------


@dataclass
class Who:
    """Find every face in photographs and name it."""

    photo: tyro.conf.Positional[tuple[Path, ...]]
    """Photographs, or folders of them."""
    naming: Naming
    threshold: float | None = None
    """Similarity below which a face is "unknown". Default: calibrated on the run's validation."""
    false_accept: float = 0.01
    """Share of strangers' pictures that the calibrated threshold may give a name, from 0."""
    confidence: float = LEAST
    """Least confidence of the detector in a face, from 0.3 to 1."""
    overlap: float = OVERLAP
    """Of two boxes with a higher intersection over union, the less confident is dropped."""
    output: Path | None = None
    """Folder for the marked pictures and their JSON. Default: identify/ in the run folder."""
    json: bool = False
    """Print one JSON object and nothing else on standard output."""


def check_who(asked: Who) -> None:
    """Raises UserError for a value that has the right type but no meaning."""
    check_least(asked.naming, representatives=1, neighbours=1)
    if not LEAST <= asked.confidence <= 1:
        raise UserError(f"--confidence {asked.confidence}: must be from {LEAST} to 1")
    if not 0 <= asked.overlap <= 1:
        raise UserError(f"--overlap {asked.overlap}: must be from 0 to 1")
    if not 0 <= asked.false_accept < 1:
        raise UserError(f"--false-accept {asked.false_accept}: must be at least 0 and below 1")
    if asked.threshold is not None and not -1 <= asked.threshold <= 1:
        raise UserError(f"--threshold {asked.threshold}: must be a cosine, from -1 to 1")


@dataclass(frozen=True)
class Namer:
    """All that naming a face needs. threshold: None names everybody."""

    job: Embedding
    known: References
    how: Naming
    threshold: float | None

    def name(self, image: Image.Image, faces: Sequence[Face]) -> list[dict[str, Any]]:
        """{"identity", "nearest", "similarity", "second"} of each face in an RGB picture.

        identity: "unknown" where even the `nearest` person is less similar than the threshold.
        """
        guesses = name_rows(embed_faces(self.job, image, faces), self.known, self.how)
        return [self.verdict(best, *others) for best, *others in guesses]

    def verdict(self, best: Guess, *others: Guess) -> dict[str, Any]:
        """One entry of `name`, from people in their order."""
        sure = self.threshold is None or best.similarity >= self.threshold
        return {
            "identity": best.identity if sure else UNKNOWN,
            "nearest": best.identity,
            "similarity": round(best.similarity, 4),
            "second": others[0].as_json() if others else None,
        }


def make_namer(run: Run, asked: Who) -> Namer:
    """Embeds the known people and finds the threshold."""
    how = asked.naming
    people = known_pictures(run, how.folder)
    job = look_at_faces(run, load_job(run))
    known = make_references(embed(job, people), list(people.identity), how, run.seed)
    threshold = asked.threshold
    if threshold is None:
        threshold = calibration(run, job, how, asked.false_accept)["threshold"]
    log.info("%d people known by %d pictures", people.identity.nunique(), len(people))
    return Namer(job, known, how, threshold)


def who(asked: Who) -> None:
    """The program's first command; see the top of this file."""
    check_who(asked)
    run = open_run(asked.naming.run)
    photos, broken = readable_photos(asked.photo)
    namer = make_namer(run, asked)
    detector = load_detector(namer.job.detector, run.cache)
    output = asked.output or run.path("identify")
    records = []
    with truncated_pictures(True):
        for path in tqdm(photos.photo, "naming", unit=" photographs"):
            photo = read_photo(Path(path))
            faces = find_all(photo.image, detector, asked.confidence, asked.overlap)
            record = describe_faces(path, photo, faces, namer)
            marked = mark(photo.image, faces, labels_of(record))
            records.append(write_results(output, record, marked))
    empty = [record["photo"] for record in records if not record["faces"]]
    report_each("photographs show no face: written unmarked", empty)
    about = {"method": namer.how.method, "threshold": namer.threshold}
    print(json.dumps(about | {"photos": records}) if asked.json else show_faces(records))
    refuse_broken(broken)


def describe_faces(path: str, photo: Photo, faces: Sequence[Face], namer: Namer) -> dict[str, Any]:
    """The JSON of a photograph; boxes in pixels of the upright picture, surest face first."""
    named = namer.name(photo.image, faces)
    return {
        "photo": path,
        "size": list(photo.size),
        "faces": [
            {"box": box_in_pixels(face, photo.size), "confidence": round(face.score, 4), **name}
            for face, name in zip(faces, named, strict=True)
        ],
    }


def box_in_pixels(face: Face, size: tuple[int, int]) -> list[int]:
    """[left, top, width, height] of a face's box, as far as it lies in a picture of this size."""
    corners = np.array([face.box[:2], face.box[:2] + face.box[2:]]).clip(0, 1) * size
    low, high = corners.round().astype(int).tolist()
    return [*low, high[0] - low[0], high[1] - low[1]]


def labels_of(record: Mapping[str, Any]) -> list[str]:
    """What stands at the boxes: "Ada Lovelace 0.71"."""
    return [f"{face['identity']} {face['similarity']:.2f}" for face in record["faces"]]


def show_faces(records: Sequence[Mapping[str, Any]]) -> str:
    """A row a face, and where the pictures lie."""
    rows = []
    for record in records:
        for face in record["faces"] or [{"identity": "(no face)"}]:
            second = face.get("second") or {"identity": "", "similarity": None}
            numbers = (face.get("similarity"), second["similarity"], face.get("confidence"))
            similarity, next_best, confidence = map(two_digits, numbers)
            runner_up = f"{second['identity']} {next_best}"
            rows.append([record["photo"], face["identity"], similarity, runner_up, confidence])
    heads = ["photograph", "who", "similarity", "second", "confidence"]
    return f"{tabulate(rows, heads, disable_numparse=True)}\n\n{written(records)}"


def two_digits(number: float | None) -> str:
    """A number for a table; nothing for None."""
    return "" if number is None else f"{number:.2f}"


def written(records: Sequence[Mapping[str, Any]]) -> str:
    """Where the pictures lie that were written."""
    places = [record["marked"] for record in records]
    return "\n".join(["written, each with its .json beside it:", *places]) if places else ""


# ---- whom is it most like -----------------------------------------------------------------------


@dataclass
class Like:
    """Find the known person that pictures from outside are most like."""

    picture: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures, or folders of them."""
    naming: Naming
    nearest: int = 5
    """Known people's pictures that are shown beside it, the most similar ones."""
    output: Path | None = None
    """Folder for the panels and their JSON. Default: like/ in the run folder."""
    json: bool = False
    """Print one JSON object and nothing else on standard output."""


class Likeness(NamedTuple):
    """What was found for one picture: people and known pictures, the most alike first.

    face: what of the picture was compared; None is all of it. nearest: (path, whom it shows).
    """

    photo: str
    face: Face | None
    guesses: list[Guess]
    nearest: list[tuple[str, Guess]]


def like(asked: Like) -> None:
    """The program's second command; see the top of this file."""
    check_least(asked.naming, representatives=1, neighbours=1)
    check_least(asked, nearest=1)
    run = open_run(asked.naming.run)
    photos, broken = readable_photos(asked.picture)
    people = known_pictures(run, asked.naming.folder)
    job = load_job(run)
    output = asked.output or run.path("like")
    contents = dict(zip(people.path, people.content, strict=True))
    records = []
    with truncated_pictures(True):
        likenesses = compare(job, photos, people, asked, run.seed)
        for found in tqdm(likenesses, "drawing", unit=" pictures"):
            photo = read_photo(Path(found.photo))
            drawn = panel(found, photo.image, job.root, contents)
            records.append(write_results(output, describe_likeness(found, photo.size), drawn))
    missed = [found.photo for found in likenesses if found.face and found.face.found == MISSED]
    report_each("pictures show no face: their middle was compared", missed)
    about = {"method": asked.naming.method, "photos": records}
    print(json.dumps(about) if asked.json else show_likenesses(records))
    refuse_broken(broken)


def compare(
    job: Embedding, photos: pd.DataFrame, people: pd.DataFrame, asked: Like, seed: int
) -> list[Likeness]:
    """Whom and which pictures each outside picture is most like.

    photos: see `readable_photos`. people: catalogue rows of the known.
    """
    rows, queries, how = embed(job, people), embed(job, photos), asked.naming
    known = make_references(rows, list(people.identity), how, seed)
    near = search(build_index(rows), list(people.path), queries, list(photos.photo), asked.nearest)
    whom = dict(zip(people.path, people.identity, strict=True))
    faces = job.faces(photos)
    nearest = [
        [(path, Guess(whom[path], score)) for path, score in zip(paths, scores, strict=True)]
        for paths, scores in zip(near.gallery.tolist(), near.scores.tolist(), strict=True)
    ]
    shown = [faces.get(content) for content in photos.content]
    guesses = name_rows(queries, known, how)
    return list(map(Likeness, photos.photo, shown, guesses, nearest))


def describe_likeness(found: Likeness, size: tuple[int, int]) -> dict[str, Any]:
    """The JSON of a picture of this full size; the box in pixels of the upright picture."""
    face, (best, *others) = found.face, found.guesses
    return {
        "photo": found.photo,
        "size": list(size),
        "face": face
        and {
            "box": box_in_pixels(face, size),
            "confidence": round(face.score, 4),
            "found": face.found,
        },
        **best.as_json(),
        "second": others[0].as_json() if others else None,
        "nearest": [{"path": path} | guess.as_json() for path, guess in found.nearest],
    }


CELL, GAP = 192, 12
ALL_OF_IT = Face(np.array([0.0, 0.0, 1.0, 1.0]), np.zeros((0, 2)), 1.0, "")


def panel(
    found: Likeness, image: Image.Image, root: Path, contents: Mapping[str, str]
) -> Image.Image:
    """The picture that was asked about, at the left, and the nearest known ones with their names.

    contents: {path: content} of the known pictures.
    """
    best = found.guesses[0]
    label = f"{best.identity} {best.similarity:.2f}"
    query = ImageOps.contain(image, (LEAST_SHOWN, LEAST_SHOWN))
    query = mark(query, [found.face or ALL_OF_IT], [label])
    wide = LEAST_SHOWN + len(found.nearest) * (CELL + GAP)
    sheet = Image.new("RGB", (wide, LEAST_SHOWN), "white")
    sheet.paste(query, ((LEAST_SHOWN - query.width) // 2, (LEAST_SHOWN - query.height) // 2))
    pen, top = ImageDraw.Draw(sheet), (LEAST_SHOWN - CELL) // 2
    for i, (path, guess) in enumerate(found.nearest):
        left = LEAST_SHOWN + GAP + i * (CELL + GAP)
        known = read_known_picture(root / path, contents[path], CELL)
        sheet.paste(ImageOps.pad(known, (CELL, CELL), color="white"), (left, top))
        caption = f"{guess.identity} {guess.similarity:.2f}"
        font = fitting_font(caption, CELL, 16)
        pen.text((left, top + CELL + 4), caption, fill="black", font=font)
    return sheet


def show_likenesses(records: Sequence[Mapping[str, Any]]) -> str:
    """A row a picture, and where the panels lie."""
    rows = []
    for record in records:
        second, nearest = record["second"], record["nearest"][0]
        runner_up = f"{second['identity']} {second['similarity']:.2f}" if second else ""
        similarity = two_digits(record["similarity"])
        rows.append([record["photo"], record["identity"], similarity, runner_up, nearest["path"]])
    heads = ["picture", "most like", "similarity", "second", "nearest picture"]
    return f"{tabulate(rows, heads, disable_numparse=True)}\n\n{written(records)}"


# ---- the program --------------------------------------------------------------------------------


@dataclass
class Program:
    """Settings of this file as a program."""

    command: tyro.conf.OmitSubcommandPrefixes[Who | Like]


def main(arguments: Iterable[str]) -> int:
    """Names faces, or finds a likeness; returns the exit code, 1 if a picture could not be read."""
    what = "Who is in this picture, and whom is it most like?"
    program = parse(list(arguments), "identify.py", Program, what)
    asked = program.command
    folder = asked.naming.run
    log_to(folder if (folder / "config.json").is_file() else None)
    return exit_code(lambda: who(asked) if isinstance(asked, Who) else like(asked))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
