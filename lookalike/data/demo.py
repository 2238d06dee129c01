"""Draw a small photo-to-art retrieval competition from a seed, by code alone.

A person is a set of traits. One set of functions turns traits and a pose into shapes, back to
front; one renderer per domain paints these shapes as a photograph, a line drawing, a flat
caricature, a poster or a painting. `python -m lookalike demo SHEET.jpg [SEED]` draws an overview.
"""

import colorsys
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

Colour = tuple[int, ...]
Palette = Mapping[str, Colour]
Face = dict[str, float]  # the values of all TRAITS and all of POSE
SIZE = 192
CANVAS = (2 * SIZE, 2 * SIZE)  # reduced to SIZE when painted, which smooths the edges
TRAINING = 4 * ["photo"] + 2 * ["line"] + ["flat", "poster"] + 2 * ["texture"]
TEST = 3 * ["photo"] + 3 * ["line"] + 2 * ["flat", "poster"] + 3 * ["texture"]
FIRST_TEST_INDEX = 10_000  # so that the test has the same people for any number in training
# fmt: off
# What differs between people: (mean, spread), in half face heights. The top of the skull is at
# y = -1, the eyes are near y = 0 and the chin is near y = 1; x = 0 is the middle of the face.
TRAITS = {
    "width": (0.74, 0.10), "temple": (0.90, 0.08), "jaw": (0.80, 0.14), "chin": (0.38, 0.14),
    "length": (1.00, 0.11), "neck": (0.42, 0.09), "ear": (0.19, 0.06), "eye_x": (0.33, 0.05),
    "eye_y": (0.02, 0.05), "eye_width": (0.175, 0.03), "eye_height": (0.12, 0.035),
    "eye_tilt": (0.01, 0.04), "brow_y": (0.24, 0.05), "brow_thickness": (0.045, 0.03),
    "brow_tilt": (0.00, 0.06), "brow_arch": (0.05, 0.045), "nose_y": (0.36, 0.08),
    "nose_width": (0.13, 0.05), "mouth_y": (0.64, 0.04), "mouth_width": (0.25, 0.07),
    "upper_lip": (0.05, 0.03), "lower_lip": (0.07, 0.035), "hairline": (-0.48, 0.20),
    "parting": (0.00, 0.25), "temples": (0.22, 0.22), "hair_top": (0.24, 0.15),
    "hair_side": (0.16, 0.10), "hair_length": (0.40, 1.00), "curl": (0.14, 0.03),
    "bun": (0.24, 0.06),
}
# What differs between pictures: angles in radians, place and scale in picture sizes, expression.
POSE = {
    "yaw": (0.0, 0.65), "pitch": (0.0, 0.25), "roll": (0.0, 0.22), "scale": (0.3, 0.05),
    "x": (0.5, 0.07), "y": (0.5, 0.05), "smile": (0.3, 0.7), "gape": (0.0, 1.0),
    "squint": (0.3, 0.4),
}

SKINS = ((255, 224, 200), (240, 194, 158), (216, 162, 118), (176, 118, 80), (112, 72, 50))
HAIRS = ((34, 28, 30), (66, 42, 30), (116, 72, 40), (168, 76, 34), (220, 178, 104), (176, 174, 176))
IRISES = ((70, 42, 24), (110, 78, 36), (76, 114, 62), (72, 116, 170), (100, 108, 116))
BEARDS = ("none", "none", "none", "none", "stubble", "moustache", "full")
GLASSES = ("none", "none", "none", "round", "square")
# Colours between two others: from one, a share of the way to the other.
MIXES = {
    "neck": ("skin", "black", 0.08), "shade": ("skin", "brown", 0.3), "lip": ("skin", "red", 0.5),
    "mark": ("skin", "brown", 0.6), "crease": ("skin", "brown", 0.5), "nose": ("skin", "red", 0.08),
    "blush": ("skin", "red", 0.16), "stubble": ("skin", "hair", 0.35),
    "brow": ("hair", "black", 0.3),
}
# What the light needs to know of the parts: height, hair and gloss, from 0 to 255.
MATERIALS = {
    "cloth": (70, 0, 0), "neck": (70, 0, 20), "skin": (140, 0, 60), "nose": (200, 0, 90),
    "lip": (165, 0, 120), "mouth": (110, 0, 0), "white": (130, 0, 140), "brow": (170, 120, 0),
    "hair": (175, 255, 50), "frame": (190, 0, 200),
}
# fmt: on
SYLLABLES = [consonant + vowel for consonant in "bdhjklmnrstv" for vowel in "aeiou"]


