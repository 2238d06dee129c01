"""`lookalike identify who`: find every face in photographs and identify it.

    identifier = make_identifier(run, settings, threshold=None, false_accept=0.01)
    faces = find_faces(image, identifier.extractor.finder, confidence, overlap)
    identifier.identify(image, faces)     # [{"identity": "Ada Lovelace", "similarity": 0.71, …}, …]

A face is named by its nearest references, unless even those are less similar than a threshold.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from lookalike.core.checks import check_bounds
from lookalike.core.log import log, report_each
from lookalike.core.runs import Run, open_run
from lookalike.faces.detection import find_faces
from lookalike.faces.geometry import Face
from lookalike.features.embedding import embed, embed_faces
from lookalike.features.extractor import FeatureExtractor, single_extractor
from lookalike.identification.annotate import (
    Photo,
    annotate,
    box_in_pixels,
    list_files,
    read_photo,
    readable_photos,
    refuse_broken,
    two_digits,
    write_annotated,
)
from lookalike.identification.calibration import load_calibration
from lookalike.identification.references import (
    READS,
    Match,
    References,
    face_extractor,
    make_references,
    match_rows,
    reference_pictures,
)
from lookalike.identification.settings import ReferenceSettings, WhoCommand

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Identifier:
    """Identifies faces by reference embeddings.

    Attributes:
        extractor: Embeds faces.
        references: What represents the known identities.
        settings: How the references were made.
        threshold: Similarity below which a face is unknown; None gives every face a name.
    """

    extractor: FeatureExtractor
    references: References
    settings: ReferenceSettings
    threshold: float | None

    def identify(self, image: Image.Image, faces: Sequence[Face]) -> list[dict[str, Any]]:
        """Identify faces in an RGB picture.

        Returns:
            {"identity", "nearest", "similarity", "second"} of each face. `identity` is "unknown"
            where even the nearest identity is less similar than the threshold.
        """
        rows = embed_faces(self.extractor, image, faces)
        return [
            self.decide(matches) for matches in match_rows(rows, self.references, self.settings)
        ]

    def decide(self, matches: Sequence[Match]) -> dict[str, Any]:
        """Return the entry of one face, from its matches, best first."""
        best, *others = matches
        accepted = self.threshold is None or best.similarity >= self.threshold
        return {
            "identity": best.identity if accepted else UNKNOWN,
            "nearest": best.identity,
            "similarity": round(best.similarity, 4),
            "second": others[0].as_json() if others else None,
        }


def make_identifier(
    run: Run, settings: ReferenceSettings, threshold: float | None, false_accept: float
) -> Identifier:
    """Embed the references and find the threshold.

    Args:
        run: Its embedder is used, and its labeled pictures for the calibration.
        settings: Which identities are known, and how each is represented.
        threshold: The rejection threshold. None: it is calibrated.
        false_accept: Maximum share of unknown people's pictures that are given a name.

    Raises:
        UserError: There are no references, or a file of the run cannot be used.
    """
    pictures = reference_pictures(run, settings.folder)
    extractor = face_extractor(single_extractor(run), run.settings.embed)
    rows = embed(extractor, pictures)
    references = make_references(rows, list(pictures.identity), settings, run.seed)
    if threshold is None:
        others = None if settings.folder is None else pictures.identity.nunique()
        calibration = load_calibration(run, extractor, settings, false_accept, others)
        threshold = calibration["threshold"]
    log.info("%d identities known by %d pictures", pictures.identity.nunique(), len(pictures))
    return Identifier(extractor, references, settings, threshold)


def identify_photos(command: WhoCommand) -> None:
    """Write each photograph with boxes and names, and its JSON; print a table or all JSON.

    Raises:
        UserError: The settings, the run or the references cannot be used, or a photograph could not
            be read.
    """
    check_bounds(command)
    run = open_run(command.references.run, reads=READS)
    photos, broken = readable_photos(command.photo)
    identifier = make_identifier(run, command.references, command.threshold, command.false_accept)
    folder = command.output or run.path("identify")
    records = []
    for path in tqdm(photos.photo, "identifying", unit=" photographs"):
        photo = read_photo(Path(path))
        finder = identifier.extractor.finder
        faces = find_faces(photo.image, finder, command.confidence, command.overlap)
        record = describe_faces(path, photo, faces, identifier)
        annotated = annotate(photo.image, faces, face_labels(record))
        records.append(write_annotated(folder, record, annotated))
    empty = [record["photo"] for record in records if not record["faces"]]
    report_each("photographs show no face: written without boxes", empty)
    about = {"method": command.references.method, "threshold": identifier.threshold}
    print(json.dumps(about | {"photos": records}) if command.json else faces_table(records))
    refuse_broken(broken)


def describe_faces(
    path: str, photo: Photo, faces: Sequence[Face], identifier: Identifier
) -> dict[str, Any]:
    """Return the JSON of a photograph.

    Boxes are in pixels of the upright picture. The most confident face comes first.
    """
    identified = identifier.identify(photo.image, faces)
    return {
        "photo": path,
        "size": list(photo.size),
        "faces": [
            {"box": box_in_pixels(face, photo.size), "confidence": round(face.score, 4), **entry}
            for face, entry in zip(faces, identified, strict=True)
        ],
    }


def face_labels(record: Mapping[str, Any]) -> list[str]:
    """Return the labels of a photograph's boxes.

    >>> face_labels({"faces": [{"identity": "Ada Lovelace", "similarity": 0.7123}]})
    ['Ada Lovelace 0.71']
    """
    return [f"{face['identity']} {face['similarity']:.2f}" for face in record["faces"]]


def faces_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with one row per face, and the paths of the written pictures."""
    rows = []
    for record in records:
        for face in record["faces"] or [{"identity": "(no face)"}]:
            second = face.get("second") or {"identity": "", "similarity": None}
            numbers = (face.get("similarity"), second["similarity"], face.get("confidence"))
            similarity, next_best, confidence = map(two_digits, numbers)
            runner_up = f"{second['identity']} {next_best}"
            rows.append([record["photo"], face["identity"], similarity, runner_up, confidence])
    headers = ["photograph", "identity", "similarity", "second", "confidence"]
    return f"{tabulate(rows, headers, disable_numparse=True)}\n\n{list_files(records)}"
