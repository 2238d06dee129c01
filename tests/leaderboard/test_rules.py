"""The rules of a leaderboard: names, rates, and scores that give no answer away."""

import numpy as np
import pytest

from lookalike.core.errors import UserError
from lookalike.evaluation.scoring import Labels, score
from lookalike.evaluation.submissions import Submission
from lookalike.leaderboard.rules import (
    MAX_REMEMBERED,
    Groups,
    RateLimit,
    checked_name,
    coarse,
    score_step,
    sender,
    skeleton,
)

SECRET = "s" * 32


@pytest.mark.parametrize(
    "name", ["us", "Grüße 7", "команда", "\u6211\u4eec", "チーム日本", "a_b-c.d!"]
)
def test_names_of_every_script_can_be_used(name: str) -> None:
    assert checked_name(f"  {name} ") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "  ",
        "a" * 65,
        "a\0",
        "a\u200b",
        "\u202ea",
        "\u3164",
        "\u2800",
        "ab\u0441",
        "a\ue000",
        "\u0301",
        "a\ufe0f",
        "a\u034f",
        "a\u180b",
        "\u17b4a",
        "a" + 20 * "\u0301",
    ],
)
def test_names_that_deceive_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="groupname must"):
        checked_name(name)


def test_a_name_is_known_in_any_case_and_not_by_a_look_alike() -> None:
    groups = Groups(["Ace"])
    assert groups.known("ACE") == groups.known(" ace ") == "Ace"
    for name in ("\u0410\u0421\u0415", "a-c-e", "\u0430\u0441\u0435"):
        assert skeleton(name) == "ace"
        with pytest.raises(UserError, match="looks like that of the group 'Ace'"):
            groups.known(name)
    assert groups.known("Aces") == "Aces"


@pytest.mark.parametrize(
    "other", ["\u0422\u0415\u0410\u041c", "\u03a4\u0395\u0391\u039c", "T.E.A.M", "T\u00c9AM"]
)
def test_capitals_of_another_script_are_look_alikes(other: str) -> None:
    with pytest.raises(UserError, match="looks like that of the group 'team'"):
        Groups(["team"]).known(other)


def test_case_does_not_tell_groups_of_another_script_apart() -> None:
    name = "\u043a\u043e\u043c\u0430\u043d\u0434\u0430"
    assert Groups([name]).known(name.upper()) == name


def test_groups_of_earlier_versions_stay_themselves_even_where_they_look_alike() -> None:
    groups = Groups(["Team A", "Team-A"])
    assert groups.known("Team A") == "Team A" and groups.known("team-a") == "Team-A"
    with pytest.raises(UserError, match="looks like"):
        groups.known("Team_A")


def test_only_what_is_counted_counts() -> None:
    limit = RateLimit(2)
    assert [limit.wait("a", 0.0) for _ in range(9)] == [0.0] * 9
    limit.count("a", 0.0)
    limit.count("a", 10.0)
    assert limit.wait("a", 20.0) == 40 and limit.wait("b", 20.0) == 0
    assert limit.wait("a", 61.0) == 0
    assert RateLimit(0).wait("a") == 0


def test_a_rate_limit_forgets_silent_keys() -> None:
    limit = RateLimit(1)
    for number in range(MAX_REMEMBERED + 2):
        limit.count(f"key {number}", 0.0)
    limit.count("another", 61.0)
    assert len(limit._times) == 1


def test_a_sender_is_an_address_or_a_whole_network_of_ipv6() -> None:
    assert sender("10.0.0.1") != sender("10.0.0.2")
    assert sender("2001:db8::1") == sender("2001:db8::ffff:2") != sender("2001:db8:0:1::1")


# ---- scores -------------------------------------------------------------------------------------

QUERIES, GALLERY = 12, 60
NAMES = [f"g{i:02}.jpg" for i in range(GALLERY)]
OWNERS = np.random.default_rng(0).permutation(GALLERY) % QUERIES
LABELS = Labels(
    {f"q{i}.jpg": f"p{i}" for i in range(QUERIES)},
    {name: f"p{owner}" for name, owner in zip(NAMES, OWNERS, strict=True)},
)


