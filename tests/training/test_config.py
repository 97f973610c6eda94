import pytest

from pyg_schnet.training import TrainConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(epochs=0), "'epochs' must be at least 1"),
        (dict(lr_min=-1.0), "'lr_min' must not be negative"),
        (dict(batch_size=0), "'batch_size' must be at least 1"),
        (dict(lr=0.0), "'lr' must be positive"),
        (dict(lr_decay=1.5), "'lr_decay' must be in"),
        (dict(ema_decay=1.0), "'ema_decay' must be in"),
        (dict(offsets="auto"), "'offsets' must be 'fit' or 'keep'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize("settings", [dict(epochs=1.5), dict(lr="1e-3"), dict(label=None)])
def test_settings_of_the_wrong_type(settings):
    with pytest.raises(TypeError, match="must be a"):
        TrainConfig(**settings)


def test_learning_rate_of_the_paper():
    assert TrainConfig(lr_min=9e-4).learning_rate(1_000_000) == 9e-4
    config = TrainConfig()
    assert config.learning_rate(0) == 1e-3
    assert config.learning_rate(100_000) == pytest.approx(0.96e-3)
    assert config.learning_rate(50_000) == pytest.approx(1e-3 * 0.96**0.5)
