"""Train an embedder on a run's labeled pictures: the stages extract, split, crop and train.

    python train_ft.py --run runs/arcface --center --objective arcface --embed-dim 128 --epochs 20
    python train_ft.py --run runs/arcface --lr 0.0003

The first trains a projection of frozen features and saves it as runs/arcface/model.safetensors,
beside the learning curves, history.csv and training.png. On the demo competition it says

    untrained: validation score 873.4
    …
    train: arcface: best after epoch 8 of 10, validation score 971.9 (untrained 873.4) (23.1 s)

The second trains the same run again with another learning rate. Options are those of main.py; those
that are not named are the run's own. `python retrieve.py --run runs/arcface` then ranks by it.
Objectives, samplers and loops are in lookalike/training.
"""

import sys

from lookalike.cli import call

STAGES = ("extract", "split", "crop", "train")

if __name__ == "__main__":
    sys.exit(call("lookalike.pipeline:main", ["--stage", *STAGES, *sys.argv[1:]]))