@dataclass(frozen=True)
class Person:
    """What all pictures of someone share; traits are in [-1, 1] around the mean face."""

    traits: Mapping[str, float]
    colors: Mapping[str, Colour]
    bald: bool
    beard: str
    glasses: str
    marks: tuple[tuple[float, float], ...]


class Shape(NamedTuple):
    """A filled area, or a stroke if it has a width. depth: 0 on the silhouette, 1 on the face."""

    role: str
    points: np.ndarray
    depth: float | np.ndarray = 1.0
    width: float = 0.0


def make_person(seed: int, index: int) -> Person:
    """The person with this index in the world of this seed (both 0 or more)."""
    rng = default_rng((seed, index))
    spots = rng.uniform((-0.5, 0.1), (0.5, 0.45), (rng.choice((0, 0, 0, 1, 20)), 2))
    return Person(
        traits={trait: rng.uniform(-1, 1) for trait in TRAITS},
        colors={
            "skin": blend(SKINS, rng.uniform(0, len(SKINS) - 1)),
            "hair": HAIRS[rng.integers(len(HAIRS))],
            "iris": IRISES[rng.integers(len(IRISES))],
        },
        bald=rng.random() < 0.1,
        beard=BEARDS[rng.integers(len(BEARDS))],
        glasses=GLASSES[rng.integers(len(GLASSES))],
        marks=tuple((x, y) for x, y in spots.tolist()),
    )


