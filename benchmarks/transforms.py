"""The whole picture or the published crop? Measured on training identities, photo to drawing.

    python -m benchmarks.transforms --data $DATA/caricature

The training identities of the caricature set, never its test: for each of 20 seeds, 40 of the 100
identities, photographs as queries against all their drawings, with the frozen default backbone.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tabulate import tabulate

from lookalike.core.errors import UserError
from lookalike.data.catalogue import read_catalogue
from lookalike.evaluation.scoring import Labels, score
from lookalike.features.embedding import embed
from lookalike.features.extractor import FeatureExtractor
from lookalike.models.embedder import load_embedder
from lookalike.models.preprocessing import Preprocessing
from lookalike.retrieval.index import as_mapping, build_index, search

PATTERN = r"training/.*(?P<domain>photo|caricature)_"


@dataclass(frozen=True)
class PublishedCrop(Preprocessing):
    """The published transform: the shorter side resized to 8/7 of the input, and its center."""

    def resize(self, pixels: np.ndarray) -> np.ndarray:
        """Crop and resize (H, W, 3) uint8 pixels to (image_size, image_size, 3) uint8."""
        height, width, _ = pixels.shape
        side = 0.875 * min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        rows, columns = slice(round(top), round(top + side)), slice(round(left), round(left + side))
        return super().resize(pixels[rows, columns])


def scores_of(extractor: FeatureExtractor, seeds: int) -> list[float]:
    """Return the score of 40 identities for each seed."""
    rows = read_catalogue(extractor.root, PATTERN)
    rows = rows[rows.part == "training"].reset_index(drop=True)
    embeddings = embed(replace(extractor, total=len(rows)), rows)
    identities = sorted(set(rows.identity))
    scores = []
    for seed in range(seeds):
        chosen = rows.identity.isin(np.random.default_rng(seed).permutation(identities)[:40])
        query, gallery = (rows[chosen & (rows.domain == d)] for d in ("photo", "caricature"))
        index = build_index(embeddings[gallery.index])
        ranking = search(index, list(gallery.path), embeddings[query.index], list(query.path))
        sides = [dict(zip(part.path, part.identity, strict=True)) for part in (query, gallery)]
        scores.append(score(as_mapping(ranking), Labels(sides[0], sides[1]))["score"])
    return scores


def parse_arguments(description: str, backbone: str) -> argparse.Namespace:
    """Parse the options of a benchmark on the training identities of the caricature set."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default=backbone)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        raise UserError(f"--data {arguments.data}: no such folder")
    return arguments


def main() -> None:
    """Run the benchmark."""
    arguments = parse_arguments("The whole picture or the published crop?", "efficientnet_lite0")
    rows = []
    for kind in (Preprocessing, PublishedCrop):
        embedder = load_embedder(arguments.backbone, cache=arguments.cache)
        embedder.preprocessing = kind(**vars(embedder.preprocessing))
        scores = scores_of(
            FeatureExtractor(embedder, arguments.data, arguments.cache), arguments.seeds
        )
        rows.append((kind.__name__, np.mean(scores), np.std(scores, ddof=1)))
    print(tabulate(rows, ["transform", "mean score", "standard deviation"], floatfmt=".1f"))


if __name__ == "__main__":
    main()
