"""Who is in this picture, and whom is it most like? By the people that a run was trained on.

    lookalike identify who party.jpg --run runs/faces           # red boxes, names, and JSON
    lookalike identify who party.jpg --run runs/faces --folder friends --method knn
    lookalike identify like me.jpg --run runs/faces             # the nearest celebrity, and JSON

The people, and who of the faces is "unknown", are `naming`'s; the pictures are `marking`'s. Every
picture is written with JSON beside it, and `--json` prints all of that as one object.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import tyro
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from lookalike.core.checks import check_least
from lookalike.core.errors import UserError
from lookalike.core.log import exit_code, log, log_to, report_each
from lookalike.core.options import parse
from lookalike.core.runs import Run, open_run
from lookalike.data.images import read_known_picture, truncated_pictures
from lookalike.faces.detection import LEAST, MISSED, OVERLAP, find_all
from lookalike.faces.geometry import Face
from lookalike.features.extractor import FeatureExtractor, embed, embed_faces, load_extractor
from lookalike.identification.annotate import (
    CELL,
    Photo,
    box_in_pixels,
    mark,
    panel,
    read_photo,
    readable_photos,
    refuse_broken,
    write_results,
)
from lookalike.identification.references import (
    Guess,
    Naming,
    References,
    calibration,
    known_pictures,
    look_at_faces,
    make_references,
    name_rows,
)
from lookalike.retrieval.index import build_index, search

UNKNOWN = "unknown"


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


def check_who(settings: Who) -> None:
    """Raises UserError for a value that has the right type but no meaning."""
    check_least(settings.naming, representatives=1, neighbors=1)
    if not LEAST <= settings.confidence <= 1:
        raise UserError(f"--confidence {settings.confidence}: must be from {LEAST} to 1")
    if not 0 <= settings.overlap <= 1:
        raise UserError(f"--overlap {settings.overlap}: must be from 0 to 1")
    if not 0 <= settings.false_accept < 1:
        raise UserError(f"--false-accept {settings.false_accept}: must be at least 0 and below 1")
    if settings.threshold is not None and not -1 <= settings.threshold <= 1:
        raise UserError(f"--threshold {settings.threshold}: must be a cosine, from -1 to 1")


@dataclass(frozen=True)
class Namer:
    """All that naming a face needs. threshold: None names everybody."""

    extractor: FeatureExtractor
    known: References
    how: Naming
    threshold: float | None

    def name(self, image: Image.Image, faces: Sequence[Face]) -> list[dict[str, Any]]:
        """{"identity", "nearest", "similarity", "second"} of each face in an RGB picture.

        identity: "unknown" where even the `nearest` person is less similar than the threshold.
        """
        guesses = name_rows(embed_faces(self.extractor, image, faces), self.known, self.how)
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


def make_namer(run: Run, settings: Who) -> Namer:
    """Embeds the known people and finds the threshold."""
    how = settings.naming
    people = known_pictures(run, how.folder)
    extractor = look_at_faces(run, load_extractor(run))
    known = make_references(embed(extractor, people), list(people.identity), how, run.seed)
    threshold = settings.threshold
    if threshold is None:
        threshold = calibration(run, extractor, how, settings.false_accept)["threshold"]
    log.info("%d people known by %d pictures", people.identity.nunique(), len(people))
    return Namer(extractor, known, how, threshold)


def who(settings: Who) -> None:
    """The program's first command; see the top of this file."""
    check_who(settings)
    run = open_run(settings.naming.run)
    photos, broken = readable_photos(settings.photo)
    namer = make_namer(run, settings)
    output = settings.output or run.path("identify")
    records = []
    with truncated_pictures(True):
        for path in tqdm(photos.photo, "naming", unit=" photographs"):
            photo = read_photo(Path(path))
            faces = find_all(
                photo.image, namer.extractor.finder, settings.confidence, settings.overlap
            )
            record = describe_faces(path, photo, faces, namer)
            marked = mark(photo.image, faces, labels_of(record))
            records.append(write_results(output, record, marked))
    empty = [record["photo"] for record in records if not record["faces"]]
    report_each("photographs show no face: written unmarked", empty)
    about = {"method": namer.how.method, "threshold": namer.threshold}
    print(json.dumps(about | {"photos": records}) if settings.json else show_faces(records))
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
    indices = [record["marked"] for record in records]
    return "\n".join(["written, each with its .json beside it:", *indices]) if indices else ""


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


def like(settings: Like) -> None:
    """The program's second command; see the top of this file."""
    check_least(settings.naming, representatives=1, neighbors=1)
    check_least(settings, nearest=1)
    run = open_run(settings.naming.run)
    photos, broken = readable_photos(settings.picture)
    people = known_pictures(run, settings.naming.folder)
    extractor = load_extractor(run)
    output = settings.output or run.path("like")
    contents = dict(zip(people.path, people.content, strict=True))
    records = []
    with truncated_pictures(True):
        likenesses = compare(extractor, photos, people, settings, run.seed)
        for found in tqdm(likenesses, "drawing", unit=" pictures"):
            photo = read_photo(Path(found.photo))
            drawn = draw_likeness(found, photo.image, extractor.root, contents)
            records.append(write_results(output, describe_likeness(found, photo.size), drawn))
    missed = [found.photo for found in likenesses if found.face and found.face.found == MISSED]
    report_each("pictures show no face: their middle was compared", missed)
    about = {"method": settings.naming.method, "photos": records}
    print(json.dumps(about) if settings.json else show_likenesses(records))
    refuse_broken(broken)


def compare(
    extractor: FeatureExtractor,
    photos: pd.DataFrame,
    people: pd.DataFrame,
    settings: Like,
    seed: int,
) -> list[Likeness]:
    """Whom and which pictures each outside picture is most like.

    photos: see `readable_photos`. people: catalogue rows of the known.
    """
    rows, queries, how = embed(extractor, people), embed(extractor, photos), settings.naming
    known = make_references(rows, list(people.identity), how, seed)
    near = search(
        build_index(rows), list(people.path), queries, list(photos.photo), settings.nearest
    )
    whom = dict(zip(people.path, people.identity, strict=True))
    faces = extractor.faces(photos)
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


def draw_likeness(
    found: Likeness, image: Image.Image, root: Path, contents: Mapping[str, str]
) -> Image.Image:
    """The picture that was asked about, beside it the nearest known ones with their names.

    contents: {path: content} of the known pictures.
    """
    known = (
        (read_known_picture(root / path, contents[path], CELL), str(guess))
        for path, guess in found.nearest
    )
    return panel(image, found.face, str(found.guesses[0]), known)


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
    program = parse(list(arguments), "lookalike identify", Program, what)
    settings = program.command
    folder = settings.naming.run
    log_to(folder if (folder / "config.json").is_file() else None)
    return exit_code(lambda: who(settings) if isinstance(settings, Who) else like(settings))