def make_name(seed: int, index: int) -> str:
    """A name such as mira_kolu; no two of the first ten million people of a world share one."""
    base = len(SYLLABLES)
    # A step prime to the base meets every name before it repeats one.
    number = 8_009_717 * index + 1_234_577 * seed + 3_141_593
    return "{}{}_{}{}".format(*(SYLLABLES[number // base**i % base] for i in range(4)))


def mirror(right: list[tuple[float, float]], closed: bool = True) -> np.ndarray:
    """A symmetric outline from its right half; an open line has its first point on the axis."""
    left = np.multiply(right, (-1, 1))[::-1]
    return np.vstack([right, left[1:-1]] if closed else [left[:-1], right])


def between(x: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """The outline of the area between two curves over the same x."""
    return np.vstack([np.stack([x, upper], 1), np.stack([x, lower], 1)[::-1]])


def circle(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """The outline of an ellipse."""
    angle = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def back_hair(face: Face, person: Person) -> Iterator[Shape]:
    top, side, low = 1 + face["hair_top"], face["width"] + face["hair_side"], face["hair_length"]
    low, curl, bun = max(0.1, low), face["curl"], face["bun"]  # no gap behind the ears
    half = [(0, -top), (0.7 * side, -0.85 * top), (side, -0.3), (1.05 * side, low / 2)]
    yield Shape("hair", mirror([*half, (side, low), (0.5 * side, low + 0.05), (0, low)]), 0)
    if person.traits["bun"] > 0.75:
        yield Shape("hair", circle(0, -top - 0.5 * bun, 1.2 * bun, bun), 0)
    if person.traits["curl"] > 0.4:
        for angle in np.linspace(-0.1, 1.1, 15) * np.pi:
            x, y = side * np.cos(angle), -0.2 - (top - 0.2) * np.sin(angle)
            yield Shape("hair", circle(x, y, curl, curl), 0)


def body(face: Face, person: Person) -> Iterator[Shape]:
    wide, chin = face["neck"], face["length"]
    yield Shape("cloth", mirror([(0, 1.35), (0.6, 1.42), (1.15, 1.62), (1.5, 2.6), (0, 4)]), 0)
    half = [(0, 0), (wide, 0.4), (wide, 1.2), (1.25 * wide, 1.45), (0, 1.75)]
    yield Shape("neck", mirror(half), 0)
    yield Shape("shade", mirror([(0, 0), (wide, 0.6), (wide, chin + 0.1), (0, chin + 0.28)]), 0)


def head(face: Face, person: Person) -> Iterator[Shape]:
    width, low, ear = face["width"], face["length"], face["ear"]
    for side in (-1, 1):
        yield Shape("skin", circle(side * (width + 0.03), 0.1, 0.6 * ear, ear), -0.3)
        yield Shape("shade", circle(side * (width + 0.05), 0.1, 0.3 * ear, 0.6 * ear), -0.3)
    half = [(0, -1), (0.55 * width, -0.88), (face["temple"] * width, -0.5), (width, 0)]
    half += [(face["jaw"] * width, 0.55 * low), (face["chin"] * width, 0.93 * low), (0, low)]
    yield Shape("skin", mirror(half), 0)
    for side in (-1, 1):
        yield Shape("blush", circle(side * 0.53 * width, 0.38, 0.12, 0.09))
    for x, y in person.marks:
        yield Shape("mark", np.array([(x, y), (x, y + 0.03)]), width=0.035)


def beard(face: Face, person: Person) -> Iterator[Shape]:
    if person.beard not in ("stubble", "full"):
        return
    role, grow = ("hair", 1.12) if person.beard == "full" else ("stubble", 1.0)
    width, lips, low = face["width"], face["mouth_y"], face["length"]
    half = [(0, lips - 0.12), (0.3, lips - 0.13), (0.62 * width, 0.42), (width, 0.05)]
    half += [(face["jaw"] * width, 0.55 * low), (face["chin"] * width * grow, 0.93 * low * grow)]
    yield Shape(role, mirror([*half, (0, low * grow)]), np.repeat([1, 0, 1], [3, 7, 2]))


def nose(face: Face, person: Person) -> Iterator[Shape]:
    wing, tip = face["nose_width"], face["nose_y"]
    half = [(0, 0), (0.05, 0.02), (0.3 * wing + 0.03, 0.6 * tip), (wing, tip), (0, tip + 0.05)]
    yield Shape("nose", mirror(half), 1.1)
    low = tip + 0.02
    half = [(0, low + 0.04), (0.35 * wing, low), (0.9 * wing, low + 0.01), (wing, tip - 0.06)]
    yield Shape("crease", mirror(half, closed=False), 1.1, 0.03)


def mouth(face: Face, person: Person) -> Iterator[Shape]:
    u = np.linspace(-1, 1, 9)
    arc, gape = 1 - u**2, max(0, face["gape"])
    x = u * face["mouth_width"] * (1 + 0.2 * face["smile"] - 0.15 * gape)
    line = face["mouth_y"] + 0.09 * face["smile"] * (arc - 0.6)
    above, below = line - 0.03 * gape * arc, line + 0.2 * gape * arc
    bow = face["upper_lip"] * (arc - 0.35 * np.exp(-((5 * u) ** 2)))
    yield Shape("lip", between(x, above - bow, below + face["lower_lip"] * arc))
    yield Shape("crease", np.stack([x, line], 1), width=0.025)
    if gape > 0.1:
        yield Shape("mouth", between(x, above, below))
        yield Shape("teeth", between(0.85 * x, above, np.minimum(above + 0.07 * arc, below)))
    if person.beard in ("moustache", "full"):
        line = line - 0.5 * face["upper_lip"]
        yield Shape("hair", between(1.15 * x, line - 0.12 * arc**0.5, line + 0.04 * u**2))


def eyes(face: Face, person: Person) -> Iterator[Shape]:
    u, level = np.linspace(-1, 1, 9), face["eye_y"]
    arc = 1 - u**2
    height = face["eye_height"] * (1 - face["squint"]) * arc
    for side in (-1, 1):
        center, tilted = side * face["eye_x"], level - side * u * face["eye_tilt"]
        x, upper, lower = center + u * face["eye_width"], tilted - height, tilted + 0.6 * height
        yield Shape("white", between(x, upper, lower))
        for role, radius in (("iris", 0.1), ("pupil", 0.05)):
            disc = circle(center, level - 0.01, radius, radius)
            lids = np.interp(disc[:, 0], x, upper), np.interp(disc[:, 0], x, lower)
            yield Shape(role, np.stack([disc[:, 0], disc[:, 1].clip(*lids)], 1))
        yield Shape("glint", circle(center + 0.03, level - 0.03, 0.02, 0.02))
        yield Shape("lash", np.stack([x, upper], 1), width=0.035)
        thick = face["brow_thickness"] * (1 - 0.5 * side * u)
        brow = level - face["brow_y"] - side * u * face["brow_tilt"] - face["brow_arch"] * arc
        x = center + 1.25 * u * face["eye_width"]
        yield Shape("brow", between(x, brow - thick, brow + 0.5 * thick))


def front_hair(face: Face, person: Person) -> Iterator[Shape]:
    top, side = 1 + face["hair_top"], face["width"] + face["hair_side"]
    half = [(0, -top), (0.55 * side, -0.9 * top), (0.9 * side, -0.6 * top)]
    over = mirror([*half, (side, -0.3), (side, 0.05)], closed=False)
    u = np.linspace(1, -1, 7)
    line = face["hairline"] + face["temples"] * u**2 + face["parting"] * u
    under = np.stack([0.93 * face["temple"] * face["width"] * u, line.clip(-0.85, -0.15)], 1)
    yield Shape("hair", np.vstack([over, under]), np.repeat([0, 0.8], [9, 7]))
    for root, end in zip(under[5:0:-1], 0.97 * over[2:7], strict=True):
        bend = (root + end) / 2 + (0.06 * np.sign(end[0] - 0.01), 0)
        yield Shape("strand", np.stack([root, bend, end]), np.array([0.8, 0.4, 0]), 0.02)


def glasses(face: Face, person: Person) -> Iterator[Shape]:
    if person.glasses == "none":
        return
    x, y, rim = face["eye_x"], face["eye_y"] + 0.02, circle(0, 0, 0.24, 0.22)
    if person.glasses == "square":
        rim = 0.21 * np.sign(rim) * np.abs(rim / 0.24) ** 0.3
    for side in (-1, 1):
        lens = np.add(rim, (side * x, y))
        yield Shape("frame", np.vstack([lens, lens[:2]]), 1.1, 0.045)
        arm = np.array([(side * (x + 0.22), y - 0.03), (side * face["width"], y)])
        yield Shape("frame", arm, np.array([1.1, 0]), 0.04)
    yield Shape("frame", mirror([(0, y - 0.04), (x - 0.22, y)], closed=False), 1.15, 0.045)


PARTS = (back_hair, body, head, beard, nose, mouth, eyes, front_hair, glasses)


def figure(person: Person, rng: Generator, drama: float, caricature: float) -> list[Shape]:
    """The shapes of a person in a random pose, in pixels, back to front.

    drama scales the spread of the pose, caricature the person's distance from the mean face.
    """
    face = {key: mean + drama * spread * rng.uniform(-1, 1) for key, (mean, spread) in POSE.items()}
    for key, (mean, spread) in TRAITS.items():
        face[key] = mean + caricature * spread * person.traits[key]
    parts = [part for part in PARTS if not (person.bald and part in (back_hair, front_hair))]
    return [project(shape, face) for part in parts for shape in part(face, person)]


def project(shape: Shape, face: Face) -> Shape:
    """Turn a shape from face coordinates to smooth pixel coordinates, seen in the pose."""
    x, y = shape.points.T
    bulge = np.sqrt((1 - (x / face["width"]) ** 2 - 0.4 * y**2).clip(0.05))
    z = face["width"] * bulge * shape.depth
    x = x - shape.depth * (1 - np.cos(face["yaw"])) * x + z * np.sin(face["yaw"])
    y = y + z * np.sin(face["pitch"])
    cos, sin, scale = np.cos(face["roll"]), np.sin(face["roll"]), face["scale"]
    turned = np.stack([cos * x - sin * y, sin * x + cos * y], 1)
    points = SIZE * (scale * turned + (face["x"], face["y"]))
    return Shape(shape.role, smooth(points, not shape.width), 0, shape.width * scale * SIZE)


def smooth(points: np.ndarray, closed: bool) -> np.ndarray:
    """A Catmull-Rom curve through the points (n, 2), four times as many."""
    before, after = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
    padded = np.vstack([before, points, after])
    a, b, c, d = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    u = np.arange(4)[:, None, None] / 4
    curve = b + u / 2 * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * b - 3 * c + d - a)))
    curve = curve.transpose(1, 0, 2).reshape(-1, 2)
    return curve if closed else np.vstack([curve, points[-1:]])


def blend(colors: tuple[Colour, ...], position: float) -> Colour:
    """The colour at a position in [0, len(colours) - 1] along a row of colours."""
    stops = range(len(colors))
    return tuple(round(float(np.interp(position, stops, c))) for c in zip(*colors, strict=True))


def vivid(hue: float, saturation: float, value: float) -> Colour:
    """The colour of a hue (whole turns), saturation and value (in [0, 1])."""
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def natural(person: Person, rng: Generator) -> dict[str, Colour]:
    """A colour for every role; the clothes change from picture to picture."""
    colors: dict[str, Colour] = dict.fromkeys(("black", "pupil", "lash", "frame"), (20, 14, 14))
    colors |= dict.fromkeys(("white", "teeth", "glint"), (246, 243, 236))
    colors |= {"red": (190, 50, 60), "brown": (80, 30, 20), "mouth": (80, 30, 20)}
    colors |= person.colors
    colors |= {role: blend((colors[a], colors[b]), p) for role, (a, b, p) in MIXES.items()}
    contrast = colors["black" if sum(colors["hair"]) > 200 else "white"]
    colors["strand"] = blend((colors["hair"], contrast), 0.2)
    colors["cloth"] = vivid(rng.random(), rng.uniform(0.1, 0.7), rng.uniform(0.25, 0.9))
    return colors


def paint(
    shapes: list[Shape], palette: Palette, canvas: Image.Image, edge: Colour | None = None
) -> Image.Image:
    """Paint the shapes whose role has a colour onto the canvas; edge also outlines the areas."""
    draw, scale = ImageDraw.Draw(canvas), canvas.width / SIZE
    for role, points, _, width in shapes:
        if role not in palette:
            continue
        xy = (points * scale).ravel().tolist()
        if width:
            draw.line(xy, palette[role], max(1, round(width * scale)), "curve")
            continue
        draw.polygon(xy, palette[role])
        if edge:
            draw.line(xy + xy[:4], edge, round(1.3 * scale), "curve")
    return canvas


def blur(field: np.ndarray, sigma: float) -> np.ndarray:
    """A field (SIZE, SIZE) blurred, borders wrapped. Pillow's 8 bits would show once it is lit."""
    square = np.fft.fftfreq(SIZE)[:, None] ** 2 + np.fft.rfftfreq(SIZE) ** 2
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * square)
    return np.fft.irfft2(np.fft.rfft2(field) * gain, s=field.shape)


def lit_figure(
    person: Person, rng: Generator, canvas: Image.Image, drama: float, caricature: float
) -> np.ndarray:
    """Paint a person on the canvas, lit from a random side: values (SIZE, SIZE, 3) in [0, 1].

    The form comes from the heights of the parts, blurred: widely for the head, a little for
    nose, lips and brows.
    """
    shapes = figure(person, rng, drama, caricature)
    base = np.asarray(paint(shapes, natural(person, rng), canvas).reduce(2)) / 255
    relief = np.asarray(paint(shapes, MATERIALS, Image.new("RGB", (SIZE, SIZE)))) / 255
    height, hairy, gloss = relief.transpose(2, 0, 1)
    strands = Image.fromarray(rng.standard_normal((SIZE // 16, SIZE), np.float32))
    grain = np.asarray(strands.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    surface = 110 * blur(height, 16) + 7 * blur(height, 2.2) + 0.5 * hairy * grain
    slope_y, slope_x = np.gradient(surface)
    angle, tilt = rng.uniform(-np.pi, 0), rng.uniform(0.3, 1.0) * drama
    x, y, z = np.cos(angle) * np.sin(tilt), np.sin(angle) * np.sin(tilt), np.cos(tilt)
    facing = (z - slope_x * x - slope_y * y) / np.sqrt(1 + slope_x**2 + slope_y**2)
    facing = facing.clip(0)[..., None]
    lit = base * (1 + drama * (0.9 * facing - 0.7)) + 0.4 * drama * gloss[..., None] * facing**24
    return np.where(height[..., None] > 0, lit, base).clip(0, 1)


def to_image(values: np.ndarray) -> Image.Image:
    """A picture from values (height, width, 3) around [0, 1]."""
    return Image.fromarray((values.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def photo(person: Person, rng: Generator) -> Image.Image:
    """A snapshot: lively pose, hard light, clutter behind, blur, colour cast and noise."""
    lit = lit_figure(person, rng, clutter(rng), 1.0, 1.0)
    soft = to_image(lit).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    cast = rng.uniform(0.75, 1.15) * rng.uniform(0.85, 1.15, 3)
    return to_image(np.asarray(soft) / 255 * cast + rng.normal(0, 0.02, (SIZE, SIZE, 3)))


def clutter(rng: Generator) -> Image.Image:
    """A canvas with a room out of focus: large blurred blocks and discs."""
    canvas = Image.new("RGB", CANVAS, vivid(rng.random(), 0.2, rng.uniform(0.3, 0.9)))
    draw = ImageDraw.Draw(canvas)
    for _ in range(12):
        x, y, width, height = rng.uniform((-60, -60, 20, 20), (384, 384, 160, 240))
        place = draw.ellipse if rng.random() < 0.3 else draw.rectangle
        color = vivid(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.2, 1))
        place((x, y, x + width, y + height), color)
    return canvas.reduce(4).filter(ImageFilter.BoxBlur(rng.uniform(1, 4))).resize(canvas.size)


def line(person: Person, rng: Generator) -> Image.Image:
    """An ink drawing on paper by an unsteady hand; dark hair is filled in."""
    ink = vivid(rng.uniform(0.55, 1.1), 0.5, rng.uniform(0.1, 0.3))
    paper = vivid(rng.uniform(0.05, 0.2), rng.uniform(0.02, 0.15), rng.uniform(0.88, 1))
    hair, strand = (ink, paper) if sum(person.colors["hair"]) < 240 else (paper, ink)
    palette = dict.fromkeys(("cloth", "neck", "skin", "lip", "teeth", "white", "iris"), paper)
    palette |= dict.fromkeys(("mark", "crease", "pupil", "lash", "brow", "mouth", "frame"), ink)
    palette |= {"glint": paper, "hair": hair, "strand": strand}
    wave, phase = rng.uniform(0.03, 0.12, (2, 2)), rng.uniform(0, 6, 2)
    shapes = [
        shape._replace(points=shape.points + 0.9 * np.sin(shape.points @ wave + phase))
        for shape in figure(person, rng, 0.5, 1.2)
    ]
    return paint(shapes, palette, Image.new("RGB", CANVAS, paper), ink).reduce(2)


def flat(person: Person, rng: Generator) -> Image.Image:
    """A caricature in flat colours before a plain disc."""
    hue = rng.random()
    canvas = Image.new("RGB", CANVAS, vivid(hue, 0.3, 0.95))
    ImageDraw.Draw(canvas).ellipse((30, 30, 354, 354), vivid(hue + 0.1, 0.45, 0.85))
    return paint(figure(person, rng, 0.5, 1.5), natural(person, rng), canvas).reduce(2)


def poster(person: Person, rng: Generator) -> Image.Image:
    """A print in four unnatural inks; lightness and local contrast choose the ink."""
    gray = lit_figure(person, rng, Image.new("RGB", CANVAS, "white"), 0.6, 1.2).mean(2)
    detail = 2 * gray - blur(gray, 9)
    hue, step = rng.random(), rng.uniform(0.15, 0.4)
    tones = ((0.7, 0.25), (0.8, 0.6), (0.7, 0.9), (0.25, 1.0))
    inks = np.array([vivid(hue + i * step, *tone) for i, tone in enumerate(tones)]) / 255
    return to_image(inks[np.digitize(detail, np.quantile(detail[gray < 1], (0.25, 0.5, 0.75)))])


def texture(person: Person, rng: Generator) -> Image.Image:
    """A painting: brush strokes along the forms, in colours drawn towards a mood."""
    canvas = Image.new("RGB", CANVAS, vivid(rng.random(), 0.3, 0.7))
    lit = 255 * lit_figure(person, rng, canvas, 0.6, 1.2)
    gray = lit.mean(2)
    dark, bright = np.array((vivid(rng.random(), 0.8, 0.2), vivid(rng.random(), 0.4, 1.0)))
    mood = dark + np.interp(gray, (25, 205), (0, 1))[..., None] * (bright - dark)
    tinted = lit + rng.uniform(0.5, 0.9) * (mood - lit)
    slope_y, slope_x = np.gradient(blur(gray, 2).round(1))  # level ground: no tiny noise
    y, x = rng.integers(0, SIZE, (2, 1000))
    along = np.arctan2(slope_x[y, x], -slope_y[y, x])
    middle, reach = 2 * np.stack([x, y], 1), 8 * np.stack([np.cos(along), np.sin(along)], 1)
    strokes = np.hstack([middle - reach, middle + reach]).tolist()
    colors = (tinted[y, x] + rng.normal(0, 9, (len(x), 3))).clip(0, 255).astype(int).tolist()
    canvas = to_image(tinted / 255).resize(CANVAS)
    draw = ImageDraw.Draw(canvas)
    for stroke, color in zip(strokes, colors, strict=True):
        draw.line(stroke, tuple(color), 6)
    return canvas.reduce(2)


RENDERERS = {draw.__name__: draw for draw in (photo, line, flat, poster, texture)}


def draw_picture(person: Person, domain: str, rng: Generator) -> Image.Image:
    """One RGB picture (SIZE x SIZE) of the person; KeyError for an unknown domain."""
    return RENDERERS[domain](person, rng)


def draw_competition(
    root: Path, seed: int = 0, train_identities: int = 80, test_identities: int = 40
) -> None:
    """Draw a competition into the folder root; labels.json comes last, once all else is there.

    Writes training/<identity>/<domain>_<nn>.jpg, test/query/<hash>.jpg, test/gallery/<hash>.jpg
    and labels.json, {"query" | "gallery": {file name: identity}}. A seed always gives the same
    bytes; fewer identities give a part of the same files. Old files in root stay.
    Raises ValueError for more than 10 000 identities.
    """
    if max(train_identities, test_identities) > FIRST_TEST_INDEX:
        raise ValueError(f"a demo has at most {FIRST_TEST_INDEX} identities in each part")
    labels: dict[str, dict[str, str]] = {"query": {}, "gallery": {}}
    test = range(FIRST_TEST_INDEX, FIRST_TEST_INDEX + test_identities)
    jobs = [(i, *shot) for i in range(train_identities) for shot in enumerate(TRAINING, 1)]
    jobs += [(i, *shot) for i in test for shot in enumerate(TEST, 1)]
    for index, number, domain in tqdm(jobs, "drawing", unit=" pictures"):
        name = make_name(seed, index)
        if index in test:
            part = "query" if domain == "photo" else "gallery"
            secret = blake2b(f"{seed}/{name}/{number}".encode(), digest_size=8).hexdigest()
            path = root / "test" / part / f"{secret}.jpg"
            labels[part][path.name] = name
        else:
            nn = TRAINING[:number].count(domain)
            path = root / "training" / name / f"{domain}_{nn:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Numbers start at 1, since numpy takes (seed, index, 0) for the person's (seed, index).
        rng = default_rng((seed, index, number))
        draw_picture(make_person(seed, index), domain, rng).save(path, quality=90)
    (root / "labels.json").write_text(json.dumps(labels, indent=1, sort_keys=True))


def contact_sheet(path: Path, seed: int = 8, rows: int = 6) -> None:
    """Write an overview: one person a row, two photographs and one picture of each art domain."""
    columns, step = ("photo", *RENDERERS), SIZE + 6
    sheet = Image.new("RGB", (len(columns) * step - 6, rows * step - 6), "white")
    for row in range(rows):
        for column, domain in enumerate(columns):
            rng = default_rng((seed, row, column + 1))
            picture = draw_picture(make_person(seed, row), domain, rng)
            sheet.paste(picture, (column * step, row * step))
    sheet.save(path, quality=90)


def main(arguments: Sequence[str]) -> int:
    """Draw the overview: `lookalike demo FILE [SEED] [ROWS]`; returns the exit code."""
    path, *numbers = arguments
    contact_sheet(Path(path), *map(int, numbers))
    return 0
