"""The baseline report's recipe written plainly, to be timed beside `main.py --stage all`.

    python -m benchmarks.plain_recipe --data data/lfw62 --out plain

A DataLoader with Pillow and torchvision's transforms, EfficientNet-Lite0 frozen and eager, a linear
head trained by Adam (learning rate 1e-3) and cross-entropy on batches of 32. The backbone runs over
training and validation in every epoch; at the end FAISS ranks the test's gallery. The result is
`submission.json`.
"""

import argparse
import json
from pathlib import Path

import faiss
import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lookalike.core.carriers import CARRIERS, carried_file
from lookalike.core.weights import load_into, load_state

TRANSFORM = transforms.Compose(
    [
        transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Picture files with the number of the identity that each shows."""

    def __init__(self, paths: list[Path], identities: list[str]) -> None:
        self.paths = paths
        self.numbers = {name: i for i, name in enumerate(identities)}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        path = self.paths[i]
        return TRANSFORM(Image.open(path).convert("RGB")), self.numbers.get(path.parent.name, -1)


def load_backbone(cache: Path) -> nn.Module:
    """Load ImageNet's EfficientNet-Lite0, without its classifier."""
    backbone = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    state = load_state(carried_file(CARRIERS["efficientnet_lite0"], cache))
    # The package's tensors have other names but timm's order; its classifier comes last.
    load_into(backbone, dict(zip(backbone.state_dict(), state.values(), strict=False)), "lite0")
    return backbone.eval().requires_grad_(False)


def train(backbone: nn.Module, head: nn.Module, loader: DataLoader[tuple[Tensor, int]]) -> None:
    """Train the head for an epoch."""
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    for pictures, identities in loader:
        with torch.no_grad():
            features = backbone(pictures)
        loss = nn.functional.cross_entropy(head(features), identities)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy(backbone: nn.Module, head: nn.Module, loader: DataLoader[tuple[Tensor, int]]) -> float:
    """Return the share of the pictures whose identity the head predicts."""
    right = [(head(backbone(x)).argmax(1) == y).float() for x, y in loader]
    return float(torch.cat(right).mean())


@torch.no_grad()
def embed(backbone: nn.Module, loader: DataLoader[tuple[Tensor, int]]) -> np.ndarray:
    """Return (N, 1280) embeddings of length 1."""
    rows = torch.cat([backbone(pictures) for pictures, _ in loader])
    return nn.functional.normalize(rows).numpy()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="The baseline report's recipe, plainly.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, help="only embed so many pictures, to compare workers")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    folders = {part: arguments.data / part for part in ("training", "validation")}
    folders |= {part: arguments.data / "test" / part for part in ("query", "gallery")}
    paths = {part: sorted(p for p in f.rglob("*") if p.is_file()) for part, f in folders.items()}
    identities = sorted({path.parent.name for path in paths["training"]})
    loaders = {
        part: DataLoader(
            Pictures(found[: arguments.limit], identities),
            batch_size=32,
            shuffle=part == "training",
            num_workers=arguments.workers,
        )
        for part, found in paths.items()
    }
    backbone = load_backbone(arguments.out)
    if arguments.limit:
        embed(backbone, loaders["training"])
        return
    head = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, len(identities)))
    for epoch in range(arguments.epochs):
        train(backbone, head, loaders["training"])
        head.eval()
        print(f"epoch {epoch + 1}: {accuracy(backbone, head, loaders['validation']):.3f}")
        head.train()
    index = faiss.IndexFlatIP(1280)
    index.add(embed(backbone, loaders["gallery"]))
    _, near = index.search(embed(backbone, loaders["query"]), 10)
    names = [path.name for path in paths["gallery"]]
    ranked = {
        path.name: [names[i] for i in row] for path, row in zip(paths["query"], near, strict=True)
    }
    (arguments.out / "submission.json").write_text(json.dumps(ranked))


if __name__ == "__main__":
    main()
