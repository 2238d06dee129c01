"""From an archive to a scored submission: the pipeline's stages, each restartable alone.

    python main.py --stage all
    python main.py --stage retrieve evaluate --run runs/demo --center

The first runs on the data set in data/, or on a demo competition that it draws there, and ends with

                score    recall@1    recall@5    recall@10  …  95 % of score
    ----------  -------  ----------  ----------  -----------    ---------------
    test        545.8    0.400       0.742       0.833          436.7 to 651.8
    validation  750.0    0.609       0.953       0.984          556.4 to 890.4
    forecast of the test: 417.0 (295.5 to 544.6)

    all results in runs/demo/

The second ranks again with the run's own embeddings, each domain moved to a mean of zero: test
722.5, validation 873.4. A stage whose inputs have not changed does nothing (--force redoes it), and
after a kill the same command continues. `--help` lists all settings.

The table of stages is in lookalike/pipeline.py. Their parts are in lookalike/data, faces, training,
retrieval, evaluation, report and leaderboard.
"""

import sys

from lookalike.cli import call

if __name__ == "__main__":
    sys.exit(call("lookalike.pipeline:main", sys.argv[1:]))
