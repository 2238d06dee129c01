r"""How long does open-metric-learning's `inference` take over a list of pictures?

It is run by run.py in an environment of its own, so that nothing of this project is imported.

    oml-venv/bin/python benchmarks/oml_inference.py --pictures pictures.csv --root FOLDER \
        --weights lite0.pt --workers 1

Timed inside the process, as `benchmarks/embedding.py` is: without imports and loading the weights.
Prints JSON; --save writes the embeddings.
"""

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from oml.datasets import ImageBaseDataset
from oml.inference import inference
from torch import nn
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor


def transform_of(settings: dict[str, Any]) -> Compose:
    """Return our preprocessing as a torchvision transform."""
    size, mode = settings["image_size"], InterpolationMode(settings["interpolation"])
    normalize = Normalize(settings["mean"], settings["std"])
    return Compose([Resize((size, size), mode), ToTensor(), normalize])


def load(path: Path) -> tuple[nn.Module, Compose]:
    """Return the backbone and the transform that run.py has stored."""
    stored = torch.load(path)
    model = timm.create_model(stored["timm"], num_classes=0)
    model.load_state_dict(stored["state"])
    return model.eval(), transform_of(stored["preprocessing"])


def main() -> None:
    """Run the benchmark."""
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
    seconds = time.perf_counter() - start
    if arguments.save:
        np.save(arguments.save, rows.numpy())
    print(json.dumps({"seconds": seconds, "pictures": len(rows)}))


if __name__ == "__main__":
    main()
