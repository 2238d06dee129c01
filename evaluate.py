"""Score a submission: Recall@k, mAP and the competition's score, with 95 % intervals.

    python evaluate.py runs/demo/submission.json
    python evaluate.py submission.csv --labels labels.json --json

The first reads runs/demo/labels.json, beside the submission, and prints

    measure      value    95 % from    to
    -----------  -------  -----------  ------
    score        545.8    442.5        639.2
    recall@1     0.4000   0.2917       0.5083
    …
    120 queries, 0 missing, 0 left out

The second prints one JSON object. The forms of a submission, the measures and the scoring are in
lookalike/evaluation.
"""

import sys

from lookalike.cli import call

if __name__ == "__main__":
    sys.exit(call("lookalike.evaluation.evaluate:main", sys.argv[1:]))
