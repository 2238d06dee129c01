"""Draw a small photo-to-art retrieval competition from a seed, by code alone.

A person is a set of traits. One set of functions turns traits and a pose into shapes, back to
front; one renderer per domain paints these shapes as a photograph, a line drawing, a flat
caricature, a poster or a painting.

    python data_extraction.py --source demo         # the competition, in data/demo/
    python -m lookalike demo overview.jpg           # a picture of some of its persons
"""

import colorsys
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Interval
from joblib import Parallel, delayed
from numpy.random import Generator, default_rng
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm
from tyro.conf import Positional

from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.files import whole_file
from lookalike.core.log import exit_code, log, log_to
from lookalike.core.options import parse
from lookalike.core.settings import Seed

Color = tuple[int, ...]  # red, green and blue from 0 to 255
Palette = Mapping[str, Color]  # role of a shape -> its color
Measures = dict[str, float]  # the values of all TRAITS and all of POSE
SIZE = 192  # pixels
CANVAS = (2 * SIZE, 2 * SIZE)  # reduced to SIZE when painted, which smooths the edges
TRAINING = 4 * ["photo"] + 2 * ["line"] + ["flat", "poster"] + 2 * ["texture"]
TEST = 3 * ["photo"] + 3 * ["line"] + 2 * ["flat", "poster"] + 3 * ["texture"]
FIRST_TEST_INDEX = 10_000  # so that the test has the same persons for any number in training
WORTH_PROCESSES = 200  # pictures
# fmt: off
# What differs between persons: (mean, spread), in half face heights. The top of the skull is at
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
# Colors between two others: from one, a share of the way to the other.
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
    """What all pictures of one identity share.

    Attributes:
        traits: {name: value in [-1, 1]}, 0 being the mean face.
        colors: Of skin, hair and iris.
        bald: Whether there is no hair.
        beard: One of BEARDS.
        glasses: One of GLASSES.
        marks: (x, y) of spots on the skin.
    """

    traits: Mapping[str, float]
    colors: Mapping[str, Color]
    bald: bool
    beard: str
    glasses: str
    marks: tuple[tuple[float, float], ...]


class Shape(NamedTuple):
    """A filled area, or a stroke if it has a width.

    Attributes:
        role: What it is a part of: chooses the color.
        points: (n, 2) outline or line.
        depth: 0 on the silhouette, 1 on the face.
        width: Of the stroke.
    """

    role: str
    points: np.ndarray
    depth: float | np.ndarray = 1.0
    width: float = 0.0


