"""Score a submission: Recall@k, mAP and the competition's score, with 95 % intervals.

python evaluate.py runs/demo/submission.json
python evaluate.py submission.csv --labels labels.json --json
"""

import sys

from lookalike.evaluation.evaluate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
