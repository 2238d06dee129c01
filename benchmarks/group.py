"""Draw a group photograph of the demo's people, to try `lookalike identify who` on.

    python -m benchmarks.group group.jpg
    python -m lookalike identify who group.jpg --run runs/demo-faces

It holds new photographs of eight people of the demo's training set and of one other person, each at
a random position in a cell of its own.
"""

import argparse
import math
from pathlib import Path

from numpy.random import default_rng
from PIL import Image

from lookalike.data.demo import FIRST_TEST_INDEX, TRAINING, draw_picture, make_name, make_person

CELL, COLUMNS = 200, 3


def paste_group(seed: int, people: list[int]) -> Image.Image:
    """Draw the picture; print the names row by row."""
    rng = default_rng((seed, len(people)))
    rows = math.ceil(len(people) / COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL, rows * CELL), (150, 160, 150))
    for cell, index in enumerate(people):
        # A number that no picture of the data set has: see demo.draw_competition.
        shot = default_rng((seed, index, len(TRAINING) + 100))
        side = int(rng.integers(130, CELL))
        photo = draw_picture(make_person(seed, index), "photo", shot).resize((side, side))
        left, top = rng.integers(0, CELL - side, 2).tolist()
        sheet.paste(photo, (left + cell % COLUMNS * CELL, top + cell // COLUMNS * CELL))
        note = "" if index < FIRST_TEST_INDEX else " (unknown)"
        print(make_name(seed, index) + note)
    return sheet


def main() -> None:
    """Write the photograph that the command line names."""
    parser = argparse.ArgumentParser(description="Draw a group photograph of the demo's people.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    group = paste_group(arguments.seed, [*range(0, 32, 4), FIRST_TEST_INDEX])
    group.save(arguments.picture, quality=90)


if __name__ == "__main__":
    main()