def make_person(seed: int, index: int) -> Person:
    """Return the person with this index in the population of this seed (both 0 or more)."""
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
    """Return a name; no two of the first ten million persons of a population share one.

    >>> make_name(seed=0, index=0)
    'tonu_mihu'
    """
    base = len(SYLLABLES)
    # A step prime to the base meets every name before it repeats one.
    number = 8_009_717 * index + 1_234_577 * seed + 3_141_593
    return "{}{}_{}{}".format(*(SYLLABLES[number // base**i % base] for i in range(4)))


def mirror(right: list[tuple[float, float]], closed: bool = True) -> np.ndarray:
    """Return a symmetric outline from its right half; an open line starts on the axis."""
    left = np.multiply(right, (-1, 1))[::-1]
    return np.vstack([right, left[1:-1]] if closed else [left[:-1], right])


def between(x: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Return the outline of the area between two curves over the same x."""
    return np.vstack([np.stack([x, upper], 1), np.stack([x, lower], 1)[::-1]])


def circle(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """Return the outline of an ellipse."""
    angle = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def back_hair(face: Measures, person: Person) -> Iterator[Shape]:
    """Draw the hair behind the head: its mass, a bun, curls."""
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


def body(face: Measures, person: Person) -> Iterator[Shape]:
    """Draw clothes, neck and the chin's shadow."""
    wide, chin = face["neck"], face["length"]
    yield Shape("cloth", mirror([(0, 1.35), (0.6, 1.42), (1.15, 1.62), (1.5, 2.6), (0, 4)]), 0)
    half = [(0, 0), (wide, 0.4), (wide, 1.2), (1.25 * wide, 1.45), (0, 1.75)]
    yield Shape("neck", mirror(half), 0)
    yield Shape("shade", mirror([(0, 0), (wide, 0.6), (wide, chin + 0.1), (0, chin + 0.28)]), 0)


def head(face: Measures, person: Person) -> Iterator[Shape]:
    """Draw ears, skin, cheeks and marks."""
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


def beard(face: Measures, person: Person) -> Iterator[Shape]:
    """Draw stubble or a full beard."""
    if person.beard not in ("stubble", "full"):
        return
    role, grow = ("hair", 1.12) if person.beard == "full" else ("stubble", 1.0)
    width, lips, low = face["width"], face["mouth_y"], face["length"]
    half = [(0, lips - 0.12), (0.3, lips - 0.13), (0.62 * width, 0.42), (width, 0.05)]
    half += [(face["jaw"] * width, 0.55 * low), (face["chin"] * width * grow, 0.93 * low * grow)]
    yield Shape(role, mirror([*half, (0, low * grow)]), np.repeat([1, 0, 1], [3, 7, 2]))


def nose(face: Measures, person: Person) -> Iterator[Shape]:
    """Draw the nose and its wings' crease."""
    wing, tip = face["nose_width"], face["nose_y"]
    half = [(0, 0), (0.05, 0.02), (0.3 * wing + 0.03, 0.6 * tip), (wing, tip), (0, tip + 0.05)]
    yield Shape("nose", mirror(half), 1.1)
    low = tip + 0.02
    half = [(0, low + 0.04), (0.35 * wing, low), (0.9 * wing, low + 0.01), (wing, tip - 0.06)]
    yield Shape("crease", mirror(half, closed=False), 1.1, 0.03)


def mouth(face: Measures, person: Person) -> Iterator[Shape]:
    """Draw lips, teeth and moustache."""
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


def eyes(face: Measures, person: Person) -> Iterator[Shape]:
    """Draw eyes, lashes and brows."""
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


def front_hair(face: Measures, person: Person) -> Iterator[Shape]:
    """Draw the hair on the head, down to the hairline."""
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


def glasses(face: Measures, person: Person) -> Iterator[Shape]:
    """Draw round or square glasses."""
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
    """Return the shapes of a person in a random pose, in pixels, back to front.

    Args:
        person: The person.
        rng: Of the pose.
        drama: Scales the spread of the pose.
        caricature: Scales the person's distance from the mean face.
    """
    face = {key: mean + drama * spread * rng.uniform(-1, 1) for key, (mean, spread) in POSE.items()}
    for key, (mean, spread) in TRAITS.items():
        face[key] = mean + caricature * spread * person.traits[key]
    parts = [part for part in PARTS if not (person.bald and part in (back_hair, front_hair))]
    return [project_shape(shape, face) for part in parts for shape in part(face, person)]


def project_shape(shape: Shape, face: Measures) -> Shape:
    """Return a shape in smooth pixel coordinates, seen in the pose."""
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
    """Return a Catmull-Rom curve through the points (n, 2), four times as many."""
    before, after = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
    padded = np.vstack([before, points, after])
    a, b, c, d = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    u = np.arange(4)[:, None, None] / 4
    curve = b + u / 2 * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * b - 3 * c + d - a)))
    curve = curve.transpose(1, 0, 2).reshape(-1, 2)
    return curve if closed else np.vstack([curve, points[-1:]])


def blend(colors: tuple[Color, ...], position: float) -> Color:
    """Return the color at a position in [0, len(colors) - 1] along a row of colors.

    >>> blend(((0, 0, 0), (100, 200, 40)), 0.5)
    (50, 100, 20)
    """
    stops = range(len(colors))
    return tuple(round(float(np.interp(position, stops, c))) for c in zip(*colors, strict=True))


def vivid(hue: float, saturation: float, value: float) -> Color:
    """Return the color of a hue (whole turns), saturation and value (in [0, 1])."""
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def natural(person: Person, rng: Generator) -> dict[str, Color]:
    """Return a color for every role; the clothes change from picture to picture."""
    colors: dict[str, Color] = dict.fromkeys(("black", "pupil", "lash", "frame"), (20, 14, 14))
    colors |= dict.fromkeys(("white", "teeth", "glint"), (246, 243, 236))
    colors |= {"red": (190, 50, 60), "brown": (80, 30, 20), "mouth": (80, 30, 20)}
    colors |= person.colors
    colors |= {role: blend((colors[a], colors[b]), p) for role, (a, b, p) in MIXES.items()}
    contrast = colors["black" if sum(colors["hair"]) > 200 else "white"]
    colors["strand"] = blend((colors["hair"], contrast), 0.2)
    colors["cloth"] = vivid(rng.random(), rng.uniform(0.1, 0.7), rng.uniform(0.25, 0.9))
    return colors


def paint(
    shapes: list[Shape], palette: Palette, canvas: Image.Image, edge: Color | None = None
) -> Image.Image:
    """Paint the shapes whose role has a color onto the canvas; an edge color outlines the areas."""
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
    """Return a field (SIZE, SIZE) blurred, borders wrapped; Pillow's 8 bits would show when lit."""
    square = np.fft.fftfreq(SIZE)[:, None] ** 2 + np.fft.rfftfreq(SIZE) ** 2
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * square)
    return np.fft.irfft2(np.fft.rfft2(field) * gain, s=field.shape)


