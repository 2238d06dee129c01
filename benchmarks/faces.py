"""What the retries of the face detector add: rates of found faces, and scores.

    python -m benchmarks.faces --data $DATA/caricature

The same embedder on the same pictures, twice: once with a guess in the center wherever the first
pass finds no face, once with all retries. Scores are of the training identities, photograph to
drawing, and of the test where it has labels.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tabulate import tabulate

from lookalike.core.settings import EmbedSettings
from lookalike.data.catalogue import bare_names, read_catalogue, readable
from lookalike.evaluation.scoring import Labels, read_labels, score
from lookalike.faces.dataset import detect, face_table, found_rates
from lookalike.faces.detection import AT_ONCE, central_guess, load_detector
from lookalike.faces.geometry import Face
from lookalike.features.embedding import embed
from lookalike.features.extractor import FeatureExtractor
from lookalike.models.embedder import embedder_of
from lookalike.retrieval.embeddings import Embeddings, center
from lookalike.retrieval.index import as_mapping, build_index, search

PATTERN = r"(?P<domain>photo|caricature)_"


class SinglePass(FeatureExtractor):
    """Embeds the faces of the first pass, and a guess in the center where it finds none."""

    def faces(self, pictures: pd.DataFrame) -> dict[str, Face]:
        """Return {content hash: face} of catalogue rows."""
        found = super().faces(pictures)
        for path, content in zip(pictures.path, pictures.content, strict=True):
            if found[content].found != AT_ONCE.name:
                found[content] = central_guess(Image.open(self.root / path).size)
        return found


def scores(rows: pd.DataFrame, embeddings: np.ndarray, labels: Labels) -> list[float]:
    """Return [plain, mean-centered] score of a catalogue's pictures, by the column `key`."""
    query, gallery = (rows.key.isin(names).to_numpy() for names in labels[:2])
    found = []
    none = np.zeros((0, embeddings.shape[1]), np.float32)
    plain = Embeddings(embeddings[query], embeddings[gallery], none, none)
    for embedded in (plain, center(plain)):
        index, keys = build_index(embedded.gallery), list(rows.key[gallery])
        ranking = search(index, keys, embedded.queries, list(rows.key[query]))
        found.append(score(as_mapping(ranking), labels)["score"])
    return found


def main() -> None:
    """Print the rates of found faces, and a table of scores."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="default: test_labels.json in the data")
    parser.add_argument("--backbone", default="sface")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    arguments = parser.parse_args()
    rows = read_catalogue(arguments.data, PATTERN)
    rows = rows[readable(rows)].reset_index(drop=True)
    parts: dict[str, tuple[pd.DataFrame, Labels]] = {}
    training = rows[rows.part == "training"].assign(key=lambda table: table.path)
    by_domain = [training[training.domain == domain] for domain in ("photo", "caricature")]
    labeled = (dict(zip(part.key, part.identity, strict=True)) for part in by_domain)
    parts["training identities"] = training, Labels(next(labeled), next(labeled))
    labels = arguments.labels or arguments.data / "test_labels.json"
    if labels.is_file():
        test = rows[rows.part.isin(["query", "gallery"])]
        parts["test"] = test.assign(key=bare_names(test.path).to_numpy()), read_labels(labels)

    settings = EmbedSettings(arguments.backbone)
    faces = detect(
        rows, arguments.data, arguments.cache, load_detector(settings.detector, arguments.cache)
    )
    print(found_rates(face_table(rows, faces)), end="\n\n")

    extractor = FeatureExtractor(
        embedder_of(settings, arguments.cache),
        arguments.data,
        arguments.cache,
        flip=True,
        total=len(rows),
    )
    hard = np.array([faces[content].found != AT_ONCE.name for content in rows.content])
    with tempfile.TemporaryDirectory() as scratch:
        single = SinglePass(extractor.embedder, extractor.root, Path(scratch), flip=True)
        embeddings = embed(extractor, rows)
        first = embeddings.copy()
        first[hard] = embed(single, rows[hard])
    table = []
    for name, (part, of) in parts.items():
        for variant, rows_of_all in (("one pass", first), ("with retries", embeddings)):
            plain, centered = scores(part, rows_of_all[part.index], of)
            table.append((name, variant, plain, centered))
    print(tabulate(table, ["", "", "score", "centered"], floatfmt=".1f"))


if __name__ == "__main__":
    main()
