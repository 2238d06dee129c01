"""The training loop: when it stops, what it keeps, and that a checkpoint resumes it exactly."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lookalike.core.errors import UserError
from lookalike.training.trainer import (
    Epoch,
    Metrics,
    StoppingRule,
    Trainer,
    TrainingMethod,
    fingerprint,
)


class Regression(TrainingMethod):
    """Fits y = 2x, and is scored by what a test says."""

    def __init__(self, model: nn.Module, scores: list[float], steps: int = 3) -> None:
        self.model, self.scores, self.steps = model, scores, steps

    def batches(self, epoch: int) -> Iterator[Tensor]:
        rng = np.random.default_rng(epoch)
        for _ in range(self.steps):
            yield torch.tensor(rng.normal(size=(4, 1)), dtype=torch.float32)

    def loss(self, batch: Tensor) -> Tensor:
        return (self.model(batch) - 2 * batch).square().mean()

    def evaluate(self, model: nn.Module) -> Metrics:
        return {"score": self.scores.pop(0)}


def linear() -> nn.Module:
    """A line through the origin, with slope 0."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


def trainer(rule: StoppingRule, lr: float = 0.1, ema: float = 0.0, accumulate: int = 1) -> Trainer:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
    return Trainer(model, optimizer, rule, schedule=schedule, ema=ema, accumulate=accumulate)


def slope(state: dict[str, Tensor]) -> float:
    return float(state["weight"])


# ---- when it stops, and what it keeps -----------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "minutes", "over"),
    [
        ([], 0.0, False),
        ([3, 2], 0.0, False),
        ([3, 2, 2], 0.0, True),
        ([3, 2, 4, 2], 0.0, False),
        ([3], 5.0, True),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], 0.0, True),
    ],
)
def test_training_stops_by_epochs_patience_or_minutes(
    scores: list[float], minutes: float, over: bool
) -> None:
    rule = StoppingRule(9, "score", patience=2, max_minutes=5)
    history = [Epoch(i, 0.0, {"score": score}) for i, score in enumerate(scores, 1)]
    untrained = Epoch(0, float("nan"), {"score": 9.0}, minutes=minutes if not scores else 0.0)
    if scores:
        history[-1] = Epoch(len(scores), 0.0, {"score": scores[-1]}, minutes=minutes)
    assert rule.is_over(history) == over
    assert rule.is_over([untrained, *history]) == over, "the untrained model does not count"


def test_the_best_epoch_is_the_first_of_equal_ones_and_never_the_untrained() -> None:
    history = [Epoch(i, 0.0, {"score": score}) for i, score in enumerate([9.0, 2.0, 3.0, 3.0, 1.0])]
    assert StoppingRule(9, "score").best(history).number == 2
    assert StoppingRule(9, "score", mode="min").best(history).number == 4
    assert StoppingRule(9).best(history).number == 4, "without a metric the last one is kept"


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    slopes = []
    for epochs in (1, 2, 3):
        training = trainer(StoppingRule(epochs))
        training.fit(Regression(training.model, [0.0] * epochs))
        slopes.append(slope(training.model.state_dict()))
    assert 0 < slopes[0] < slopes[1] < slopes[2], "each epoch comes nearer to a slope of 2"
    training = trainer(StoppingRule(3, "score", patience=9))
    history = training.fit(Regression(training.model, [1.0, 3.0, 2.0]))
    assert training.best_epoch is history[1] and slope(training.best_state) == slopes[1]


