"""The whole picture or the published crop? Judged on training people, photograph to drawing.

    python -m benchmarks.transforms --data ../shared/data/caricature

The caricature set's training people only, never its test: for each of 20 seeds, 40 of the 100
people, photographs as queries against all their drawings, with the frozen default backbone.
"""

import argparse
from pathlib import Path

import numpy as np
import timm
from tabulate import tabulate

from config import UserError
from data import read_catalogue
from embed import embed
from evaluate import Labels, score
from model import Embedder, load_embedder
from retrieve import as_mapping, build_index, search

PATTERN = r"training/.*(?P<domain>photo|caricature)_"


def scores_of(embedder: Embedder, root: Path, cache: Path, seeds: int) -> list[float]:
    """The score of each seed's 40 people."""
    rows = read_catalogue(root, PATTERN)
    rows = rows[rows.part == "training"].reset_index(drop=True)
    embeddings = embed(embedder, rows, root, cache)
    people = sorted(set(rows.identity))
    scores = []
    for seed in range(seeds):
        chosen = rows.identity.isin(np.random.default_rng(seed).permutation(people)[:40])
        query, gallery = (rows[chosen & (rows.domain == d)] for d in ("photo", "caricature"))
        index = build_index(embeddings[gallery.index])
        found = search(index, list(gallery.path), embeddings[query.index], list(query.path))
        pairs = (dict(zip(part.path, part.identity, strict=True)) for part in (query, gallery))
        scores.append(score(as_mapping(found), Labels(*pairs))[0]["score"])
    return scores


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description="The whole picture or the published crop?")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--seeds", type=int, default=20)
    given = parser.parse_args()
    if not given.data.is_dir():
        raise UserError(f"--data {given.data}: no such folder")
    rows = []
    for name in ("whole picture", "published crop"):
        embedder = load_embedder(given.backbone, cache=given.cache)
        if name == "published crop":
            config = timm.data.resolve_model_data_config(embedder.backbone)
            embedder.transform = timm.data.create_transform(**config, is_training=False)
        scores = scores_of(embedder, given.data, given.cache, given.seeds)
        rows.append((name, np.mean(scores), np.std(scores, ddof=1)))
    print(tabulate(rows, ["transform", "mean score", "standard deviation"], floatfmt=".1f"))


if __name__ == "__main__":
    main()
