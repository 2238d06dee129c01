"""`lookalike identify like`: find the known identity that each picture resembles most.

    likenesses = compare(extractor, photos, pictures, settings, nearest=5, seed=0)
    likenesses[0].matches      # identities, the most similar first
    likenesses[0].nearest      # reference pictures, the most similar first

Nothing is rejected here: every picture has a nearest identity.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from lookalike.core.checks import check_bounds
from lookalike.core.log import report_each
from lookalike.core.runs import open_run
from lookalike.data.images import read_known_picture
from lookalike.faces.detection import MISSED
from lookalike.faces.geometry import Face
from lookalike.features.embedding import embed
from lookalike.features.extractor import FeatureExtractor, single_extractor
from lookalike.identification.annotate import (
    CELL,
    box_in_pixels,
    draw_panel,
    list_files,
    read_photo,
    readable_photos,
    refuse_broken,
    two_digits,
    write_annotated,
)
from lookalike.identification.references import (
    READS,
    Match,
    make_references,
    match_rows,
    reference_pictures,
)
from lookalike.identification.settings import LikeCommand, ReferenceSettings
from lookalike.retrieval.index import build_index, search


class Likeness(NamedTuple):
    """The identities and reference pictures that a picture resembles.

    Attributes:
        photo: The path of the picture, as it was given.
        face: The part of the picture that was compared; None is all of it.
        matches: Identities, the most similar first.
        nearest: (path, match) of reference pictures, the most similar first.
    """

    photo: str
    face: Face | None
    matches: list[Match]
    nearest: list[tuple[str, Match]]


def find_likenesses(command: LikeCommand) -> None:
    """Write a panel for each picture, and its JSON; print a table or all JSON.

    Raises:
        UserError: The settings, the run or the references cannot be used, or a picture could not be
            read.
    """
    check_bounds(command)
    run = open_run(command.references.run, reads=READS)
    photos, broken = readable_photos(command.picture)
    pictures = reference_pictures(run, command.references.folder)
    extractor = single_extractor(run)
    likenesses = compare(extractor, photos, pictures, command.references, command.nearest, run.seed)
    folder = command.output or run.path("like")
    contents = dict(zip(pictures.path, pictures.content, strict=True))
    records = []
    for likeness in tqdm(likenesses, "drawing", unit=" pictures"):
        photo = read_photo(Path(likeness.photo))
        drawn = draw_likeness(likeness, photo.image, extractor.root, contents)
        records.append(write_annotated(folder, describe_likeness(likeness, photo.size), drawn))
    missed = [found.photo for found in likenesses if found.face and found.face.found == MISSED]
    report_each("pictures show no face: their middle was compared", missed)
    about = {"method": command.references.method, "photos": records}
    print(json.dumps(about) if command.json else likeness_table(records))
    refuse_broken(broken)


def compare(
    extractor: FeatureExtractor,
    photos: pd.DataFrame,
    pictures: pd.DataFrame,
    settings: ReferenceSettings,
    nearest: int,
    seed: int,
) -> list[Likeness]:
    """Find the identities and the reference pictures that each picture resembles most.

    Args:
        extractor: Makes the embeddings.
        photos: Rows of `readable_photos`.
        pictures: Catalogue rows of the reference pictures.
        settings: How identities are represented.
        nearest: Number of reference pictures for each.
        seed: Seed of the clustering.
    """
    rows, queries = embed(extractor, pictures), embed(extractor, photos)
    references = make_references(rows, list(pictures.identity), settings, seed)
    matches = match_rows(queries, references, settings)
    ranking = search(build_index(rows), list(pictures.path), queries, list(photos.photo), nearest)
    identity_of = dict(zip(pictures.path, pictures.identity, strict=True))
    neighbors = [
        [(path, Match(identity_of[path], score)) for path, score in zip(paths, scores, strict=True)]
        for paths, scores in zip(ranking.gallery.tolist(), ranking.scores.tolist(), strict=True)
    ]
    faces = extractor.faces(photos)
    compared = [faces.get(content) for content in photos.content]
    return list(map(Likeness, photos.photo, compared, matches, neighbors))


def describe_likeness(likeness: Likeness, size: tuple[int, int]) -> dict[str, Any]:
    """Return the JSON of a picture.

    Args:
        likeness: What was found for it.
        size: Its full width and height; the face's box is in pixels of the upright picture.
    """
    face, (best, *others) = likeness.face, likeness.matches
    return {
        "photo": likeness.photo,
        "size": list(size),
        "face": face
        and {
            "box": box_in_pixels(face, size),
            "confidence": round(face.score, 4),
            "found": face.found,
        },
        **best.as_json(),
        "second": others[0].as_json() if others else None,
        "nearest": [{"path": path} | match.as_json() for path, match in likeness.nearest],
    }


def draw_likeness(
    likeness: Likeness, image: Image.Image, root: Path, contents: Mapping[str, str]
) -> Image.Image:
    """Draw a picture with the most similar reference pictures and their names beside it.

    Args:
        likeness: What was found for the picture.
        image: The picture.
        root: Folder of the data set.
        contents: {path: content hash} of the reference pictures.

    Raises:
        UserError: A reference picture has changed or gone since the catalogue was made.
    """
    nearest = (
        (read_known_picture(root / path, contents[path], CELL), str(match))
        for path, match in likeness.nearest
    )
    return draw_panel(image, likeness.face, str(likeness.matches[0]), nearest)


def likeness_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with one row per picture, and the paths of the panels."""
    rows = []
    for record in records:
        second, nearest = record["second"], record["nearest"][0]
        runner_up = f"{second['identity']} {second['similarity']:.2f}" if second else ""
        similarity = two_digits(record["similarity"])
        rows.append([record["photo"], record["identity"], similarity, runner_up, nearest["path"]])
    headers = ["picture", "most similar", "similarity", "second", "nearest picture"]
    return f"{tabulate(rows, headers, disable_numparse=True)}\n\n{list_files(records)}"