def test_a_score_is_given_within_a_step_and_right_on_average() -> None:
    step = 20.0
    given = []
    for number in range(2000):
        submission = {"q.jpg": [f"{number}.jpg"]}
        given.append(coarse(533.0, step, submission, SECRET))
        assert given[-1] == coarse(533.0, step, submission, SECRET), "the same, whenever it is sent"
    assert {*given} == {520.0, 540.0}
    assert np.mean(given) == pytest.approx(533, abs=1)
    assert coarse(1000.0, step, submission, SECRET) == 1000
    assert coarse(0.0, step, submission, SECRET) == 0


def read_off(step: float, posts: int = 240) -> float:
    """Attack: one query at a time, ten pictures at once, keep what raises the score.

    Returns:
        The share of the queries for which the attacker holds a set of pictures with a right one
        at its end, less what guessing would give.
    """
    rng = np.random.default_rng(1)

    def answer(submission: Submission) -> float:
        exact = score(submission, LABELS)["score"]
        return coarse(exact, step, submission, SECRET) if step else exact

    submission: Submission = {q: rng.permutation(NAMES)[:10].tolist() for q in LABELS.query}
    candidates = {q: list(NAMES) for q in LABELS.query}
    for number in range(posts // 2):
        query = f"q{number % QUERIES}.jpg"
        pool = candidates[query]
        if len(pool) == 1:
            continue
        half = rng.permutation(pool)[: len(pool) // 2].tolist()
        others = [name for name in NAMES if name not in pool][: 10 - min(10, len(half))]
        before, after = (
            answer(submission | {query: (part + others + NAMES)[:10]})
            for part in ([n for n in pool if n not in half], half)
        )
        candidates[query] = half if after > before else [n for n in pool if n not in half]
    right = [LABELS.gallery[pool[0]] == LABELS.query[q] for q, pool in candidates.items()]
    return float(np.mean(right))


def test_answers_cannot_be_read_off_by_many_posts() -> None:
    assert read_off(step=0) > 0.7, "exact scores give the answers away"
    assert read_off(score_step(QUERIES)) < 0.4


def regress(step: float, seed: int, posts: int = 240) -> float:
    """Attack: random lists for all queries at once, and a ridge regression of what comes back.

    Returns:
        The share of the queries for which the picture with the largest coefficient is right.
    """
    rng = np.random.default_rng(seed)
    design, given = np.zeros((posts, QUERIES * GALLERY)), np.zeros(posts)
    weights = np.array([1, 0.4, 0.4, 0.4, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1])
    for post in range(posts):
        lists = np.stack([rng.permutation(GALLERY)[:10] for _ in range(QUERIES)])
        submission = {
            q: [NAMES[i] for i in row] for q, row in zip(LABELS.query, lists, strict=True)
        }
        right = OWNERS[lists] == np.arange(QUERIES)[:, None]
        hits = np.stack([right[:, 0], right[:, :5].any(1), right.any(1)])
        exact = float((np.array([600, 300, 100]) @ hits).mean())
        given[post] = coarse(exact, step, submission, SECRET) if step else exact
        np.put_along_axis(design[post].reshape(QUERIES, GALLERY), lists, weights[None], axis=1)
    design -= design.mean(0)
    kernel = design @ design.T
    ridge = 0.3 * np.trace(kernel) / posts * np.eye(posts)
    coefficients = design.T @ np.linalg.solve(kernel + ridge, given - given.mean())
    return float(
        (OWNERS[coefficients.reshape(QUERIES, GALLERY).argmax(1)] == range(QUERIES)).mean()
    )


def test_answers_cannot_be_learned_from_posts_that_change_all_queries_at_once() -> None:
    assert regress(step=0, seed=2) > 0.7, "exact scores give the answers away"
    found = np.mean([regress(score_step(QUERIES), seed) for seed in range(4)])
    assert found <= 0.25, "steps of two queries: 0.75; guesses: 0.08"
