"""Print a backbone's input size, dimension, parameters, FLOPs and speed on this machine.

    python model.py efficientnet_lite0
    python model.py vit_b16 --image-size 112

The first compiles it for the CPU, if there is no GPU, and prints

    input        224 × 224 pixels
    dimension    1280
    parameters   3.37 million
    FLOPs        0.77 billion a picture
    speed here   185.20 pictures a second

with the speed of this machine. The weights are random: they change none of these numbers, and no
model hub is needed. Backbones are in lookalike/models, engines and costs in lookalike/features.
"""

import sys

from lookalike.cli import call

if __name__ == "__main__":
    sys.exit(call("lookalike.features.costs_tool:main", sys.argv[1:]))
