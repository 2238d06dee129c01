"""A group photograph of the demo's people, to try `lookalike identify who` on.

    python -m benchmarks.group group.jpg
    python -m lookalike identify who group.jpg --run runs/demo-faces

Eight photographs of people of the demo's training, none of which lies in the data set, and one of a
person whom no training knows, each somewhere in a cell of its own.
"""

import argparse
from pathlib import Path

from numpy.random import default_rng
from PIL import Image

from lookalike.data.demo import FIRST_TEST_INDEX, TRAINING, draw_picture, make_name, make_person

CELL, COLUMNS = 200, 3


def paste_group(seed: int, people: list[int]) -> Image.Image:
    """The picture; prints who stands where, row by row."""
    rng = default_rng((seed, len(people)))
    lines = -(-len(people) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL, lines * CELL), (150, 160, 150))
    for place, index in enumerate(people):
        # A number that no picture of the data set has: see demo.draw_competition.
        shot = default_rng((seed, index, len(TRAINING) + 100))
        side = int(rng.integers(130, CELL))
        photo = draw_picture(make_person(seed, index), "photo", shot).resize((side, side))
        left, top = rng.integers(0, CELL - side, 2).tolist()
        sheet.paste(photo, (left + place % COLUMNS * CELL, top + place // COLUMNS * CELL))
        known = "" if index < FIRST_TEST_INDEX else " (a stranger)"
        print(make_name(seed, index) + known)
    return sheet


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description="A group photograph of the demo's people.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    group = paste_group(arguments.seed, [*range(0, 32, 4), FIRST_TEST_INDEX])
    group.save(arguments.picture, quality=90)


if __name__ == "__main__":
    main()