def lit_figure(
    person: Person, rng: Generator, canvas: Image.Image, drama: float, caricature: float
) -> np.ndarray:
    """Paint a person, lit from a random side.

    The form comes from the heights of the parts, blurred: widely for the head, a little for
    nose, lips and brows.

    Args:
        person: The person.
        rng: Of the pose, the clothes and the light.
        canvas: The background, which is painted over.
        drama: Scales the spread of the pose, and the light.
        caricature: Scales the person's distance from the mean face.

    Returns:
        (SIZE, SIZE, 3) values in [0, 1].
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
    """Return a picture from values (height, width, 3) around [0, 1]."""
    return Image.fromarray((values.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def photo(person: Person, rng: Generator) -> Image.Image:
    """Draw a snapshot: lively pose, hard light, clutter behind, blur, color cast and noise."""
    lit = lit_figure(person, rng, clutter(rng), 1.0, 1.0)
    soft = to_image(lit).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    cast = rng.uniform(0.75, 1.15) * rng.uniform(0.85, 1.15, 3)
    return to_image(np.asarray(soft) / 255 * cast + rng.normal(0, 0.02, (SIZE, SIZE, 3)))


def clutter(rng: Generator) -> Image.Image:
    """Return a canvas with a background out of focus: large blurred blocks and discs."""
    canvas = Image.new("RGB", CANVAS, vivid(rng.random(), 0.2, rng.uniform(0.3, 0.9)))
    draw = ImageDraw.Draw(canvas)
    for _ in range(12):
        x, y, width, height = rng.uniform((-60, -60, 20, 20), (384, 384, 160, 240))
        draw_shape = draw.ellipse if rng.random() < 0.3 else draw.rectangle
        color = vivid(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.2, 1))
        draw_shape((x, y, x + width, y + height), color)
    return canvas.reduce(4).filter(ImageFilter.BoxBlur(rng.uniform(1, 4))).resize(canvas.size)


def line(person: Person, rng: Generator) -> Image.Image:
    """Draw in ink on paper with an unsteady hand; dark hair is filled in."""
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
    """Draw a caricature in flat colors before a plain disc."""
    hue = rng.random()
    canvas = Image.new("RGB", CANVAS, vivid(hue, 0.3, 0.95))
    ImageDraw.Draw(canvas).ellipse((30, 30, 354, 354), vivid(hue + 0.1, 0.45, 0.85))
    return paint(figure(person, rng, 0.5, 1.5), natural(person, rng), canvas).reduce(2)


def poster(person: Person, rng: Generator) -> Image.Image:
    """Print in four unnatural inks; lightness and local contrast choose the ink."""
    gray = lit_figure(person, rng, Image.new("RGB", CANVAS, "white"), 0.6, 1.2).mean(2)
    detail = 2 * gray - blur(gray, 9)
    hue, step = rng.random(), rng.uniform(0.15, 0.4)
    tones = ((0.7, 0.25), (0.8, 0.6), (0.7, 0.9), (0.25, 1.0))
    inks = np.array([vivid(hue + i * step, *tone) for i, tone in enumerate(tones)]) / 255
    return to_image(inks[np.digitize(detail, np.quantile(detail[gray < 1], (0.25, 0.5, 0.75)))])


def texture(person: Person, rng: Generator) -> Image.Image:
    """Paint with brush strokes along the forms, in colors drawn towards a mood."""
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
    """Draw one RGB picture (SIZE x SIZE) of a person.

    Args:
        person: The person.
        domain: `photo`, `line`, `flat`, `poster` or `texture`.
        rng: Of everything that differs between the person's pictures.

    Raises:
        KeyError: The domain is unknown.
    """
    return RENDERERS[domain](person, rng)


def draw_competition(
    root: Path, seed: int = 0, train_identities: int = 80, test_identities: int = 40
) -> None:
    """Draw a competition into a folder; labels.json comes last, once all else is there.

    Writes training/<identity>/<domain>_<nn>.jpg, test/query/<hash>.jpg, test/gallery/<hash>.jpg
    and labels.json, {"query" | "gallery": {file name: identity}}. Old files stay.

    Args:
        root: The folder.
        seed: A seed always gives the same bytes.
        train_identities: Number of identities in training; fewer give a part of the same files.
        test_identities: Number of other identities in the test.

    Raises:
        ValueError: More than 10 000 identities in a part.
    """
    if max(train_identities, test_identities) > FIRST_TEST_INDEX:
        raise ValueError(f"a demo has at most {FIRST_TEST_INDEX} identities in each part")
    labels: dict[str, dict[str, str]] = {"query": {}, "gallery": {}}
    test = range(FIRST_TEST_INDEX, FIRST_TEST_INDEX + test_identities)
    shots = [(i, *shot) for i in range(train_identities) for shot in enumerate(TRAINING, 1)]
    shots += [(i, *shot) for i in test for shot in enumerate(TEST, 1)]
    files = []
    for index, number, domain in shots:
        name = make_name(seed, index)
        path = root / (_test_path if index in test else _training_path)(name, seed, number, domain)
        if index in test:
            labels[path.parent.name][path.name] = name
        path.parent.mkdir(parents=True, exist_ok=True)
        files.append((path, seed, index, number, domain))
    # Python's lock lets threads draw one after the other; few pictures are not worth processes.
    jobs = -1 if len(files) >= WORTH_PROCESSES else 1
    drawn = Parallel(jobs, return_as="generator")(delayed(_write_shot)(*file) for file in files)
    for _ in tqdm(drawn, "drawing", len(files), unit=" pictures"):
        pass
    (root / "labels.json").write_text(json.dumps(labels, indent=1, sort_keys=True))


def _training_path(name: str, seed: int, number: int, domain: str) -> Path:
    return Path("training", name, f"{domain}_{TRAINING[:number].count(domain):02}.jpg")


def _test_path(name: str, seed: int, number: int, domain: str) -> Path:
    secret = blake2b(f"{seed}/{name}/{number}".encode(), digest_size=8).hexdigest()
    return Path("test", "query" if domain == "photo" else "gallery", f"{secret}.jpg")


def _write_shot(path: Path, seed: int, index: int, number: int, domain: str) -> None:
    _draw_shot(seed, index, number, domain).save(path, quality=90)


def _draw_shot(seed: int, index: int, number: int, domain: str) -> Image.Image:
    """Draw a picture of a person by its number.

    Numbers start at 1, since numpy takes (seed, index, 0) for the person's (seed, index).
    """
    rng = default_rng((seed, index, number))
    return draw_picture(make_person(seed, index), domain, rng)


def draw_overview(seed: int = 8, rows: int = 6) -> Image.Image:
    """Draw one person a row: two photographs and one picture of each art domain.

    Args:
        seed: Of the population.
        rows: Number of persons.
    """
    columns, step = ("photo", *RENDERERS), SIZE + 6
    sheet = Image.new("RGB", (len(columns) * step - 6, rows * step - 6), "white")
    for row in range(rows):
        for column, domain in enumerate(columns):
            sheet.paste(_draw_shot(seed, row, column + 1, domain), (column * step, row * step))
    return sheet


@dataclass
class DemoCommand:
    """Options of `lookalike demo`."""

    file: Positional[Path]
    """Picture file to write, for instance demo.jpg."""
    seed: Positional[Seed] = 8
    """Seed of the persons."""
    rows: Annotated[int, Interval(ge=1, le=100)] = 6
    """Number of persons, one a row."""


def main(arguments: Sequence[str]) -> int:
    """Draw an overview of the demo's persons and domains to a picture file.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        The exit code: 0, 1 for a mistake or bad input, 130 for Ctrl-C.
    """
    about = "Draw an overview of the demo competition: one person a row, one domain a column."
    command: DemoCommand = parse(arguments, "lookalike demo", DemoCommand, about)
    log_to(None)
    return exit_code(lambda: _write_overview(command))


def _write_overview(command: DemoCommand) -> None:
    """Draw the overview and write it in the format of the file's suffix."""
    check_bounds(command)
    file_format = Image.registered_extensions().get(command.file.suffix.lower())
    if file_format not in Image.SAVE:
        raise UserError(f"{command.file}: no picture format has this suffix: use .jpg or .png")
    sheet = draw_overview(command.seed, command.rows)
    with whole_file(command.file) as beside:
        sheet.save(beside, file_format, quality=90)
    log.info("drawn: %s", command.file)
