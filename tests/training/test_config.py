import math
from dataclasses import fields

import pytest

from pyg_schnet.training import TrainConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(epochs=0), "'epochs' must be at least 1"),
        (dict(max_steps=0), "'max_steps' must be at least 1"),
        (dict(lr_min=-1.0), "'lr_min' must be at least 0"),
        (dict(lr_min=1.0), "'lr_min' must not be above 'lr'"),
        (dict(batch_size=0), "'batch_size' must be at least 1"),
        (dict(lr=0.0), "'lr' must be positive"),
        (dict(lr=math.nan), "'lr' must be positive"),
        (dict(lr_decay=1.5), "'lr_decay' must be in"),
        (dict(ema_decay=1.0), "'ema_decay' must be in"),
        (dict(weight_decay=-1.0), "'weight_decay' must be at least 0"),
        (dict(clip_norm=math.inf), "'clip_norm' must be at least 0"),
        (dict(clip_ratio=0.5), r"'clip_ratio' must be 0 or at least 1 \(got 0.5\)"),
        (dict(offsets="auto"), "'offsets' must be 'fit' or 'keep'"),
        (dict(schedule="step"), "'schedule' must be 'exponential' or 'cosine'"),
        (dict(energy_weight=0), "must not be zero all at once"),
        (dict(max_time="2 weeks"), "'max_time' must be a positive number of seconds, or '90s'"),
        (dict(max_time="0h"), "'max_time' must be a positive"),
        (dict(max_time=-3.0), "'max_time' must be a positive"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [dict(epochs=1.5), dict(epochs=True), dict(lr="1e-3"), dict(label=None), dict(per_atom=1)],
)
def test_settings_of_the_wrong_type(settings):
    with pytest.raises(TypeError, match="must be"):
        TrainConfig(**settings)


def test_learning_rate_of_the_paper():
    assert TrainConfig(lr_min=9e-4).learning_rate(1_000_000) == 9e-4
    config = TrainConfig()
    assert config.learning_rate(0) == 1e-3
    assert config.learning_rate(100_000) == pytest.approx(0.96e-3)
    assert config.learning_rate(50_000) == pytest.approx(1e-3 * 0.96**0.5)


def test_the_fast_preset():
    """It learns what the paper does."""
    for forces in (False, True):
        fast, paper = (make(forces=forces) for make in (TrainConfig.fast, TrainConfig.paper))
        for name in ("label", "force_weight", "stress_weight", "per_atom"):
            assert getattr(fast, name) == getattr(paper, name)
        # Of errors, not of their squares.
        power = 0.5 if fast.loss == "l1" else 1.0
        assert fast.energy_weight == pytest.approx(paper.energy_weight**power)
        # The rate falls to nothing at the end of whatever budget there is.
        for budget in (dict(epochs=7), dict(max_steps=700), dict(max_time="70s")):
            config = TrainConfig.fast(forces=forces, **budget)
            end = config.fraction(step=700, seconds=70.0, steps_per_epoch=100)
            assert end == 1
            assert config.learning_rate(700, end) == 0
            assert config.learning_rate(350, 0.5) == pytest.approx(config.lr / 2)
    assert TrainConfig.fast(batch_size=3, lr=1e-3) == TrainConfig.fast(lr=1e-3, batch_size=3)
    assert TrainConfig.fast(batch_size=3).batch_size == 3


def test_cosine_and_warm_up():
    config = TrainConfig(schedule="cosine", lr=1e-2, lr_min=1e-4, warmup_steps=4)
    rates = [config.learning_rate(1000, fraction) for fraction in (0.0, 0.5, 1.0, 1.5)]
    assert rates == pytest.approx([1e-2, 5.05e-3, 1e-4, 1e-4])
    assert config.learning_rate(1000, 1 / 3) == pytest.approx(1e-4 + 9.9e-3 * 0.75)
    assert [config.learning_rate(step) for step in range(6)] == pytest.approx(
        [2e-3, 4e-3, 6e-3, 8e-3, 1e-2, 1e-2]
    )


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400), (7, 7), (".5m", 30)],
)
def test_time_limits(time, seconds):
    assert TrainConfig(max_time=time).time_limit == seconds


def test_the_first_budget_counts():
    config = TrainConfig(epochs=10, max_steps=200, max_time="100s")
    assert config.fraction(50, 10.0, steps_per_epoch=10) == 0.5  # of 100 steps of 10 epochs
    assert config.fraction(50, 10.0, steps_per_epoch=40) == 0.25  # of 200 steps
    assert config.fraction(50, 70.0, steps_per_epoch=40) == 0.7
    assert TrainConfig().epoch_limit == 100
    assert TrainConfig(max_steps=5).epoch_limit == math.inf
    assert TrainConfig(max_time=5).fraction(10**9, 1.0, 1) == 0.2


def test_every_field_is_documented():
    for field in fields(TrainConfig):
        assert f"\n        {field.name}: " in TrainConfig.__doc__
