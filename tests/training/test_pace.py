"""The arithmetic of the time left, with a clock of our own."""

import pytest

from pyg_schnet.training import TrainConfig
from pyg_schnet.training.pace import Pace


class Clock:
    def __init__(self, now: float = 1_000.0):
        self.now = now

    def __call__(self) -> float:
        return self.now


def advance(pace: Pace, clock: Clock, seconds: float) -> None:
    clock.now += seconds
    pace.advance()


def test_budget_of_epochs():
    clock = Clock()
    pace = Pace(TrainConfig(epochs=5), steps_per_epoch=4, clock=clock)
    assert pace.left() is None
    advance(pace, clock, 60.0)  # compiles
    assert pace.left() is None
    advance(pace, clock, 2.0)
    assert pace.left() == pytest.approx(18 * 2.0)
    clock.now += 8.0  # a validation
    advance(pace, clock, 2.0)
    # Steps 2 and 3 took 12 seconds; 17 are left.
    assert pace.left() == pytest.approx(17 * 6.0)
    assert pace.fraction() == pytest.approx(3 / 20)


def test_budget_of_time():
    clock = Clock()
    pace = Pace(TrainConfig(max_time="10m"), steps_per_epoch=4, clock=clock)
    clock.now += 60.0
    assert pace.left() == pytest.approx(540.0)
    assert pace.fraction() == pytest.approx(0.1)
    clock.now += 600.0
    assert pace.left() == 0.0
    assert pace.fraction() == 1.0


@pytest.mark.parametrize(
    ("budgets", "left"),
    [
        (dict(epochs=10, max_steps=30, max_time=1_000), 28 * 3.0),
        (dict(epochs=2, max_steps=30, max_time=1_000), 6 * 3.0),
        (dict(epochs=10, max_steps=30, max_time=20), 20 - 6.0),
        (dict(max_steps=12), 10 * 3.0),
        ({}, 398 * 3.0),  # 100 epochs
    ],
)
def test_the_first_budget_to_end_counts(budgets, left):
    clock = Clock()
    pace = Pace(TrainConfig(**budgets), steps_per_epoch=4, clock=clock)
    advance(pace, clock, 3.0)
    advance(pace, clock, 3.0)
    assert pace.left() == pytest.approx(left)


def test_resumed_run():
    """Time spent before counts for the budget of time, not for the pace."""
    clock = Clock()
    config = TrainConfig(max_steps=110, max_time=500)
    pace = Pace(config, steps_per_epoch=4, step=100, seconds=400.0, clock=clock)
    assert pace.left() == pytest.approx(100.0)
    assert pace.fraction() == pytest.approx(100 / 110)
    advance(pace, clock, 1.0)
    advance(pace, clock, 1.0)
    assert pace.left() == pytest.approx(8.0)
