"""From an archive to a scored submission: the pipeline's stages, each restartable alone.

    python main.py --stage all
    python main.py --stage retrieve evaluate --run runs/demo --center

The first draws the demo competition where data/ holds none and ends with

    score: test 545.8, validation …
    all of it in runs/demo/

The second ranks again with the run's own embeddings, each domain centred, in about a second.
A stage whose inputs have not changed does nothing (--force redoes it), and a run that was killed
goes on by the same command. The stages stand in lookalike/pipeline.py, their parts in
lookalike/data, features, training, retrieval, evaluation and report.
"""

import sys

from lookalike.pipeline import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
