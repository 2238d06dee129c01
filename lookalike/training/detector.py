"""Train a grid detector on pictures with known boxes.

    network, measures = train_detector(pictures, canvases=2000, seed=0, cache=Path("cache"))

The backbone stays as ImageNet trained it, so that what it sees of each canvas is computed once and
kept; the head is trained on it in a few minutes. The loss is that of YOLO: squared errors of
centers, of the square roots of sizes, and of confidence, whose target is the overlap that the box
has. Redmon et al., You Only Look Once: Unified, Real-Time Object Detection (2016).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torchvision.ops import box_iou
from tqdm import tqdm

from lookalike.core.errors import UserError
from lookalike.core.numeric import seeded
from lookalike.core.settings import EmbedSettings
from lookalike.core.weights import load_into
from lookalike.data.images import map_images
from lookalike.evaluation.average_precision import Found, Measures, matches, measure
from lookalike.faces.boxes import Boxed
from lookalike.faces.detection import CONFIDENT, MIN_CONFIDENCE
from lookalike.faces.grid import BOXES, CELL, SIDE, GridNetwork, boxes_of, pick_boxes
from lookalike.models.embedder import embedder_of
from lookalike.training.pasting import paste
from lookalike.training.schedules import warmup_cosine
from lookalike.training.trainer import best_device

EPOCHS = 12  # over the canvases
BATCH = 16
COORDINATES, EMPTY = 25.0, 0.5  # weights of a box's errors, and of confidence where nothing is
LR = 1e-3
WARMUP = 0.05  # share of the steps
HELD_OUT = 0.1  # share of the pictures that the detector is judged by
LEAST = 2  # pictures on either side
LOW = 0.01  # confidence from which on boxes count for the calibration


class Canvases(NamedTuple):
    """Pictures that were pasted together.

    Attributes:
        features: (N, C, rows, columns) of half precision: what the head sees.
        boxes: For each, (n, 4) left, top, width and height in pixels.
    """

    features: Tensor
    boxes: list[np.ndarray]


def train_detector(
    pictures: Sequence[Boxed], canvases: int, seed: int, cache: Path
) -> tuple[GridNetwork, Measures]:
    """Train a detector.

    Args:
        pictures: A tenth of them is held out, to calibrate its confidence and to judge it.
        canvases: How many pictures are pasted together to train on.
        seed: Of all that is random.
        cache: Folder for the backbone's weights, where their package is not installed.

    Returns:
        The network, and how well it finds boxes of the pictures held out, pasted together too.

    Raises:
        UserError: Too few pictures have boxes, one is gone, or there are no weights.
    """
    rng = np.random.default_rng(seed)
    trained, held_out = _divided(pictures, rng)
    with seeded(seed):
        network = GridNetwork()
        backbone = embedder_of(EmbedSettings(), cache).backbone
        load_into(network.backbone, backbone.state_dict(), "efficientnet_lite0")
        network.eval().to(best_device())
        training = make_canvases(network, trained, canvases, (seed, 0))
        _train_head(network, training, rng)
        judged = make_canvases(network, held_out, max(1, canvases // 10), (seed, 1))
        _calibrate(network, judged)
    return network, measure(find_all(network, judged, MIN_CONFIDENCE), CONFIDENT)


def _divided(
    pictures: Sequence[Boxed], rng: np.random.Generator
) -> tuple[list[Boxed], list[Boxed]]:
    """Return the pictures to train on and those to judge by; both hold some with boxes."""
    order = rng.permutation(len(pictures))
    full = [i for i in order if len(pictures[i].boxes)]
    if len(full) < 2 * LEAST:
        raise UserError(f"{len(full)} pictures with boxes: at least {2 * LEAST} are needed")
    held_out = set(full[: max(LEAST, round(HELD_OUT * len(full)))])
    empty = [i for i in order if not len(pictures[i].boxes)]
    held_out |= set(empty[: round(HELD_OUT * len(empty))])
    sides = [i for i in order if i not in held_out], [i for i in order if i in held_out]
    first, second = ([pictures[i] for i in side] for side in sides)
    return first, second


def make_canvases(
    network: GridNetwork, pictures: Sequence[Boxed], count: int, seed: tuple[int, ...]
) -> Canvases:
    """Paste pictures together, and compute what the head of a network sees of them.

    Args:
        network: Its backbone is used.
        pictures: Those to draw from.
        count: Number of canvases.
        seed: The same seed gives the same canvases.
    """
    seeds = [(*seed, i) for i in range(count)]
    pasted = map_images(
        lambda one: paste(pictures, np.random.default_rng(one)), seeds, "embedding canvases"
    )
    features, boxes = [], []
    device = next(network.parameters()).device
    for pixels, its_boxes in pasted:
        picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device)
        with torch.inference_mode():
            features.append(network.features(picture)[0].half().cpu())
        boxes.append(its_boxes)
    return Canvases(torch.stack(features), boxes)


def _train_head(network: GridNetwork, canvases: Canvases, rng: np.random.Generator) -> None:
    """Train the head of a network on what it sees of canvases."""
    device = next(network.parameters()).device
    count = len(canvases.boxes)
    batches = max(1, count // BATCH)
    head = [*network.head.parameters(), *network.boxes.parameters()]
    optimizer = torch.optim.AdamW(head, LR, weight_decay=0.05)
    schedule = warmup_cosine(optimizer, EPOCHS * batches, WARMUP)
    network.head.train()
    with tqdm(total=EPOCHS * batches, desc="training the detector", unit=" steps") as bar:
        for _ in range(EPOCHS):
            for chosen in np.array_split(rng.permutation(count), batches):
                predicted = network.predict(canvases.features[chosen].float().to(device))
                objects = _objects([canvases.boxes[i] for i in chosen]).to(device)
                loss = grid_loss(predicted, objects)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
                bar.update()
    network.head.eval()


def _objects(boxes: Sequence[np.ndarray]) -> Tensor:
    """Return the boxes of pictures as `grid_loss` takes them."""
    numbers = np.repeat(np.arange(len(boxes)), [len(of_one) for of_one in boxes])
    rows = np.concatenate(boxes).reshape(-1, 4)
    corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)
    return torch.from_numpy(np.column_stack([numbers, corners]).astype(np.float32))


def grid_loss(predicted: Tensor, objects: Tensor) -> Tensor:
    """Return the loss of predicted boxes, a mean over the pictures.

    Of the boxes of a cell, the one that overlaps an object most is responsible for it.

    Args:
        predicted: (N, rows, columns, BOXES, 5), see `GridNetwork.predict`.
        objects: (M, 5) number of the picture, left, top, right and bottom in pixels.
    """
    confidence = predicted[..., 4]
    if not len(objects):
        return EMPTY * confidence.square().sum() / len(predicted)
    rows, columns = predicted.shape[1:3]
    truth = objects[:, 1:]
    center, size = (truth[:, :2] + truth[:, 2:]) / 2 / CELL, (truth[:, 2:] - truth[:, :2]) / SIDE
    at = center.long().clamp_min(0)
    cell = objects[:, 0].long(), at[:, 1].clamp_max(rows - 1), at[:, 0].clamp_max(columns - 1)
    guesses = boxes_of(predicted.detach())[cell]
    overlaps = torch.cat(
        [box_iou(true[None], boxes) for true, boxes in zip(truth, guesses, strict=True)]
    )
    overlap, best = overlaps.max(1)
    box = predicted[(*cell, best)]
    target = torch.cat([center - at, size.clamp(0, 1).sqrt()], 1)
    filled = torch.zeros_like(confidence, dtype=torch.bool)
    filled[(*cell, best)] = True
    return (
        COORDINATES * (box[:, :4] - target).square().sum()
        + (box[:, 4] - overlap).square().sum()
        + EMPTY * confidence[~filled].square().sum()
    ) / len(predicted)


def find_all(network: GridNetwork, canvases: Canvases, confidence: float) -> list[Found]:
    """Return what a network finds in canvases with a confidence, and what there is."""
    device = next(network.parameters()).device
    found = []
    for features, truth in zip(canvases.features, canvases.boxes, strict=True):
        with torch.inference_mode():
            predicted = network.predict(features[None].float().to(device))[0].cpu()
        boxes, scores = pick_boxes(predicted, confidence)
        found.append(Found(boxes, scores, truth))
    return found


def _calibrate(network: GridNetwork, canvases: Canvases) -> None:
    """Let a network's confidence be the probability that its box is right.

    What it learns is the overlap, which orders boxes best, but is below 1 for the best of them.
    Platt, Probabilistic Outputs for Support Vector Machines (1999).
    """
    found = find_all(network, canvases, LOW)
    right = np.concatenate([matches(one) for one in found])
    if right.all() or not right.any():
        return
    scores = np.concatenate([one.scores for one in found]).astype(np.float64)
    logits = np.log(scores / (1 - scores))[:, None]
    fitted = LogisticRegression(C=1e6).fit(logits, right)
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope <= 0:
        return
    weight, bias = network.boxes.weight, network.boxes.bias
    assert bias is not None
    with torch.no_grad():
        for i in range(4, 5 * BOXES, 5):  # the confidence of each box
            weight[i] *= slope
            bias[i] = bias[i] * slope + offset
