"""Rank the gallery for every query of a run: the stages index and retrieve.

    python retrieve.py --run runs/arcface
    python retrieve.py --run runs/arcface --query-neighbors 0.6 --rerank reciprocal

The run has been trained by train_ft.py, or made by main.py. The first command writes the gallery's
index and submission.json, with the ten best gallery pictures for every query, and says

    index: 400 gallery pictures, 96 for validation (7.8 s)
    retrieve: 120 queries × 10 -> runs/arcface/submission.json (0.5 s)

The second ranks again, with two more steps. Options are those of main.py; those that are not named
are the run's own. Indexes, the steps of the ranking and ensembles are in lookalike/retrieval.
"""

import sys

from lookalike.cli import call

STAGES = ("index", "retrieve")

if __name__ == "__main__":
    sys.exit(call("lookalike.pipeline:main", ["--stage", *STAGES, *sys.argv[1:]]))
