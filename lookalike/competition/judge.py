"""The judge of a competition: scores submissions by the solution, in a public and a private part.

judge = Judge.of_folder(Path("friday"), "score", None)
scores = judge.score(submission, secret)      # Scores(public=..., private=..., given=...)
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from lookalike.core.errors import UserError
from lookalike.evaluation.matching import bare_name, match, refusals
from lookalike.evaluation.metrics import Metric, parse_metric
from lookalike.evaluation.scoring import (
    Labels,
    QueryHits,
    find_hits,
    hits_of_match,
    hits_of_queries,
    mean_measures,
    read_labels,
)
from lookalike.evaluation.submissions import Submission
from lookalike.leaderboard.rules import coarse, score_step

# Only the public score is answered, as often as the quota allows. Of 54 public queries, a
# regression over 50 random submissions finds a right picture for 2, over 200 for 5 and over 1,000
# for 19; a guess for 1. The private part is never answered.
QUERIES_OF_STEP = 2
PUBLIC = "Public"
ROOM_OF_NAME = 16  # bytes around a name: quotes, a comma, a line and its indent
ROOM, SMALLEST = 3, 1_000_000  # times what a submission needs, and bytes at least


class Scores(NamedTuple):
    """The scores of a submission.

    Attributes:
        public: On the public queries.
        private: On all others; where all are public, on these.
        given: The public score as its team sees it, in steps.
    """

    public: float
    private: float
    given: float


class Judge:
    """Scores submissions by the labels of a test.

    Attributes:
        metric: What the score is.
        step: The step in which public scores are given.
        largest: Bytes of the largest submission that is read, several times what one needs.
        identity: A hash of what it scores by; other labels or another metric have another one.
    """

    def __init__(self, labels: Labels, public: set[str], metric: Metric) -> None:
        """Take the labels apart.

        Args:
            labels: The labels of the test.
            public: The queries that make the public score; none: all.
            metric: What the score is.

        Raises:
            UserError: No public, or no private query can be scored.
        """
        self.labels, self.metric = labels, metric
        self.public = public or set(labels.query)
        self.private = set(labels.query) - self.public or self.public
        self.k = min(metric.length, len(labels.gallery) - labels.leave_one_out)
        scored = find_hits({}, labels)
        for name, part in (("public", self.public), ("private", self.private)):
            if not hits_of_queries(scored, part).queries:
                raise UserError(f"no {name} query has a picture of its identity in the gallery")
        public_queries = len(hits_of_queries(scored, self.public).queries)
        self.step = score_step(public_queries, metric.highest, QUERIES_OF_STEP)
        length = max(map(len, (*labels.query, *labels.gallery))) + ROOM_OF_NAME
        self.largest = max(SMALLEST, ROOM * len(labels.query) * (self.k + 1) * length)
        parts = [labels.as_json(), sorted(self.public), metric.name, self.k]
        self.identity = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @classmethod
    def of_folder(cls, folder: Path, metric: str, k: int | None) -> "Judge":
        """Return the judge of a competition that was made.

        Args:
            folder: The competition's.
            metric: What the score is, such as `map@100`.
            k: Gallery names that each query must have; None: as many as the metric looks at.

        Raises:
            UserError: The folder holds no competition, or the metric is unknown.
        """
        from lookalike.data.tables import read_usage  # pandas: --help needs none

        solution = solution_of(folder)
        usage = read_usage(solution).items()
        public = {bare_name(query) for query, part in usage if part == PUBLIC}
        return cls(read_labels(solution), public, parse_metric(metric, k))

    def score(self, submission: Submission, secret: str) -> Scores:
        """Score a submission.

        Args:
            submission: {query: [gallery names, best first]}.
            secret: Known to the competition alone; it draws how the public score is rounded.

        Raises:
            UserError: The submission is refused: the reasons.
        """
        labels = self.labels
        matched = match(submission, labels.query, labels.gallery, self.k, labels.leave_one_out)
        if reasons := refusals(matched):
            raise UserError("; ".join(reasons))
        hits = hits_of_match(matched, labels)
        public, private = self._mean(hits, self.public), self._mean(hits, self.private)
        given = coarse(public, self.step, submission, secret, self.metric.highest)
        return Scores(public, private, given)

    def _mean(self, hits: QueryHits, part: set[str]) -> float:
        return mean_measures(hits_of_queries(hits, part), self.metric)["score"]


def solution_of(folder: Path) -> Path:
    """Return the solution of a competition that was made.

    Raises:
        UserError: The folder holds no competition.
    """
    solution = folder / "organizer" / "solution.csv"
    if not solution.is_file():
        raise UserError(
            f"{folder}: holds no organizer/solution.csv; make a competition with "
            "`lookalike competition make`"
        )
    return solution
