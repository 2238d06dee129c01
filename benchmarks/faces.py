"""What do the retries of the face detector add? Found-rates, and what they did to the score.

    python -m benchmarks.faces --data ../shared/data/caricature

Twice the same embedder on the same pictures: once with a guess in the centre wherever the first
look finds no face, once with all retries. Scores are of the training people, photograph to
drawing, and of the test where it has labels.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tabulate import tabulate

from config import EmbedSettings
from crops import detect, face_table, found_rates
from data import bare_names, read_catalogue, readable
from embed import Embedding, embed
from evaluate import Labels, read_labels, score
from faces import AT_ONCE, Face, central_guess, load_detector
from index import build_index, search
from model import embedder_of
from postprocess import Embeddings, centre
from retrieve import as_mapping

PATTERN = r"(?P<domain>photo|caricature)_"


class OneLook(Embedding):
    """Embeds with the first look's faces, and with a guess in the centre where it finds none."""

    def faces(self, pictures: pd.DataFrame) -> dict[str, Face]:
        """{content: face} of catalogue rows."""
        found = super().faces(pictures)
        for path, content in zip(pictures.path, pictures.content, strict=True):
            if found[content].found != AT_ONCE.name:
                found[content] = central_guess(Image.open(self.root / path).size)
        return found


def scores(rows: pd.DataFrame, embeddings: np.ndarray, labels: Labels) -> list[float]:
    """[plain, centred] score of a catalogue's pictures, known by `key`."""
    query, gallery = (rows.key.isin(names).to_numpy() for names in labels)
    found = []
    none = np.zeros((0, embeddings.shape[1]), np.float32)
    plain = Embeddings(embeddings[query], embeddings[gallery], none, none)
    for given in (plain, centre(plain)):
        index, keys = build_index(given.gallery), list(rows.key[gallery])
        ranking = search(index, keys, given.queries, list(rows.key[query]))
        found.append(score(as_mapping(ranking), labels)[0]["score"])
    return found


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="default: test_labels.json in the data")
    parser.add_argument("--backbone", default="sface")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    given = parser.parse_args()
    rows = read_catalogue(given.data, PATTERN)
    rows = rows[readable(rows)].reset_index(drop=True)
    parts: dict[str, tuple[pd.DataFrame, Labels]] = {}
    training = rows[rows.part == "training"].assign(key=lambda table: table.path)
    by_domain = [training[training.domain == domain] for domain in ("photo", "caricature")]
    known = (dict(zip(part.key, part.identity, strict=True)) for part in by_domain)
    parts["training people"] = training, Labels(*known)
    labels = given.labels or given.data / "test_labels.json"
    if labels.is_file():
        test = rows[rows.part.isin(["query", "gallery"])]
        parts["test"] = test.assign(key=bare_names(test.path).to_numpy()), read_labels(labels)

    settings = EmbedSettings(given.backbone)
    faces = detect(rows, given.data, given.cache, load_detector(settings.detector, given.cache))
    print(found_rates(face_table(rows, faces)), end="\n\n")

    job = Embedding(
        embedder_of(settings, given.cache), given.data, given.cache, flip=True, total=len(rows)
    )
    hard = np.array([faces[content].found != AT_ONCE.name for content in rows.content])
    with tempfile.TemporaryDirectory() as scratch:
        look = OneLook(job.embedder, job.root, Path(scratch), flip=True)
        embeddings = embed(job, rows)
        first = embeddings.copy()
        first[hard] = embed(look, rows[hard])
    table = []
    for name, (part, of) in parts.items():
        for what, made in (("one look", first), ("with retries", embeddings)):
            plain, centred = scores(part, made[part.index], of)
            table.append((name, what, plain, centred))
    print(tabulate(table, ["", "", "score", "centred"], floatfmt=".1f"))


if __name__ == "__main__":
    main()
