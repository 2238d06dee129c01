"""How well a detector of one's own finds faces of people that it was not trained on.

python -m benchmarks.detector --lfw62 $DATA/lfw62

YuNet's boxes of two thirds of LFW62's identities train it; the pictures of the others, pasted at
random places, one to six a picture, and as they are, judge it.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate

from lookalike.core.log import log_to
from lookalike.data.images import map_images
from lookalike.evaluation.average_precision import Found, measure
from lookalike.faces.boxes import Boxed, boxes_by, find_boxes
from lookalike.faces.detection import CONFIDENT, Detector, find_faces, load_detector
from lookalike.faces.geometry import stack_boxes
from lookalike.faces.grid import SIDE, GridDetector, save_detector
from lookalike.training.detector import train_detector
from lookalike.training.pasting import paste

EVERY = 3  # identities: one of so many is held out


def pasted(detector: Detector, pictures: list[Boxed], count: int) -> list[Found]:
    """Return what a detector finds in pasted pictures, in shares of their size."""

    def find(seed: list[int]) -> Found:
        pixels, truth = paste(pictures, np.random.default_rng(seed), whole=0.0)
        faces = find_faces(Image.fromarray(pixels), detector)
        scores = np.array([face.score for face in faces])
        return Found(stack_boxes(faces), scores, truth / SIDE)

    return list(map_images(find, [[99, i] for i in range(count)], "pasted pictures"))


def row(name: str, found: list[Found]) -> list[str]:
    """Return a row of the table."""
    measures = measure(found, CONFIDENT)
    shares = (measures.recall, measures.right)
    return [name, f"{measures.precision:.4f}", *(f"{s:.1%}" for s in shares), str(measures.boxes)]


def main() -> None:
    """Train a detector, judge it and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lfw62", type=Path, required=True, help="class folders")
    parser.add_argument("--canvases", type=int, default=2000)
    parser.add_argument("--judged", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("runs/detector.safetensors"))
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    arguments = parser.parse_args()
    log_to(None)
    yunet = load_detector("yunet", arguments.cache)
    pictures = boxes_by(yunet, arguments.lfw62)
    identities = sorted({picture.path.parent for picture in pictures})
    held_out = set(identities[::EVERY])
    trained = [picture for picture in pictures if picture.path.parent not in held_out]
    others = [picture for picture in pictures if picture.path.parent in held_out]
    begun = time.perf_counter()
    network, _ = train_detector(trained, arguments.canvases, 0, arguments.cache)
    minutes = (time.perf_counter() - begun) / 60
    save_detector(arguments.out, network)
    detector = GridDetector(arguments.out)
    table = [
        row("other identities, pasted", pasted(detector, others, arguments.judged)),
        row("the same, by YuNet", pasted(yunet, others, arguments.judged)),
        row("other identities, as they are", find_boxes(detector, others)),
    ]
    heads = ["", "average precision", f"found at {CONFIDENT}", "of these, right", "faces"]
    print(tabulate(table, heads, tablefmt="github", disable_numparse=True))
    print(f"{len(trained)} pictures of {len(identities) - len(held_out)} people, {minutes:.1f} min")


if __name__ == "__main__":
    main()
