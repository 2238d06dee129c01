"""Seconds of open-metric-learning's `inference` over a list of pictures; run by run.py in an
environment of its own, so nothing of this project is imported.

    oml-venv/bin/python benchmarks/oml_inference.py --pictures pictures.csv --root FOLDER \\
        --weights lite0.pt --workers 1

Timed from inside, as `benchmarks/embedding.py` is: without imports and loading the weights. Prints
JSON, and keeps the embeddings with --save.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
import timm
import torch
from oml.datasets import ImageBaseDataset
from oml.inference import inference
from torch import nn
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor


def transform_of(settings: dict[str, str]) -> Compose:
    """What our embedder does to a picture, in torchvision."""
    side, how = int(settings["side"]), InterpolationMode(settings["interpolation"])
    return Compose(
        [Resize((side, side), how), ToTensor(), Normalize(settings["mean"], settings["std"])]
    )


def load(path: Path) -> tuple[nn.Module, Compose]:
    """The backbone and transform that run.py has stored."""
    stored = torch.load(path)
    model = timm.create_model(stored["timm"], num_classes=0)
    model.load_state_dict(stored["state"])
    return model.eval(), transform_of(stored["preprocessing"])


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description="open-metric-learning's inference, timed.")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    with arguments.pictures.open(encoding="utf-8") as stream:
        paths = [Path(row["path"]) for row in csv.DictReader(stream)][: arguments.limit]
    model, transform = load(arguments.weights)
    dataset = ImageBaseDataset(paths, arguments.root, transform=transform)
    start = time.perf_counter()
    rows = inference(model, dataset, arguments.batch, arguments.workers)
    taken = time.perf_counter() - start
    if arguments.save:
        np.save(arguments.save, rows.numpy())
    print(json.dumps({"seconds": taken, "pictures": len(rows)}))


if __name__ == "__main__":
    main()