def test_a_limit_of_minutes_may_cut_an_epoch_short(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    class Watched(Regression):
        def mean_loss(self, losses: object) -> float:
            seen.append(len(losses))  # type: ignore[arg-type]
            return 0.0

    for within in (True, False):
        training = trainer(StoppingRule(5, max_minutes=1e-9, within_epoch=within))
        assert len(training.fit(Watched(training.model, [0.0]))) == 1
    assert seen == [1, 3]
    assert "training stopped in epoch 1 by --max-minutes" in caplog.text


# ---- the steps ----------------------------------------------------------------------------------


def test_accumulated_batches_are_one_step_of_their_mean_gradient() -> None:
    training = trainer(StoppingRule(1), accumulate=2)
    method = Regression(training.model, [0.0])
    batches = list(method.batches(1))
    training.fit(method)
    # Two batches, then the one that is left over, each batch with half its gradient.
    weight, momentum, rate = 0.0, 0.0, 0.1
    for part in (batches[:2], batches[2:]):
        gradient = sum(2 * (weight - 2) * float(batch.square().mean()) / 2 for batch in part)
        momentum = 0.5 * momentum + gradient
        weight, rate = weight - rate * momentum, rate * 0.9
    assert slope(training.best_state) == pytest.approx(weight)
    assert training.history[0].lr == pytest.approx(0.1 * 0.9**2)


def test_a_moving_average_of_the_weights_is_evaluated_and_kept() -> None:
    seen: list[float] = []

    class Watched(Regression):
        def evaluate(self, model: nn.Module) -> Metrics:
            seen.append(slope(model.state_dict()))
            return {"score": 0.0}

    training = trainer(StoppingRule(1), ema=0.9)
    training.fit(Watched(training.model, [], steps=1))
    trained = slope(training.model.state_dict())
    assert seen == [slope(training.best_state)] == [pytest.approx(0.1 * trained)]


def test_a_loss_or_metric_that_is_not_finite_is_an_error_with_a_remedy() -> None:
    training = trainer(StoppingRule(9), lr=1e30)
    with pytest.raises(UserError, match=r"loss of epoch 1, step \d is not finite: lower --lr"):
        training.fit(Regression(training.model, [0.0]))
    training = trainer(StoppingRule(9, "score"))
    with pytest.raises(UserError, match="score after epoch 1 is not finite: lower --lr"):
        training.fit(Regression(training.model, [float("nan")]))


# ---- checkpoints and history --------------------------------------------------------------------


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path, ema: float) -> None:
    path, scores = tmp_path / "x.pt", [3.0, 1.0, 2.0, 4.0]
    whole = trainer(StoppingRule(4, "score", patience=9), ema=ema)
    whole.record_untrained({"score": 0.0})
    whole.fit(Regression(whole.model, [*scores]))

    killed = trainer(StoppingRule(2, "score", patience=9), ema=ema)
    killed.record_untrained({"score": 0.0})
    killed.fit(Regression(killed.model, scores[:2]), lambda epoch: killed.save(path, "settings"))
    resumed = trainer(StoppingRule(4, "score", patience=9), ema=ema)
    assert resumed.resume(path, "settings")
    assert len(resumed.history) == 3 and slope(resumed.best_state) == slope(killed.best_state)
    resumed.fit(Regression(resumed.model, scores[2:]))
    assert slope(resumed.best_state) == slope(whole.best_state)
    for one, other in zip(resumed.history[1:], whole.history[1:], strict=True):
        assert (one.number, one.train_loss, one.metrics) == (
            other.number,
            other.train_loss,
            other.metrics,
        )


def test_a_checkpoint_of_something_else_is_not_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = trainer(StoppingRule(1))
    assert not training.resume(tmp_path / "missing.pt", "settings")
    training.fit(Regression(training.model, [0.0]), lambda _: training.save(tmp_path / "x", "a"))
    torch.save({"made_from": "a", "trunk": {}}, tmp_path / "old")  # of an earlier version
    (tmp_path / "damaged").write_bytes(b"no checkpoint")
    with caplog.at_level("INFO", logger="toolkit"):
        for name, made_from in (("x", "b"), ("old", "a"), ("damaged", "a")):
            other = trainer(StoppingRule(1))
            assert not other.resume(tmp_path / name, made_from) and other.history == []
    assert caplog.text.count("is of other settings or data: training begins anew") == 2
    assert caplog.text.count("cannot be read") == 1


def test_a_fingerprint_changes_with_files_and_settings(tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    file.write_text("1")
    one = fingerprint([file], lr=0.1, path=Path("x"))
    assert one == fingerprint([file], path=Path("x"), lr=0.1)
    assert one != fingerprint([file], lr=0.2, path=Path("x"))
    file.write_text("2")
    assert one != fingerprint([file], lr=0.1, path=Path("x"))
